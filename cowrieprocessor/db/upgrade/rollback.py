"""Schema rollback from v4 to v3: drops v4's tables, deletes v4's own rows from v3's tables, and sets version 3.

Nothing here commits: everything runs in the caller's transaction, so the database is always entirely v4 or v3.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, select, text

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.models import V3_TABLES, Base, CommandStat, DeadLetterEvent
from cowrieprocessor.db.schema_facts import (
    ALEMBIC_TABLE,
    OLDEST_VERSION,
    OUR_TABLES,
    SCHEMA_REVISION_KEY,
    SCHEMA_VERSION_KEY,
    SchemaFacts,
    read_facts,
    refuse_unsupported,
)
from cowrieprocessor.db.upgrade.redundant_index import REDUNDANT_INDEX
from cowrieprocessor.db.upgrade.v3_digest import MigrationRecord, read_record
from cowrieprocessor.errors import SchemaVersionError

V4_TABLES = OUR_TABLES - set(V3_TABLES)
_CREATE_REDUNDANT_INDEX = (
    f"CREATE UNIQUE INDEX {REDUNDANT_INDEX} ON raw_events(source, source_inode, source_generation, source_offset)"
)
_LETTERS_AT_ONCE = 1_000
_MAY_LACK = {
    "files": {"origin"},
    "jobs": {"owner", "progress", "pause_requested", "stop_requested_at"},
    "log_files": {"last_event_at"},
    "session_attributes": {"src_ip_rank", "src_ip_at", "protocol_rank", "protocol_at"},
}
"""Columns that later revisions added: a database of an earlier one lacks them."""


@dataclass(frozen=True, slots=True)
class SchemaRollback:
    """Changes that a rollback makes to the schema.

    Attributes:
        tables: v4's existing tables, which are dropped.
        empties_command_stats: whether command_stats is emptied, a table of v3 that v3 left empty.
        adds_index: whether v3's second unique index is created; the time that takes grows with raw_events.
        dead_letters_after: dead letters with larger ids may be v4's.
    """

    tables: tuple[str, ...]
    empties_command_stats: bool
    adds_index: bool
    dead_letters_after: int

    @property
    def needed(self) -> bool:
        """Whether the rollback changes anything."""
        return bool(self.tables)


@dataclass(frozen=True, slots=True)
class RemovedRows:
    """Rows of v4 that were deleted from v3's tables; a later backfill creates them again.

    Attributes:
        command_stats: number of rows of command_stats.
        file_dead_letters: number of dead letters on files of stored events that could not be added to `files`.
    """

    command_stats: int
    file_dead_letters: int


def plan_schema_rollback(connection: Connection, facts: SchemaFacts, database: str) -> SchemaRollback:
    """Return the changes that a rollback would make.

    Args:
        connection: in a transaction.
        facts: the existing tables.
        database: name of the database for messages.

    Raises:
        SchemaVersionError: the database is empty or of an unknown version, or tables are missing or were created by
            another program.
    """
    tables = _tables_to_drop(facts, database)
    if facts.version == OLDEST_VERSION and not tables:
        return SchemaRollback((), empties_command_stats=False, adds_index=False, dead_letters_after=0)
    _require_our_columns(connection, tables, database)
    record = read_record(connection) if "jobs" in tables else None
    return SchemaRollback(
        tables=tables,
        empties_command_stats=facts.is_v4 and (record is None or record.command_stats_max_id == 0),
        adds_index=_lacks_redundant_index(connection, record),
        dead_letters_after=record.dead_letters_max_id if record else 0,
    )


def _tables_to_drop(facts: SchemaFacts, database: str) -> tuple[str, ...]:
    """Return the existing tables of v4; refuse a database that cannot be rolled back, see `plan_schema_rollback`."""
    if facts.version is None:
        raise SchemaVersionError(f"{database}: is empty; there is nothing to roll back")
    refuse_unsupported(facts, database)
    if missing := set(V3_TABLES) - facts.tables:
        raise _refusal(database, f"the tables {', '.join(sorted(missing))} are missing")
    return tuple(sorted(V4_TABLES & facts.tables))


def _lacks_redundant_index(connection: Connection, record: MigrationRecord | None) -> bool:
    """Return whether v3's second unique index is missing although v3 had it; without a record it is assumed to."""
    indexes = dialect_of(connection).definitions.index_names(connection, "raw_events")
    return REDUNDANT_INDEX not in indexes and (record is None or record.redundant_index)


