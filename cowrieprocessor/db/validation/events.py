"""Queries of the validation for events, by type or in order, and for the progress of the backfill.

They are separate from the statements of the loader and the backfill, so that the check is independent of the checked.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection

from cowrieprocessor.db.dialects.scan import Row, ScanQuery, TableScan

MAX_PAYLOAD_CHARS = 2 << 20
"""Larger payloads of version 3 are skipped by the backfill. What our loaders stored counts, whatever its size."""

ALL_TYPES = ""


def largest_event_id(scan: TableScan, connection: Connection) -> int:
    """Return the largest id in raw_events; 0 if it is empty."""
    return int(scan.rows(connection, "SELECT coalesce(max(id), 0) FROM raw_events")[0][0])


def job(scan: TableScan, connection: Connection, name: str) -> tuple[str, dict[str, Any]] | None:
    """Return state and cursor of a job; None if it never ran."""
    rows = scan.rows(connection, "SELECT state, cursor FROM jobs WHERE name = ?", (name,))
    if not rows:
        return None
    state, cursor = rows[0]
    return str(state), dict((json.loads(cursor) if isinstance(cursor, str) else cursor) or {})


def last_id_of_v3(scan: TableScan, connection: Connection) -> int:
    """Return the largest id in raw_events at the time of the migration to v4; 0 if it was not recorded."""
    migration = job(scan, connection, "migrate")
    return int((migration[1].get("raw_events_max_id") if migration else 0) or 0)


def first_event_is_ours(scan: TableScan, connection: Connection, last_v3_id: int) -> bool:
    """Return whether the oldest event was written by our own loaders, or there are no events."""
    first = scan.rows(connection, f"SELECT {ours()} FROM raw_events AS e ORDER BY e.id LIMIT 1", (last_v3_id,))
    return not first or bool(first[0][0])


def events(
    scan: TableScan, event_type: str, after: int, until: int, last_v3_id: int, *, with_sensor: bool = False
) -> ScanQuery:
    """Return the scan of the events of one type, or of all types, with `after` < id <= `until`, without twins.

    Rows: id, payload (None if it is of version 3 and longer than MAX_PAYLOAD_CHARS), whether our own loaders wrote it,
    and with `with_sensor` the sensor that its log was given.
    """
    with scan.snapshot() as connection:
        select = _select(scan, connection, with_sensor=with_sensor)
    where, values = _where(event_type)
    return ScanQuery(
        select,
        ("e.id",),
        f"{where}e.id <= ?",
        (last_v3_id, last_v3_id, *values, until),
        after=(after,),
        text_keys=False,
        payload=1,
    )


def events_now(
    scan: TableScan,
    connection: Connection,
    event_type: str,
    after: int,
    until: int,
    last_v3_id: int,
    *,
    with_sensor: bool = False,
) -> list[Row]:
    """Return all events of one type, or of all types, with `after` < id <= `until`, if there are only a few."""
    where, values = _where(event_type)
    select = _select(scan, connection, with_sensor=with_sensor)
    sql = f"{select} WHERE {where}e.id > ? AND e.id <= ? ORDER BY e.id"
    return scan.rows(connection, sql, (last_v3_id, last_v3_id, *values, after, until))


def _where(event_type: str) -> tuple[str, Row]:
    if event_type == ALL_TYPES:
        return _COUNTS, ()
    return f"{_COUNTS}e.event_type = ? AND ", (event_type,)


_COUNTS = "NOT EXISTS (SELECT 1 FROM twin_events AS t WHERE t.event_id = e.id) AND "
"""An event that version 3 stored twice counts once."""


def renamed_sensors(scan: TableScan, connection: Connection) -> dict[str, str]:
    """Return the present name of every sensor that was renamed."""
    return {row[0]: row[1] for row in scan.rows(connection, "SELECT name, renamed_to FROM renamed_sensors")}


def _select(scan: TableScan, connection: Connection, *, with_sensor: bool) -> str:
    payload = scan.sql.json_text("e.payload")
    sensor = f", {_GIVEN_SENSOR}" if with_sensor else ""
    return (
        f"SELECT e.id, CASE WHEN length({payload}) <= {MAX_PAYLOAD_CHARS} OR ({ours()}) THEN {payload} END,"
        f" {ours()}{sensor}"
        " FROM raw_events AS e"
    )


_GIVEN_SENSOR = (
    "(SELECT g.sensor FROM log_files AS f JOIN log_sensors AS g ON g.identity = f.identity"
    " AND g.generation = f.generation WHERE f.source = e.source AND f.source_inode = e.source_inode"
    " AND f.source_generation = e.source_generation)"
)


def ours() -> str:
    """Return the condition that our own loaders wrote the event `e`; its parameter is the last id of version 3."""
    return (
        "e.id > ? AND EXISTS (SELECT 1 FROM log_files AS l WHERE l.source = e.source"
        " AND l.source_inode = e.source_inode AND l.source_generation = e.source_generation)"
    )
