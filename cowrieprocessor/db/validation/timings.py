"""Timings of two typical queries of operators, on raw_events as in v3, and on `files`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from sqlalchemy import Connection

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.dialects.scan import TableScan

TIME_LIMIT_S = 1.0
_FETCHED_ROWS = 250


def newest_file(scan: TableScan, connection: Connection) -> tuple[str, str] | None:
    """Return hash and day of the most recently seen file; None if there are no files."""
    sql = f"SELECT f.shasum, {scan.sql.moment('f.first_seen')} FROM files AS f ORDER BY f.first_seen DESC LIMIT 1"
    rows = scan.rows(connection, sql)
    return (str(rows[0][0]), str(rows[0][1])[:10]) if rows else None


def time_hash_in_files(scan: TableScan, connection: Connection, sha256: str) -> float:
    """Return the milliseconds to count the sessions of a hash."""
    return _timed(connection, "SELECT count(*) FROM files WHERE shasum = ?", (sha256,))[0]


def time_day_in_files(scan: TableScan, connection: Connection, day: str, day_after: str) -> float:
    """Return the milliseconds to read the files of a day."""
    sql = "SELECT session_id, shasum FROM files WHERE first_seen >= ? AND first_seen < ?"
    return _timed(connection, sql, (day, day_after))[0]


def time_day_in_events(
    scan: TableScan, connection: Connection, event_types: Sequence[str], day: str, day_after: str
) -> tuple[float, bool]:
    """Return the milliseconds to read the file events of a day, and whether the query was cut off by TIME_LIMIT_S.

    The event type is an expression instead of a plain column, so that the index on the time is used.
    """
    marks = ", ".join("?" * len(event_types))
    sql = (
        f"SELECT {scan.sql.json_text('payload')} FROM raw_events WHERE event_timestamp >= ?"
        f" AND event_timestamp < ? AND (event_type || '') IN ({marks})"
    )
    return _timed(connection, sql, (day, day_after, *event_types))


def _timed(connection: Connection, sql: str, values: tuple[Any, ...]) -> tuple[float, bool]:
    started_at = time.monotonic()
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute(dialect_of(connection).sql.statement(sql), values)
        while cursor.fetchmany(_FETCHED_ROWS):
            if time.monotonic() - started_at > TIME_LIMIT_S:
                return (time.monotonic() - started_at) * 1000, True
    return (time.monotonic() - started_at) * 1000, False
