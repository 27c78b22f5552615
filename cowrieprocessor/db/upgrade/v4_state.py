"""v4-only state: the rows that cannot be computed from raw_events again, and their JSON form.

Verdicts and their history, the enrichment queue, the quota ledger, results of scanning captured files, the checkpoints
of logs, the names given to sensors, and the counters of jobs. The backfill recreates all other rows of v4's tables.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Integer,
    Select,
    Table,
    and_,
    exists,
    func,
    or_,
    select,
)

from cowrieprocessor.db.enrichment.file_status import PENDING, STATUSES, is_evaluated, verdict_of
from cowrieprocessor.db.jobs import MIGRATION_JOB
from cowrieprocessor.db.models import FILES, HASHES, VERDICT_COLUMNS, Base, UtcDateTime
from cowrieprocessor.db.schema_facts import SchemaFacts
from cowrieprocessor.db.upgrade.v3_digest import read_record

Row = dict[str, Any]
"""A row by column name; times are timezone-aware."""

HASH_VERDICT_COLUMNS = (*VERDICT_COLUMNS, "verdict", "family", "reputation", "reputation_reasons", "next_check_at")
CONTENT_COLUMNS = ("size_bytes", "md5", "sha1", "tlsh", "mime_type", "file_type", "analysis")
FETCHED_ROWS = 500
STREAMED = {"yield_per": FETCHED_ROWS}
"""Execution options of a statement whose result may not fit into memory."""

_LEFT_OUT = {
    "file_hashes": {"session_count"},
    "files": {"id"},
    "file_verdicts": {"id"},
    "jobs": {"owner", "progress", "request"},
}
_REVISIONS = {"last_event_at": "log_damage"}
"""Columns that later revisions added, each with a table of its revision."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class V4Rows:
    """The v4-only rows of one table.

    Attributes:
        table: the table.
        columns: the exported columns.
        condition: which rows; None for all.
        without_rows_in: tables of later revisions with the same key; rows that they refer to are left out.
    """

    table: Table
    columns: tuple[Column[Any], ...]
    condition: ColumnElement[bool] | None = None
    without_rows_in: tuple[str, ...] = ()

    def query(self, facts: SchemaFacts) -> Select[Any]:
        """Return the statement that reads the rows in primary key order."""
        columns = [column for column in self.columns if _REVISIONS.get(column.name, self.table.name) in facts.tables]
        return self._kept(select(*columns).order_by(*self.table.primary_key.columns), facts)

    def count(self, connection: Connection, facts: SchemaFacts) -> int:
        """Return the number of rows."""
        rows = self._kept(select(func.count()).select_from(self.table), facts)
        return int(connection.execute(rows).scalar_one())

    def _kept(self, rows: Select[Any], facts: SchemaFacts) -> Select[Any]:
        if self.condition is not None:
            rows = rows.where(self.condition)
        for name in self.without_rows_in:
            if name in facts.tables:
                rows = rows.where(~self._is_in(Base.metadata.tables[name]))
        return rows

    def _is_in(self, other: Table) -> ColumnElement[bool]:
        """Return whether another table has rows with the primary key of a row."""
        return exists().where(*(other.c[column.name] == column for column in self.table.primary_key.columns))


def _rows_to_keep(name: str, condition: ColumnElement[bool] | None = None, *without_rows_in: str) -> V4Rows:
    table = Base.metadata.tables[name]
    columns = tuple(column for column in table.columns if column.name not in _LEFT_OUT.get(name, ()))
    return V4Rows(table, columns, condition, without_rows_in)


_HASHES_TO_KEEP = or_(
    HASHES.c.session_count == 0,
    HASHES.c.enrichment_status != PENDING,
    HASHES.c.vt_malicious,
    HASHES.c.verdict != "unknown",
    *(
        HASHES.c[name].is_not(None)
        for name in (*CONTENT_COLUMNS, *HASH_VERDICT_COLUMNS)
        if name not in ("enrichment_status", "vt_malicious", "verdict")
    ),
)

V4_STATE: dict[str, V4Rows] = {
    "file_hashes": _rows_to_keep("file_hashes", _HASHES_TO_KEEP),
    "files": _rows_to_keep("files", FILES.c.origin == "artifact"),
    "file_verdicts": _rows_to_keep("file_verdicts"),
    "enrichment_cache": _rows_to_keep("enrichment_cache"),
    "enrichment_queue": _rows_to_keep("enrichment_queue"),
    "api_quota": _rows_to_keep("api_quota"),
    "verdict_propagation": _rows_to_keep("verdict_propagation"),
    # A log that shares events with others, or is damaged, is read once more, and each of its events looked up.
    "log_files": _rows_to_keep("log_files", None, "overlapping_events", "log_damage"),
    "log_sensors": _rows_to_keep("log_sensors"),
    "renamed_sensors": _rows_to_keep("renamed_sensors"),
    "wrapped_logs": _rows_to_keep("wrapped_logs"),
    "jobs": _rows_to_keep("jobs", Base.metadata.tables["jobs"].c.name != MIGRATION_JOB),
}
"""By table, in the order of the import: hashes before the rows that refer to them."""


def state_rows(connection: Connection, facts: SchemaFacts) -> Iterator[tuple[str, Row]]:
    """Yield table name and row of all v4-only state, in an order that depends only on the rows.

    Args:
        connection: in a transaction.
        facts: the existing tables; a pre-release `files` table may hold verdicts, too.
    """
    for name, state in V4_STATE.items():
        if name not in facts.tables or (name == "files" and not facts.is_v4):
            continue
        result = connection.execute(state.query(facts), execution_options=STREAMED)
        for row in result.mappings():
            yield name, dict(row)
    yield from (("file_hashes", row) for row in _pre_release_verdicts(connection, facts))


