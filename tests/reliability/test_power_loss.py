"""A power failure at any moment of a command that renames or deletes files: what the disk holds afterwards is whole."""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction
from cowrieprocessor.db.migrations import apply_migrations, require_current, schema_version
from cowrieprocessor.errors import DatabaseError
from cowrieprocessor.jobs.maintenance.backup import backup
from cowrieprocessor.jobs.maintenance.optimize import optimize
from cowrieprocessor.jobs.maintenance.restore import restore
from cowrieprocessor.jobs.upgrade.rollback import roll_back
from cowrieprocessor.jobs.upgrade.state_export import read_export
from tests import v3_schema
from tests import v4_state_scene as scene
from tests.command_line import PROGRAM
from tests.crash_states import Files, Recording, crash_states, kill_states, record, write_files
from tests.other_connections import sqlite3
from tests.torture import rounds

pytestmark = pytest.mark.torture

SAMPLES = rounds(1_000, 10)
"""Choices of writes at each moment, beside all and none."""

KILLED_WRITER = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode=" + sys.argv[2])
connection.execute("PRAGMA cache_size=1")
connection.execute("UPDATE raw_events SET source = source")
connection.execute("BEGIN")
for _ in range(3):
    connection.execute("UPDATE raw_events SET source = source || 'x'")
os.kill(os.getpid(), signal.SIGKILL)
"""

EVERY_KILL = rounds(1, 10)
"""Of so many states that a kill can leave one is taken."""

REPEATED = 5
"""The command is run again for every fifth state."""

Rows = dict[str, list[Any]]


def rows_of(path: Path) -> Rows:
    """Return the rows of each table as every command sees them, and make sure that the database is sound."""
    engine = get_engine(path, read_only=True)
    try:
        with read_transaction(engine) as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").all() == [("ok",)]
            tables = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1"
            return {
                name: [tuple(row) for row in connection.exec_driver_sql(f'SELECT rowid, * FROM "{name}" ORDER BY 1')]
                for name in connection.exec_driver_sql(tables).scalars().all()
                if not name.startswith("sqlite_")
            }
    finally:
        dispose(engine)


def recorded(folder: Path, *arguments: object) -> Recording:
    """Run the program and return what it did in the folder."""
    recording = record(folder, [*PROGRAM, *map(str, arguments)])
    assert recording.operations
    return recording


def for_each_state(recording: Recording, folder: Path, check: Callable[[Files, bool], None]) -> None:
    """Check every state that a power failure or a kill can leave.

    Args:
        recording: what a command did.
        folder: where to write the states, at the paths of the recording.
        check: called with the files that were written, and whether to run the command again at once.
    """
    killed = itertools.islice(kill_states(recording), 0, None, EVERY_KILL)
    for count, files in enumerate(itertools.chain(crash_states(recording, samples=SAMPLES), killed), 1):
        try:
            for again in (False, True) if count % REPEATED == 0 else (False,):
                shutil.rmtree(folder)
                write_files(files, folder)
                check(files, again)
        except (AssertionError, DatabaseError) as error:
            raise AssertionError(f"state {count}: {sorted((name, len(files[name])) for name in files)}") from error


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the database."""
    (tmp_path / "live").mkdir()
    return tmp_path / "live"


