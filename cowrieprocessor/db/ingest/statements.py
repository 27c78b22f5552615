"""The loader's write statements: one batch into raw_events, sessions, commands, files, dead letters and jobs.

They run on the driver's own cursor, because every event passes through them. Rows are tuples in the order of the
statement's columns; times are `YYYY-MM-DD HH:MM:SS.ffffff` in UTC.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Connection

from cowrieprocessor.db.chunks import repeated_chunks
from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.dialects.sql import SqlExpressions
from cowrieprocessor.db.models import VERDICT_COLUMNS

Row = Sequence[Any]
"""Values in the order of a statement's columns."""

RAW_EVENT_COLUMNS = (
    "ingest_id",
    "ingest_at",
    "source",
    "source_offset",
    "source_inode",
    "source_generation",
    "payload",
    "payload_hash",
)
EVENT_COLUMNS = ("session_id", "event_type", "event_timestamp")
DEAD_LETTER_COLUMNS = ("ingest_id", "source", "source_offset", "reason", "payload", "metadata_json", "created_at")


class _HashRow(NamedTuple):
    """Columns of a `file_hashes` row; `copied` holds the size and verdict columns that `files` duplicates."""

    session_count: int
    vt_malicious: bool
    copied: Row


class LoadingStatements:
    """Writes the rows of one batch on one connection, in the caller's transaction.

    Attributes:
        computes_event_columns: whether the database computes EVENT_COLUMNS, so that rows for raw_events omit them.
    """

    def __init__(self, connection: Connection) -> None:
        dialect = dialect_of(connection)
        self._sql, self._bulk = dialect.sql, dialect.bulk
        self.computes_event_columns = dialect.computes_event_columns
        self._cursor = connection.connection.cursor()

    def close(self) -> None:
        """Close the cursor."""
        self._cursor.close()

    def insert_raw_events(self, rows: Sequence[Row]) -> None:
        """Insert events; rows have RAW_EVENT_COLUMNS, then EVENT_COLUMNS unless `computes_event_columns`."""
        columns = RAW_EVENT_COLUMNS if self.computes_event_columns else RAW_EVENT_COLUMNS + EVENT_COLUMNS
        self._bulk.insert(self._cursor, "raw_events", columns, rows)

    def merge_sessions(self, rows: Sequence[Row]) -> None:
        """Upsert sessions: add to their counters and extend their time range.

        Rows: session_id, first_event_at, last_event_at, event_count, command_count, file_downloads,
        login_attempts, matcher, source_files, created_at, updated_at. `matcher` replaces the stored one unless it is
        None, because it is that of the whole session: see `session_sensors.fill_matchers`.
        """
        sql = self._sql
        self._execute_many(
            f"""
            INSERT INTO session_summaries AS s (session_id, first_event_at, last_event_at, event_count,
                command_count, file_downloads, login_attempts, matcher, source_files, created_at, updated_at)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (session_id) DO UPDATE SET
                first_event_at = {sql.earliest("s.first_event_at", "excluded.first_event_at")},
                last_event_at = {sql.latest("s.last_event_at", "excluded.last_event_at")},
                event_count = s.event_count + excluded.event_count,
                command_count = s.command_count + excluded.command_count,
                file_downloads = s.file_downloads + excluded.file_downloads,
                login_attempts = s.login_attempts + excluded.login_attempts,
                matcher = coalesce(excluded.matcher, s.matcher),
                source_files = {sql.merged_lists("s.source_files", "excluded.source_files")},
                updated_at = excluded.updated_at
            """,
            rows,
        )

    def merge_attributes(self, rows: Sequence[Row]) -> None:
        """Upsert session attributes: keep the first address, protocol, key exchange and login of each session.

        Rows: session_id, connect_at, src_ip_rank, src_ip_at, src_ip, protocol_rank, protocol_at, protocol, hassh_at,
        hassh, login_success, login_at, username.
        """
        self._execute_many(_merge_attributes(self._sql), rows)

    def merge_logins(self, rows: Sequence[Row]) -> None:
        """Upsert logins: add to their counts and extend their time range.

        Rows: session_id, username, attempts, successes, first_seen, last_seen.
        """
        sql = self._sql
        self._execute_many(
            f"""
            INSERT INTO session_logins AS l (session_id, username, attempts, successes, first_seen, last_seen)
            VALUES (?, ?, ?, ?, ?, ?)
            ON CONFLICT (session_id, username, credential) DO UPDATE SET
                attempts = l.attempts + excluded.attempts,
                successes = l.successes + excluded.successes,
                first_seen = {sql.earliest("l.first_seen", "excluded.first_seen")},
                last_seen = {sql.latest("l.last_seen", "excluded.last_seen")}
            """,
            rows,
        )

    def merge_commands(self, rows: Sequence[Row]) -> None:
        """Upsert commands: add to their counts and extend their time range.

        Rows: session_id, command_normalized, occurrences, first_seen, last_seen, high_risk.
        """
        sql = self._sql
        self._execute_many(
            f"""
            INSERT INTO command_stats AS c (session_id, command_normalized, occurrences, first_seen, last_seen,
                high_risk) VALUES (?, ?, ?, ?, ?, ?)
            ON CONFLICT (session_id, command_normalized) DO UPDATE SET
                occurrences = c.occurrences + excluded.occurrences,
                first_seen = {sql.earliest("c.first_seen", "excluded.first_seen")},
                last_seen = {sql.latest("c.last_seen", "excluded.last_seen")},
                high_risk = CASE WHEN c.high_risk THEN c.high_risk ELSE excluded.high_risk END
            """,
            rows,
        )

    def merge_hashes(self, rows: Sequence[Row]) -> None:
        """Upsert hashes: extend their time range; an event's time replaces one known from a captured file only.

        Rows: sha256, first_seen, last_seen, enrichment_status, updated_at.
        """
        sql = self._sql
        self._execute_many(
            f"""
            INSERT INTO file_hashes AS h (sha256, first_seen, last_seen, enrichment_status, updated_at)
            VALUES (?, ?, ?, ?, ?)
            ON CONFLICT (sha256) DO UPDATE SET
                first_seen = CASE WHEN h.session_count = 0 THEN excluded.first_seen
                    ELSE {sql.earliest("h.first_seen", "excluded.first_seen")} END,
                last_seen = CASE WHEN h.session_count = 0 THEN excluded.last_seen
                    ELSE {sql.latest("h.last_seen", "excluded.last_seen")} END,
                updated_at = excluded.updated_at
            """,
            rows,
        )

    def merge_files(self, rows: Sequence[Row], now: str) -> list[tuple[str, str]]:
        """Upsert files of sessions with the size and verdict of their hashes.

        Rows: session_id, shasum, filename, download_url, origin, first_seen.

        Returns:
            The inserted (session_id, shasum) pairs.
        """
        hash_rows = self._hash_rows({row[1] for row in rows})
        # `merge_hashes` locked the hash rows, so no other writer can insert these pairs meanwhile.
        stored = self._stored_files(rows)
        added = [row for row in rows if (row[0], row[1]) not in stored]
        columns = (
            "session_id",
            "shasum",
            "filename",
            "download_url",
            "origin",
            "first_seen",
            "last_updated",
            "file_size",
            *VERDICT_COLUMNS,
        )
        self._bulk.insert(self._cursor, "files", columns, [(*row, now, *hash_rows[row[1]].copied) for row in added])
        self._update_stored_files(
            [(row[2], row[3], row[4], row[5], now, row[0], row[1]) for row in rows if (row[0], row[1]) in stored]
        )
        new = [(row[0], row[1]) for row in added]
        self._count_new_files(new, hash_rows)
        return new

    def merge_mentions(self, rows: Sequence[Row]) -> None:
        """Upsert mentions of URLs and names with files: extend their time range.

        Rows: session_id, digest, shasum, kind, value, first_seen, last_seen.
        """
        sql = self._sql
        self._execute_many(
            f"""
            INSERT INTO file_mentions AS m (session_id, digest, shasum, kind, value, first_seen, last_seen)
            VALUES (?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (session_id, digest) DO UPDATE SET
                first_seen = {sql.earliest("m.first_seen", "excluded.first_seen")},
                last_seen = {sql.latest("m.last_seen", "excluded.last_seen")}
            """,
            rows,
        )

    def _stored_files(self, rows: Sequence[Row]) -> set[tuple[str, str]]:
        """Return the (session_id, shasum) pairs of rows that `files` already has."""
        stored: set[tuple[str, str]] = set()
        for part in repeated_chunks([(row[0], row[1]) for row in rows]):
            pairs = ", ".join(["(?, ?)"] * len(part))
            self._execute(
                f"SELECT session_id, shasum FROM files WHERE (session_id, shasum) IN (VALUES {pairs})",
                [text for pair in part for text in pair],
            )
            stored.update((session_id, sha256) for session_id, sha256 in self._cursor.fetchall())
        return stored

    def _update_stored_files(self, rows: Sequence[Row]) -> None:
        least, binary = self._sql.earliest, self._sql.binary
        given = "CAST(? AS VARCHAR)"
        when = self._sql.time_value()
        # A sub-select binds each value once, because `earliest` repeats its arguments.
        self._execute_many(
            f"""
            UPDATE files SET
                filename = {least(binary("files.filename"), binary("g.filename"))},
                download_url = {least(binary("files.download_url"), binary("g.download_url"))},
                origin = {least(binary("files.origin"), binary("g.origin"))},
                first_seen = {least("files.first_seen", "g.first_seen")},
                last_updated = g.last_updated
            FROM (SELECT {given} AS filename, {given} AS download_url, {given} AS origin, {when} AS first_seen,
                {when} AS last_updated) AS g
            WHERE files.session_id = ? AND files.shasum = ?
            """,
            rows,
        )

    def _count_new_files(self, new: Sequence[tuple[str, str]], hash_rows: Mapping[str, _HashRow]) -> None:
        """Add to the session count of each hash, delete artifact rows that a log now explains, and flag sessions."""
        if not new:
            return
        counts: dict[str, int] = {}
        for _, sha256 in new:
            counts[sha256] = counts.get(sha256, 0) + 1
        self._execute_many(
            "UPDATE file_hashes SET session_count = session_count + ? WHERE sha256 = ?",
            [(count, sha256) for sha256, count in sorted(counts.items())],
        )
        # Artifact rows exist only while no log names the hash; searching for them reads all rows of the hash.
        unexplained = [(sha256,) for sha256 in sorted(counts) if not hash_rows[sha256].session_count]
        self._execute_many("DELETE FROM files WHERE shasum = ? AND origin = 'artifact'", unexplained)
        flagged = sorted({session_id for session_id, sha256 in new if hash_rows[sha256].vt_malicious})
        self._execute_many(
            "UPDATE session_summaries SET vt_flagged = TRUE WHERE session_id = ?",
            [(session_id,) for session_id in flagged],
        )

    def _hash_rows(self, hashes: Collection[str]) -> dict[str, _HashRow]:
        """Return the rows of hashes by sha256."""
        found: dict[str, _HashRow] = {}
        for part in repeated_chunks(sorted(hashes)):
            self._execute(
                f"SELECT sha256, session_count, vt_malicious, size_bytes, {', '.join(VERDICT_COLUMNS)} FROM file_hashes"
                f" WHERE sha256 IN ({_placeholders(part)})",
                part,
            )
            found.update((row[0], _HashRow(row[1], row[2], row[3:])) for row in self._cursor.fetchall())
        return found

    def insert_dead_letters(self, rows: Sequence[Row]) -> None:
        """Insert dead letters; rows have DEAD_LETTER_COLUMNS."""
        self._bulk.insert(self._cursor, "dead_letter_events", DEAD_LETTER_COLUMNS, rows)

    def add_job_counters(self, name: str, counters: Mapping[str, int], cursor: object | None, now: str) -> None:
        """Add to a job's counters and store its cursor; with None the stored cursor is unchanged."""
        stored = self._locked_counters(name)
        if stored is None:
            self._execute(
                "INSERT INTO jobs (name, state, started_at, updated_at) VALUES (?, 'done', ?, ?)"
                " ON CONFLICT (name) DO NOTHING",
                (name, now, now),
            )
            stored = self._locked_counters(name)
        total = _decoded(stored[0]) if stored else {}
        for reason, count in counters.items():
            total[reason] = total.get(reason, 0) + count
        changed: dict[str, object] = {"counters": json.dumps(total, sort_keys=True), "updated_at": now}
        if cursor is not None:
            changed["cursor"] = json.dumps(cursor)
        names = ", ".join(f"{column} = ?" for column in changed)
        self._execute(f"UPDATE jobs SET {names} WHERE name = ?", (*changed.values(), name))

    def _locked_counters(self, name: str) -> Row | None:
        """Return the row of a job's counters, locked until the transaction ends; None if there is no such job."""
        self._execute(f"SELECT counters FROM jobs WHERE name = ?{self._sql.for_update()}", (name,))
        row: Row | None = self._cursor.fetchone()
        return row

    def _execute_many(self, sql: str, rows: Sequence[Row]) -> None:
        if rows:
            self._cursor.executemany(self._sql.statement(sql), rows)

    def _execute(self, sql: str, row: Row) -> None:
        self._cursor.execute(self._sql.statement(sql), row)


