"""Two questions of operators, asked of raw_events as v3's users had to, and of `files`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from sqlalchemy import Connection

from cowrieprocessor.db.dialects.sql_expressions import sql_of
from cowrieprocessor.db.table_scan import TableScan

PATIENCE_S = 1.0
_FETCHED_ROWS = 250


def newest_file(reading: TableScan, connection: Connection) -> tuple[str, str] | None:
    """Return hash and day of the file that was seen last; None where there are no files."""
    sql = f"SELECT f.shasum, {reading.moment('f.first_seen')} FROM files AS f ORDER BY f.first_seen DESC LIMIT 1"
    found = reading.rows(connection, sql)
    return (str(found[0][0]), str(found[0][1])[:10]) if found else None


def time_hash_in_files(reading: TableScan, connection: Connection, sha256: str) -> float:
    """Return the milliseconds that it takes to count the sessions of a hash."""
    return _timed(connection, "SELECT count(*) FROM files WHERE shasum = ?", (sha256,))[0]


def time_day_in_files(reading: TableScan, connection: Connection, day: str, day_after: str) -> float:
    """Return the milliseconds that it takes to read the files of a day."""
    sql = "SELECT session_id, shasum FROM files WHERE first_seen >= ? AND first_seen < ?"
    return _timed(connection, sql, (day, day_after))[0]


def time_day_in_events(
    reading: TableScan, connection: Connection, event_types: Sequence[str], day: str, day_after: str
) -> tuple[float, bool]:
    """Return the milliseconds that it takes to read the file events of a day, and whether patience ended before.

    The type is no plain column here, so that the index on the time serves.
    """
    marks = ", ".join("?" * len(event_types))
    sql = (
        f"SELECT {reading.json_text(connection, 'payload')} FROM raw_events WHERE event_timestamp >= ?"
        f" AND event_timestamp < ? AND (event_type || '') IN ({marks})"
    )
    return _timed(connection, sql, (day, day_after, *event_types))


def _timed(connection: Connection, sql: str, values: tuple[Any, ...]) -> tuple[float, bool]:
    began = time.monotonic()
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute(sql_of(connection).statement(sql), values)
        while cursor.fetchmany(_FETCHED_ROWS):
            if time.monotonic() - began > PATIENCE_S:
                return (time.monotonic() - began) * 1000, True
    return (time.monotonic() - began) * 1000, False
