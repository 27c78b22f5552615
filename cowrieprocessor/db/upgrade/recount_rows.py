"""Rows that a recount reads and writes: sessions by id, their events by the session index, and what these say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.dialects.scan import Row, ScanQuery, TableScan
from cowrieprocessor.db.ingest.event_scan import MAX_PAYLOAD_CHARS, is_ours
from cowrieprocessor.db.ingest.log_files import has_rows_of_v3
from cowrieprocessor.db.ingest.statements import LoadingStatements
from cowrieprocessor.db.jobs import MIGRATION_JOB, load_job
from cowrieprocessor.db.upgrade.twins import TwinSearch

PAYLOAD = 4
"""Index of the payload in a row of an event."""

IS_OURS = 5
"""Index of whether our own loaders wrote it."""

SESSIONS_JOB = "backfill-sessions"


class SessionCounters(NamedTuple):
    """The counters and times of one row of session_summaries."""

    session_id: str
    event_count: int
    command_count: int
    file_downloads: int
    login_attempts: int
    first_event_at: str | None
    last_event_at: str | None


class SessionRows(NamedTuple):
    """What else is derived from the events of a session, as rows for `LoadingStatements`, sorted by key.

    Attributes:
        attributes: at most one row.
        commands: None where version 3 filled the table, which then is left alone.
    """

    attributes: list[Row]
    commands: list[Row] | None
    logins: list[Row]


class RecountRows:
    """Recount queries for one database; `twins` is None where version 3 stored nothing.

    Args:
        scan: the database.
        with_payloads: whether events are read with their payloads, for what is derived besides counters and times.
    """

    def __init__(self, scan: TableScan, *, with_payloads: bool = True) -> None:
        self._scan = scan
        moment = scan.sql.moment
        self._select = (
            "SELECT s.session_id, s.event_count, s.command_count, s.file_downloads, s.login_attempts,"
            f" {moment('s.first_event_at')}, {moment('s.last_event_at')} FROM session_summaries AS s"
        )
        with scan.snapshot() as connection:
            migration = load_job(connection, MIGRATION_JOB)
            has_events_of_v3 = has_rows_of_v3(connection)
            text = scan.sql.json_text("e.payload")
        record = {} if migration is None else migration.cursor
        last_v3_id = int(record.get("raw_events_max_id") or 0)
        ours = is_ours("e", last_v3_id)
        self.twins = TwinSearch(scan, last_v3_id) if has_events_of_v3 else None
        self._has_commands_of_v3 = bool(record.get("command_stats_max_id"))
        is_read = f"length({text}) <= {MAX_PAYLOAD_CHARS} OR {ours}"
        payload = f"CASE WHEN {is_read} THEN {text} END" if with_payloads else "NULL"
        self._event = (
            f"SELECT e.session_id, e.id, e.event_type, e.event_timestamp, {payload}, {ours} FROM raw_events AS e"
        )
        self._attributes = (
            f"SELECT a.session_id, {moment('a.connect_at')}, a.src_ip_rank, {moment('a.src_ip_at')}, a.src_ip,"
            f" a.protocol_rank, {moment('a.protocol_at')}, a.protocol, {moment('a.hassh_at')}, a.hassh,"
            f" a.login_success, {moment('a.login_at')}, a.username FROM session_attributes AS a"
        )
        self._commands = (
            f"SELECT c.session_id, c.command_normalized, c.occurrences, {moment('c.first_seen')},"
            f" {moment('c.last_seen')}, c.high_risk FROM command_stats AS c"
        )
        self._logins = (
            f"SELECT l.session_id, l.username, l.attempts, l.successes, {moment('l.first_seen')},"
            f" {moment('l.last_seen')} FROM session_logins AS l"
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
        lock = dialect_of(connection).sql.for_update() if to_write else ""
        rows = self._scan.rows(connection, f"{self._select} WHERE s.session_id = ?{lock}", (session_id,))
        return SessionCounters._make(rows[0]) if rows else None

    def backfilled(self, connection: Connection, *, to_write: bool = False) -> int:
        """Return the id up to which the backfill has read the events of sessions; `to_write` keeps it from going on."""
        job = load_job(connection, SESSIONS_JOB, for_update=to_write)
        return 0 if job is None else int((job.cursor.get("last") or {}).get("", 0))

    def events(self, first: str, last: str, until: int) -> ScanQuery:
        """Return the scan over the events of the sessions `first` to `last` with ids up to `until`.

        Rows: session_id, id, event_type, event_timestamp, payload (None if it is of version 3 and too long), whether
        our own loaders wrote it.
        """
        return ScanQuery(
            self._event,
            ("e.session_id", "e.id"),
            "e.session_id >= ? AND e.session_id <= ? AND e.id <= ?",
            (first, last, until),
            text_keys=False,
            payload=PAYLOAD,
        )

    def events_now(self, connection: Connection, session_id: str, after: int) -> list[Row]:
        """Return the events of a session with ids above `after`, as this transaction sees them."""
        sql = f"{self._event} WHERE e.session_id = ? AND e.id > ?"
        return self._scan.rows(connection, sql, (session_id, after))

    def payload(self, connection: Connection, event_id: int) -> str:
        """Return the payload of an event whose numeric timestamp is rounded in its column."""
        payload = self._scan.sql.json_text("e.payload")
        return str(
            self._scan.rows(connection, f"SELECT {payload} FROM raw_events AS e WHERE e.id = ?", (event_id,))[0][0]
        )

    def derived(self, connection: Connection, first: str, last: str) -> dict[str, SessionRows]:
        """Return the stored rows of the sessions `first` to `last`, by session."""
        found: dict[str, SessionRows] = {}

        def of(session_id: str) -> SessionRows:
            return found.setdefault(session_id, self.rows([], [], []))

        for row in self._between(connection, self._attributes, "a", first, last):
            of(row[0]).attributes.append(_with_booleans(row, 10))
        for row in self._between(connection, self._commands, "c", first, last):
            if (commands := of(row[0]).commands) is not None:
                commands.append(_with_booleans(row, 5))
        for row in self._between(connection, self._logins, "l", first, last):
            of(row[0]).logins.append(row)
        for rows in found.values():
            rows.logins.sort()
            if rows.commands is not None:
                rows.commands.sort(key=lambda row: row[:2])
        return found

    def rows(
        self, attributes: Iterable[Sequence[Any]], commands: Iterable[Sequence[Any]], logins: Iterable[Sequence[Any]]
    ) -> SessionRows:
        """Return the rows of one session; without its commands if version 3 filled that table."""
        kept = None if self._has_commands_of_v3 else list(map(tuple, commands))
        return SessionRows(list(map(tuple, attributes)), kept, list(map(tuple, logins)))

    def _between(self, connection: Connection, select: str, table: str, first: str, last: str) -> list[Row]:
        where = f"{table}.session_id >= ? AND {table}.session_id <= ?"
        return self._scan.rows(connection, f"{select} WHERE {where}", (first, last))


def _with_booleans(row: Row, column: int) -> Row:
    """Return a row with a column as true or false, which SQLite stores as a number."""
    value = row[column]
    return *row[:column], None if value is None else bool(value), *row[column + 1 :]


def store_counters(connection: Connection, row: SessionCounters, now: str) -> None:
    """Update the counters and times of one session."""
    cursor: Any = connection.connection.cursor()
    try:
        cursor.execute(
            dialect_of(connection).sql.statement(
                "UPDATE session_summaries SET event_count = ?, command_count = ?, file_downloads = ?,"
                " login_attempts = ?, first_event_at = ?, last_event_at = ?, updated_at = ? WHERE session_id = ?"
            ),
            (*row[1:], now, row.session_id),
        )
    finally:
        cursor.close()


def store_derived(connection: Connection, session_id: str, rows: SessionRows) -> None:
    """Replace the rows that are derived from the events of one session."""
    tables = ["session_attributes", "session_logins"]
    if rows.commands is not None:
        tables.append("command_stats")
    cursor: Any = connection.connection.cursor()
    try:
        for table in tables:
            cursor.execute(
                dialect_of(connection).sql.statement(f"DELETE FROM {table} WHERE session_id = ?"), (session_id,)
            )
    finally:
        cursor.close()
    statements = LoadingStatements(connection)
    try:
        statements.merge_attributes(rows.attributes)
        statements.merge_commands(rows.commands or ())
        statements.merge_logins(rows.logins)
    finally:
        statements.close()
