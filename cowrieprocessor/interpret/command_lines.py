"""A command line read as a shell would read it, without running anything: its commands, and what they refer to.

Code inside of code is read, too: `sh -c '…'`, `$(…)`, here-documents, and what `echo … | base64 -d | sh` runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cowrieprocessor.interpret.commands import shell_form
from cowrieprocessor.interpret.keys import PublicKey, keys_in
from cowrieprocessor.interpret.references import References, references
from cowrieprocessor.interpret.shell_reader import Command, ShellReader
from cowrieprocessor.interpret.urls import Endpoint, Url

MAX_LINE_CHARS = 65_536

CUT_LENGTH = "longer than 65,536 characters"

_KEY_FILE = re.compile(r"(?:^|/)authorized_keys2?$")


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What a line says.

    Attributes:
        text: the line as it was typed.
        commands: in the order in which they stand, each before what is nested in it; at most 256.
        urls: the URLs that it refers to.
        endpoints: the hosts that it refers to, those of the URLs too, with the port where one is known.
        listening: the ports on which it listens.
        files: the names and paths of files in it, and the names under which it stores what it fetches.
        keys: the SSH public keys in it.
        cut: why something in it was not read; empty if all was.
    """

    text: str
    commands: tuple[Command, ...]
    urls: tuple[Url, ...]
    endpoints: tuple[Endpoint, ...]
    listening: tuple[int, ...]
    files: tuple[str, ...]
    keys: tuple[PublicKey, ...]
    cut: tuple[str, ...]

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that it refers to, each once."""
        return tuple(dict.fromkeys(found.host for found in self.endpoints))

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports that it refers to, on hosts or to listen on, each once."""
        known = [found.port for found in self.endpoints if found.port is not None]
        return tuple(dict.fromkeys([*known, *self.listening]))

    @property
    def installed_keys(self) -> tuple[PublicKey, ...]:
        """Its keys if it also names a file `authorized_keys`."""
        return self.keys if any(_KEY_FILE.search(name) for name in self.files) else ()


def read_line(text: str) -> CommandLine:
    """Return what a command line says; any text can be one.

    Args:
        text: the line as it was typed, or as version 3 rewrote it (see `commands.command_of`). The first MAX_LINE_CHARS
            characters are read.
    """
    looked_at = shell_form(text[:MAX_LINE_CHARS])
    reader = ShellReader()
    found = References()
    keys = {key.fingerprint: key for key in keys_in(looked_at)}
    commands: list[Command] = []
    for command in reader.commands(looked_at):
        commands.append(command)
        found.add(references(command.program, command.arguments, command.redirects, command.text))
        for said in (*command.arguments, command.text):
            keys |= {key.fingerprint: key for key in keys_in(said)}
    if reader.is_broken or reader.cut:
        found.add_text(looked_at)
    return CommandLine(
        text=text,
        commands=tuple(commands),
        urls=tuple(found.urls),
        endpoints=found.distinct_endpoints(),
        listening=tuple(found.ports),
        files=tuple(found.files),
        keys=tuple(keys.values()),
        cut=tuple([CUT_LENGTH] * (len(text) > MAX_LINE_CHARS) + reader.cut),
    )
