"""Digest of the definitions and rows of v3's tables at the migration, for comparison later.

It is computed in the migration's transaction and stored in the row `migrate` of `jobs`. It covers all rows of a small
table and about a thousand evenly spread rows of a large one, so it takes well under a second at any size. Columns that
loaders change are left out: of session_summaries, for example, only the session's existence counts.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, inspect, select, text

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.jobs import MIGRATION_JOB
from cowrieprocessor.db.models import Job
from cowrieprocessor.db.schema_facts import ALEMBIC_TABLE, SchemaFacts
from cowrieprocessor.db.upgrade.redundant_index import REDUNDANT_INDEX

WHOLE_TABLE_ROWS = 2_000
"""Tables with up to this number of rows are covered completely."""

SAMPLED_ROWS = 1_000
_END_ROWS = 100
_KEYS_AT_ONCE = 100
_HEX_DIGITS = 16

_IMMUTABLE: dict[str, tuple[str, tuple[str, ...]]] = {
    "raw_events": (
        "id",
        (
            "ingest_id",
            "ingest_at",
            "source",
            "source_offset",
            "source_inode",
            "source_generation",
            "payload",
            "payload_hash",
        ),
    ),
    "session_summaries": ("session_id", ()),
    "command_stats": ("id", ("session_id", "command_normalized")),
    "ingest_cursors": ("source", ()),
    "dead_letter_events": ("id", ("ingest_id", "source", "source_offset", "reason", "payload", "created_at")),
}
"""By table: its key column, and the columns that never change."""

_JSON_COLUMNS = frozenset({"payload"})


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between v3's tables now and at the migration.

    Attributes:
        table: the table.
        row_id: the row's key; None where the table definition differs.
        what: `missing` or `changed` for a row, else a description of the table's difference.
    """

    table: str
    row_id: int | str | None
    what: str


@dataclass(frozen=True, slots=True)
class MigrationRecord:
    """State of the database at the migration. The field names are keys of the stored JSON.

    Attributes:
        raw_events_max_id: largest id of v3's events; v4's loaders wrote larger ones.
        command_stats_max_id: largest id of command_stats; 0 if v3 left the table empty, as it usually did.
        dead_letters_max_id: largest id of v3's dead letters.
        planned_files_max_id: largest id of a pre-release `files` table; 0 if there was none.
        planned_origin: whether that table had the column `origin`.
        redundant_index: whether v3's second unique index existed.
        statistics: whether ANALYZE's statistics tables existed.
        alembic: the revisions in Alembic's table; None if there was no such table.
        taken_at: time of the migration, ISO 8601.
        digests: by table, the digest of its definition and those of its rows by key.
    """

    raw_events_max_id: int
    command_stats_max_id: int
    dead_letters_max_id: int
    planned_files_max_id: int
    planned_origin: bool
    redundant_index: bool
    statistics: bool
    alembic: list[str] | None
    taken_at: str
    digests: dict[str, dict[str, Any]]

    def as_cursor(self) -> dict[str, Any]:
        """Return the record as plain JSON, as it is stored."""
        return {name: getattr(self, name) for name in self.__slots__}


def take_record(connection: Connection, facts: SchemaFacts) -> MigrationRecord:
    """Record the state of the database before v4's tables are created.

    Args:
        connection: in the migration's transaction.
        facts: the existing tables, v3's among them.
    """
    has_files = "files" in facts.tables
    columns = {column["name"] for column in inspect(connection).get_columns("files")} if has_files else set()
    return MigrationRecord(
        raw_events_max_id=_max_id(connection, "raw_events"),
        command_stats_max_id=_max_id(connection, "command_stats"),
        dead_letters_max_id=_max_id(connection, "dead_letter_events"),
        planned_files_max_id=_max_id(connection, "files") if has_files else 0,
        planned_origin="origin" in columns,
        redundant_index=REDUNDANT_INDEX in dialect_of(connection).definitions.index_names(connection, "raw_events"),
        statistics=bool(dialect_of(connection).definitions.statistics_tables(connection)),
        alembic=_alembic(connection) if ALEMBIC_TABLE in facts.tables else None,
        taken_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        digests={table: _digest(connection, table) for table in _IMMUTABLE},
    )


def write_record(connection: Connection, record: MigrationRecord) -> None:
    """Store the record, in the transaction that created v4's tables."""
    now = dt.datetime.now(dt.UTC)
    counters = {f"{table}_sampled_rows": len(digest["rows"]) for table, digest in record.digests.items()}
    connection.execute(
        insert(Job).values(
            name=MIGRATION_JOB,
            state="done",
            cursor=record.as_cursor(),
            counters=counters | {"raw_events_estimated_rows": record.raw_events_max_id},
            started_at=now,
            updated_at=now,
            finished_at=now,
        )
    )


def read_record(connection: Connection) -> MigrationRecord | None:
    """Return the stored record; None if there is none, as in a database created by v4."""
    cursor = connection.execute(select(Job.cursor).where(Job.name == MIGRATION_JOB)).scalar()
    if not cursor or not set(MigrationRecord.__slots__) <= cursor.keys():
        return None
    return MigrationRecord(**{name: cursor[name] for name in MigrationRecord.__slots__})


