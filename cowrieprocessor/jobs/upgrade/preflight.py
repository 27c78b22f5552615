"""What an upgrade would meet and do, found out without changing a byte."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.dialects.base import DatabaseFiles
from cowrieprocessor.db.engine import describe, dispose, read_transaction
from cowrieprocessor.db.files.database_copy import read_only_engine
from cowrieprocessor.db.files.open_files import FileHolders, holders_of, name_holders
from cowrieprocessor.db.schema_facts import can_be_migrated, current_revision, read_facts
from cowrieprocessor.db.upgrade.estimates import ExpectedWork, expected_work, tables_to_add
from cowrieprocessor.errors import DatabaseError, DatabaseFull, DatabaseInUse, DatabaseReadOnly
from cowrieprocessor.jobs.maintenance.atomic_file import SPARE_BYTES, free_bytes

MAX_LOG_BYTES = 256 << 20
"""How large the backfill lets the log become."""

MIGRATE_S = 1.0
FILE_EVENTS_PER_S = 5_000
EVENTS_PER_S = 30_000
"""How fast the two jobs of the backfill are on a small machine, roughly; the second reads every event."""

AFFECTED_LIBRARY = (
    "{library} can corrupt a database when two programs checkpoint it at once; cowrieprocessor keeps its own writers "
    "apart, other programs' it cannot; `pip install pysqlite3` brings a sound library where there is a wheel"
)
BESIDE_V3 = (
    "{holders} may be writing: version 3 uses an SQLite library that can corrupt a database when two programs "
    "checkpoint it at once; stop it before the backfill, `cowrieprocessor load` goes on where it stopped"
)
HOLDERS_NOT_KNOWN = (
    "the system does not tell which other processes have the file open; make sure yourself that no loader of "
    "version 3 runs"
)


@dataclass(frozen=True, slots=True)
class DiskNeed:
    """How much room an upgrade needs beside what is there.

    Attributes:
        rows_bytes: the new rows and their indexes, from about how many events there are.
        log_bytes: the write-ahead log, which the backfill lets grow so far.
        backup_bytes: a backup, if it is made on the same disk.
    """

    rows_bytes: int
    log_bytes: int
    backup_bytes: int

    @property
    def upgrade_bytes(self) -> int:
        """What the upgrade itself needs."""
        return self.rows_bytes + self.log_bytes


@dataclass(frozen=True, slots=True)
class Preflight:
    """What was found, and what would be done.

    Attributes:
        database: its name, without any password.
        schema_version: None for an empty database.
        needs_migration: whether `db migrate` would change it.
        library: what reads it, with its version.
        wal_reset_bug: whether that library can corrupt a database in WAL mode.
        size_bytes: the database without its log.
        wal_bytes: its log; None on a server.
        file_system: of the file; None where the system does not tell, and on a server.
        free_bytes: room on its disk; None on a server.
        writable: whether the file and its folder may be written.
        holders: other processes that have the file open; None where the system does not tell, and on a server.
        in_a_file: whether the database is a file.
        adds: the tables that are going to be made.
        work: about how much the backfill has to read.
        need: how much room that takes.
        migrate_s: about how long the migration takes.
        backfill_files_s: about how long the first job of the backfill takes.
        backfill_sessions_s: about how long the second takes.
    """

    database: str
    schema_version: int | None
    needs_migration: bool
    library: str
    wal_reset_bug: bool
    size_bytes: int
    wal_bytes: int | None
    file_system: str | None
    free_bytes: int | None
    writable: bool
    holders: FileHolders | None
    in_a_file: bool
    adds: tuple[str, ...]
    work: ExpectedWork
    need: DiskNeed
    migrate_s: float
    backfill_files_s: float
    backfill_sessions_s: float

    def refusals(self, *, beside_v3: bool = False) -> list[DatabaseError]:
        """Return why the upgrade cannot work; each message says what to do.

        Args:
            beside_v3: whoever asks knows that a writer of version 3 goes on.
        """
        return list(self._refusals(beside_v3=beside_v3)) if self.needs_migration else []

    def warnings(self) -> list[str]:
        """Return what to know before one goes on."""
        found = []
        if self.wal_reset_bug:
            found.append(AFFECTED_LIBRARY.format(library=self.library))
        if self.in_a_file and (self.holders is None or not self.holders.complete):
            found.append(HOLDERS_NOT_KNOWN)
        if self.needs_migration and self.holders is not None and self.holders.writers:
            found.append(BESIDE_V3.format(holders=name_holders(self.holders.writers)))
        return found

    def _refusals(self, *, beside_v3: bool) -> Iterator[DatabaseError]:
        if not self.writable:
            yield DatabaseReadOnly(
                f"{self.database}: the file or its folder may not be written; run this as the user that it belongs to"
            )
        needed = self.need.upgrade_bytes + SPARE_BYTES
        if self.free_bytes is not None and self.free_bytes < needed:
            yield DatabaseFull(
                f"{self.database}: the upgrade needs about {needed:,} bytes, {self.free_bytes:,} are free on its "
                "disk; make room, then repeat the command"
            )
        if self.holders is not None and self.holders.writers and not beside_v3:
            yield DatabaseInUse(
                f"{self.database}: is open for writing in {name_holders(self.holders.writers)}; stop that, then "
                "repeat the command, or give --beside-v3 to migrate beside it"
            )


def preflight(engine: Engine) -> Preflight:
    """Look at a database that is going to be upgraded; no byte of it is changed, and no file made beside it.

    Raises:
        SchemaVersionError: its version cannot be migrated, or its tables are half-made.
        NotADatabase: the database is another application's.
        DatabaseError: it is not there, cannot be read, or lies on a network file system.
    """
    looking = read_only_engine(engine)
    files = dialect_of(engine).files
    path = files.path_of(engine.url) if files is not None else None
    if files is not None and path is not None:
        files.require_local_disk(path)
    try:
        with read_transaction(looking) as connection:
            return _look(connection, describe(engine), files, path)
    finally:
        dispose(looking)


def _look(connection: Connection, name: str, files: DatabaseFiles | None, path: Path | None) -> Preflight:
    facts = read_facts(connection, name)
    current_revision(connection, facts, name)
    storage = dialect_of(connection).storage(connection)
    work = expected_work(connection, facts)
    needs = can_be_migrated(facts)
    return Preflight(
        database=name,
        schema_version=facts.version,
        needs_migration=needs,
        library=storage.library,
        wal_reset_bug=storage.wal_reset_bug,
        size_bytes=storage.size_bytes,
        wal_bytes=storage.wal_bytes,
        file_system=files.file_system(path) if files is not None and path is not None else None,
        free_bytes=free_bytes(path.parent) if path is not None else None,
        writable=path is None or all(os.access(one, os.W_OK) for one in (path, path.parent)),
        holders=holders_of(path) if path is not None else None,
        in_a_file=path is not None,
        adds=tuple(tables_to_add(facts)),
        work=work,
        need=DiskNeed(work.new_bytes, MAX_LOG_BYTES if path is not None else 0, storage.size_bytes),
        migrate_s=MIGRATE_S if needs else 0.0,
        backfill_files_s=work.file_events / FILE_EVENTS_PER_S,
        backfill_sessions_s=work.events / EVENTS_PER_S,
    )
