"""Statements on the names of sensors: those given to logs, and those that sensors were renamed to.

Names are resolved in the transaction that uses them, under a lock that loaders share: a renaming takes it alone, so
that afterwards every transaction sees the new name, and every session that got the old one is found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.interpret.sensors import matcher

NAMES_LOCK = 0x73656E736F72
""""sensor", the key of the lock on all names."""

Log = tuple[str, int]
"""Identity and generation of a log, as in `log_files`."""

SourceKey = tuple[str, str | None, int]
"""source, source_inode and source_generation of rows in raw_events."""

_GIVEN = "SELECT sensor FROM log_sensors WHERE identity = ? AND generation = ?"
_GIVEN_BEFORE_RESET = (
    "SELECT min(n.sensor) FROM log_files AS l JOIN log_sensors AS n"
    " ON n.identity = l.identity AND n.generation = l.generation"
    " WHERE l.identity = ? AND l.values_done < 0 AND l.current_path = ?"
)
_GIVE = (
    "INSERT INTO log_sensors (identity, generation, sensor) VALUES (?, ?, ?)"
    " ON CONFLICT (identity, generation) DO UPDATE SET sensor = excluded.sensor"
)
_OF_SOURCE = (
    "SELECT n.sensor FROM log_files AS l LEFT JOIN log_sensors AS n"
    " ON n.identity = l.identity AND n.generation = l.generation"
    " WHERE l.source = ? AND l.source_inode = ? AND l.source_generation = ?"
)
_LEFT_OUT = (
    "SELECT DISTINCT n.sensor FROM overlapping_sessions AS o"
    " JOIN log_sensors AS n ON n.identity = o.identity AND n.generation = o.generation WHERE o.session_id = ?"
)
_MARK_SESSIONS_OF_LOG = """
    INSERT INTO sessions_to_rename (session_id)
    SELECT e.session_id FROM raw_events AS e JOIN log_files AS l ON l.source = e.source
        AND l.source_inode = e.source_inode AND l.source_generation = e.source_generation
        WHERE l.identity = ? AND l.generation = ? AND e.session_id <> ''
    UNION SELECT session_id FROM overlapping_sessions WHERE identity = ? AND generation = ?
    ON CONFLICT DO NOTHING
"""
_MARK_SESSIONS_OF_SENSOR = """
    INSERT INTO sessions_to_rename (session_id)
    SELECT session_id FROM session_sensors WHERE sensors_differ OR given_sensor = ? OR logged_sensor = ?
    UNION SELECT s.session_id FROM session_summaries AS s WHERE s.matcher IN (?, ?)
        AND NOT EXISTS (SELECT 1 FROM session_sensors AS n WHERE n.session_id = s.session_id)
    ON CONFLICT DO NOTHING
"""
_NAMES = """
    SELECT given_sensor FROM session_sensors WHERE given_sensor IS NOT NULL
    UNION SELECT logged_sensor FROM session_sensors WHERE given_sensor IS NULL AND logged_sensor IS NOT NULL
    UNION SELECT s.matcher FROM session_summaries AS s WHERE s.matcher <> ''
        AND NOT EXISTS (SELECT 1 FROM session_sensors AS n WHERE n.session_id = s.session_id)
"""


class SourceLog(NamedTuple):
    """The log that rows of raw_events came from.

    Attributes:
        is_ours: whether it is in `log_files`; version 3 loaded it otherwise.
        given: the present name of the sensor that it was given, if any.
    """

    is_ours: bool
    given: str | None


class SensorNames:
    """The names of sensors as one transaction sees them.

    Args:
        connection: a connection in a transaction; in a write transaction call `lock` before.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._renamed = renamed(connection)
        self._sources: dict[SourceKey, SourceLog] = {}

    def resolve(self, name: str) -> str:
        """Return the name that a sensor has now."""
        return self._renamed.get(name, name)

    def given_to(self, log: Log) -> str | None:
        """Return the present name of the sensor that a log was given; None if it was given none."""
        rows = _query(self._connection, _GIVEN, log)
        return self.resolve(rows[0][0]) if rows else None

    def of_source(self, source_key: SourceKey) -> SourceLog:
        """Return what is known of the log that rows of raw_events came from, by their source, inode and generation."""
        found = self._sources.get(source_key)
        if found is None:
            rows = _query(self._connection, _OF_SOURCE, source_key)
            given = rows[0][0] if rows else None
            found = SourceLog(bool(rows), None if given is None else self.resolve(given))
            self._sources[source_key] = found
        return found

    def given_where_left_out(self, session_id: str) -> list[str]:
        """Return the present names of the logs whose events of a session were stored already."""
        return [self.resolve(row[0]) for row in _query(self._connection, _LEFT_OUT, (session_id,))]


def given_before_reset(connection: Connection, identity: str, path: str) -> str | None:
    """Return the sensor that was given to a log before its cursor was reset, see `log_removal`; None if there is none.

    Args:
        connection: a connection.
        identity: the log's identity.
        path: where it is.
    """
    rows = _query(connection, _GIVEN_BEFORE_RESET, (identity, path))
    return None if rows[0][0] is None else str(rows[0][0])


