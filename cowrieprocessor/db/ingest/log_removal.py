"""Statements that remove a log: its events, its cursor, and the cursors of logs that left out what it holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection

from cowrieprocessor.db.chunks import chunks
from cowrieprocessor.db.dialects import dialect_of

_LOG_COLUMNS = "identity, generation, source, source_inode, source_generation, current_path, values_done"
_OF_LOG = "source = ? AND source_inode = ? AND source_generation = ?"
_RESET = "UPDATE log_files SET tail_hash = NULL, last_value_hash = NULL, values_done = -1 - values_done"
"""No file is proven to be a log without these hashes, so the next load reads it from its beginning, as a new
generation, and looks up each event. A loader that is at work on it finds another checkpoint than it read."""


class StoredLog(NamedTuple):
    """One row of `log_files`; `values_done` is negative once the cursor was reset."""

    identity: str
    generation: int
    source: str
    source_inode: str
    source_generation: int
    current_path: str
    values_done: int

    @property
    def source_key(self) -> tuple[str, str, int]:
        """The values that its rows in raw_events have."""
        return self.source, self.source_inode, self.source_generation


class LogEvent(NamedTuple):
    """One row of raw_events of a log, without its payload."""

    id: int
    session_id: str | None
    event_type: str | None
    payload_hash: str | None


def logs_at(connection: Connection, path: str) -> list[StoredLog]:
    """Return the logs that were first loaded under a path, or last seen there."""
    sql = f"SELECT {_LOG_COLUMNS} FROM log_files WHERE source = ? OR current_path = ? ORDER BY identity, generation"
    return [StoredLog._make(row) for row in _rows(connection, sql, (path, path))]


def paths_like(connection: Connection, name: str, limit: int) -> list[str]:
    """Return paths of logs that have a text in them, in order."""
    pattern = "%" + name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
    sql = (
        "SELECT source FROM log_files WHERE source LIKE ? ESCAPE '\\' UNION SELECT current_path FROM log_files"
        " WHERE current_path LIKE ? ESCAPE '\\' ORDER BY 1 LIMIT ?"
    )
    return [str(row[0]) for row in _rows(connection, sql, (pattern, pattern, limit))]


def has_events_at(connection: Connection, path: str) -> bool:
    """Return whether any event has a path as its source."""
    return bool(_rows(connection, "SELECT 1 FROM raw_events WHERE source = ? LIMIT 1", (path,)))


def count_events(connection: Connection, log: StoredLog) -> tuple[int, int]:
    """Return the number of events that are credited to a log, and of the sessions that they belong to."""
    sql = f"SELECT count(*), count(DISTINCT nullif(session_id, '')) FROM raw_events WHERE {_OF_LOG}"
    events, sessions = _rows(connection, sql, log.source_key)[0]
    return int(events), int(sessions)


def next_events(connection: Connection, log: StoredLog, limit: int) -> list[LogEvent]:
    """Return the first events of a log that are left."""
    sql = (
        f"SELECT id, session_id, event_type, payload_hash FROM raw_events WHERE {_OF_LOG}"
        " ORDER BY source_offset, id LIMIT ?"
    )
    return [LogEvent._make(row) for row in _rows(connection, sql, (*log.source_key, limit))]


def events_in_session(connection: Connection, log: StoredLog, session_id: str, limit: int) -> list[LogEvent]:
    """Return events of a log in one session."""
    sql = (
        "SELECT id, session_id, event_type, payload_hash FROM raw_events"
        f" WHERE session_id = ? AND {_OF_LOG} ORDER BY id LIMIT ?"
    )
    return [LogEvent._make(row) for row in _rows(connection, sql, (session_id, *log.source_key, limit))]


def delete_events(connection: Connection, ids: Sequence[int]) -> None:
    """Delete rows of raw_events."""
    for part in chunks(ids):
        _execute(connection, f"DELETE FROM raw_events WHERE id IN ({_marks(part)})", part)


def overlapping_logs(connection: Connection, log: StoredLog, hashes: Iterable[str]) -> list[StoredLog]:
    """Return the logs that left out an event with one of these hashes, apart from the log itself and those reset."""
    wanted = sorted(set(hashes))
    found = []
    for identity, generation in _logs_with_overlaps(connection):
        sql = f"SELECT {_LOG_COLUMNS} FROM log_files WHERE identity = ? AND generation = ? AND values_done >= 0"
        rows = _rows(connection, sql, (identity, generation))
        is_other = rows and (identity, generation) != (log.identity, log.generation)
        if is_other and _left_out_any(connection, identity, generation, wanted):
            found.append(StoredLog._make(rows[0]))
    return found


def _logs_with_overlaps(connection: Connection) -> Iterator[tuple[str, int]]:
    """Yield the logs in `overlapping_events` by one step in its index each: a log may have millions of rows."""
    last: tuple[str, int] = ("", -1)
    sql = (
        "SELECT identity, generation FROM overlapping_events WHERE (identity, generation) > (?, ?)"
        " ORDER BY identity, generation LIMIT 1"
    )
    while rows := _rows(connection, sql, last):
        last = (str(rows[0][0]), int(rows[0][1]))
        yield last


def _left_out_any(connection: Connection, identity: str, generation: int, hashes: Sequence[str]) -> bool:
    return any(
        _rows(
            connection,
            "SELECT 1 FROM overlapping_events WHERE identity = ? AND generation = ?"
            f" AND payload_hash IN ({_marks(part)}) LIMIT 1",
            (identity, generation, *part),
        )
        for part in chunks(hashes)
    )


def logs_with_identity(connection: Connection, identity: str) -> list[StoredLog]:
    """Return the logs with an identity whose cursors were not reset."""
    sql = f"SELECT {_LOG_COLUMNS} FROM log_files WHERE identity = ? AND values_done >= 0 ORDER BY generation"
    return [StoredLog._make(row) for row in _rows(connection, sql, (identity,))]


def all_with_identity(connection: Connection, identity: str) -> list[StoredLog]:
    """Return the logs with an identity, also those whose cursors were reset."""
    sql = f"SELECT {_LOG_COLUMNS} FROM log_files WHERE identity = ? ORDER BY generation"
    return [StoredLog._make(row) for row in _rows(connection, sql, (identity,))]


def log_with(connection: Connection, identity: str, generation: int) -> StoredLog:
    """Return a log that is stored."""
    sql = f"SELECT {_LOG_COLUMNS} FROM log_files WHERE identity = ? AND generation = ?"
    return StoredLog._make(_rows(connection, sql, (identity, generation))[0])


def event_at(connection: Connection, log: StoredLog, offset: int) -> LogEvent | None:
    """Return the event that is credited to a log at an offset, if there is one."""
    sql = f"SELECT id, session_id, event_type, payload_hash FROM raw_events WHERE {_OF_LOG} AND source_offset = ?"
    rows = _rows(connection, sql, (*log.source_key, offset))
    return LogEvent._make(rows[0]) if rows else None


def reset_cursor(connection: Connection, log: StoredLog) -> bool:
    """Have the next load read a log from its beginning; return False if it was reset already.

    Its rows stay. A follower that starts later reads the file again, although it is unchanged.
    """
    key = (log.identity, log.generation)
    changed = _execute(connection, f"{_RESET} WHERE identity = ? AND generation = ? AND values_done >= 0", key)
    _execute(
        connection,
        "UPDATE followed_files SET size_bytes = 0, mtime_ns = 0, ctime_ns = 0 WHERE identity = ? AND generation = ?",
        key,
    )
    return changed == 1


def forget_log(connection: Connection, log: StoredLog) -> None:
    """Delete what is known of a log whose events were removed."""
    for table in (
        "overlapping_events",
        "overlapping_sessions",
        "log_damage",
        "log_sensors",
        "wrapped_logs",
        "followed_files",
        "log_files",
    ):
        _execute(
            connection, f"DELETE FROM {table} WHERE identity = ? AND generation = ?", (log.identity, log.generation)
        )


def _rows(connection: Connection, sql: str, values: Sequence[Any]) -> list[Any]:
    cursor = connection.connection.cursor()
    try:
        cursor.execute(dialect_of(connection).sql.statement(sql), tuple(values))
        return list(cursor.fetchall())
    finally:
        cursor.close()


def _execute(connection: Connection, sql: str, values: Sequence[Any]) -> int:
    cursor = connection.connection.cursor()
    try:
        cursor.execute(dialect_of(connection).sql.statement(sql), tuple(values))
        return int(cursor.rowcount)
    finally:
        cursor.close()


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
