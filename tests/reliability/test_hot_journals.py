"""Every command recovers a database whose writer was killed, says so once, and changes nothing that is committed."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import pytest

from cowrieprocessor.cli.main import cli
from cowrieprocessor.db.engine import dispose, get_engine
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.jobs.upgrade.backfill import backfill
from tests.conftest import CORPUS
from tests.documents import CASES, PROJECT
from tests.other_connections import sqlite3
from tests.sqlite_dump import dump
from tests.unit.reporting.program import Outcome, Program

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="no shared cases beside the project")

Command = tuple[Any, ...]

SAMPLES = PROJECT / "samples"
LOG = SAMPLES / "cowrie.json"
SHA256 = "a" * 64

READING: list[Command] = [
    ("db status",),
    ("db check", "--full"),
    ("db validate",),
    ("db backfill", "--dry-run"),
    ("db optimize", "--dry-run"),
    ("db recount", "--dry-run"),
    ("db remove", "--log", LOG, "--dry-run"),
    ("db rollback", "--to", "3", "--dry-run"),
    ("db backup", "saved.sqlite"),
    ("dead-letters list",),
    ("dead-letters show", "1"),
    ("dead-letters purge", "--resolved", "--dry-run"),
    ("dead-letters replay", "--dry-run"),
    ("enrich status",),
    ("jobs list",),
    ("files list",),
    ("files show", SHA256),
    ("files sessions", SHA256),
    ("files history", SHA256),
    ("report daily",),
    ("report weekly", "--format", "json"),
    ("report monthly", "--format", "csv"),
    ("sensors list",),
    ("sessions list", "--json"),
    ("sessions show", "00000000"),
    ("work status",),
]
"""Commands and options that change no row of a database at version 4."""

WRITING: list[Command] = [
    ("load", LOG),
    ("follow", LOG, "--once"),
    ("db migrate",),
    ("db backfill", "--yes"),
    ("db optimize", "--yes"),
    ("db recount", "--yes"),
    ("db remove", "--log", LOG, "--yes"),
    ("db rollback", "--to", "3", "--yes"),
    ("dead-letters replay",),
    ("dead-letters purge", "--resolved", "--yes"),
    ("enrich", "--provider", "malwarebazaar"),  # without a key: it ends before any request
    ("enrich import-cache", "empty"),
    ("files scan", SAMPLES / "downloads", "--sensor", "pot"),
    *((f"jobs {word}", "backfill-files") for word in ("pause", "resume", "stop")),
    ("sensors rename", "vm", "pot", "--yes"),
    ("work", "--once"),
]
"""Commands that may change rows."""

OF_V3: list[Command] = [
    ("db status",),
    ("db check",),
    ("db migrate", "--dry-run"),
    ("db migrate", "--yes"),
    ("db backup", "saved.sqlite"),
]
ELSEWHERE = {"db restore", "demo"}
"""Commands that have tests of their own below."""


def with_journal(source: Path, target: Path) -> Path:
    """Write a copy of a database whose writer was killed in the middle of a transaction."""
    script = CASES / "hot_journal.py"
    subprocess.run([sys.executable, script, source, target], check=True)
    return target


@pytest.fixture(scope="module")
def v3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A genuine v3 database, in rollback-journal mode."""
    path = tmp_path_factory.mktemp("v3") / "v3.sqlite"
    with gzip.open(CORPUS / "v3" / "v3.sqlite.gz") as packed, path.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked)
    return in_journal_mode(path)


