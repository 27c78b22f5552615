"""What v3's tables were when v4 began: a digest of their definitions and rows, to be compared later.

It is taken in the transaction that migrates, and kept in the row `migrate` of `jobs`. Of a small table it covers all
rows, of a large one about a thousand spread over it, so that it takes well under a second at any size. It leaves out
what loaders change in rows of v3: of session_summaries, for example, only that the session is there counts.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, inspect, select, text

from cowrieprocessor.db.dialects.definitions import definitions_of
from cowrieprocessor.db.dialects.sql_expressions import sql_of
from cowrieprocessor.db.jobs import MIGRATION_JOB
from cowrieprocessor.db.models import Job
from cowrieprocessor.db.schema_facts import ALEMBIC_TABLE, SchemaFacts
from cowrieprocessor.db.upgrade.redundant_index import REDUNDANT_INDEX

WHOLE_TABLE_ROWS = 2_000
"""Up to here all rows count."""

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
"""Each table: its key, and the columns that nobody changes."""

_JSON_COLUMNS = frozenset({"payload"})


@dataclass(frozen=True, slots=True)
class Difference:
    """Something of v3 that is not as it was.

    Attributes:
        table: the table.
        row_id: the row's key; None where the table itself differs.
        what: missing, changed, or what is with the table.
    """

    table: str
    row_id: int | str | None
    what: str


@dataclass(frozen=True, slots=True)
class MigrationRecord:
    """What was when v4 began.

    Attributes:
        raw_events_max_id: events with this id or a smaller one were there before our loaders were.
        command_stats_max_id: 0 where v3 had left the table empty, as it did.
        dead_letters_max_id: dead letters behind it are ours.
        planned_files_max_id: the largest id in a `files` table that another program had made from the plan.
        planned_origin: whether that table had the column `origin`.
        redundant_index: whether v3's second unique index was there.
        statistics: whether there were tables of statistics (ANALYZE makes them).
        alembic: what Alembic's table held; None where there was none.
        taken_at: the moment, ISO 8601.
        digests: of each table, the digest of its definition and those of its rows by key.
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
        """Return it as plain JSON, as it is kept."""
        return {name: getattr(self, name) for name in self.__slots__}


def take_record(connection: Connection, facts: SchemaFacts) -> MigrationRecord:
    """Return what there is, before the tables of v4 are made.

    Args:
        connection: in the transaction that migrates.
        facts: what tables there are; those of v3 are.
    """
    planned = "files" in facts.tables
    columns = {column["name"] for column in inspect(connection).get_columns("files")} if planned else set()
    return MigrationRecord(
        raw_events_max_id=_max_id(connection, "raw_events"),
        command_stats_max_id=_max_id(connection, "command_stats"),
        dead_letters_max_id=_max_id(connection, "dead_letter_events"),
        planned_files_max_id=_max_id(connection, "files") if planned else 0,
        planned_origin="origin" in columns,
        redundant_index=REDUNDANT_INDEX in definitions_of(connection).index_names(connection, "raw_events"),
        statistics=bool(definitions_of(connection).statistics_tables(connection)),
        alembic=_alembic(connection) if ALEMBIC_TABLE in facts.tables else None,
        taken_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        digests={table: _digest(connection, table) for table in _IMMUTABLE},
    )


def write_record(connection: Connection, record: MigrationRecord) -> None:
    """Keep it, in the transaction that made the tables of v4."""
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
    """Return what was when v4 began; None where that is not known, as in a database that v4 made."""
    cursor = connection.execute(select(Job.cursor).where(Job.name == MIGRATION_JOB)).scalar()
    if not cursor or not set(MigrationRecord.__slots__) <= cursor.keys():
        return None
    return MigrationRecord(**{name: cursor[name] for name in MigrationRecord.__slots__})