def lock(connection: Connection, *, to_change: bool = False) -> None:
    """Lock the names until the transaction ends: beside others to use them, alone to change them.

    Args:
        connection: in a write transaction, before any row lock.
        to_change: whether this transaction changes names.
    """
    statement = dialect_of(connection).sql.named_lock(NAMES_LOCK, shared=not to_change)
    if statement is not None:
        _query(connection, statement, ())


def renamed(connection: Connection) -> dict[str, str]:
    """Return the present name of every sensor that was renamed, by its old name."""
    return {row[0]: row[1] for row in _query(connection, "SELECT name, renamed_to FROM renamed_sensors", ())}


def give(connection: Connection, log: Log, name: str) -> None:
    """Give a log the name of its sensor, in place of any it had; its sessions are not touched."""
    _execute(connection, _GIVE, (*log, name))


def mark_sessions_of_log(connection: Connection, log: Log) -> None:
    """Mark all sessions of a log: their sensors have to be computed again."""
    _execute(connection, _MARK_SESSIONS_OF_LOG, (*log, *log))


def mark_sessions_of_sensor(connection: Connection, name: str) -> None:
    """Mark all sessions on a sensor, and those on several sensors."""
    _execute(connection, _MARK_SESSIONS_OF_SENSOR, (name, name, name, matcher(name)))


def names_in_use(connection: Connection) -> set[str]:
    """Return the names of all sensors of sessions and logs. Reads every session."""
    names = SensorNames(connection)
    given = _query(connection, "SELECT DISTINCT sensor FROM log_sensors", ())
    return {row[0] for row in _query(connection, _NAMES, ())} | {names.resolve(row[0]) for row in given}


def logs_given(connection: Connection) -> dict[str, int]:
    """Return how many logs were given each sensor, by its present name."""
    names, logs = SensorNames(connection), Counter[str]()
    for name, count in _query(connection, "SELECT sensor, count(*) FROM log_sensors GROUP BY sensor", ()):
        logs[names.resolve(name)] += count
    return dict(logs)


def count_marked(connection: Connection) -> int:
    """Return how many sessions are marked."""
    return int(_query(connection, "SELECT count(*) FROM sessions_to_rename", ())[0][0])


def marked_sessions(connection: Connection, limit: int) -> list[str]:
    """Return some of the sessions that are marked, by id."""
    sql = "SELECT session_id FROM sessions_to_rename ORDER BY session_id LIMIT ?"
    return [row[0] for row in _query(connection, sql, (limit,))]


def unmark(connection: Connection, session_ids: Iterable[str]) -> None:
    """Remove marks of sessions whose sensors were computed again."""
    cursor = connection.connection.cursor()
    try:
        cursor.executemany(
            dialect_of(connection).sql.statement("DELETE FROM sessions_to_rename WHERE session_id = ?"),
            [(session_id,) for session_id in session_ids],
        )
    finally:
        cursor.close()


def rename(connection: Connection, old: str, new: str, now: str) -> None:
    """Record that a sensor has another name; names renamed to the old one follow."""
    _execute(connection, "UPDATE renamed_sensors SET renamed_to = ? WHERE renamed_to = ?", (new, old))
    _execute(
        connection,
        "INSERT INTO renamed_sensors (name, renamed_to, renamed_at) VALUES (?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET renamed_to = excluded.renamed_to, renamed_at = excluded.renamed_at",
        (old, new, now),
    )
    _execute(connection, "DELETE FROM renamed_sensors WHERE name = renamed_to", ())


def _query(connection: Connection, sql: str, values: Sequence[Any]) -> list[Any]:
    """Run a query on the driver's own cursor, because loaders run them for every batch."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(dialect_of(connection).sql.statement(sql), values)
        return list(cursor.fetchall())
    finally:
        cursor.close()


def _execute(connection: Connection, sql: str, values: Sequence[Any]) -> int:
    """Run a statement, and return the number of rows it changed."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(dialect_of(connection).sql.statement(sql), values)
        return int(cursor.rowcount)
    finally:
        cursor.close()


def has_captured_files(connection: Connection, session_id: str) -> bool:
    """Return whether there are captured files under the session_id of a sensor's captured files."""
    return bool(_query(connection, "SELECT 1 FROM files WHERE session_id = ? LIMIT 1", (session_id,)))


def move_captured_files(connection: Connection, old: str, new: str) -> int:
    """Move rows of `files` of one `artifact:` session to another; of a hash in both the earlier time stays.

    Args:
        connection: in a write transaction.
        old: the session_id of a sensor's captured files, see `analysis.downloads_scan.artifact_session`.
        new: the one under its new name.

    Returns:
        The number of rows moved or merged.
    """
    first_seen = dialect_of(connection).sql.earliest("files.first_seen", "o.first_seen")
    _execute(
        connection,
        f"UPDATE files SET first_seen = {first_seen} FROM files AS o"
        " WHERE files.session_id = ? AND o.session_id = ? AND o.shasum = files.shasum",
        (new, old),
    )
    merged = _execute(
        connection,
        "DELETE FROM files WHERE session_id = ? AND shasum IN (SELECT n.shasum FROM files AS n WHERE n.session_id = ?)",
        (old, new),
    )
    return merged + _execute(connection, "UPDATE files SET session_id = ? WHERE session_id = ?", (new, old))