@pytest.fixture(scope="module")
def v4(v3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after its upgrade."""
    path = Path(shutil.copy(v3, tmp_path_factory.mktemp("v4") / "v4.sqlite"))
    engine = get_engine(path)
    apply_migrations(engine)
    backfill(engine)
    dispose(engine)
    return in_journal_mode(path)


def in_journal_mode(path: Path) -> Path:
    """Leave WAL mode, as for a file that other programs wrote."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    return path


@pytest.fixture(scope="module")
def hot_v3(v3: Path) -> Path:
    """The v3 database with a hot journal."""
    return with_journal(v3, v3.with_name("hot.sqlite"))


@pytest.fixture(scope="module")
def hot_v4(v4: Path) -> Path:
    """The upgraded database with a hot journal."""
    return with_journal(v4, v4.with_name("hot.sqlite"))


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Program]:
    """The program as a user calls it, in a folder of its own."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COWRIEPROC_WORK", "enrichment=off")  # it would ask hashlookup
    return Program(monkeypatch, capsys)


def copied(hot: Path, target: Path) -> Path:
    """Copy a database with its journal."""
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(hot, target)
    shutil.copyfile(f"{hot}-journal", f"{target}-journal")
    return target


def notes(outcome: Outcome) -> list[str]:
    """Return the lines about a recovery."""
    return [line for line in outcome.err.splitlines() if "was killed" in line]


def commands(command: click.Command, path: str = "") -> Iterator[str]:
    """Yield the names of all commands."""
    if not isinstance(command, click.Group):
        yield path
        return
    if command.invoke_without_command:
        yield path
    context = click.Context(command)
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        yield from commands(inner, f"{path} {name}".strip())


def test_no_command_is_left_out() -> None:
    """Each command is one of those above."""
    assert {name for name, *_ in READING + WRITING + OF_V3} | ELSEWHERE == set(commands(cli))


def check(program: Program, hot: Path, clean: Path, command: Command, folder: Path) -> tuple[Path, Path]:
    """Run a command on a recovered and on a sound database, compare what it says, and return both databases."""
    databases = copied(hot, folder / "hot" / "x.sqlite"), folder / "clean" / "x.sqlite"
    databases[1].parent.mkdir()
    shutil.copyfile(clean, databases[1])
    name, *options = command
    said = []
    for database in databases:
        outcome = program(*str(name).split(), *options, "--db", database)
        said.append(outcome)
        Path("saved.sqlite").unlink(missing_ok=True)
    assert len(notes(said[0])) == 1
    assert notes(said[0])[0].startswith(f"note: {databases[0]}: ")
    assert notes(said[1]) == []
    assert said[0].code == said[1].code
    assert not Path(f"{databases[0]}-journal").exists()
    return databases


@pytest.mark.parametrize("command", READING, ids=lambda command: " ".join(map(str, command[:1])))
def test_a_reader_recovers(program: Program, hot_v4: Path, v4: Path, tmp_path: Path, command: Command) -> None:
    """Commands that only read, and `--dry-run`, recover the database and change no row."""
    recovered, _ = check(program, hot_v4, v4, command, tmp_path)
    assert dump(recovered) == dump(v4)


@pytest.mark.parametrize("command", WRITING, ids=lambda command: command[0])
def test_a_writer_recovers(program: Program, hot_v4: Path, v4: Path, tmp_path: Path, command: Command) -> None:
    """Commands that write say it, too, and go on from what is committed."""
    recovered, clean = check(program, hot_v4, v4, command, tmp_path)
    assert sessions(recovered) == sessions(clean)


@pytest.mark.parametrize("command", OF_V3, ids=lambda command: " ".join(command))
def test_a_v3_database_is_recovered(program: Program, hot_v3: Path, v3: Path, tmp_path: Path, command: Command) -> None:
    """The upgrade, its dry run and what belongs to it recover a database of version 3."""
    recovered, clean = check(program, hot_v3, v3, command, tmp_path)
    assert sessions(recovered) == sessions(clean) == sessions(v3)
    if command != ("db migrate", "--yes"):
        assert dump(recovered) == dump(v3)


def test_a_backup_is_recovered(program: Program, hot_v4: Path, v4: Path, tmp_path: Path) -> None:
    """`db restore` recovers the backup, and the database that it replaces."""
    backup = copied(hot_v4, tmp_path / "backup" / "b.sqlite")
    database = copied(hot_v4, tmp_path / "live" / "x.sqlite")

    outcome = program("db", "restore", backup, "--db", database, "--yes", "--json")

    assert outcome.code == 0
    assert sorted(line.split(": ")[1] for line in notes(outcome)) == sorted(map(str, (backup, database)))
    assert dump(database) == dump(Path(outcome.document["kept"])) == dump(backup) == dump(v4)


def test_the_demonstration_recovers(program: Program, hot_v4: Path, tmp_path: Path) -> None:
    """A demonstration that was killed is recovered by the next one."""
    database = copied(hot_v4, tmp_path / "demo" / "cowrieprocessor.sqlite")

    outcome = program("demo", "--dir", database.parent)

    assert (outcome.code, len(notes(outcome))) == (0, 1)


def sessions(path: Path) -> list[tuple[str, int]]:
    """Return what the killed writer was changing: the number of events of each session."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT session_id, event_count FROM session_summaries ORDER BY 1")
        return [(str(session), int(count)) for session, count in rows]
