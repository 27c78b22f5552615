"""Overlap check: may a batch contain events already stored from another log? Runs in the transaction that stores it.

Overlapping logs share sessions, so checking the sessions of a batch suffices. A session that is not stored, or whose
stored events all lie before or after those of the batch, is no overlap.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from cowrieprocessor.db.chunks import repeated_chunks
from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.ingest.log_files import has_rows_of_v3
from cowrieprocessor.events import utc_text

SessionTimes = Sequence[Any]
"""session_id, first_event_at and last_event_at (text or None); further values are ignored."""


def overlaps(
    connection: Connection,
    log: Mapping[str, Any],
    sessions: Iterable[SessionTimes],
    ends: Iterable[Sequence[Any] | None],
) -> bool:
    """Return whether an event of a batch may already be stored from another log.

    Args:
        connection: in the transaction that stores the batch, before any row of it is written.
        log: the `log_files` columns of the batch's log.
        sessions: the sessions of the batch with the times of their first and last event in it.
        ends: (line, session_id, event_type, timestamp, payload_hash) of the batch's first and last event.
    """
    queries = _OverlapQueries(connection, log)
    try:
        if has_rows_of_v3(connection):
            # The session times that version 3 stored are not reliable.
            suspicious = [row[0] for row in sessions]
        else:
            suspicious = queries.overlapping_in_time(sessions)
        if suspicious and queries.is_in_another_log(suspicious):
            return True
        return any(queries.is_stored_elsewhere(end) for end in ends if end and not end[1] and end[3] is not None)
    finally:
        queries.close()


class _OverlapQueries:
    """Queries for one batch, on the driver's own cursor because they run for every batch."""

    def __init__(self, connection: Connection, log: Mapping[str, Any]) -> None:
        self._sql = dialect_of(connection).sql
        self._cursor = connection.connection.cursor()
        self._log = (log["source"], log["source_inode"], log["source_generation"])

    def close(self) -> None:
        self._cursor.close()

    def overlapping_in_time(self, sessions: Iterable[SessionTimes]) -> list[str]:
        """Return the sessions whose stored times intersect those of the batch, or are unknown."""
        times = {row[0]: (row[1], row[2]) for row in sessions}
        suspicious = []
        for part in repeated_chunks(list(times)):
            stored = self._query(
                "SELECT session_id, first_event_at, last_event_at FROM session_summaries"
                f" WHERE session_id IN ({_placeholders(part)})",
                part,
            )
            for session_id, first, last in stored:
                begin, end = times[session_id]
                if None in (first, last, begin, end) or (as_text(first) <= end and begin <= as_text(last)):
                    suspicious.append(session_id)
        return suspicious

    def is_in_another_log(self, session_ids: Sequence[str]) -> bool:
        """Return whether another log stored an event of one of these sessions."""
        return any(
            self._query(
                f"SELECT 1 FROM raw_events WHERE session_id IN ({_placeholders(part)}) AND (source <> ?"
                " OR coalesce(source_inode, '') <> ? OR source_generation <> ?) LIMIT 1",
                [*part, *self._log],
            )
            for part in repeated_chunks(session_ids)
        )

    def is_stored_elsewhere(self, event: Sequence[Any]) -> bool:
        """Return whether another log stored this event, which has no session."""
        return bool(
            self._query(
                "SELECT 1 FROM raw_events WHERE event_timestamp = ? AND payload_hash = ? AND (source <> ?"
                " OR coalesce(source_inode, '') <> ? OR source_generation <> ?) LIMIT 1",
                [event[3], event[4], *self._log],
            )
        )

    def _query(self, sql: str, values: Sequence[Any]) -> list[Any]:
        self._cursor.execute(self._sql.statement(sql), values)
        return list(self._cursor.fetchall())


def as_text(moment: Any) -> str:
    """Return a timestamp as text: SQLite returns text, PostgreSQL a datetime."""
    return utc_text(moment) if isinstance(moment, dt.datetime) else str(moment)


def _placeholders(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))
