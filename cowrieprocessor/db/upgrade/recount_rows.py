"""Rows that a recount reads and writes: sessions by id, their events by the session index, their counters."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection

from cowrieprocessor.db.dialects.sql_expressions import sql_of
from cowrieprocessor.db.table_scan import Row, ScanQuery, TableScan

_EVENT = "SELECT e.session_id, e.id, e.event_type, e.event_timestamp FROM raw_events AS e"


class SessionCounters(NamedTuple):
    """The counters and times of one row of session_summaries."""

    session_id: str
    event_count: int
    command_count: int
    file_downloads: int
    login_attempts: int
    first_event_at: str | None
    last_event_at: str | None


class RecountRows:
    """Recount queries for one database."""

    def __init__(self, scan: TableScan) -> None:
        self._scan = scan
        self._select = (
            "SELECT s.session_id, s.event_count, s.command_count, s.file_downloads, s.login_attempts,"
            f" {scan.moment('s.first_event_at')}, {scan.moment('s.last_event_at')} FROM session_summaries AS s"
        )

    def count_sessions(self, connection: Connection) -> int:
        """Count the sessions; an index-only scan."""
        return int(self._scan.rows(connection, "SELECT count(*) FROM session_summaries")[0][0])

    def after(self, connection: Connection, session_id: str | None, limit: int) -> list[SessionCounters]:
        """Return up to `limit` sessions after a session id, ordered by id; None begins with the first."""
        where, values = ("", ()) if session_id is None else (" WHERE s.session_id > ?", (session_id,))
        sql = f"{self._select}{where} ORDER BY s.session_id LIMIT ?"
        return [SessionCounters._make(row) for row in self._scan.rows(connection, sql, (*values, limit))]

    def session(self, connection: Connection, session_id: str, *, to_write: bool = False) -> SessionCounters | None:
        """Return one session, None if there is none; `to_write` locks its row until the transaction ends."""
        lock = sql_of(connection).for_update() if to_write else ""
        rows = self._scan.rows(connection, f"{self._select} WHERE s.session_id = ?{lock}", (session_id,))
        return SessionCounters._make(rows[0]) if rows else None

    def events(self, first: str, last: str, until: int) -> ScanQuery:
        """Return the scan over the events of the sessions `first` to `last` with ids up to `until`.

        Rows: session_id, id, event_type, event_timestamp.
        """
        return ScanQuery(
            _EVENT,
            ("e.session_id", "e.id"),
            "e.session_id >= ? AND e.session_id <= ? AND e.id <= ?",
            (first, last, until),
            text_keys=False,
        )

    def events_now(self, connection: Connection, session_id: str, after: int) -> list[Row]:
        """Return the events of a session with ids above `after`, as this transaction sees them."""
        return self._scan.rows(connection, f"{_EVENT} WHERE e.session_id = ? AND e.id > ?", (session_id, after))

    def payload(self, connection: Connection, event_id: int) -> str:
        """Return the payload of an event whose numeric timestamp is rounded in its column."""
        payload = self._scan.json_text(connection, "e.payload")
        return str(
            self._scan.rows(connection, f"SELECT {payload} FROM raw_events AS e WHERE e.id = ?", (event_id,))[0][0]
        )


def store_counters(connection: Connection, row: SessionCounters, now: str) -> None:
    """Update the counters and times of one session."""
    cursor: Any = connection.connection.cursor()
    try:
        cursor.execute(
            sql_of(connection).statement(
                "UPDATE session_summaries SET event_count = ?, command_count = ?, file_downloads = ?,"
                " login_attempts = ?, first_event_at = ?, last_event_at = ?, updated_at = ? WHERE session_id = ?"
            ),
            (*row[1:], now, row.session_id),
        )
    finally:
        cursor.close()
