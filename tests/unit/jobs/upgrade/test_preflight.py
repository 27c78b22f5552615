"""The preflight of an upgrade: its findings, its refusals, and that it changes nothing."""

from __future__ import annotations

import dataclasses
import json
import sqlite3 as standard_library
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from cowrieprocessor import filesystems
from cowrieprocessor.db.dialects.sqlite.dialect import wal_reset_bug
from cowrieprocessor.db.engine import dispose, get_engine, read_transaction
from cowrieprocessor.db.files import open_files
from cowrieprocessor.db.files.open_files import FileHolders, holders_of
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.schema_facts import read_facts
from cowrieprocessor.db.upgrade.estimates import FILE_ROW_BYTES, ROWS_PER_SAMPLE, SAMPLES, expected_work
from cowrieprocessor.errors import (
    DatabaseError,
    DatabaseFull,
    DatabaseInUse,
    DatabaseReadOnly,
    NotADatabase,
    SchemaVersionError,
)
from cowrieprocessor.jobs.upgrade import preflight as preflight_job
from cowrieprocessor.jobs.upgrade.preflight import Preflight, preflight
from tests import v3_schema
from tests.other_connections import OtherProcess, sqlite3
from tests.step_writer import StepWriter

_READER = """
import sys
with open(sys.argv[1], "rb"):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def v3(v3_file: Path) -> Iterator[Engine]:
    """An engine on the v3 file with all peculiarities, which has not been opened yet."""
    engine = get_engine(v3_file)
    yield engine
    dispose(engine)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the contents of a folder's files, except of the shared memory, which holds locks."""
    return {path.name: b"" if path.name.endswith("-shm") else path.read_bytes() for path in folder.iterdir()}


def test_preflight_finds_what_there_is(v3: Engine, v3_file: Path) -> None:
    """The preflight reports version, library, sizes, file system, space, new tables, and no other process."""
    found = preflight(v3)
    assert (found.schema_version, found.needs_migration) == (3, True)
    assert (found.size_bytes, found.wal_bytes) == (v3_file.stat().st_size, 0)
    assert found.wal_reset_bug == wal_reset_bug(sqlite3.sqlite_version_info)
    assert found.holders == FileHolders((), complete=True)
    assert {"files", "file_hashes", "jobs"} <= set(found.adds)
    assert found.file_system
    assert found.free_bytes
    assert found.refusals() == []


def test_preflight_counts_a_small_database(v3: Engine) -> None:
    """The events of a small database are counted by type."""
    work = preflight(v3).work
    assert (work.events, work.file_events, work.events_by_type["cowrie.command.input"], work.sessions) == (18, 7, 2, 2)


