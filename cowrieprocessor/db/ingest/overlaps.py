"""Whether a batch tells of what another log told already: asked inside the transaction that would store it.

A log that overlaps with another one shares sessions with it. So it is enough to look at the sessions of a batch: one
that nobody knows, or of which all is from before or after what the batch tells of it, is no overlap.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from cowrieprocessor.db.chunks import chunks
from cowrieprocessor.db.dialects.sql_expressions import sql_of
from cowrieprocessor.db.ingest.log_files import has_rows_of_v3
from cowrieprocessor.events import utc_text

SessionTimes = Sequence[Any]
"""session_id, first_event_at and last_event_at as text or None; more may follow."""


def overlaps(
    connection: Connection,
    log: Mapping[str, Any],
    sessions: Iterable[SessionTimes],
    ends: Iterable[Sequence[Any] | None],
) -> bool:
    """Return whether some event of a batch may be stored from another log.

    Args:
        connection: inside the transaction that would store the batch, before anything of it is stored.
        log: the columns of `log_files` of the batch's log.
        sessions: the sessions of the batch, each with the times of its first and last event in the batch.
        ends: (line, session_id, event_type, timestamp, payload_hash) of the batch's first and last event.
    """
    questions = _OverlapQueries(connection, log)
    try:
        if has_rows_of_v3(connection):
            # What version 3 says of the times of a session is not reliable.
            suspicious = [row[0] for row in sessions]
        else:
            suspicious = questions.overlapping_in_time(sessions)
        if suspicious and questions.is_in_another_log(suspicious):
            return True
        return any(questions.is_stored_elsewhere(end) for end in ends if end and not end[1] and end[3] is not None)
    finally:
        questions.close()


class _OverlapQueries:
    """The questions about one batch, on the driver's own cursor: they are asked with every batch."""

    def __init__(self, connection: Connection, log: Mapping[str, Any]) -> None:
        self._sql = sql_of(connection)
        self._cursor = connection.connection.cursor()
        self._log = (log["source"], log["source_inode"], log["source_generation"])

    def close(self) -> None:
        self._cursor.close()

    def overlapping_in_time(self, sessions: Iterable[SessionTimes]) -> list[str]:
        """Return the sessions that are known, and not only from before or after what the batch tells of them."""
        told = {row[0]: (row[1], row[2]) for row in sessions}
        suspicious = []
        for part in chunks(list(told)):
            known = self._query(
                "SELECT session_id, first_event_at, last_event_at FROM session_summaries"
                f" WHERE session_id IN ({_placeholders(part)})",
                part,
            )
            for session_id, first, last in known:
                here = told[session_id]
                if None in (first, last, *here) or (_as_text(first) <= here[1] and here[0] <= _as_text(last)):
                    suspicious.append(session_id)
        return suspicious

    def is_in_another_log(self, session_ids: Sequence[str]) -> bool:
        """Return whether an event of one of these sessions is stored from another log."""
        return any(
            self._query(
                f"SELECT 1 FROM raw_events WHERE session_id IN ({_placeholders(part)}) AND (source <> ?"
                " OR coalesce(source_inode, '') <> ? OR source_generation <> ?) LIMIT 1",
                [*part, *self._log],
            )
            for part in chunks(session_ids)
        )

    def is_stored_elsewhere(self, event: Sequence[Any]) -> bool:
        """Return whether an event without a session is stored from another log."""
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


def _as_text(moment: Any) -> str:
    """Return a moment as text: SQLite gives it so, PostgreSQL as a datetime."""
    return utc_text(moment) if isinstance(moment, dt.datetime) else str(moment)


def _placeholders(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))
