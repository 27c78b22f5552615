"""Inserts and merges the rows of batches in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from cowrieprocessor.db.ingest import session_sensors
from cowrieprocessor.db.ingest.session_sensors import LogSessions
from cowrieprocessor.db.ingest.statements import LoadingStatements
from cowrieprocessor.loader.rows.batch import BatchRows, Rows


def write_rows(connection: Connection, batches: Sequence[BatchRows]) -> None:
    """Insert events and dead letters, and merge sessions, commands and files.

    The rows are sorted like those of every loader, so that no two wait for each other.

    Args:
        connection: in a write transaction that holds the locks of the batches' events.
        batches: at least one; no two of different logs have an event in common.
    """
    statements = LoadingStatements(connection)
    sessions = _joined([rows.sessions for rows in batches], 1)
    try:
        statements.insert_raw_events(_joined([rows.events for rows in batches]))
        session_sensors.store_batches(connection, list(map(_sessions_of, batches)), sessions)
        statements.merge_sessions(sessions)
        statements.merge_attributes(_joined([rows.attributes for rows in batches], 1))
        statements.merge_commands(_joined([rows.commands for rows in batches], 2))
        statements.merge_logins(_joined([rows.logins for rows in batches], 2))
        statements.merge_hashes(_merged_hashes([rows.hashes for rows in batches]))
        statements.merge_files(_joined([rows.files for rows in batches], 2), batches[0].now)
        statements.merge_mentions(_joined([rows.mentions for rows in batches], 2))
        statements.insert_dead_letters(_joined([rows.dead_letters for rows in batches]))
    finally:
        statements.close()


def _sessions_of(rows: BatchRows) -> LogSessions:
    return LogSessions((rows.log["identity"], rows.log["generation"]), rows.sensors, rows.left_out_sessions)


def _joined(parts: Sequence[Rows], key_columns: int = 0) -> Rows:
    """Return the rows of several batches, sorted by their first columns; those of one batch are sorted already."""
    if len(parts) == 1:
        return parts[0]
    rows = [row for part in parts for row in part]
    return sorted(rows, key=lambda row: row[:key_columns]) if key_columns else rows


def _merged_hashes(parts: Sequence[Rows]) -> Rows:
    """Return the hashes of several batches, each once: the first row of a hash decides whether it was seen before."""
    if len(parts) == 1:
        return parts[0]
    merged: dict[str, list[Any]] = {}
    for sha256, first_seen, last_seen, *more in _joined(parts, 1):
        known = merged.get(sha256)
        if known is not None:
            first_seen, last_seen = min(first_seen, known[1]), max(last_seen, known[2])
        merged[sha256] = [sha256, first_seen, last_seen, *more]
    return list(merged.values())
