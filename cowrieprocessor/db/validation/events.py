"""Events as a validation reads them: payloads by type or in their order, and how far the backfill has come.

Statements of its own: what is to be proven is not asked how it is done.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection

from cowrieprocessor.db.table_scan import Row, ScanQuery, TableScan

MAX_PAYLOAD_CHARS = 2 << 20
"""The backfill leaves larger payloads alone; our loaders' are never so large."""

ALL_TYPES = ""


def largest_event_id(reading: TableScan, connection: Connection) -> int:
    """Return the largest id of raw_events, 0 where there is none."""
    return int(reading.rows(connection, "SELECT coalesce(max(id), 0) FROM raw_events")[0][0])


def job(reading: TableScan, connection: Connection, name: str) -> tuple[str, dict[str, Any]] | None:
    """Return state and cursor of a job; None where it never ran."""
    found = reading.rows(connection, "SELECT state, cursor FROM jobs WHERE name = ?", (name,))
    if not found:
        return None
    state, cursor = found[0]
    return str(state), dict((json.loads(cursor) if isinstance(cursor, str) else cursor) or {})


def last_id_of_v3(reading: TableScan, connection: Connection) -> int:
    """Return the largest id of raw_events when v4 began; 0 where that was not noted."""
    found = job(reading, connection, "migrate")
    return int((found[1].get("raw_events_max_id") if found else 0) or 0)


def first_event_is_ours(reading: TableScan, connection: Connection, last_v3_id: int) -> bool:
    """Return whether the oldest event was written by our own loaders, or there is none."""
    first = reading.rows(connection, f"SELECT {_ours()} FROM raw_events AS e ORDER BY e.id LIMIT 1", (last_v3_id,))
    return not first or bool(first[0][0])


def events(reading: TableScan, event_type: str, after: int, until: int, last_v3_id: int) -> ScanQuery:
    """Return the walk over the events of one type, or of all, with `after` < id <= `until`.

    Rows: id, payload (None where it is too long to be read), whether our own loaders wrote it.
    """
    with reading.snapshot() as connection:
        select = _select(reading, connection)
    where, values = _where(event_type)
    return ScanQuery(
        select,
        ("e.id",),
        f"{where}e.id <= ?",
        (last_v3_id, *values, until),
        after=(after,),
        text_keys=False,
        payload=1,
    )


def events_now(
    reading: TableScan, connection: Connection, event_type: str, after: int, until: int, last_v3_id: int
) -> list[Row]:
    """Return the few events of one type, or of all, with `after` < id <= `until`, as one transaction sees them."""
    where, values = _where(event_type)
    sql = f"{_select(reading, connection)} WHERE {where}e.id > ? AND e.id <= ? ORDER BY e.id"
    return reading.rows(connection, sql, (last_v3_id, *values, after, until))


def _where(event_type: str) -> tuple[str, Row]:
    return ("", ()) if event_type == ALL_TYPES else ("e.event_type = ? AND ", (event_type,))


def _select(reading: TableScan, connection: Connection) -> str:
    payload = reading.json_text(connection, "e.payload")
    return (
        f"SELECT e.id, CASE WHEN length({payload}) <= {MAX_PAYLOAD_CHARS} THEN {payload} END, {_ours()}"
        " FROM raw_events AS e"
    )


def _ours() -> str:
    return (
        "e.id > ? AND EXISTS (SELECT 1 FROM log_files AS l WHERE l.source = e.source"
        " AND l.source_inode = e.source_inode AND l.source_generation = e.source_generation)"
    )