def _placeholders(columns: Sequence[object]) -> str:
    return ", ".join("?" * len(columns))


def _decoded(stored: Any) -> dict[str, int]:
    """Return the object of a JSON column: psycopg decodes it, SQLite returns text."""
    value = json.loads(stored) if isinstance(stored, str) else stored
    return dict(value) if isinstance(value, dict) else {}


@lru_cache
def _merge_attributes(sql: SqlExpressions) -> str:
    """Return the statement of `LoadingStatements.merge_attributes`."""
    # Rows of before revision 0007 have no ranks: their address and protocol are those of the connection.
    address, protocol = (
        _precedes(sql, name, (f"coalesce({{0}}.{name}_rank, 0)", f"coalesce({{0}}.{name}_at, {{0}}.connect_at)", name))
        for name in ("src_ip", "protocol")
    )
    kex = _precedes(sql, "hassh_at", ("hassh_at", "hassh"))
    login = _precedes(sql, "login_at", ("CASE WHEN {0}.login_success THEN 0 ELSE 1 END", "login_at", "username"))
    tests = {
        **dict.fromkeys(("src_ip_rank", "src_ip_at", "src_ip"), address),
        **dict.fromkeys(("protocol_rank", "protocol_at", "protocol"), protocol),
        **dict.fromkeys(("hassh_at", "hassh"), kex),
        **dict.fromkeys(("login_success", "login_at", "username"), login),
    }
    columns = ("session_id", "connect_at", *tests)
    updates = [f"connect_at = {sql.earliest('a.connect_at', 'excluded.connect_at')}"]
    updates += (
        f"{column} = CASE WHEN {test} THEN excluded.{column} ELSE a.{column} END" for column, test in tests.items()
    )
    return (
        f"INSERT INTO session_attributes AS a ({', '.join(columns)}) VALUES ({_placeholders(columns)})"
        f" ON CONFLICT (session_id) DO UPDATE SET {', '.join(updates)}"
    )


def _precedes(sql: SqlExpressions, present: str, keys: Sequence[str]) -> str:
    """Return an SQL condition: the new row's keys sort before the stored row's, NULL last."""

    def side(table: str) -> str:
        return ", ".join(
            key.format(table)
            if "{" in key
            else f"{table}.{key}"
            if key.endswith("_at")
            else sql.binary(f"coalesce({table}.{key}, '')")
            for key in keys
        )

    return f"excluded.{present} IS NOT NULL AND (a.{present} IS NULL OR ({side('excluded')}) < ({side('a')}))"