@pytest.fixture
def v4(tmp_path: Path) -> Path:
    """A database of version 4, closed."""
    path = v3_schema.create(tmp_path / "v4.sqlite")
    engine = get_engine(path)
    apply_migrations(engine)
    dispose(engine)
    return path


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A backup to restore, in another folder, that differs from the other databases."""
    path = v3_schema.create(tmp_path / "other.sqlite")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE raw_events SET source = 'restored ' || source")
    engine = get_engine(path, read_only=True)
    backup(engine, tmp_path / "b.sqlite")
    dispose(engine)
    return tmp_path / "b.sqlite"


def closed(path: Path) -> None:
    """Leave the database as it is: closed, in WAL mode."""


def with_hot_journal(path: Path) -> None:
    """Kill a writer in the middle of a transaction in rollback-journal mode."""
    _kill_writer(path, "DELETE")
    assert path.with_name(f"{path.name}-journal").stat().st_size > 0


def with_log(path: Path) -> None:
    """Kill a writer in the middle of a transaction in WAL mode."""
    _kill_writer(path, "WAL")
    assert path.with_name(f"{path.name}-wal").stat().st_size > 0


def _kill_writer(path: Path, mode: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(path), mode], check=False)
    assert done.returncode == -signal.SIGKILL


UNSAFE = """
import os, sys
os.chdir(sys.argv[1])
with open("{0}/new.part", "wb") as file:
    file.write(b"new")
