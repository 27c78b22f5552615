"""Command lines as a shell would read them: their commands, and the hosts, URLs and files in them; nothing is run."""

from __future__ import annotations

import json
import random
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cowrieprocessor.interpret.command_lines import CUT_LENGTH, MAX_LINE_CHARS, CommandLine, read_line
from cowrieprocessor.interpret.shell_reader import (
    CUT_BROKEN,
    CUT_COMMANDS,
    CUT_DEPTH,
    CUT_NESTED,
    CUT_TOKENS,
    MAX_COMMANDS,
    Command,
)
from tests.documents import PROJECT
from tests.torture import rounds

TABLE = [
    json.loads(row) for row in (Path(__file__).parent / "command_lines.jsonl").read_text(encoding="utf-8").splitlines()
]
CORPUS = PROJECT.parent / "shared" / "corpus"
MAX_SECONDS = 5.0
"""Far above what the slowest known line takes (0.1 s), for a busy machine."""


def words(command: Command) -> list[str]:
    """Return a command as the table writes it: what it is nested in, its words, its redirects."""
    nested = (f"[{label}]" for label in command.nested)
    return [*nested, command.program, *command.arguments, *(f">{target}" for target in command.redirects)]


def hosts(line: CommandLine) -> list[str]:
    """Return hosts and ports as the table writes them."""
    named = [f"{found.host} {found.port or ''}".strip() for found in line.endpoints]
    return named + [f"* {port}" for port in line.listening]


@pytest.mark.parametrize("row", TABLE, ids=range(len(TABLE)))
def test_lines_are_read_as_a_shell_reads_them(row: dict[str, Any]) -> None:
    """Each line of the table has its commands, URLs, hosts and files."""
    line = read_line(row["line"])

    assert line.text == row["line"]
    assert [words(command) for command in line.commands] == row["commands"]
    assert [url.text for url in line.urls] == row["urls"]
    assert hosts(line) == row["hosts"]
    assert list(line.files) == row["files"]
    assert line.cut == ()


def test_the_table_is_large() -> None:
    """The table has at least 150 different lines, and names only addresses and names for documentation."""
    lines = {row["line"] for row in TABLE}
    named = {host.split()[0] for row in TABLE for host in row["hosts"]} - {"*"}
    allowed = re.compile(r"192\.0\.2\.\d+|2001:db8::\d+|(?:[\w-]+\.)*example\.com|a")

    assert len(lines) >= 150
    assert {host for host in named if not allowed.fullmatch(host)} == set()


def corpus_lines() -> list[str]:
    """Return the distinct command lines of the real logs."""
    lines: dict[str, None] = {}
    for log in sorted(CORPUS.glob("cowrie-*/cowrie.json*")):
        for row in log.read_text(encoding="utf-8", errors="replace").splitlines():
            if '"cowrie.command.input"' in row:
                lines[json.loads(row)["input"]] = None
    return list(lines)


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the real logs are not here")
def test_real_lines_are_read_whole() -> None:
    """Every line of the real logs has a command, and every URL that is spelled out in it."""
    lines = corpus_lines()
    assert len(lines) > 100
    for text in lines:
        line = read_line(text)
        spelled = {url.rstrip("'\"") for url in re.findall(r"https?://[^\s;|'\"]+", text)}

        assert line.commands
        assert line.cut == ()
        assert spelled <= {url.text for url in line.urls}


def test_a_command_knows_its_name_and_what_it_is_given() -> None:
    """The name is the program without its folder; a here-document is kept with its command."""
    (command,) = read_line("/usr/bin/tee /tmp/x <<E\nwget http://192.0.2.1/y\nE\n").commands

    assert (command.name, command.program) == ("tee", "/usr/bin/tee")
    assert command.text == "wget http://192.0.2.1/y\n"


def test_hosts_and_ports_are_given_once() -> None:
    """A host with several ports is one host; ports that are listened on are ports, too."""
    line = read_line("wget http://192.0.2.1/x; wget http://192.0.2.1:8080/y; nc -lp 4444; ping -c 1 192.0.2.1")

    assert line.hosts == ("192.0.2.1",)
    assert line.ports == (80, 8080, 4444)


ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"


@pytest.mark.parametrize(
    ("text", "installs"),
    [
        (f'mkdir -p ~/.ssh && echo "{ED25519} demo" >> ~/.ssh/authorized_keys', True),
        (f"cat >> /root/.ssh/authorized_keys2 <<E\n{ED25519} demo\nE", True),
        (f"echo '{ED25519} demo' | tee -a .ssh/authorized_keys", True),
        (f"printf '%s\\n' '{ED25519} demo' > /tmp/key", False),
        (f"sh -c 'echo {ED25519} demo >> .ssh/authorized_keys'", True),
    ],
)
def test_keys_are_found(text: str, installs: bool) -> None:
    """A key in a line is found once, with its comment, and whether the line names a file of authorized keys."""
    line = read_line(text)

    assert [(key.key_type, key.bits) for key in line.keys] == [("ssh-ed25519", 256)]
    assert line.keys[0].comment.startswith("demo")
    assert (line.installed_keys == line.keys) is installs