def compare(connection: Connection) -> list[Difference]:
    """Return the differences of v3's tables since the migration; empty if there is no record.

    Reads the rows of the digest again by their keys, which takes well under a second at any size.
    """
    record = read_record(connection)
    if record is None:
        return []
    differences: list[Difference] = []
    for table, digest in record.digests.items():
        if _definition(connection, table) != digest["definition"]:
            differences.append(Difference(table, None, "its definition changed"))
            continue
        key, _ = _IMMUTABLE[table]
        expected = {_plain_key(key, row_id): value for row_id, value in digest["rows"].items()}
        current = dict(_rows(connection, table, sorted(expected)))
        differences += [
            Difference(table, row_id, "changed" if row_id in current else "missing")
            for row_id, value in expected.items()
            if current.get(row_id) != value
        ]
    return differences


def _plain_key(key: str, value: str) -> int | str:
    return int(value) if key == "id" else value


def _digest(connection: Connection, table: str) -> dict[str, Any]:
    key, _ = _IMMUTABLE[table]
    keys = _sample_ids(connection, table) if key == "id" else _sample_text_keys(connection, table, key)
    rows = {str(row_id): digest for row_id, digest in _rows(connection, table, keys)}
    return {"definition": _definition(connection, table), "rows": rows}


def _definition(connection: Connection, table: str) -> str:
    """Return the digest of a table's definition without the redundant index, which `db optimize` may drop."""
    return _hash(dialect_of(connection).definitions.of_table(connection, table, without_index=REDUNDANT_INDEX))


def _sample_ids(connection: Connection, table: str) -> list[int]:
    """Return all ids of a small table; of a large one the next id at each of evenly spaced values, and the last id."""
    highest = _max_id(connection, table)
    if highest <= WHOLE_TABLE_ROWS:
        return list(connection.execute(text(f"SELECT id FROM {table} ORDER BY id")).scalars())
    next_id = text(f"SELECT id FROM {table} WHERE id >= :place ORDER BY id LIMIT 1")
    chosen: list[int] = []
    for number in range(SAMPLED_ROWS):
        lower = number * highest // SAMPLED_ROWS
        if not chosen or lower > chosen[-1]:
            chosen.append(connection.execute(next_id, {"place": lower}).scalar_one())
    return chosen if chosen[-1] == highest else [*chosen, highest]


def _sample_text_keys(connection: Connection, table: str, key: str) -> list[str]:
    """Return all keys of a small table; of a large one the next key at evenly spaced hexadecimal values, and both ends.

    Session ids are hexadecimal; of keys of any other form, both ends are still covered.
    """
    first = text(f"SELECT {key} FROM {table} ORDER BY {key} LIMIT :rows")
    keys = list(connection.execute(first, {"rows": WHOLE_TABLE_ROWS + 1}).scalars())
    if len(keys) <= WHOLE_TABLE_ROWS:
        return keys
    last = text(f"SELECT {key} FROM {table} ORDER BY {key} DESC LIMIT :rows")
    next_key = text(f"SELECT {key} FROM {table} WHERE {key} >= :place ORDER BY {key} LIMIT 1")
    prefixes = (f"{number * 0x1000 // SAMPLED_ROWS:03x}" for number in range(SAMPLED_ROWS))
    spread = (connection.execute(next_key, {"place": prefix}).scalar() for prefix in prefixes)
    ends = [*keys[:_END_ROWS], *connection.execute(last, {"rows": _END_ROWS}).scalars()]
    return sorted({*ends, *(found for found in spread if found is not None)})


def _rows(connection: Connection, table: str, keys: Sequence[Any]) -> Iterator[tuple[Any, str]]:
    """Yield key and digest of the rows with these keys that exist."""
    key, names = _IMMUTABLE[table]
    sql = dialect_of(connection).sql
    columns = [sql.json_text(name) if name in _JSON_COLUMNS else name for name in names]
    for part in (keys[start : start + _KEYS_AT_ONCE] for start in range(0, len(keys), _KEYS_AT_ONCE)):
        marks = ", ".join("?" * len(part))
        statement = sql.statement(f"SELECT {', '.join([key, *columns])} FROM {table} WHERE {key} IN ({marks})")
        for row_id, *values in connection.exec_driver_sql(statement, tuple(part)):
            yield row_id, _hash(values)


def _hash(values: Iterable[Any]) -> str:
    document = json.dumps(list(values), default=_plain_value, separators=(",", ":"))
    return hashlib.sha256(document.encode()).hexdigest()[:_HEX_DIGITS]


def _plain_value(value: Any) -> str:
    if isinstance(value, bytes | memoryview):
        return f"bytes {bytes(value).hex()}"
    if isinstance(value, dt.datetime):
        return (value if value.tzinfo is None else value.astimezone(dt.UTC)).isoformat()
    return str(value)


def _max_id(connection: Connection, table: str) -> int:
    return int(connection.execute(text(f"SELECT coalesce(max(id), 0) FROM {table}")).scalar_one())


def _alembic(connection: Connection) -> list[str]:
    return [
        str(revision) for revision in connection.execute(text(f"SELECT version_num FROM {ALEMBIC_TABLE}")).scalars()
    ]
