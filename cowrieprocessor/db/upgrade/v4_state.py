"""What v4 alone knows: the rows that cannot be computed again from raw_events, as plain JSON and back.

Verdicts and their history, the queue, the quota's ledger, what a scan of captured files found, how far each log was
read, and what the jobs counted. Everything else in v4's tables the backfill makes again.
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
"""A row by the names of its columns; times are aware."""

JUDGEMENT_COLUMNS = (*VERDICT_COLUMNS, "verdict", "family", "reputation", "reputation_reasons", "next_check_at")
CONTENT_COLUMNS = ("size_bytes", "md5", "sha1", "tlsh", "mime_type", "file_type", "analysis")
FETCHED_ROWS = 500
STREAMED = {"yield_per": FETCHED_ROWS}
"""Execution options of a statement whose rows do not fit into memory."""

_LEFT_OUT = {"file_hashes": {"session_count"}, "files": {"id"}, "file_verdicts": {"id"}}
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class V4Rows:
    """The rows of one table that v4 alone knows.

    Attributes:
        table: the table.
        columns: the columns that are kept.
        known: which rows; None for all.
    """

    table: Table
    columns: tuple[Column[Any], ...]
    known: ColumnElement[bool] | None = None

    def query(self) -> Select[Any]:
        """Return the statement that reads them, in the order of their keys."""
        rows = select(*self.columns).order_by(*self.table.primary_key.columns)
        return rows if self.known is None else rows.where(self.known)

    def count(self, connection: Connection) -> int:
        """Return how many there are."""
        rows = select(func.count()).select_from(self.table)
        return int(connection.execute(rows if self.known is None else rows.where(self.known)).scalar_one())


def _knowledge(name: str, known: ColumnElement[bool] | None = None) -> V4Rows:
    table = Base.metadata.tables[name]
    columns = tuple(column for column in table.columns if column.name not in _LEFT_OUT.get(name, ()))
    return V4Rows(table, columns, known)


_OF_HASHES = or_(
    HASHES.c.session_count == 0,
    HASHES.c.enrichment_status != PENDING,
    HASHES.c.vt_malicious,
    HASHES.c.verdict != "unknown",
    *(
        HASHES.c[name].is_not(None)
        for name in (*CONTENT_COLUMNS, *JUDGEMENT_COLUMNS)
        if name not in ("enrichment_status", "vt_malicious", "verdict")
    ),
)

V4_STATE: dict[str, V4Rows] = {
    "file_hashes": _knowledge("file_hashes", _OF_HASHES),
    "files": _knowledge("files", FILES.c.origin == "artifact"),
    "file_verdicts": _knowledge("file_verdicts"),
    "enrichment_cache": _knowledge("enrichment_cache"),
    "enrichment_queue": _knowledge("enrichment_queue"),
    "api_quota": _knowledge("api_quota"),
    "verdict_propagation": _knowledge("verdict_propagation"),
    "log_files": _knowledge("log_files"),
    "jobs": _knowledge("jobs", Base.metadata.tables["jobs"].c.name != MIGRATION_JOB),
}
"""By table, in the order in which they are taken in again: hashes before what belongs to them."""


def state_rows(connection: Connection, facts: SchemaFacts) -> Iterator[tuple[str, Row]]:
    """Yield each row that v4 alone knows with its table, in an order that depends on the rows alone.

    Args:
        connection: in a transaction.
        facts: what tables there are; one that has only the plan's `files` table may know verdicts, too.
    """
    for name, knowledge in V4_STATE.items():
        if name not in facts.tables or (name == "files" and not facts.complete):
            continue
        result = connection.execute(knowledge.query(), execution_options=STREAMED)
        for row in result.mappings():
            yield name, dict(row)
    yield from (("file_hashes", row) for row in _planned_verdicts(connection, facts))


def count_state_rows(connection: Connection, facts: SchemaFacts) -> dict[str, int]:
    """Return how many rows of each table v4 alone knows, without those that are 0."""
    counts = {
        name: knowledge.count(connection)
        for name, knowledge in V4_STATE.items()
        if name in facts.tables and (name != "files" or facts.complete)
    }
    if planned := sum(1 for _ in _planned_verdicts(connection, facts)):
        counts["file_hashes"] = counts.get("file_hashes", 0) + planned
    return {name: count for name, count in counts.items() if count}


def as_json(row: Mapping[str, Any]) -> Row:
    """Return a row as plain JSON: times as ISO 8601 in UTC."""
    return {key: value.isoformat() if isinstance(value, dt.datetime) else value for key, value in row.items()}


def from_json(name: str, document: object) -> Row:
    """Return the row that `as_json` made the document of.

    Raises:
        ValueError: it is none: the message says why.
    """
    knowledge = V4_STATE.get(name)
    if knowledge is None:
        raise ValueError(f"there is no table {name!r}")
    names = {column.name for column in knowledge.columns}
    if not isinstance(document, dict) or document.keys() != names:
        raise ValueError(f"these are not the columns of {name}")
    return {column.name: _value(column, document[column.name]) for column in knowledge.columns}


def judged_more_recently(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether the verdict of one row of `file_hashes` is to stand in the place of another's."""
    if one["vt_scan_date"] is not None and other["vt_scan_date"] is not None:
        return bool(one["vt_scan_date"] > other["vt_scan_date"])
    if one["vt_scan_date"] is None and other["vt_scan_date"] is None:
        return not is_evaluated(other) and is_evaluated(one)
    return one["vt_scan_date"] is not None


