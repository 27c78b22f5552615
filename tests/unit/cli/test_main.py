"""The program as a whole: its help, how quickly it starts, and how it ends."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from cowrieprocessor.cli.main import COMMANDS
from tests import v3_schema
from tests.documents import PROJECT
from tests.other_connections import sqlite3
from tests.unit.cli.every_command import ALL, LEAVES, walk

PROGRAM = [sys.executable, "-m", "cowrieprocessor"]
HEAVY = ("sqlalchemy", "alembic", "rich", "orjson", "zstandard", "isal", "pysqlite3", "sqlite3", "psycopg", "magic")
TIMEOUT_S = 60

IMPORTED_BY_HELP = f"""
import json, sys
from cowrieprocessor.cli.main import cli
from cowrieprocessor.cli.shared.common import run
heavy = {{}}
for path in json.loads(sys.argv[1]):
    sys.argv = ["cowrieprocessor", *path, "--help"]
    assert run(cli) == 0, path
    heavy[" ".join(path)] = sorted(set(sys.modules) & set({HEAVY!r}))
print(json.dumps(heavy), file=sys.stderr)
"""


def call(*arguments: str, cwd: Path, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own."""
    return subprocess.run(
        [*PROGRAM, *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


# --- help ---


@pytest.mark.parametrize("name", ALL)
def test_help_says_what_a_command_does(name: str) -> None:
    """Every command and group begins its help with a sentence on one line, and describes every option."""
    command = ALL[name]
    first = (command.help or "").split("\n\n")[0]
    undescribed = [option.name for option in command.params if isinstance(option, click.Option) and not option.help]

    assert first.endswith(".")
    assert undescribed == []


@pytest.mark.parametrize("name", LEAVES)
def test_help_says_how_a_command_is_called_and_ends(name: str) -> None:
    """Every command tells how it ends, and shows an example or explains itself in more than a sentence."""
    text = " ".join((LEAVES[name].help or "").split())

    assert "Ends with" in text
    assert f"cowrieprocessor {name}" in text or text.count(". ") >= 3


def test_list_of_commands_is_whole() -> None:
    """The program lists each of its commands, with a sentence that fits next to the name."""
    assert set(COMMANDS) == {name for name in ALL if name and " " not in name}
    assert [line for _, line in COMMANDS.values() if not line.endswith(".") or len(line) > 60] == []


def imported_by_help(paths: list[tuple[str, ...]], before: str = "") -> dict[str, list[str]]:
    """Return the heavy modules that are imported after the help of each command."""
    done = subprocess.run(
        [sys.executable, "-c", before + IMPORTED_BY_HELP, json.dumps(paths)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    heavy: dict[str, list[str]] = json.loads(done.stderr)
    return heavy


def test_help_imports_nothing_heavy() -> None:
    """`--help` of no command imports the database, the parser of lines or the terminal's tables."""
    heavy = imported_by_help([path for path, _ in walk()])

    assert {name: modules for name, modules in heavy.items() if modules} == {}
    assert heavy.keys() == ALL.keys()


def test_heavy_imports_are_seen() -> None:
    """A command that imports the database would be found."""
    heavy = imported_by_help([("load",)], before="import cowrieprocessor.loader.bulk\n")

    assert "sqlalchemy" in heavy["load"]


# --- wrong calls and errors ---


@pytest.mark.parametrize(
    "arguments",
    [("pursue",), ("files", "eat"), ("load", "--fast", "x"), ("sensors", "rename", "x"), ("db", "status")],
)
def test_wrong_calls_end_with_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A command or option that is not there, or a missing argument, ends with 2 and points to the help."""
    done = call(*arguments, cwd=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert "--help" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("files", "show", "abcdef012345", "--db", "v4.sqlite"), 1, "no file with the hash"),
        (("sessions", "show", "nobody", "--db", "v4.sqlite"), 1, "no session nobody"),
        (("report", "daily", "--date", "soon", "--db", "v4.sqlite"), 2, "is not a date"),
        (("load", "nowhere"), 3, "no such file or folder"),
        (("files", "scan", "nowhere"), 3, "no such folder"),
        (("files", "list"), 4, "no such database"),
        (("files", "list", "--db", "not.sqlite"), 4, "is not an SQLite database"),
        (("load", "log.json", "--db", "not.sqlite"), 4, "is not an SQLite database"),
        (("files", "list", "--db", "v3.sqlite"), 5, "db migrate"),
        (("load", "log.json", "--db", "v3.sqlite"), 5, "db migrate"),
    ],
)
def test_errors_are_one_message(folder: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    """An expected error is one line that says what is wrong, with its exit code and without a traceback."""
    done = call(*arguments, cwd=folder)

    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log, a database of each version, and a file that is no database."""
    path = tmp_path_factory.mktemp("errors")
    (path / "log.json").write_text('{"eventid":"cowrie.session.connect","session":"a"}\n', encoding="utf-8")
    (path / "not.sqlite").write_text("this is no database, but long enough to be looked at " * 20, encoding="utf-8")
    v3_schema.create(path / "v3.sqlite")
    assert call("load", "log.json", "--db", "v4.sqlite", cwd=path).returncode == 0
    return path


def test_attackers_names_are_inert_in_messages(tmp_path: Path) -> None:
    """A name that would move the cursor or the window's title is shown as escapes."""
    done = call("load", "\x1b]0;owned\x07\x1b[2J", cwd=tmp_path)

    assert done.returncode == 3
    assert "\x1b" not in done.stderr
    assert r"\x1b" in done.stderr


# --- interrupts and closed pipes ---


def _enable_interrupts() -> None:
    """Enable Ctrl-C in a process: shells ignore it for background jobs, such as the tests."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_interrupt_ends_with_130(tmp_path: Path) -> None:
    """Ctrl-C ends a waiting load with 130 and one sentence; committed events stay."""
    log, db = tmp_path / "log.json", tmp_path / "x.sqlite"
    log.write_bytes((PROJECT / "samples" / "cowrie.json").read_bytes())
    assert call("load", "log.json", "--db", "x.sqlite", cwd=tmp_path).returncode == 0
    log.write_bytes(log.read_bytes() + b'{"eventid":"x","session":"new"}\n')
    writer = sqlite3.connect(db, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    try:
        process = subprocess.Popen(
            [*PROGRAM, "load", "log.json", "--db", "x.sqlite"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_enable_interrupts,
        )
        first = _line(process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of its processes
        out, err = process.communicate(timeout=TIMEOUT_S)
    finally:
        writer.close()

    assert first.startswith("waiting for the database")
    assert (process.returncode, out) == (130, "")
    assert "interrupted: everything committed so far is kept" in err
    assert "Traceback" not in err
    assert _events(tmp_path) == 1870


def _line(process: subprocess.Popen[str]) -> str:
    """Return the next line of a process on standard error."""
    assert process.stderr is not None
    ready, _, _ = select.select([process.stderr], [], [], TIMEOUT_S)
    assert ready, "the process prints nothing"
    return process.stderr.readline()


def _events(cwd: Path) -> int:
    tables = json.loads(call("db", "status", "--db", "x.sqlite", "--json", cwd=cwd).stdout)["tables"]
    return int(tables["raw_events"]["rows"])


@pytest.mark.parametrize("arguments", [("--help",), ("sessions", "list", "--db", "v4.sqlite", "--json")])
def test_broken_pipe_is_quiet(folder: Path, arguments: tuple[str, ...]) -> None:
    """When the reader of its output has exited (`| head`), the program ends silently."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = call(*arguments, cwd=folder, stdout=write_end)
    finally:
        os.close(write_end)

    assert done.stderr == ""
    assert done.returncode == 0
