"""Preflight of an upgrade: inspects a database and estimates the upgrade without changing a byte."""

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
from cowrieprocessor.wording import plural

MAX_LOG_BYTES = 256 << 20
"""Maximum size of the write-ahead log during the backfill."""

MIGRATE_S = 1.0
FILE_EVENTS_PER_S = 2_500
EVENTS_PER_S = 30_000
SENSOR_EVENTS_PER_S = 40_000
"""Rough rates of the jobs of the backfill on a small machine: the first two together, which read file events, and the
others, which read every event."""

WAL_RESET_BUG_WARNING = (
    "{library} can corrupt a database when two programs checkpoint it at once; cowrieprocessor serializes its own "
    "writers but not those of other programs; `pip install pysqlite3` installs an unaffected library where there is a "
    "wheel"
)
V3_WRITER_WARNING = (
    "{holders} may be writing: version 3 uses an SQLite library that can corrupt a database when two programs "
    "checkpoint it at once; stop it before the backfill, `load` continues where it stopped"
)
OPEN_FILES_UNKNOWN = (
    "the system does not tell which other processes have the file open; make sure that no loader of version 3 runs"
)


@dataclass(frozen=True, slots=True)
class DiskNeed:
    """Additional disk space that an upgrade needs.

    Attributes:
        rows_bytes: estimated size of the new rows and their indexes.
        log_bytes: maximum size of the write-ahead log during the backfill.
        backup_bytes: size of a backup, if it is made on the same disk.
    """

    rows_bytes: int
    log_bytes: int
    backup_bytes: int

    @property
    def upgrade_bytes(self) -> int:
        """Space needed by the upgrade itself, without a backup."""
        return self.rows_bytes + self.log_bytes


@dataclass(frozen=True, slots=True)
class Preflight:
    """State of a database and estimate of its upgrade.

    Attributes:
        database: name of the database, without a password.
        schema_version: None for an empty database.
        needs_migration: whether `db migrate` would change it.
        library: the database library or server and its version.
        wal_reset_bug: whether that library can corrupt a database in WAL mode.
        size_bytes: size of the database without its write-ahead log.
        wal_bytes: size of the write-ahead log; None on a server.
        file_system: type of the file's file system; None if unknown, and on a server.
        free_bytes: free space on the file's disk; None on a server.
        writable: whether the file and its folder are writable.
        holders: other processes that have the file open; None if unknown, and on a server.
        in_a_file: whether the database is a file.
        adds: the tables that the migration creates.
        work: estimated work of the backfill.
        need: disk space needed.
        migrate_s: estimated duration of the migration.
        backfill_files_s: estimated duration of the first two jobs of the backfill.
        backfill_sessions_s: estimated duration of its third job.
        backfill_sensors_s: estimated duration of its fourth job.
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
    backfill_sensors_s: float

    def refusals(self, *, beside_v3: bool = False) -> list[DatabaseError]:
        """Return the reasons why the upgrade cannot run; each message names the remedy.

        Args:
            beside_v3: accept that a writer of version 3 keeps running.
        """
        return list(self._refusals(beside_v3=beside_v3)) if self.needs_migration else []

    def warnings(self) -> list[str]:
        """Return warnings to read before the upgrade."""
        warnings = []
        if self.wal_reset_bug:
            warnings.append(WAL_RESET_BUG_WARNING.format(library=self.library))
        if self.in_a_file and (self.holders is None or not self.holders.complete):
            warnings.append(OPEN_FILES_UNKNOWN)
        if self.needs_migration and self.holders is not None and self.holders.writers:
            warnings.append(V3_WRITER_WARNING.format(holders=name_holders(self.holders.writers)))
        return warnings

    def _refusals(self, *, beside_v3: bool) -> Iterator[DatabaseError]:
        if not self.writable:
            yield DatabaseReadOnly(
                f"{self.database}: the file or its folder is not writable; run this as the user that owns them"
            )
        needed = self.need.upgrade_bytes + SPARE_BYTES
        if self.free_bytes is not None and self.free_bytes < needed:
            yield DatabaseFull(
                f"{self.database}: the upgrade needs about {plural(needed, 'byte')}, "
                f"{plural(self.free_bytes, 'is', 'are')} free on its "
                "disk; make room, then repeat the command"
            )
        if self.holders is not None and self.holders.writers and not beside_v3:
            yield DatabaseInUse(
                f"{self.database}: is open for writing in {name_holders(self.holders.writers)}; stop that, then "
                "repeat the command, or give --beside-v3 to migrate alongside it"
            )


def preflight(engine: Engine) -> Preflight:
    """Inspect a database before its upgrade, without changing it or creating a file next to it.

    Raises:
        SchemaVersionError: its version cannot be migrated, or its tables are incomplete.
        NotADatabase: the database belongs to another application.
        DatabaseError: it does not exist, cannot be read, or is on a network file system.
    """
    read_only = read_only_engine(engine)
    files = dialect_of(engine).files
    path = files.path_of(engine.url) if files is not None else None
    if files is not None and path is not None:
        files.require_local_disk(path)
    try:
        with read_transaction(read_only) as connection:
            return _inspect(connection, describe(engine), files, path)
    finally:
        dispose(read_only)


def _inspect(connection: Connection, name: str, files: DatabaseFiles | None, path: Path | None) -> Preflight:
    facts = read_facts(connection, name)
    current_revision(connection, facts, name)
    storage = dialect_of(connection).storage(connection)
    work = expected_work(connection, facts)
    needs_migration = can_be_migrated(facts)
    return Preflight(
        database=name,
        schema_version=facts.version,
        needs_migration=needs_migration,
        library=storage.library,
        wal_reset_bug=storage.wal_reset_bug,
        size_bytes=storage.size_bytes,
        wal_bytes=storage.wal_bytes,
        file_system=files.file_system(path) if files is not None and path is not None else None,
        free_bytes=free_bytes(path.parent) if path is not None else None,
        writable=path is None or all(os.access(entry, os.W_OK) for entry in (path, path.parent)),
        holders=holders_of(path) if path is not None else None,
        in_a_file=path is not None,
        adds=tuple(tables_to_add(facts)),
        work=work,
        need=DiskNeed(work.new_bytes, MAX_LOG_BYTES if path is not None else 0, storage.size_bytes),
        migrate_s=MIGRATE_S if needs_migration else 0.0,
        backfill_files_s=work.file_events / FILE_EVENTS_PER_S,
        backfill_sessions_s=work.events / EVENTS_PER_S,
        backfill_sensors_s=work.events / SENSOR_EVENTS_PER_S,
    )
