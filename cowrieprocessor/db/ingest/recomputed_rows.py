"""Statements that replace the facts of sessions, and the times of hashes, by recomputed ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from cowrieprocessor.db.chunks import chunks
from cowrieprocessor.db.dialects import dialect_of

Row = Sequence[Any]


class RecomputedRows:
    """Replaces facts on one connection, in the caller's transaction."""

    def __init__(self, connection: Connection) -> None:
        self._sql = dialect_of(connection).sql
        self._cursor = connection.connection.cursor()

    def close(self) -> None:
        """Close the cursor."""
        self._cursor.close()

    def empty_sessions(self, session_ids: Sequence[str]) -> None:
        """Set what the events of sessions say to nothing; what is known about them from elsewhere stays."""
        for part in chunks(session_ids):
            marks = _marks(part)
            self._execute(
                "UPDATE session_summaries SET event_count = 0, command_count = 0, file_downloads = 0,"
                " login_attempts = 0, first_event_at = NULL, last_event_at = NULL, matcher = NULL, source_files = NULL"
                f" WHERE session_id IN ({marks})",
                part,
            )
            for table in ("session_attributes", "session_logins", "command_stats", "file_mentions"):
                self._execute(f"DELETE FROM {table} WHERE session_id IN ({marks})", part)

    def empty_mentions(self, session_ids: Sequence[str]) -> None:
        """Delete the URLs and names that sessions mention with files."""
        for part in chunks(session_ids):
            self._execute(f"DELETE FROM file_mentions WHERE session_id IN ({_marks(part)})", part)

    def delete_sessions(self, session_ids: Sequence[str]) -> None:
        """Delete the rows of sessions without an event, and what is known of their sensors."""
        for part in chunks(session_ids):
            for table in ("session_sensors", "session_summaries"):
                self._execute(f"DELETE FROM {table} WHERE session_id IN ({_marks(part)})", part)

    def files_of(self, session_ids: Sequence[str]) -> list[tuple[str, str]]:
        """Return the (session_id, shasum) pairs of sessions in `files`."""
        found: list[tuple[str, str]] = []
        for part in chunks(session_ids):
            found += self._rows(f"SELECT session_id, shasum FROM files WHERE session_id IN ({_marks(part)})", part)
        return [(session_id, shasum) for session_id, shasum in found]

    def lock_hashes(self, hashes: Sequence[str]) -> None:
        """Lock rows of hashes in the order in which loaders lock them."""
        if self._sql.for_update():
            for sha256 in sorted(hashes):
                self._rows(f"SELECT 1 FROM file_hashes WHERE sha256 = ?{self._sql.for_update()}", (sha256,))

    def delete_files(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Delete files of sessions and lower the session counts of their hashes."""
        for pair in pairs:
            self._execute("DELETE FROM files WHERE session_id = ? AND shasum = ?", pair)
        for sha256 in sorted(sha256 for _, sha256 in pairs):
            self._execute("UPDATE file_hashes SET session_count = session_count - 1 WHERE sha256 = ?", (sha256,))

    def set_files(self, rows: Sequence[Row], now: str) -> None:
        """Replace what the events say of files: rows as for `LoadingStatements.merge_files`."""
        for session_id, shasum, filename, url, origin, first_seen in rows:
            self._execute(
                "UPDATE files SET filename = ?, download_url = ?, origin = ?, first_seen = ?, last_updated = ?"
                " WHERE session_id = ? AND shasum = ?",
                (filename, url, origin, first_seen, now, session_id, shasum),
            )

    def is_extreme(self, sha256: str, first_seen: str, last_seen: str) -> tuple[bool, bool]:
        """Return whether these times are the first and the last at which a hash was seen, and there is such a hash."""
        rows = self._rows(
            "SELECT first_seen >= ?, last_seen <= ? FROM file_hashes WHERE sha256 = ?", (first_seen, last_seen, sha256)
        )
        return (bool(rows[0][0]), bool(rows[0][1])) if rows else (False, False)

    def set_first_seen(self, sha256: str) -> None:
        """Set the time at which a hash was first seen to that of its files."""
        self._execute(
            "UPDATE file_hashes SET first_seen = coalesce((SELECT min(first_seen) FROM files WHERE shasum = ?),"
            " first_seen) WHERE sha256 = ?",
            (sha256, sha256),
        )

    def sessions_by_end(self, sha256: str) -> list[tuple[str, Any]]:
        """Return the sessions with a hash and when each ended, the latest first."""
        return [
            (session_id, end)
            for session_id, end in self._rows(
                "SELECT f.session_id, s.last_event_at FROM files f JOIN session_summaries s"
                " ON s.session_id = f.session_id WHERE f.shasum = ? AND s.last_event_at IS NOT NULL"
                " ORDER BY s.last_event_at DESC",
                (sha256,),
            )
        ]

    def set_last_seen(self, sha256: str, last_seen: str) -> None:
        """Set the time at which a hash was last seen."""
        self._execute("UPDATE file_hashes SET last_seen = ? WHERE sha256 = ?", (last_seen, sha256))

    def delete_unseen_hash(self, sha256: str, initial_status: str) -> None:
        """Delete a hash that is in no session, unless anything else is known about it.

        Args:
            sha256: the hash.
            initial_status: the enrichment_status of a hash that no source was asked about.
        """
        self._execute(
            "DELETE FROM file_hashes WHERE sha256 = ? AND session_count = 0 AND enrichment_status = ?"
            " AND size_bytes IS NULL AND md5 IS NULL AND analysis IS NULL AND vt_classification IS NULL"
            " AND NOT EXISTS (SELECT 1 FROM files WHERE files.shasum = file_hashes.sha256)"
            " AND NOT EXISTS (SELECT 1 FROM file_verdicts v WHERE v.sha256 = file_hashes.sha256)"
            " AND NOT EXISTS (SELECT 1 FROM enrichment_queue q WHERE q.sha256 = file_hashes.sha256)",
            (sha256, initial_status),
        )

    def _execute(self, sql: str, values: Row) -> None:
        self._cursor.execute(self._sql.statement(sql), tuple(values))

    def _rows(self, sql: str, values: Row) -> list[Any]:
        self._execute(sql, values)
        return list(self._cursor.fetchall())


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
