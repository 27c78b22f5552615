"""Backup: a verified copy of one moment of a database in use, or no file at all."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.dialects.sqlite.interrupts import interruptible
from cowrieprocessor.db.engine import dispose, get_engine
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.errors import (
    ConfigurationError,
    CopyRefused,
    DatabaseDamaged,
    DatabaseError,
    DatabaseFull,
    NotADatabase,
    SchemaVersionError,
)
from cowrieprocessor.jobs.maintenance import atomic_file
from cowrieprocessor.jobs.maintenance.backup import STEPS, backup, plan_backup
from cowrieprocessor.jobs.runtime.progress import JobProgress
from tests import v3_schema
from tests.other_connections import sqlite3
from tests.sqlite_dump import dump, files_in
from tests.step_writer import StepWriter


@pytest.fixture
def source(v3_file: Path) -> Iterator[Engine]:
    """An engine that reads the v3 file with all habits."""
    engine = get_engine(v3_file, read_only=True)
    yield engine
    dispose(engine)


def enlarge(path: Path, megabytes: int) -> None:
    """Enlarge a database so that a copy takes several steps."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE bulk (content BLOB)")
        connection.executemany("INSERT INTO bulk VALUES (zeroblob(1000000))", [()] * megabytes)


def test_backup_is_complete(v3_file: Path, source: Engine, tmp_path: Path) -> None:
    """The backup has every table, index, computed column, row and row number of the database."""
    result = backup(source, tmp_path / "b.sqlite")
    assert dump(tmp_path / "b.sqlite") == dump(v3_file)
    assert (result.schema_version, result.rows["raw_events"], result.check) == (3, 18, "full")


def test_backup_is_one_private_file(source: Engine, tmp_path: Path) -> None:
    """The backup is a single file that only its owner may read, also while it is open for reading."""
    target = tmp_path / "b.sqlite"
    backup(source, target)
    with closing(sqlite3.connect(f"file:{target}?mode=ro", uri=True)) as connection:
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
        names = {name for name in files_in(tmp_path) if name.startswith("b.sqlite")}
    assert (stat.S_IMODE(target.stat().st_mode), mode, names) == (0o600, "delete", {"b.sqlite"})


def test_backup_of_version_4(tmp_path: Path) -> None:
    """A database of our version can be backed up, and the backup can be used as a database."""
    engine = get_engine(tmp_path / "x.sqlite")
    apply_migrations(engine)
    assert backup(engine, tmp_path / "b.sqlite").schema_version == 4
    assert apply_migrations(get_engine(tmp_path / "b.sqlite")) == 4
    dispose(engine)


def test_backup_has_one_moment_despite_a_writer(v3_file: Path, source: Engine, tmp_path: Path) -> None:
    """While another process commits between all steps the copy ends, never restarts, and has whole transactions."""
    enlarge(v3_file, 20)
    done: list[int] = []
    with StepWriter(v3_file) as writer:
        for _ in range(9):
            writer.commit()

        def on_progress(now: JobProgress) -> None:
            writer.commit()
            if now.step == "copying":
                done.append(now.done)

        result = backup(source, tmp_path / "b.sqlite", on_progress=on_progress)
        written = writer.commits
    with closing(sqlite3.connect(tmp_path / "b.sqlite")) as connection:
        left, right = (
            [n for (n,) in connection.execute(f"SELECT n FROM {table} ORDER BY n")]
            for table in ("pair_left", "pair_right")
        )
        check = connection.execute("PRAGMA integrity_check").fetchall()
    assert (left, right, check) == (list(range(10)), list(range(10)), [("ok",)])
    assert (result.rows["pair_left"], done) == (10, sorted(set(done)))
    assert len(done) > 3
    assert written > 15
    assert result.log_peak_bytes > 0