@pytest.mark.parametrize("counted", [10, 500_000])
def test_preflight_estimates_a_large_database(tmp_path: Path, counted: int) -> None:
    """A large database is sampled, accurately despite gaps in ids; a type with few events is counted."""
    rows = SAMPLES * ROWS_PER_SAMPLE * 2
    path = v3_schema.create(tmp_path / "large.sqlite", payloads=[])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO raw_events (id, source, source_offset, source_inode, payload) VALUES (?, '/l', ?, '1', ?)",
            (
                (
                    number + (number // 1000) * 500,
                    number,
                    json.dumps({"eventid": "cowrie.session.file_download" if number % 25 == 3 else "x"}),
                )
                for number in range(rows)
            ),
        )
    engine = get_engine(path)
    with read_transaction(engine) as connection:
        work = expected_work(connection, read_facts(connection, path.name), max_counted=counted)
    dispose(engine)
    assert abs(work.events - rows) < rows * 0.1
    assert abs(work.file_events - rows // 25) < (rows // 25 * 0.15 if counted == 10 else 1)
    assert work.new_bytes == work.file_events * FILE_ROW_BYTES


def test_preflight_of_a_quiet_database_leaves_no_trace(v3: Engine, tmp_path: Path) -> None:
    """No byte of the file changes, and no log or shared memory is created next to it."""
    before = contents(tmp_path)
    preflight(v3)
    assert contents(tmp_path) == before
    assert len(before) == 1


def test_preflight_of_a_busy_database_leaves_no_trace(v3_file: Path, v3: Engine, tmp_path: Path) -> None:
    """With a writer running the log is read, and neither it nor the file changes."""
    with StepWriter(v3_file) as writer:
        before = contents(tmp_path)
        found = preflight(v3)
        assert contents(tmp_path) == before
        assert found.holders is not None
        assert [(holder.pid, holder.writes) for holder in found.holders.processes] == [(writer.pid, True)]
    assert found.wal_bytes


def test_preflight_reads_the_log_that_a_killed_writer_left(v3_file: Path, v3: Engine, tmp_path: Path) -> None:
    """Pages that are only in the log count: here the version that a killed migration wrote."""
    with closing(standard_library.connect(v3_file, isolation_level=None)):
        with StepWriter(v3_file) as writer:
            writer.kill()
        subprocess.run(
            [
                sys.executable,
                "-c",
                "import os, sqlite3, sys\n"
                "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
                "c.execute(\"UPDATE schema_state SET value = '2'\")\n"
                "os.kill(os.getpid(), 9)",
                str(v3_file),
            ],
            check=False,
        )
        before = contents(tmp_path)
        with pytest.raises(SchemaVersionError, match="version 2"):
            preflight(v3)
        assert contents(tmp_path) == before


def test_log_without_shared_memory_is_read(v3_file: Path, v3: Engine, tmp_path: Path) -> None:
    """A log without its shared memory, left by a kill during the close, is read: only that file is created."""
    with StepWriter(v3_file) as writer:
        writer.kill()
    v3_file.with_name(f"{v3_file.name}-shm").unlink()
    before = contents(tmp_path)
    assert preflight(v3).wal_bytes
    assert contents(tmp_path) == {**before, f"{v3_file.name}-shm": b""}


def test_writer_is_refused_unless_asked_for(v3_file: Path, v3: Engine) -> None:
    """A process that has the file open for writing is refused by name; with `beside_v3` there is only a warning."""
    with OtherProcess(v3_file, "SELECT 1 FROM schema_state"):
        found = preflight(v3)
    (refusal,) = found.refusals()
    assert isinstance(refusal, DatabaseInUse)
    assert "--beside-v3" in str(refusal)
    assert found.refusals(beside_v3=True) == []
    assert any("checkpoint it at once" in warning and "version 3" in warning for warning in found.warnings())


def test_reader_is_no_hindrance(v3_file: Path, v3: Engine) -> None:
    """A process that has the file open for reading is listed but not refused."""
    reader = subprocess.Popen(
        [sys.executable, "-c", _READER, str(v3_file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "ready\n"
    found = preflight(v3)
    reader.communicate()
    assert found.holders is not None
    assert [holder.writes for holder in found.holders.processes] == [False]
    assert (found.refusals(), found.holders.writers) == ([], ())


def test_our_own_process_is_no_other(v3_file: Path) -> None:
    """A file open in this process is not reported as open in another."""
    with closing(sqlite3.connect(v3_file)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert holders_of(v3_file) == FileHolders((), complete=True)


def test_processes_with_unreadable_descriptors_are_found_by_their_locks(
    v3_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process with unreadable descriptors is found by its lock; whether it writes is unknown."""

    def forbidden(_pid: int, _stat: object) -> None:
        raise PermissionError

    monkeypatch.setattr(open_files, "_opened", forbidden)
    with StepWriter(v3_file) as writer:
        found = holders_of(v3_file)
    assert found is not None
    assert ([(holder.pid, holder.writes) for holder in found.writers], found.complete) == ([(writer.pid, None)], False)


def test_unknown_open_files_are_a_warning(v3: Engine, v3_file: Path, tmp_path: Path) -> None:
    """Without /proc it is unknown which processes have the file open: a warning, no refusal."""
    found = dataclasses.replace(preflight(v3), holders=holders_of(v3_file, proc=tmp_path / "no-proc"))
    assert (found.holders, found.refusals()) == (None, [])
    assert any("does not tell" in warning for warning in found.warnings())


def test_too_little_room_is_refused(v3: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk too small for rows and log is refused with the numbers."""
    monkeypatch.setattr(preflight_job, "free_bytes", lambda _: preflight_job.MAX_LOG_BYTES)
    (refusal,) = preflight(v3).refusals()
    assert isinstance(refusal, DatabaseFull)
    assert "268,435,456 are free" in str(refusal)


def test_what_may_not_be_written_is_refused(v3: Engine) -> None:
    """A file or folder without permission to write is refused."""
    (refusal,) = dataclasses.replace(preflight(v3), writable=False).refusals()
    assert isinstance(refusal, DatabaseReadOnly)


def test_network_disk_is_refused(v3: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file on a network file system is refused before it is opened."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / {tmp_path} rw - nfs4 server:/x rw\n")
    monkeypatch.setattr(filesystems, "MOUNTINFO", mounts)
    with pytest.raises(DatabaseError, match="network file system"):
        preflight(v3)


@pytest.mark.parametrize("version", ["1", "2", "5"])
def test_other_versions_are_refused(tmp_path: Path, version: str) -> None:
    """A version that cannot be migrated is refused with the remedy."""
    engine = get_engine(v3_schema.create(tmp_path / "other.sqlite", version=version))
    with pytest.raises(SchemaVersionError):
        preflight(engine)
    dispose(engine)


def test_incomplete_database_is_refused(v3_file: Path, v3: Engine) -> None:
    """A v3 file with an incomplete table of version 4 is refused, as by the migration."""
    with closing(sqlite3.connect(v3_file)) as connection, connection:
        connection.execute("CREATE TABLE jobs (name TEXT)")
    with pytest.raises(SchemaVersionError, match="some of the tables"):
        preflight(v3)


def test_no_database_is_refused(tmp_path: Path) -> None:
    """A missing file is not created, and a text file is not a database."""
    (tmp_path / "letter.txt").write_bytes(b"Dear reader, " * 100)
    with pytest.raises(NotADatabase):
        preflight(get_engine(tmp_path / "letter.txt"))
    with pytest.raises(DatabaseError, match="no such database"):
        preflight(get_engine(tmp_path / "missing.sqlite"))
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_database_at_our_version_needs_nothing(engine: Engine) -> None:
    """At the current version there is nothing to add and nothing to refuse, on both databases."""
    found = preflight(engine)
    assert (found.schema_version, found.needs_migration, found.adds) == (4, False, ())
    assert (found.refusals(), found.in_a_file) == ([], engine.name == "sqlite")


def test_pre_release_database_lists_the_other_tables(tmp_path: Path) -> None:
    """For a database with a pre-release `files` table the other tables are listed."""
    engine = get_engine(v3_schema.create(tmp_path / "x.sqlite", version="4", planned_files=True))
    found = preflight(engine)
    dispose(engine)
    assert (found.schema_version, found.needs_migration) == (4, True)
    assert "files" not in found.adds
    assert "jobs" in found.adds


@pytest.mark.postgres
def test_empty_server_database(postgres_url: str) -> None:
    """On a server only the server's own facts are reported."""
    engine = get_engine(postgres_url)
    found = preflight(engine)
    dispose(engine)
    assert (found.schema_version, found.free_bytes, found.holders, found.warnings()) == (None, None, None, [])
    assert "raw_events" in found.adds


def test_number_of_statements_does_not_grow(v3: Engine, tmp_path: Path) -> None:
    """A preflight executes a bounded number of statements at any size."""
    asked: list[str] = []

    def on_execute(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        asked.append(statement)

    event.listen(Engine, "before_cursor_execute", on_execute)
    try:
        found: Preflight = preflight(v3)
    finally:
        event.remove(Engine, "before_cursor_execute", on_execute)
    assert found.needs_migration
    assert len(asked) < SAMPLES + 100


def test_migrated_database_needs_nothing(v3: Engine) -> None:
    """After the migration a preflight finds nothing to do."""
    apply_migrations(v3)
    assert not preflight(v3).needs_migration