def count_state_rows(connection: Connection, facts: SchemaFacts) -> dict[str, int]:
    """Count the v4-only rows by table, leaving out tables without any."""
    counts = {
        name: state.count(connection, facts)
        for name, state in V4_STATE.items()
        if name in facts.tables and (name != "files" or facts.is_v4)
    }
    if verdicts := sum(1 for _ in _pre_release_verdicts(connection, facts)):
        counts["file_hashes"] = counts.get("file_hashes", 0) + verdicts
    return {name: count for name, count in counts.items() if count}


def as_json(row: Mapping[str, Any]) -> Row:
    """Return a row as plain JSON with times as ISO 8601 in UTC."""
    return {key: value.isoformat() if isinstance(value, dt.datetime) else value for key, value in row.items()}


def from_json(name: str, document: object) -> Row:
    """Return the row of a document made by `as_json`; columns that its revision lacked are null.

    Raises:
        ValueError: the document is not a row of that table; the message says why.
    """
    state = V4_STATE.get(name)
    if state is None:
        raise ValueError(f"there is no table {name!r}")
    names = {column.name for column in state.columns}
    if not isinstance(document, dict) or not names - _REVISIONS.keys() <= document.keys() <= names:
        raise ValueError(f"these are not the columns of {name}")
    return {column.name: _value(column, document.get(column.name)) for column in state.columns}


def has_newer_verdict(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether the verdict of a row of `file_hashes` supersedes that of another row of the same hash."""
    if row["vt_scan_date"] is not None and other["vt_scan_date"] is not None:
        return bool(row["vt_scan_date"] > other["vt_scan_date"])
    if row["vt_scan_date"] is None and other["vt_scan_date"] is None:
        return not is_evaluated(other) and is_evaluated(row)
    return row["vt_scan_date"] is not None


def hash_row_of_pre_release(row: Mapping[str, Any], sha256: str) -> Row:
    """Return the row of `file_hashes` equivalent to a row of a pre-release `files` table.

    Args:
        row: VERDICT_COLUMNS and first_seen.
        sha256: the hash of the row in lower case.
    """
    hash_row: Row = dict.fromkeys(column.name for column in V4_STATE["file_hashes"].columns)
    hash_row |= {name: row[name] for name in VERDICT_COLUMNS}
    if hash_row["enrichment_status"] not in STATUSES:
        hash_row["enrichment_status"] = PENDING
    moment = row["first_seen"]
    return hash_row | {
        "sha256": sha256,
        "verdict": verdict_of(row),
        "first_seen": moment,
        "last_seen": moment,
        "updated_at": moment,
    }


def latest_verdict(rows: Iterable[Mapping[str, Any]]) -> Row:
    """Return the row with the newest verdict of one hash's rows, with the earliest first_seen; empty without rows."""
    latest: Row = {}
    for row in rows:
        if not latest:
            latest = dict(row)
        elif has_newer_verdict(row, latest):
            latest = dict(row) | {"first_seen": min(latest["first_seen"], row["first_seen"])}
        else:
            latest["first_seen"] = min(latest["first_seen"], row["first_seen"])
    return latest


def has_pre_release_verdict() -> ColumnElement[bool]:
    """Return the condition for rows of a pre-release `files` table that were enriched or attempted."""
    return or_(FILES.c.enrichment_status != PENDING, FILES.c.vt_scan_date.is_not(None), FILES.c.vt_malicious)


def lower_sha256(shasum: str) -> str | None:
    """Return a hash in lower case as v4 stores it, None if it is not a SHA-256."""
    lower = shasum.lower()
    return lower if _SHA256.fullmatch(lower) else None


def _pre_release_verdicts(connection: Connection, facts: SchemaFacts) -> Iterator[Row]:
    """Yield rows of `file_hashes` for verdicts of a pre-release `files` table that were not imported yet."""
    if "files" not in facts.tables:
        return
    columns = (FILES.c.shasum, FILES.c.first_seen, *(FILES.c[name] for name in VERDICT_COLUMNS))
    query = select(*columns).where(has_pre_release_verdict()).order_by(FILES.c.shasum, FILES.c.id)
    if facts.is_v4:
        record = read_record(connection)
        if record is None or not record.planned_files_max_id:
            return
        unknown = and_(HASHES.c.vt_scan_date.is_(None), HASHES.c.enrichment_status == PENDING)
        joined = FILES.outerjoin(HASHES, FILES.c.shasum == HASHES.c.sha256)
        query = query.select_from(joined).where(
            FILES.c.id <= record.planned_files_max_id, or_(HASHES.c.sha256.is_(None), unknown)
        )
    result = connection.execute(query, execution_options=STREAMED).mappings()
    for shasum, rows in groupby(map(dict, result), key=lambda row: str(row["shasum"])):
        if sha256 := lower_sha256(shasum):
            yield hash_row_of_pre_release(latest_verdict(rows), sha256)


def _value(column: Column[Any], value: object) -> Any:
    if value is None:
        if not column.nullable:
            raise ValueError(f"{column.name} is missing")
        return None
    kind = column.type
    if isinstance(kind, UtcDateTime):
        return _moment(column.name, value)
    if isinstance(kind, JSON):
        return value
    expected: type = bool if isinstance(kind, Boolean) else int if isinstance(kind, Integer) else str
    if type(value) is not expected or (expected is int and not -(2**63) <= int(str(value)) < 2**63):
        raise ValueError(f"{column.name} is not of its type")
    return value


def _moment(name: str, value: object) -> dt.datetime:
    moment = dt.datetime.fromisoformat(str(value))
    if moment.tzinfo is None:
        raise ValueError(f"{name} has no time zone")
    return moment