def test_copying_without_an_open_transaction_restarts(v3_file: Path, tmp_path: Path) -> None:
    """What the backup avoids: outside a transaction SQLite's backup restarts at each commit of another process."""
    enlarge(v3_file, 20)
    done: list[int] = []

    class Enough(Exception):
        pass

    with (
        StepWriter(v3_file) as writer,
        closing(sqlite3.connect(f"file:{v3_file}?mode=ro", uri=True, isolation_level=None)) as reader,
        closing(sqlite3.connect(tmp_path / "b.sqlite", isolation_level=None)) as written,
    ):

        def on_progress(_status: int, left: int, total: int) -> None:
            writer.commit()
            done.append(total - left)
            if len(done) == 20:
                raise Enough

        with pytest.raises(Enough):
            reader.backup(written, pages=1024, progress=on_progress)
    assert max(done) <= 1024


def test_backup_overwrites_nothing(source: Engine, tmp_path: Path) -> None:
    """An existing file, folder, link or companion of a database is refused, and stays unchanged."""
    for name in ("file.sqlite", "with-log.sqlite-wal", "with-journal.sqlite-journal"):
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / "folder.sqlite").mkdir()
    (tmp_path / "link.sqlite").symlink_to("nowhere")
    before = files_in(tmp_path)
    for name in ("file", "with-log", "with-journal", "folder", "link", "missing/b"):
        with pytest.raises(CopyRefused):
            backup(source, tmp_path / f"{name}.sqlite")
    assert files_in(tmp_path) == before
    assert (tmp_path / "file.sqlite").read_bytes() == b"mine"


def test_remains_of_a_killed_backup_are_removed(source: Engine, tmp_path: Path) -> None:
    """An unfinished copy is replaced; another file of that name is not touched."""
    (tmp_path / "b.sqlite.part").write_bytes(b"SQLite format 3\0" + b"half")
    backup(source, tmp_path / "b.sqlite")
    (tmp_path / "c.sqlite.part").write_bytes(b"my thesis")
    with pytest.raises(CopyRefused, match="is not an unfinished copy"):
        backup(source, tmp_path / "c.sqlite")
    assert (tmp_path / "c.sqlite.part").read_bytes() == b"my thesis"
    assert not (tmp_path / "b.sqlite.part").exists()


@pytest.mark.parametrize("step", ["copying", "counting", "checking"])
def test_interrupted_backup_leaves_nothing(v3_file: Path, source: Engine, tmp_path: Path, step: str) -> None:
    """Ctrl-C in any step leaves neither the backup nor an unfinished copy, and the next run succeeds."""
    enlarge(v3_file, 5)
    target = tmp_path / "out" / "b.sqlite"
    target.parent.mkdir()

    def on_progress(now: JobProgress) -> None:
        if now.step == STEPS[step][0]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup(source, target, on_progress=on_progress)
    left = files_in(target.parent)
    backup(source, target)
    assert (left, files_in(target.parent)) == (set(), {"b.sqlite"})


