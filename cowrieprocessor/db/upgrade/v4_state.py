"""v4-only state: the rows that cannot be computed from raw_events again, and their JSON form.

Which these are, each table declares; see `db/saved_rows.py`.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping
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
    and_,
    exists,
    func,
    or_,
    select,
)

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.enrichment.file_status import PENDING, STATUSES, verdict_of
from cowrieprocessor.db.models import FILES, HASHES, VERDICT_AGE, VERDICT_COLUMNS, Base, UtcDateTime
from cowrieprocessor.db.saved_rows import SavedRows, declaration_of
from cowrieprocessor.db.schema_facts import SchemaFacts
from cowrieprocessor.db.upgrade.v3_digest import read_record

Row = dict[str, Any]
"""A row by column name; times are timezone-aware."""

FETCHED_ROWS = 500
STREAMED = {"yield_per": FETCHED_ROWS}
"""Execution options of a statement whose result may not fit into memory."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIRST = ("file_hashes", "files")

TABLES = Base.metadata.tables

SAVED: dict[str, SavedRows] = {
    name: declared
    for name, table in sorted(TABLES.items(), key=lambda item: item[0] not in _FIRST)
    if isinstance(declared := declaration_of(table), SavedRows)
}
"""What the tables with saved rows declare, in the order of the import: hashes before the rows that refer to them."""


def state_rows(connection: Connection, facts: SchemaFacts) -> Iterator[tuple[str, Row]]:
    """Yield table name and row of all v4-only state, in an order that depends only on the rows.

    Args:
        connection: in a transaction.
        facts: the existing tables; a pre-release `files` table may hold verdicts, too.
    """
    for name in _present(facts):
        result = connection.execute(_saved_rows(connection, name, facts), execution_options=STREAMED)
        for row in result.mappings():
            yield name, dict(row)
    yield from (("file_hashes", row) for row in _pre_release_verdicts(connection, facts))


def count_state_rows(connection: Connection, facts: SchemaFacts) -> dict[str, int]:
    """Count the v4-only rows by table, leaving out tables without any."""
    counts = {}
    for name in _present(facts):
        rows = _only_saved(select(func.count()).select_from(TABLES[name]), name, facts)
        counts[name] = int(connection.execute(rows).scalar_one())
    if verdicts := sum(1 for _ in _pre_release_verdicts(connection, facts)):
        counts["file_hashes"] = counts.get("file_hashes", 0) + verdicts
    return {name: count for name, count in counts.items() if count}


def _present(facts: SchemaFacts) -> list[str]:
    """Return the tables with saved rows that exist; a pre-release `files` table is none of them."""
    return [name for name in SAVED if name in facts.tables and (name != "files" or facts.is_v4)]


def _saved_rows(connection: Connection, name: str, facts: SchemaFacts) -> Select[Any]:
    """Return the statement that reads the saved rows of a table, without columns that its revision lacks."""
    table, declared = TABLES[name], SAVED[name]
    names = set(dialect_of(connection).column_names(connection, name))
    columns = [column for column in declared.columns(table) if column.name in names]
    return _only_saved(select(*columns).order_by(*table.primary_key.columns), name, facts)


def _only_saved(rows: Select[Any], name: str, facts: SchemaFacts) -> Select[Any]:
    """Return a statement on a table for its saved rows alone."""
    table, declared = TABLES[name], SAVED[name]
    if declared.only is not None:
        rows = rows.where(declared.only(table.c))
    for other in (TABLES[other] for other in declared.not_in if other in facts.tables):
        rows = rows.where(~exists().where(*(other.c[key] == table.c[key] for key in declared.key)))
    return rows


def as_json(row: Mapping[str, Any]) -> Row:
    """Return a row as plain JSON with times as ISO 8601 in UTC."""
    return {key: value.isoformat() if isinstance(value, dt.datetime) else value for key, value in row.items()}


def from_json(name: str, document: object) -> Row:
    """Return the row of a document made by `as_json`.

    Columns that the revision of the export lacked are null, or left out where they have a default; those that are
    computed again are passed over.

    Raises:
        ValueError: the document is not a row of that table; the message says why.
    """
    declared = SAVED.get(name)
    if declared is None:
        raise ValueError(f"there is no table {name!r}")
    columns = declared.columns(TABLES[name])
    if not isinstance(document, dict) or document.keys() - declared.rebuilt - {column.name for column in columns}:
        raise ValueError(f"these are not the columns of {name}")
    return {
        column.name: _value(column, document.get(column.name))
        for column in columns
        if column.name in document or column.server_default is None
    }


def has_newer_verdict(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether the verdict of a row of `file_hashes` supersedes that of another row of the same hash."""
    return SAVED[HASHES.name].is_newer(VERDICT_AGE, row, other)


def hash_row_of_pre_release(row: Mapping[str, Any], sha256: str) -> Row:
    """Return the row of `file_hashes` equivalent to a row of a pre-release `files` table.

    Args:
        row: VERDICT_COLUMNS and first_seen.
        sha256: the hash of the row in lower case.
    """
    hash_row: Row = dict.fromkeys(column.name for column in SAVED[HASHES.name].columns(HASHES))
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
