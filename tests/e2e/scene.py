"""What an attacker needs to act: the honeypot, a host with files, dice, and an entry in the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import asyncssh

from tests.e2e.attacker_clients import SSH_SOFTWARE, Source, SshSoftware, ssh, ssh_shell, telnet
from tests.e2e.cowrie_server import PASSWORDS, CowrieServer
from tests.e2e.malware_host import MalwareHost

DOWNLOAD: Final = "cowrie.session.file_download"
DOWNLOAD_FAILED: Final = "cowrie.session.file_download.failed"
UPLOAD: Final = "cowrie.session.file_upload"

# Names and addresses as attackers write them -> where Cowrie finds them.
MALWARE_NAME: Final = "files.example.net"
MALWARE_IP: Final = "203.0.113.77"
DEAD_IP: Final = "203.0.113.200"
HOSTS: Final = {MALWARE_NAME: "127.66.0.1", MALWARE_IP: "127.66.0.1", DEAD_IP: "127.66.0.9"}
UNKNOWN_NAME: Final = "gone.example.com"

EMPTY: Final = b""
NEWLINE: Final = b"\n"
SSH_KEY: Final = b"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCharmlessKeyOfATestThatOpensNothing0000000000000000 mdr"


def script(number: int) -> bytes:
    """Return the harmless script number `number`."""
    return f"#!/bin/sh\necho harmless sample {number}\n".encode()


# The start of an ELF file, for ARM, with nothing behind it that could run.
FAKE_ELF: Final = (
    b"\x7fELF\x01\x01\x01" + bytes(9) + b"\x02\x00\x28\x00" + bytes(44) + b"harmless sample, not a program\n"
)
SERVED: Final = {
    "bins.sh": script(1),
    "mirai.arm": FAKE_ELF + b"arm",
    "mirai.mips": FAKE_ELF + b"mips",
    "x/redtail.tgz": b"harmless sample, not an archive\n" * 40,
    "empty": EMPTY,
}


@dataclass(frozen=True)
class Expected:
    """A file event that an attack should leave: its name and, if there is one, the hash of what was sent."""

    eventid: str
    shasum: str | None = None


@dataclass
class Attack:
    """One connection: what it was, where from, and what it should leave in the log."""

    behaviour: str
    source: Source
    expected: list[Expected] = field(default_factory=list)
    username: bytes | None = None
    password: bytes | None = None
    commands: list[bytes] = field(default_factory=list)
    error: str | None = None

    def expect(self, eventid: str, content: bytes | None = None) -> None:
        """Note that the log should hold this event, about this content."""
        self.expected.append(Expected(eventid, None if content is None else hashlib.sha256(content).hexdigest()))


@dataclass
class Scene:
    """What a behaviour needs: the honeypot, the host with the files, the dice, its entry in the ledger."""

    cowrie: CowrieServer
    host: MalwareHost
    dice: random.Random
    attack: Attack
    long_command_bytes: int

    @property
    def software(self) -> SshSoftware:
        """One kind of SSH client for one address, as in life."""
        return SSH_SOFTWARE[sum(self.attack.source.ip.encode()) % len(SSH_SOFTWARE)]

    def url(self, path: str, host: str = MALWARE_IP) -> str:
        """Return where `path` can be downloaded, as an attacker would write it."""
        port = "" if self.host.http_port == 80 else f":{self.host.http_port}"
        return f"http://{host}{port}/{path}"

    def log_in(
        self, username: bytes = b"root", password: bytes | None = None
    ) -> contextlib.AbstractAsyncContextManager[asyncssh.SSHClientConnection]:
        """Log in over SSH with a password that is accepted."""
        password = self.dice.choice(PASSWORDS).encode() if password is None else password
        self.attack.username, self.attack.password = username, password
        return ssh(self.cowrie.ssh_port, self.attack.source, self.software, username=username, passwords=[password])

    async def run(
        self,
        connection: asyncssh.SSHClientConnection,
        command: bytes,
        stdin: bytes = b"",
        env: Mapping[bytes, bytes] | None = None,
    ) -> None:
        """Run one command over an exec channel, with `stdin` on its standard input, and wait for its end."""
        self.attack.commands.append(command)
        try:
            process = await connection.create_process(_RawCommand(command), encoding=None, env=env or {})
        except AttributeError:
            # asyncssh trips when Cowrie has run the command and closed the channel before it looks again.
            return
        async with process:
            with contextlib.suppress(BrokenPipeError):  # the command may have ended already
                process.stdin.write(stdin)
                process.stdin.write_eof()
            await asyncio.wait_for(process.wait_closed(), 20)

    async def exec(self, command: bytes, stdin: bytes = b"") -> None:
        """Log in, run one command, leave."""
        async with self.log_in() as connection:
            await self.run(connection, command, stdin)

    async def shell(self, *lines: bytes) -> None:
        """Log in and type lines into a shell."""
        self.attack.commands.extend(lines)
        async with self.log_in() as connection:
            await ssh_shell(connection, lines, self.dice.choice(((80, 24), (132, 43), (204, 51))))

    async def telnet_shell(self, *lines: bytes) -> None:
        """Log in over telnet and type lines into a shell."""
        self.attack.commands.extend(lines)
        self.attack.username, self.attack.password = b"root", self.dice.choice(PASSWORDS).encode()
        async with telnet(self.cowrie.telnet_port, self.attack.source) as client:
            for line in (self.attack.username, self.attack.password, *lines):
                await client.type(line)
            await client.finish()


class _RawCommand(str):
    """A command of any bytes, for asyncssh, which takes text and encodes it."""

    __slots__ = ("raw",)
    raw: bytes

    def __new__(cls, raw: bytes) -> _RawCommand:
        command = super().__new__(cls, raw.decode("utf-8", "replace"))
        command.raw = raw
        return command

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return self.raw


Behaviour = Callable[[Scene], Awaitable[None]]