def planned_verdict(row: Mapping[str, Any], sha256: str) -> Row:
    """Return the row of `file_hashes` that a row of a planned `files` table amounts to.

    Args:
        row: VERDICT_COLUMNS and first_seen.
        sha256: its hash in lower case.
    """
    made: Row = dict.fromkeys(column.name for column in V4_STATE["file_hashes"].columns)
    made |= {name: row[name] for name in VERDICT_COLUMNS}
    if made["enrichment_status"] not in STATUSES:
        made["enrichment_status"] = PENDING
    moment = row["first_seen"]
    return made | {
        "sha256": sha256,
        "verdict": verdict_of(row),
        "first_seen": moment,
        "last_seen": moment,
        "updated_at": moment,
    }


def best_of(rows: Iterable[Mapping[str, Any]]) -> Row:
    """Return the row of several of one hash that was judged last, with the earliest time; they may be many."""
    best: Row = {}
    for row in rows:
        if not best:
            best = dict(row)
        elif judged_more_recently(row, best):
            best = dict(row) | {"first_seen": min(best["first_seen"], row["first_seen"])}
        else:
            best["first_seen"] = min(best["first_seen"], row["first_seen"])
    return best


def planned_judgement() -> ColumnElement[bool]:
    """Return what is true of rows of a planned `files` table that say more than that nobody was asked yet."""
    return or_(FILES.c.enrichment_status != PENDING, FILES.c.vt_scan_date.is_not(None), FILES.c.vt_malicious)


def lower_sha256(shasum: str) -> str | None:
    """Return a hash as it is stored in v4, or None for what is no SHA-256."""
    lower = shasum.lower()
    return lower if _SHA256.fullmatch(lower) else None


def _planned_verdicts(connection: Connection, facts: SchemaFacts) -> Iterator[Row]:
    """Yield what only a planned `files` table says about hashes, because nothing has taken it over yet."""
    if "files" not in facts.tables:
        return
    columns = (FILES.c.shasum, FILES.c.first_seen, *(FILES.c[name] for name in VERDICT_COLUMNS))
    query = select(*columns).where(planned_judgement()).order_by(FILES.c.shasum, FILES.c.id)
    if facts.complete:
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
            yield planned_verdict(best_of(rows), sha256)


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
