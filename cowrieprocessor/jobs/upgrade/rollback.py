"""Rolling a database back to version 3: what v4 alone knows is saved first, then v4's tables go."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, select

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.dialects.base import options_of
from cowrieprocessor.db.dialects.definitions import definitions_of
from cowrieprocessor.db.engine import describe, dispose, read_transaction, write_transaction
from cowrieprocessor.db.jobs import PAUSED, RUNNING, WAITING
from cowrieprocessor.db.models import Job
from cowrieprocessor.db.schema_facts import SchemaFacts, read_facts
from cowrieprocessor.db.status import RowCount, count_rows
from cowrieprocessor.db.upgrade.rollback import BackToV3, Forgotten, restore_v3, way_back
from cowrieprocessor.db.upgrade.v4_state import count_state_rows
from cowrieprocessor.errors import ConfigurationError, JobTaken
from cowrieprocessor.jobs.runtime import process_identity as holder
from cowrieprocessor.jobs.upgrade.build_index import build_elsewhere
from cowrieprocessor.jobs.upgrade.state_export import Saved, rows_digest, save_from

SILENT_FOR_S = 60.0
"""A job that does not say who runs it, and has said nothing for so long, is taken to be dead."""


@dataclass(frozen=True, slots=True)
class RollbackPlan:
    """What rolling back would do.

    Attributes:
        database: its name.
        needed: whether there is anything to do.
        drops: the tables that go, with their rows.
        saves: rows that v4 alone knows, by table.
        save_to: where they are saved; None where it has to be said.
        empties_command_stats: whether command_stats, which v3 left empty, is emptied again.
        adds_index: whether v3's second unique index has to be built again, which takes as long as reading raw_events.
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
    """What rolling back did.

    Attributes:
        database: its name.
        dropped: the tables that went; empty where the database was at version 3 already.
        saved: the file with what v4 alone knew; None where nothing was to do.
        forgotten: rows that v4 had put into v3's tables about its own.
        free_bytes: room in the database's file for new rows; the file itself does not shrink.
    """

    database: str
    dropped: tuple[str, ...]
    saved: Saved | None
    forgotten: Forgotten
    free_bytes: int


def plan(engine: Engine, save_to: Path | None = None) -> RollbackPlan:
    """Return what `roll_back` would do; nothing is written.

    Raises:
        JobTaken: a job works on the database.
        SchemaVersionError: the database is none that can be rolled back.
    """
    place = save_to or default_save_path(engine)
    with read_transaction(engine) as connection:
        facts, way = _look(connection, describe(engine))
        return RollbackPlan(
            database=describe(engine),
            needed=way.needed,
            drops={table: count_rows(connection, table) for table in way.tables},
            saves=count_state_rows(connection, facts) if way.needed else {},
            save_to=None if place is None else str(place),
            empties_command_stats=way.empties_command_stats,
            adds_index=way.adds_index,
        )


def roll_back(
    engine: Engine, save_to: Path | None = None, *, on_step: Callable[[str], None] | None = None
) -> RolledBack:
    """Save what v4 alone knows, verify the file, and bring the database back to version 3 in one transaction.

    What is saved is compared with the database again under the write lock, so that nothing is lost that was written
    meanwhile. Killed at any point, the database is wholly v4 or wholly v3.

    Args:
        engine: the database.
        save_to: the file; nothing may be there. Beside the database by default, where that is a file.
        on_step: told what is done next, in words.

    Raises:
        ConfigurationError: there is no place beside the database: `save_to` has to be given.
        JobTaken: a job works on the database; nothing was changed.
        SaveFailed: the file cannot be written; nothing was changed.
        SchemaVersionError: the database is none that can be rolled back.
        DatabaseError: see `write_transaction`; nothing was changed.
    """
    database = describe(engine)
    say = on_step or (lambda _: None)
    with read_transaction(engine) as connection:
        facts, way = _look(connection, database)
        if not way.needed:
            return RolledBack(database, (), None, Forgotten(0, 0), 0)
        path = save_to or default_save_path(engine)
        if path is None:
            raise ConfigurationError(f"{database}: there is no place beside it; say with --save where to save")
        say(f"saving what version 4 alone knows into {path}")
        saved = save_from(connection, facts, database, path)
    _build_index_ahead(engine, way, path, say)
    with write_transaction(engine) as connection:
        kept = False
        try:
            dialect_of(connection).lock_migrations(connection)
            facts, way = _look(connection, database)
            if not way.needed:  # another process has done it meanwhile
                return RolledBack(database, (), None, Forgotten(0, 0), 0)
            definitions_of(connection).lock_tables(connection, way.tables)
            if rows_digest(connection, facts) != saved.rows_sha256:
                say("saving again what was written meanwhile")
                path.unlink()
                saved = save_from(connection, facts, database, path)
            say(_step(way))
            forgotten = restore_v3(connection, facts, way)
            free_bytes = dialect_of(connection).reusable_bytes(connection)
            kept = True
        finally:
            if not kept:
                path.unlink(missing_ok=True)
    return RolledBack(database, way.tables, saved, forgotten, free_bytes)


def default_save_path(engine: Engine) -> Path | None:
    """Return a new name beside the database's file; None where there is no such file."""
    files = dialect_of(engine).files
    database = files.path_of(engine.url) if files else None
    if database is None:
        return None
    moment = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    return database.with_name(f"{database.name}.v4-saved-{moment}.jsonl.gz")


def _look(connection: Connection, database: str) -> tuple[SchemaFacts, BackToV3]:
    """Return what is there and the way back, and refuse while a job works on the database."""
    facts = read_facts(connection, database)
    way = way_back(connection, facts, database)
    if Job.__tablename__ in facts.tables:
        _refuse_while_working(connection, database)
    return facts, way


def _refuse_while_working(connection: Connection, database: str) -> None:
    """Refuse while a job is at work: it would find its tables gone.

    Raises:
        JobTaken: one is.
    """
    now = dt.datetime.now(dt.UTC)
    columns = (Job.name, Job.state, Job.cursor, Job.updated_at)
    for job in connection.execute(select(*columns).where(Job.state.in_([RUNNING, WAITING, PAUSED])).order_by(Job.name)):
        who = (job.cursor or {}).get("holder") if isinstance(job.cursor, dict) else None
        if who:
            working = holder.is_alive(who, job.updated_at)
            by = f" ({holder.describe(who)})"
        elif job.state == PAUSED:
            continue  # only the wish that a backfill pauses
        else:
            working = (now - job.updated_at).total_seconds() < SILENT_FOR_S
            by = ""
        if working:
            raise JobTaken(
                f"{database}: the job {job.name} works on it{by}; stop it, then repeat the command (if it was killed, "
                "wait for some minutes); nothing was changed"
            )


def _build_index_ahead(engine: Engine, way: BackToV3, saved: Path, say: Callable[[str], None]) -> None:
    """Build v3's second index of a file before anything is dropped; an index more is no harm to version 4."""
    files = dialect_of(engine).files
    database = files.path_of(engine.url) if files else None
    if not way.adds_index or database is None:
        return
    say("building v3's second index again, which reads all of raw_events; writers wait")
    dispose(engine)
    built = False
    try:
        build_elsewhere(database, options_of(engine).lock_timeout_s)
        built = True
    finally:
        if not built:
            saved.unlink(missing_ok=True)


def _step(way: BackToV3) -> str:
    return f"dropping {len(way.tables)} tables of version 4"