os.unlink("{0}/other")
os.rename("{0}/new.part", "{0}/x")
"""


def test_what_is_not_synced_is_found(folder: Path) -> None:
    """Negative control: a program that syncs nothing can leave an empty file, and operations out of order."""
    (folder / "x").write_bytes(b"old")
    (folder / "other").write_bytes(b"")
    recording = record(folder, [sys.executable, "-c", UNSAFE.format(folder), str(folder)])
    states = [(files["x"], "other" in files) for files in crash_states(recording, samples=0)]
    assert {(b"old", True), (b"old", False), (b"", True), (b"", False), (b"new", True), (b"new", False)} == set(states)


@pytest.mark.parametrize("prepare", [closed, with_hot_journal, with_log])
def test_restore(v4: Path, saved: Path, folder: Path, prepare: Callable[[Path], None]) -> None:
    """The name has the old database or the new one, whole, and the old one is always there."""
    database = Path(shutil.copy(v4, folder / "x.sqlite"))
    old, new = rows_of(v4), rows_of(saved)
    prepare(database)
    recording = recorded(folder, "db", "restore", saved, "--db", database, "--yes")
    seen = set()

    def check(files: Files, again: bool) -> None:
        if again:
            assert _restore_again(database, saved) in (old, new)
            assert rows_of(database) == new
            return
        found = rows_of(database)
        assert found in (old, new)
        seen.add(found == new)
        if found == new:
            (kept,) = (name for name in files if "before-restore" in name and not name.endswith(("-wal", "-shm")))
            assert rows_of(folder / kept) == old

    for_each_state(recording, folder, check)
    assert seen == {True, False}


def _restore_again(database: Path, saved: Path) -> Rows:
    """Restore, and return the rows of the database that was replaced."""
    engine = get_engine(database)
    result = restore(engine, saved)
    dispose(engine)
    assert result.kept is not None
    return rows_of(Path(result.kept))


def test_restore_of_a_missing_database(v4: Path, saved: Path, folder: Path) -> None:
    """What a database that is gone left is never applied to the new one."""
    database = Path(shutil.copy(v4, folder / "x.sqlite"))
    with_hot_journal(database)
    database.unlink()
    new = rows_of(saved)
    recording = recorded(folder, "db", "restore", saved, "--db", database, "--yes")

    def check(files: Files, _again: bool) -> None:
        if database.name in files:
            assert rows_of(database) == new

    for_each_state(recording, folder, check)


def test_restore_over_a_damaged_database(v4: Path, saved: Path, folder: Path) -> None:
    """A damaged database keeps its bytes, and its log, under one of its names, and never mixes with the new one."""
    database = Path(shutil.copy(v4, folder / "x.sqlite"))
    with_log(database)
    damaged = b"\xa5" * 4096 + database.read_bytes()[4096:]
    database.write_bytes(damaged)
    log = database.with_name(f"{database.name}-wal").read_bytes()
    new = rows_of(saved)
    recording = recorded(folder, "db", "restore", saved, "--db", database, "--yes")

    def check(files: Files, _again: bool) -> None:
        kept = {name: content for name, content in files.items() if ".part" not in name}
        assert damaged in kept.values()
        assert log in kept.values()
        if files[database.name] != damaged:
            assert rows_of(database) == new

    for_each_state(recording, folder, check)


@pytest.mark.parametrize("prepare", [closed, with_hot_journal, with_log])
def test_backup(v4: Path, folder: Path, prepare: Callable[[Path], None]) -> None:
    """There is no backup, or the whole one; the database stays as it was."""
    database, target = Path(shutil.copy(v4, folder / "x.sqlite")), folder / "b.sqlite"
    old = rows_of(v4)
    prepare(database)
    recording = recorded(folder, "db", "backup", target, "--db", database)
    seen = set()

    def check(files: Files, again: bool) -> None:
        seen.add(target.name in files)
        if again and target.name not in files:
            engine = get_engine(database, read_only=True)
            backup(engine, target)
            dispose(engine)
        if again or target.name in files:
            assert rows_of(target) == old
        assert rows_of(database) == old

    for_each_state(recording, folder, check)
    assert seen == {True, False}


@pytest.mark.parametrize("prepare", [closed, with_hot_journal, with_log])
def test_migrate(folder: Path, prepare: Callable[[Path], None]) -> None:
    """The database is at version 3 or 4 with all rows of version 3; migrating again completes it."""
    database = v3_schema.create(folder / "x.sqlite")
    old = rows_of(database)
    prepare(database)
    recording = recorded(folder, "db", "migrate", "--db", database, "--yes")

    def check(_: Files, again: bool) -> None:
        if again:
            engine = get_engine(database)
            apply_migrations(engine)
            dispose(engine)
        found = rows_of(database)
        assert {name: rows for name, rows in found.items() if name in old and name != "schema_state"} == {
            name: rows for name, rows in old.items() if name != "schema_state"
        }
        engine = get_engine(database)
        try:
            if schema_version(engine) == 3:
                assert not again
                assert found == old
            else:
                require_current(engine)
        finally:
            dispose(engine)

    for_each_state(recording, folder, check)


@pytest.mark.parametrize("prepare", [closed, with_hot_journal, with_log])
def test_optimize(v4: Path, folder: Path, prepare: Callable[[Path], None]) -> None:
    """No row changes but the job's own; optimizing again completes it."""
    database = Path(shutil.copy(v4, folder / "x.sqlite"))
    old = rows_of(v4)
    prepare(database)
    recording = recorded(folder, "db", "optimize", "--db", database, "--yes")

    def check(_: Files, again: bool) -> None:
        if again:
            engine = get_engine(database)
            optimize(engine)
            dispose(engine)
        now = rows_of(database)
        now["jobs"] = [job for job in now["jobs"] if job[1] != "optimize"]
        assert now == old

    for_each_state(recording, folder, check)


@pytest.mark.parametrize("is_optimized", [False, True])
def test_rollback(tmp_path: Path, folder: Path, is_optimized: bool) -> None:
    """The database is at version 4 with all it knows, or at version 3 with the whole saved file."""
    database = v3_schema.create(folder / "x.sqlite")
    engine = get_engine(database)
    (tmp_path / "scene").mkdir()
    scene.build(engine, tmp_path / "scene")
    if is_optimized:
        optimize(engine)  # the rollback has to build the index again
    dispose(engine)
    old, target = rows_of(database), folder / "state.jsonl.gz"
    recording = recorded(folder, "db", "rollback", "--to", "3", "--save", target, "--db", database, "--yes")
    after, saved = rows_of(database), read_export(target)
    seen = set()

    def check(files: Files, again: bool) -> None:
        if again:
            engine = get_engine(database)
            roll_back(engine, target)
            dispose(engine)
        found = rows_of(database)
        assert found in ((after,) if again else (old, after))
        seen.add(found == after)
        if again or target.name in files:
            assert read_export(target).rows_sha256 == saved.rows_sha256
        else:
            assert found == old

    for_each_state(recording, folder, check)
    assert seen == {True, False}
