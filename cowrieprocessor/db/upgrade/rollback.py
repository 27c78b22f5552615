"""From v4 back to v3: v4's tables go, what v4 alone put into v3's goes, and the version is 3 again.

Nothing here commits: all of it happens in the caller's transaction, so that a database is wholly v4 or wholly v3.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, select, text

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.dialects.definitions import definitions_of
from cowrieprocessor.db.models import V3_TABLES, Base, CommandStat, DeadLetterEvent
from cowrieprocessor.db.schema_facts import (
    ALEMBIC_TABLE,
    OLDEST_VERSION,
    OUR_TABLES,
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
_MAY_LACK = {"files": {"origin"}}


@dataclass(frozen=True, slots=True)
class SchemaRollback:
    """What rolling back a database does.

    Attributes:
        tables: v4's tables that are there, and go.
        empties_command_stats: whether command_stats is emptied, which v3 made and left empty.
        adds_index: whether v3's second unique index has to be made again; the time it takes grows with raw_events.
        dead_letters_after: dead letters behind this id may be v4's.
    """

    tables: tuple[str, ...]
    empties_command_stats: bool
    adds_index: bool
    dead_letters_after: int

    @property
    def needed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.tables)


@dataclass(frozen=True, slots=True)
class RemovedRows:
    """What was taken out of v3's tables: it was v4's, and a later backfill makes it again.

    Attributes:
        command_stats: rows of command_stats.
        file_dead_letters: dead letters that said why the file of a stored event is not in `files`.
    """

    command_stats: int
    file_dead_letters: int


def plan_schema_rollback(connection: Connection, facts: SchemaFacts, database: str) -> SchemaRollback:
    """Return what rolling back would do.

    Args:
        connection: in a transaction.
        facts: what tables there are.
        database: its name for messages.

    Raises:
        SchemaVersionError: the database is empty, of a version that we do not know, or tables are missing or
            another program's.
    """
    if facts.version is None:
        raise SchemaVersionError(f"{database}: is empty; there is nothing to roll back")
    refuse_unsupported(facts.version, database)
    if missing := set(V3_TABLES) - facts.tables:
        raise _refusal(database, f"the tables {', '.join(sorted(missing))} are missing")
    tables = tuple(sorted(V4_TABLES & facts.tables))
    if facts.version == OLDEST_VERSION and not tables:
        return SchemaRollback((), empties_command_stats=False, adds_index=False, dead_letters_after=0)
    _require_our_columns(connection, tables, database)
    record = read_record(connection) if "jobs" in tables else None
    indexes = definitions_of(connection).index_names(connection, "raw_events")
    return SchemaRollback(
        tables=tables,
        empties_command_stats=facts.complete and (record is None or record.command_stats_max_id == 0),
        adds_index=REDUNDANT_INDEX not in indexes and (record is None or record.redundant_index),
        dead_letters_after=record.dead_letters_max_id if record else 0,
    )


def restore_v3(connection: Connection, facts: SchemaFacts, way: SchemaRollback) -> RemovedRows:
    """Drop v4's tables and write version 3, in the caller's transaction.

    Args:
        connection: holds the write lock.
        facts: what tables there are, read in this transaction.
        way: what `plan_schema_rollback` said in this transaction.
    """
    record = read_record(connection) if "jobs" in way.tables else None
    forgotten = RemovedRows(
        command_stats=_empty_command_stats(connection) if way.empties_command_stats else 0,
        file_dead_letters=_delete_file_dead_letters(connection, way.dead_letters_after) if facts.complete else 0,
    )
    for table in way.tables:
        Base.metadata.tables[table].drop(connection)
    _restore_alembic(connection, facts, record)
    if record is None or not record.statistics:
        for table in definitions_of(connection).statistics_tables(connection):
            connection.execute(text(f"DROP TABLE {table}"))
    if way.adds_index:
        connection.execute(text(_CREATE_REDUNDANT_INDEX))  # most often it was built ahead, where sorting is cheap
    connection.execute(
        text("UPDATE schema_state SET value = :version WHERE key = :key"),
        {"version": str(OLDEST_VERSION), "key": SCHEMA_VERSION_KEY},
    )
    return forgotten


def create_redundant_index(connection: Connection, database: str) -> None:
    """Make v3's second unique index, if rolling back would make it."""
    if plan_schema_rollback(connection, read_facts(connection, database), database).adds_index:
        connection.execute(text(_CREATE_REDUNDANT_INDEX))


def _empty_command_stats(connection: Connection) -> int:
    rows = int(connection.execute(select(func.count()).select_from(CommandStat)).scalar_one())
    if rows:
        definitions_of(connection).empty(connection, CommandStat.__tablename__)
    return rows


def _delete_file_dead_letters(connection: Connection, after: int) -> int:
    """Delete the dead letters of v4 whose event is stored: they are about `files`, which v3 does not have."""
    gone = 0
    while True:
        rows = connection.execute(
            select(DeadLetterEvent.id, DeadLetterEvent.metadata_json)
            .where(DeadLetterEvent.id > after)
            .order_by(DeadLetterEvent.id)
            .limit(_LETTERS_AT_ONCE)
        ).all()
        ids = [{"gone": row.id} for row in rows if _event_is_stored(row.metadata_json)]
        if ids:
            connection.execute(delete(DeadLetterEvent).where(DeadLetterEvent.id == bindparam("gone")), ids)
        gone += len(ids)
        if len(rows) < _LETTERS_AT_ONCE:
            return gone
        after = rows[-1].id


def _event_is_stored(metadata: Any) -> bool:
    document = json.loads(metadata) if isinstance(metadata, str) else metadata
    return isinstance(document, dict) and document.get("event_stored") is True


def _restore_alembic(connection: Connection, facts: SchemaFacts, record: MigrationRecord | None) -> None:
    """Leave Alembic's table as v3 had it: mostly it had none."""
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
        ours = set(Base.metadata.tables[table].columns.keys()) - _MAY_LACK.get(table, set())
        if missing := ours - set(dialect.column_names(connection, table)):
            raise _refusal(database, f"its table {table} lacks the columns {', '.join(sorted(missing))}")


def _refusal(database: str, what: str) -> SchemaVersionError:
    return SchemaVersionError(f"{database}: {what}; nothing was changed; restore a backup instead")
