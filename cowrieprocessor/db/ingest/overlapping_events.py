"""Statements on `overlapping_events`: how often an event of a log was not stored because other logs hold as many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from cowrieprocessor.db.dialects import dialect_of

_HAS_ANY = "SELECT 1 FROM overlapping_events WHERE identity = ? AND generation = ? LIMIT 1"
_COUNT = "SELECT occurrences FROM overlapping_events WHERE identity = ? AND generation = ? AND payload_hash = ?"
_ADD = (
    "INSERT INTO overlapping_events AS o (identity, generation, payload_hash, occurrences) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (identity, generation, payload_hash) DO UPDATE SET occurrences = o.occurrences + excluded.occurrences"
)

_TAKE_BACK = (
    "UPDATE overlapping_events SET occurrences = occurrences - 1"
    " WHERE identity = ? AND generation = ? AND payload_hash = ?"
)
_DELETE_NONE = (
    "DELETE FROM overlapping_events WHERE identity = ? AND generation = ? AND payload_hash = ? AND occurrences <= 0"
)


def has_overlaps(connection: Connection, log: tuple[str, int]) -> bool:
    """Return whether any event of a log was left out; `log` is its identity and generation."""
    return _first(connection, _HAS_ANY, log) is not None


def times_left_out(connection: Connection, log: tuple[str, int], payload_hash: str) -> int:
    """Return how often an event of a log was left out; `log` is its identity and generation."""
    return int(_first(connection, _COUNT, (*log, payload_hash)) or 0)


def add_left_out(connection: Connection, log: tuple[str, int], counts: Mapping[str, int]) -> None:
    """Add to the counts of a log.

    Args:
        connection: inside the transaction that moves the log's checkpoint past these events.
        log: its identity and generation.
        counts: how often each event was left out, by payload_hash.
    """
    if not counts:
        return
    rows = [(*log, payload_hash, count) for payload_hash, count in sorted(counts.items())]
    cursor = connection.connection.cursor()
    try:
        cursor.executemany(dialect_of(connection).sql.statement(_ADD), rows)
    finally:
        cursor.close()


def take_back_left_out(connection: Connection, log: tuple[str, int], payload_hash: str) -> bool:
    """Subtract one from the count of an event of a log that is not in it after all; return False if it has none."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(dialect_of(connection).sql.statement(_TAKE_BACK), (*log, payload_hash))
        changed = cursor.rowcount > 0
        cursor.execute(dialect_of(connection).sql.statement(_DELETE_NONE), (*log, payload_hash))
    finally:
        cursor.close()
    return bool(changed)


def _first(connection: Connection, sql: str, values: tuple[Any, ...]) -> Any:
    """Return the first value of the first row, read with the driver's own cursor: asked for each event."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(dialect_of(connection).sql.statement(sql), values)
        row = cursor.fetchone()
    finally:
        cursor.close()
    return row[0] if row else None