def test_signal_ends_a_long_statement() -> None:
    """A statement running inside SQLite is ended by a signal whose handler raises."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with closing(sqlite3.connect(":memory:")) as connection:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(KeyboardInterrupt), interruptible(connection):
                connection.execute(
                    "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT max(n) FROM r"
                )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize("quick", [False, True])
def test_damaged_database_gives_no_backup(v3_file: Path, tmp_path: Path, quick: bool) -> None:
    """A damaged page is found in the copy; no backup is created and the database is unchanged."""
    with closing(sqlite3.connect(v3_file)) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'command_stats'").fetchone()[0]
    content = bytearray(v3_file.read_bytes())
    content[(page - 1) * 4096 : page * 4096] = b"\xa5" * 4096
    v3_file.write_bytes(content)
    engine = get_engine(v3_file, read_only=True)
    with pytest.raises(DatabaseDamaged):
        backup(engine, tmp_path / "b.sqlite", quick=quick)
    dispose(engine)
    assert (files_in(tmp_path) & {"b.sqlite", "b.sqlite.part"}, v3_file.read_bytes()) == (set(), bytes(content))


def test_index_that_lost_a_row_is_found_by_the_full_check(v3_file: Path, tmp_path: Path) -> None:
    """An index that does not match its table is damage that the full check finds and the quick one does not."""
    with closing(sqlite3.connect(v3_file)) as connection, connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, '(event_type)', '(ingest_id)')"
            " WHERE name = 'ix_raw_events_event_type'"
        )
    engine = get_engine(v3_file, read_only=True)
    with pytest.raises(DatabaseDamaged, match="ix_raw_events_event_type"):
        backup(engine, tmp_path / "b.sqlite")
    assert backup(engine, tmp_path / "b.sqlite", quick=True).check == "quick"
    dispose(engine)


def test_a_full_disk_is_reported_before(source: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With less free space than the database needs nothing is written."""
    monkeypatch.setattr(atomic_file, "free_bytes", lambda _: atomic_file.SPARE_BYTES + 1000)
    with pytest.raises(DatabaseFull, match="make room"):
        backup(source, tmp_path / "b.sqlite")
    assert files_in(tmp_path) & {"b.sqlite", "b.sqlite.part"} == set()


def test_plan_reports_size_and_growth_of_the_log(v3_file: Path, source: Engine, tmp_path: Path) -> None:
    """The plan has the size, the free space and the growth of the log; it creates no file."""
    enlarge(v3_file, 3)
    before = files_in(tmp_path)
    plan = plan_backup(source, tmp_path / "b.sqlite")
    assert (plan.size_bytes, files_in(tmp_path)) == (v3_file.stat().st_size, before)
    assert plan.log_growth_bytes > 0
    assert plan.free_bytes > plan.size_bytes


@pytest.mark.parametrize(("version", "kind"), [("2", SchemaVersionError), ("5", SchemaVersionError)])
def test_other_versions_are_not_backed_up(tmp_path: Path, version: str, kind: type[DatabaseError]) -> None:
    """A database of a version that cannot be verified is refused."""
    engine = get_engine(v3_schema.create(tmp_path / "other.sqlite", version=version), read_only=True)
    with pytest.raises(kind):
        backup(engine, tmp_path / "b.sqlite")
    dispose(engine)


def test_other_files_are_refused(tmp_path: Path) -> None:
    """Another application's database and a file that is not a database are refused."""
    with closing(sqlite3.connect(tmp_path / "places.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE moz_places (id INTEGER PRIMARY KEY)")
    (tmp_path / "letter.txt").write_bytes(b"Dear reader, " * 100)
    for name in ("places.sqlite", "letter.txt"):
        with pytest.raises(NotADatabase):
            backup(get_engine(tmp_path / name, read_only=True), tmp_path / "b.sqlite")


@pytest.mark.postgres
def test_postgresql_is_backed_up_by_its_own_tool(postgres_url: str, tmp_path: Path) -> None:
    """For PostgreSQL the message names pg_dump."""
    with pytest.raises(ConfigurationError, match="pg_dump"):
        backup(get_engine(postgres_url), tmp_path / "b.dump")


def test_concurrent_backups_to_one_file(source: Engine, tmp_path: Path) -> None:
    """A second backup to the same file is refused while the first is running."""
    target = tmp_path / "b.sqlite"
    other = get_engine(source.url.database, read_only=True, lock_timeout_s=0)
    outcomes: list[BaseException] = []

    def on_progress(now: JobProgress) -> None:
        if now.step == "checking the copy" and not outcomes:
            with pytest.raises(DatabaseError, match="maintenance command") as caught:
                backup(other, target)
            outcomes.append(caught.value)

    backup(source, target, on_progress=on_progress)
    assert len(outcomes) == 1
    assert not os.path.lexists(f"{target}.maintenance-lock")
    dispose(other)