def restore_v3(connection: Connection, facts: SchemaFacts, changes: SchemaRollback) -> RemovedRows:
    """Roll back the schema to version 3 in the caller's transaction.

    Args:
        connection: holds the write lock.
        facts: the existing tables, read in this transaction.
        changes: result of `plan_schema_rollback` in this transaction.
    """
    record = read_record(connection) if "jobs" in changes.tables else None
    removed = RemovedRows(
        command_stats=_empty_command_stats(connection) if changes.empties_command_stats else 0,
        file_dead_letters=_delete_file_dead_letters(connection, changes.dead_letters_after) if facts.is_v4 else 0,
    )
    for table in changes.tables:
        Base.metadata.tables[table].drop(connection)
    _restore_alembic(connection, facts, record)
    if record is None or not record.statistics:
        for table in dialect_of(connection).definitions.statistics_tables(connection):
            connection.execute(text(f"DROP TABLE {table}"))
    if changes.adds_index:
        connection.execute(text(_CREATE_REDUNDANT_INDEX))  # usually built beforehand, see jobs.upgrade.rollback
    connection.execute(text("DELETE FROM schema_state WHERE key = :key"), {"key": SCHEMA_REVISION_KEY})
    connection.execute(
        text("UPDATE schema_state SET value = :version WHERE key = :key"),
        {"version": str(OLDEST_VERSION), "key": SCHEMA_VERSION_KEY},
    )
    return removed


def create_redundant_index(connection: Connection, database: str) -> None:
    """Create v3's second unique index if a rollback would create it."""
    if plan_schema_rollback(connection, read_facts(connection, database), database).adds_index:
        connection.execute(text(_CREATE_REDUNDANT_INDEX))


def _empty_command_stats(connection: Connection) -> int:
    """Delete all rows of command_stats and return their number."""
    rows = int(connection.execute(select(func.count()).select_from(CommandStat)).scalar_one())
    if rows:
        dialect_of(connection).definitions.empty(connection, CommandStat.__tablename__)
    return rows


def _delete_file_dead_letters(connection: Connection, after: int) -> int:
    """Delete v4's dead letters whose event is stored: they concern `files`, which v3 does not have."""
    deleted = 0
    while True:
        rows = connection.execute(
            select(DeadLetterEvent.id, DeadLetterEvent.metadata_json)
            .where(DeadLetterEvent.id > after)
            .order_by(DeadLetterEvent.id)
            .limit(_LETTERS_AT_ONCE)
        ).all()
        ids = [{"letter_id": row.id} for row in rows if _event_is_stored(row.metadata_json)]
        if ids:
            connection.execute(delete(DeadLetterEvent).where(DeadLetterEvent.id == bindparam("letter_id")), ids)
        deleted += len(ids)
        if len(rows) < _LETTERS_AT_ONCE:
            return deleted
        after = rows[-1].id


def _event_is_stored(metadata: Any) -> bool:
    document = json.loads(metadata) if isinstance(metadata, str) else metadata
    return isinstance(document, dict) and document.get("event_stored") is True


def _restore_alembic(connection: Connection, facts: SchemaFacts, record: MigrationRecord | None) -> None:
    """Restore Alembic's table as v3 had it; most v3 databases had none."""
    if ALEMBIC_TABLE not in facts.tables:
        return
    if record is None or record.alembic is None:
        connection.execute(text(f"DROP TABLE {ALEMBIC_TABLE}"))
        return
    connection.execute(text(f"DELETE FROM {ALEMBIC_TABLE}"))
    for revision in record.alembic:
        connection.execute(
            text(f"INSERT INTO {ALEMBIC_TABLE} (version_num) VALUES (:revision)"), {"revision": revision}
        )


def _require_our_columns(connection: Connection, tables: tuple[str, ...], database: str) -> None:
    dialect = dialect_of(connection)
    for table in tables:
        expected = set(Base.metadata.tables[table].columns.keys()) - _MAY_LACK.get(table, set())
        if missing := expected - set(dialect.column_names(connection, table)):
            raise _refusal(database, f"its table {table} lacks the columns {', '.join(sorted(missing))}")


def _refusal(database: str, problem: str) -> SchemaVersionError:
    return SchemaVersionError(f"{database}: {problem}; nothing was changed; restore a backup instead")