def nested(depth: int) -> str:
    """Return `id` inside of so many shells."""
    text = "id"
    for _ in range(depth):
        text = f"$(echo {text})" if text == "id" else f"$({text})"
    return text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a " * MAX_LINE_CHARS, CUT_LENGTH),
        ("a;" * (MAX_COMMANDS + 1), CUT_COMMANDS),
        ("a|" * (MAX_LINE_CHARS // 2), CUT_TOKENS),
        (nested(7), CUT_DEPTH),
        ("x (" * 10_000, CUT_TOKENS),
        (") ;" * 20_000, CUT_BROKEN),
        ("a='" + "x" * 4000 + "';" + 'sh -c "$a$a$a$a";' * 50, CUT_NESTED),
    ],
)
def test_a_line_says_that_it_was_cut(text: str, reason: str) -> None:
    """What is too long, too many, too deep or too broken is not read, and the line says so."""
    started = time.monotonic()
    line = read_line(text)

    assert reason in line.cut
    assert len(line.commands) <= MAX_COMMANDS
    assert time.monotonic() - started < MAX_SECONDS


def test_five_shells_deep_is_read() -> None:
    """Code is read up to five levels deep."""
    assert read_line(nested(5)).cut == ()


def test_nothing_is_lost_before_a_cut() -> None:
    """A long script keeps the commands before the limit, and URLs behind it are found in its text."""
    line = read_line("id;" * 300 + "wget http://192.0.2.1/x")

    assert {command.name for command in line.commands} == {"id"}
    assert [url.text for url in line.urls] == ["http://192.0.2.1/x"]


@pytest.mark.parametrize("separator", ["\n", "; ", " && "])
def test_long_scripts_are_read_in_pieces(separator: str) -> None:
    """A script that is parsed in several pieces has the commands of each, also inside of loops and quotes."""
    parts = [f"for i in 1 2; do wget -q 'http://192.0.2.1/a;b{number}' -O \"x $i\"; done" for number in range(60)]
    line = read_line(separator.join(parts))

    assert [command.name for command in line.commands].count("wget") == 60
    assert {command.name for command in line.commands} == {"wget"}
    assert len([url for url in line.urls if url.host == "192.0.2.1"]) == 60


@pytest.mark.parametrize(
    "unit",
    [
        "a|",
        "a=(",
        ")",
        "<<a\n",
        "\0",
        "$[",
        "||",
        "(",
        "$(",
        "`",
        "{",
        "'",
        '"',
        "${a[",
        "\x1b",
        "é",
        "sh -c '",
        "<<<x ",
    ],
)
def test_costly_lines_stay_cheap(unit: str) -> None:
    """Texts on which the grammar alone needs minutes or gigabytes are read in bounded time."""
    started = time.monotonic()
    read_line(unit * (MAX_LINE_CHARS // len(unit)))

    assert time.monotonic() - started < MAX_SECONDS


NOISE = [*"()$`{};|&<>\n'\"\\ \0#!*?~=[]", "<<E\n", "$(", "${x}", "sh -c ", "| sh", "\ud800", "eval ", " -O "]


def mutated(random_number: random.Random, lines: list[str]) -> Iterator[str]:
    """Yield lines made of others: parts cut out, doubled, joined, with noise in between."""
    while True:
        parts = list(random_number.choice(lines) + random_number.choice(("", ";", "|", random_number.choice(lines))))
        for _ in range(random_number.randint(1, 8)):
            place = random_number.randint(0, len(parts))
            other = random_number.randint(place, min(len(parts), place + 20))
            parts[place:other] = random_number.choice(
                ([random_number.choice(NOISE)], [], parts[place:other] * 2, [random_number.choice(NOISE) * 3])
            )
        yield "".join(parts)


@pytest.mark.torture
def test_any_line_is_read_in_bounded_time() -> None:
    """A million mutated lines: no error, no result without bounds, none that takes long; the same again."""
    number = random.Random(20261130)
    lines = [row["line"] for row in TABLE] + (corpus_lines() if CORPUS.is_dir() else [])
    limit = sys.getrecursionlimit()
    for count, text in zip(range(rounds(1_000_000, 12_000)), mutated(number, lines)):  # noqa: B905
        started = time.monotonic()
        line = read_line(text)

        assert time.monotonic() - started < MAX_SECONDS
        assert line.text == text
        assert len(line.commands) <= MAX_COMMANDS
        assert all(len(command.nested) <= 40 for command in line.commands)
        if count % 100 == 0:
            assert read_line(text) == line
    assert sys.getrecursionlimit() == limit