def compare(connection: Connection) -> list[Difference]:
    """Return what of v3's tables is not as it was at the migration; empty too where that is not known.

    Reads the rows of the digest again, each by its key: well under a second, whatever the size.
    """
    record = read_record(connection)
    if record is None:
        return []
    found: list[Difference] = []
    for table, digest in record.digests.items():
        if _definition(connection, table) != digest["definition"]:
            found.append(Difference(table, None, "its definition changed"))
            continue
        key, _ = _IMMUTABLE[table]
        expected = {_plain_key(key, one): value for one, value in digest["rows"].items()}
        now = dict(_rows(connection, table, sorted(expected)))
        found += [
            Difference(table, one, "changed" if one in now else "missing")
            for one, value in expected.items()
            if now.get(one) != value
        ]
    return found


def _plain_key(key: str, value: str) -> int | str:
    return int(value) if key == "id" else value


def _digest(connection: Connection, table: str) -> dict[str, Any]:
    key, _ = _IMMUTABLE[table]
    keys = _sample_ids(connection, table) if key == "id" else _sample_text_keys(connection, table, key)
    rows = {str(one): digest for one, digest in _rows(connection, table, keys)}
    return {"definition": _definition(connection, table), "rows": rows}


def _definition(connection: Connection, table: str) -> str:
    """Return the digest of a table's definition; `db optimize` may drop the redundant index, so it does not count."""
    return _hash(definitions_of(connection).of_table(connection, table, without_index=REDUNDANT_INDEX))


def _sample_ids(connection: Connection, table: str) -> list[int]:
    """Return all ids of a small table; of a large one the first behind each of evenly spaced places, and the last."""
    highest = _max_id(connection, table)
    if highest <= WHOLE_TABLE_ROWS:
        return list(connection.execute(text(f"SELECT id FROM {table} ORDER BY id")).scalars())
    behind = text(f"SELECT id FROM {table} WHERE id >= :place ORDER BY id LIMIT 1")
    chosen: list[int] = []
    for number in range(SAMPLED_ROWS):
        place = number * highest // SAMPLED_ROWS
        if not chosen or place > chosen[-1]:
            chosen.append(connection.execute(behind, {"place": place}).scalar_one())
    return chosen if chosen[-1] == highest else [*chosen, highest]


def _sample_text_keys(connection: Connection, table: str, key: str) -> list[str]:
    """Return all keys of a small table; of a large one those behind evenly spaced hexadecimal ones, and both ends.

    Sessions are named by hexadecimal digits; whatever else they are, both ends are covered.
    """
    first = text(f"SELECT {key} FROM {table} ORDER BY {key} LIMIT :rows")
    keys = list(connection.execute(first, {"rows": WHOLE_TABLE_ROWS + 1}).scalars())
    if len(keys) <= WHOLE_TABLE_ROWS:
        return keys
    last = text(f"SELECT {key} FROM {table} ORDER BY {key} DESC LIMIT :rows")
    behind = text(f"SELECT {key} FROM {table} WHERE {key} >= :place ORDER BY {key} LIMIT 1")
    places = (f"{number * 0x1000 // SAMPLED_ROWS:03x}" for number in range(SAMPLED_ROWS))
    spread = (connection.execute(behind, {"place": place}).scalar() for place in places)
    ends = [*keys[:_END_ROWS], *connection.execute(last, {"rows": _END_ROWS}).scalars()]
    return sorted({*ends, *(one for one in spread if one is not None)})


def _rows(connection: Connection, table: str, keys: Sequence[Any]) -> Iterator[tuple[Any, str]]:
    """Yield the rows with these keys that are there: key and digest."""
    key, names = _IMMUTABLE[table]
    sql = sql_of(connection)
    columns = [sql.json_text(name) if name in _JSON_COLUMNS else name for name in names]
    for part in (keys[start : start + _KEYS_AT_ONCE] for start in range(0, len(keys), _KEYS_AT_ONCE)):
        marks = ", ".join("?" * len(part))
        statement = sql.statement(f"SELECT {', '.join([key, *columns])} FROM {table} WHERE {key} IN ({marks})")
        for one, *values in connection.exec_driver_sql(statement, tuple(part)):
            yield one, _hash(values)


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
    return [str(one) for one in connection.execute(text(f"SELECT version_num FROM {ALEMBIC_TABLE}")).scalars()]
