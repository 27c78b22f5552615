"""What cannot be had again is destroyed only after a yes: on a terminal, or with --yes."""

from __future__ import annotations

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from cowrieprocessor.db.engine import address
from cowrieprocessor.sanitize import shell_word
from tests.documents import PROJECT
from tests.unit.reporting.program import Program

SAMPLES = PROJECT / "samples"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Program:
    """The program, called without a terminal in a folder with two logs and a database of both, and its backup."""
    monkeypatch.chdir(tmp_path)
    run = Program(monkeypatch, capsys)
    (tmp_path / "bad.json").write_text('{"eventid":"x","session":"s"}\nnot JSON\n', encoding="utf-8")
    run("load", SAMPLES / "cowrie.json", "bad.json", "--db", "x.sqlite")
    run("load", SAMPLES / "cowrie.json", "--sensor", "pot-2", "--db", "y.sqlite")
    run("db", "backup", "b.sqlite", "--db", "x.sqlite")
    return run


DESTRUCTIVE = (
    ("db", "restore", "b.sqlite"),
    ("db", "rollback", "--to", "3"),
    ("db", "remove", "--log", str(SAMPLES / "cowrie.json")),
    ("dead-letters", "purge", "--all"),
    ("sensors", "rename", "honeypot-1", "pot-2", "--merge"),
)


def contents(path: str) -> list[str]:
    """Return everything in a database but its jobs."""
    with closing(sqlite3.connect(path)) as connection:
        return [line for line in connection.iterdump() if 'INTO "jobs"' not in line]


@pytest.mark.parametrize("command", DESTRUCTIVE, ids=lambda command: " ".join(command[:2]))
def test_without_a_terminal_it_wants_yes(program: Program, command: tuple[str, ...]) -> None:
    """A destructive command that cannot ask ends with 2, changes nothing and names --yes; with it, it is done."""
    before = contents("x.sqlite")
    refused = program(*command, "--db", "x.sqlite")
    after = contents("x.sqlite")
    done = program(*command, "--yes", "--db", "x.sqlite")

    assert (refused.code, "--yes" in refused.err, refused.out, before == after) == (2, True, "", True)
    assert done.code == 0


@pytest.mark.parametrize("command", DESTRUCTIVE[:4], ids=lambda command: " ".join(command[:2]))
def test_a_dry_run_needs_no_yes(program: Program, command: tuple[str, ...]) -> None:
    """What changes nothing does not ask."""
    if command[1] == "restore":
        assert program(*command, "--db", "new.sqlite").code == 0  # nothing is replaced
    else:
        assert program(*command, "--dry-run", "--db", "x.sqlite").code == 0


@pytest.mark.parametrize(
    ("db", "expected"),
    [
        ("honey pots.sqlite", "honey pots.sqlite"),
        ("/srv/it's.sqlite", "/srv/it's.sqlite"),
        ("sqlite:////srv/x.sqlite", "/srv/x.sqlite"),
        (
            "postgresql://me:secret@db.example:5433/cowrie?sslmode=require",
            "postgresql://me@db.example:5433/cowrie?sslmode=require",
        ),
        ("postgresql+psycopg2://me@/cowrie?password=secret&host=/tmp", "postgresql://me@/cowrie?host=%2Ftmp"),
    ],
)
def test_a_database_is_named_as_it_is_pasted(db: str, expected: str) -> None:
    """The name for `--db` is a path or a URL, and never has a password."""
    assert address(db) == expected


@pytest.mark.parametrize(
    "text", ["plain", "honey pots", "it's", "a\x1b[31m", "back\\slash", "\u202eright", "ümlaut", "$(id)", ""]
)
def test_a_word_of_the_shell_means_the_text(text: str) -> None:
    """Bash reads the word as exactly this text, and it holds no control character."""
    word = shell_word(text)
    ended = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)

    assert ended.stdout.decode() == text
    assert word.isprintable()
