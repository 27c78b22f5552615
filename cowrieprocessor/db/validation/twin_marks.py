"""Queries of the validation for marks in `twin_events`, and for the events of version 3 that they are compared with."""

from __future__ import annotations

from sqlalchemy import Connection

from cowrieprocessor.db.dialects.scan import Row, TableScan
from cowrieprocessor.db.validation.events import last_id_of_v3, ours

PAGE_MARKS = 1_000
PAGE_SESSIONS = 500


class TwinMarks:
    """Reads marks and the events of version 3.

    Args:
        scan: the database.
    """

    def __init__(self, scan: TableScan) -> None:
        self._scan = scan
        with scan.snapshot() as connection:
            self._last_v3_id = last_id_of_v3(scan, connection)

    def after(self, connection: Connection, event_id: int) -> list[Row]:
        """Return a page of the marks after an id: the marked id, the id of the event if it exists, and its session."""
        sql = (
            "SELECT t.event_id, e.id, e.session_id FROM twin_events AS t LEFT JOIN raw_events AS e ON e.id = t.event_id"
            f" WHERE t.event_id > ? ORDER BY t.event_id LIMIT {PAGE_MARKS}"
        )
        return self._scan.rows(connection, sql, (event_id,))

    def sessions_after(self, connection: Connection, session_id: str | None) -> list[str]:
        """Return a page of session ids after one; None begins with the first."""
        where, values = ("", ()) if session_id is None else ("WHERE s.session_id > ?", (session_id,))
        sql = f"SELECT s.session_id FROM session_summaries AS s {where} ORDER BY s.session_id LIMIT {PAGE_SESSIONS}"
        return [str(row[0]) for row in self._scan.rows(connection, sql, values)]

    def sessions_with_repetitions(self, connection: Connection, first: str, last: str) -> list[str]:
        """Return those of the sessions `first` to `last` in which events of version 3 are equal, or have no hash."""
        sql = (
            "SELECT e.session_id FROM raw_events AS e WHERE e.session_id >= ? AND e.session_id <= ?"
            f" AND NOT ({ours()}) GROUP BY e.session_id HAVING count(DISTINCT e.payload_hash) < count(*)"
        )
        return [str(row[0]) for row in self._scan.rows(connection, sql, (first, last, self._last_v3_id))]

    def events_of(self, connection: Connection, session_id: str) -> list[Row]:
        """Return the events of version 3 in a session.

        Rows: id, hash of the payload (else the payload), source, inode, generation, line (None if unknown), whether it
        is marked.
        """
        sql = (
            f"SELECT e.id, coalesce(e.payload_hash, {self._scan.sql.json_text('e.payload')}), e.source,"
            " coalesce(e.source_inode, ''), e.source_generation, e.source_offset,"
            " EXISTS (SELECT 1 FROM twin_events AS t WHERE t.event_id = e.id)"
            f" FROM raw_events AS e WHERE e.session_id = ? AND NOT ({ours()}) ORDER BY e.id"
        )
        return self._scan.rows(connection, sql, (session_id, self._last_v3_id))
