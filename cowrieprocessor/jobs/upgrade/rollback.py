"""Rollback of a database to version 3: exports the v4-only state, then drops v4's tables."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.dialects.base import options_of
from cowrieprocessor.db.engine import describe, dispose, read_transaction, write_transaction
from cowrieprocessor.db.jobs import ENDED, PAUSED, JobRecord, all_jobs
from cowrieprocessor.db.models import Job
from cowrieprocessor.db.schema_facts import SchemaFacts, read_facts
from cowrieprocessor.db.status import RowCount, count_rows
from cowrieprocessor.db.upgrade.rollback import RemovedRows, SchemaRollback, plan_schema_rollback, restore_v3
from cowrieprocessor.db.upgrade.v4_state import count_state_rows
from cowrieprocessor.errors import ConfigurationError, JobTaken
from cowrieprocessor.jobs.runtime import process_identity
from cowrieprocessor.jobs.upgrade.build_index import build_in_subprocess
from cowrieprocessor.jobs.upgrade.state_export import StateExport, export_from, rows_digest
from cowrieprocessor.wording import plural

RANDOM_BYTES = 4
"""Length of the random suffix in the name of a file."""

SILENT_FOR_S = 60.0
"""A job without a process identity that has not reported for this long is presumed dead."""


@dataclass(frozen=True, slots=True)
class RollbackPlan:
    """Effect of a rollback.

    Attributes:
        database: name of the database.
        needed: whether the rollback changes anything.
        drops: the tables to drop, with their numbers of rows.
        saves: number of v4-only rows to export, by table.
        save_to: the export file; None if the caller has to name one.
        empties_command_stats: whether command_stats, which v3 left empty, is emptied.
        adds_index: whether v3's second unique index is rebuilt, which takes as long as reading raw_events.
    """

    database: str
    needed: bool
    drops: dict[str, RowCount]
    saves: dict[str, int]
    save_to: str | None
    empties_command_stats: bool
    adds_index: bool


@dataclass(frozen=True, slots=True)
class RolledBack:
    """Result of a rollback.

    Attributes:
        database: name of the database.
        dropped: the dropped tables; empty if the database was at version 3 already.
        saved: the export of the v4-only state; None if there was nothing to do.
        forgotten: v4's rows that were deleted from v3's tables.
        free_bytes: space in the database file for new rows; the file does not shrink.
    """

    database: str
    dropped: tuple[str, ...]
    saved: StateExport | None
    forgotten: RemovedRows
    free_bytes: int


def plan(engine: Engine, save_to: Path | None = None) -> RollbackPlan:
    """Return what `roll_back` would do; writes nothing.

    Raises:
        JobTaken: a job is using the database.
        SchemaVersionError: the database cannot be rolled back.
    """
    path = save_to or default_save_path(engine)
    with read_transaction(engine) as connection:
        facts, changes = _inspect(connection, describe(engine))
        return RollbackPlan(
            database=describe(engine),
            needed=changes.needed,
            drops={table: count_rows(connection, table) for table in changes.tables},
            saves=count_state_rows(connection, facts) if changes.needed else {},
            save_to=None if path is None else str(path),
            empties_command_stats=changes.empties_command_stats,
            adds_index=changes.adds_index,
        )


def roll_back(
    engine: Engine, save_to: Path | None = None, *, on_step: Callable[[str], None] | None = None
) -> RolledBack:
    """Export the v4-only state, verify the file, and roll the database back to version 3 in one transaction.

    The export is compared with the database again under the write lock, so that no concurrent write is lost. If killed
    at any point, the database is entirely v4 or v3.

    Args:
        engine: the database.
        save_to: the export file, which must not exist unless a killed run left it; by default next to the
            database.
        on_step: called with a description of each step before it begins.

    Raises:
        ConfigurationError: the database is not a file, so `save_to` has to be given.
        JobTaken: a job is using the database; nothing was changed.
        SaveFailed: the export file cannot be written; nothing was changed.
        SchemaVersionError: the database cannot be rolled back.
        DatabaseError: see `write_transaction`; nothing was changed.
    """
    database = describe(engine)
    notify = on_step or (lambda _: None)
    with read_transaction(engine) as connection:
        facts, changes = _inspect(connection, database)
        if not changes.needed:
            return RolledBack(database, (), None, RemovedRows(0, 0), 0)
        path = save_to or default_save_path(engine)
        if path is None:
            raise ConfigurationError(f"{database}: is not a file; name the file to save to with --save")
        notify(f"saving what version 4 alone knows into {path}")
        was_there = path.exists()  # left by a killed run; it stays if this one fails, too
        saved = export_from(connection, facts, database, path)
    _build_index_ahead(engine, changes, None if was_there else path, notify)
    with write_transaction(engine) as connection:
        is_done = False
        try:
            dialect_of(connection).lock_migrations(connection)
            facts, changes = _inspect(connection, database)
            if not changes.needed:  # another process rolled it back meanwhile
                return RolledBack(database, (), None, RemovedRows(0, 0), 0)
            dialect_of(connection).definitions.lock_tables(connection, changes.tables)
            if rows_digest(connection, facts) != saved.rows_sha256:
                notify("saving again, because rows were written meanwhile")
                path.unlink()
                was_there = False
                saved = export_from(connection, facts, database, path)
            notify(f"dropping {plural(len(changes.tables), 'table')} of version 4")
            removed = restore_v3(connection, facts, changes)
            free_bytes = dialect_of(connection).reusable_bytes(connection)
            is_done = True
        finally:
            if not is_done and not was_there:
                path.unlink(missing_ok=True)
    return RolledBack(database, changes.tables, saved, removed, free_bytes)


def default_save_path(engine: Engine) -> Path | None:
    """Return a path next to the database file that no other run gets; None if the database is not a file."""
    files = dialect_of(engine).files
    database = files.path_of(engine.url) if files else None
    if database is None:
        return None
    moment = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    return database.with_name(f"{database.name}.v4-saved-{moment}-{secrets.token_hex(RANDOM_BYTES)}.jsonl.gz")


def _inspect(connection: Connection, database: str) -> tuple[SchemaFacts, SchemaRollback]:
    """Return the existing tables and the changes of a rollback; refuse while a job is using the database."""
    facts = read_facts(connection, database)
    changes = plan_schema_rollback(connection, facts, database)
    if Job.__tablename__ in facts.tables:
        _refuse_while_in_use(connection, database)
    return facts, changes


def _refuse_while_in_use(connection: Connection, database: str) -> None:
    """Refuse while a job is running, because it would find its tables missing.

    Raises:
        JobTaken: a job is running.
    """
    for job in all_jobs(connection):
        owner = job.owner or job.cursor.get("holder") or {}  # where it was before revision 0013
        if job.state not in ENDED and _is_at_work(job, owner):
            by = f" ({process_identity.describe(owner)})" if owner else ""
            raise JobTaken(
                f"{database}: the job {job.name} works on it{by}; stop it, then repeat the command (if it was killed, "
                "wait a few minutes); nothing was changed"
            )


def _is_at_work(job: JobRecord, owner: dict[str, Any]) -> bool:
    """Return whether a job that has not ended may still be running."""
    if owner:
        return process_identity.is_alive(owner, job.updated_at)
    if job.state == PAUSED:
        return False  # paused before it was ever started
    return (dt.datetime.now(dt.UTC) - job.updated_at).total_seconds() < SILENT_FOR_S


def _build_index_ahead(
    engine: Engine, changes: SchemaRollback, export: Path | None, notify: Callable[[str], None]
) -> None:
    """Build v3's second index on a database file before anything is dropped; version 4 works with it, too.

    Args:
        engine: the database.
        changes: what the rollback changes.
        export: a file to remove if that fails.
        notify: called with a description of what begins.
    """
    files = dialect_of(engine).files
    database = files.path_of(engine.url) if files else None
    if not changes.adds_index or database is None:
        return
    notify("rebuilding v3's second index, which reads all of raw_events; writers wait")
    dispose(engine)
    is_built = False
    try:
        build_in_subprocess(database, options_of(engine).lock_timeout_s)
        is_built = True
    finally:
        if not is_built and export is not None:
            export.unlink(missing_ok=True)
