"""Statements on the names of sensors: those given to logs, and those that sensors were renamed to.

Names are resolved in the transaction that uses them, under a lock that loaders share: a renaming takes it alone, so
that afterwards every transaction sees the new name, and every session that got the old one is found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection

from cowrieprocessor.db.dialects.sql_expressions import sql_of

NAMES_LOCK = 0x73656E736F72
""""sensor", the key of the lock on all names."""

Log = tuple[str, int]
"""Identity and generation of a log, as in `log_files`."""

_GIVEN = "SELECT sensor FROM log_sensors WHERE identity = ? AND generation = ?"
_GIVE = (
    "INSERT INTO log_sensors (identity, generation, sensor) VALUES (?, ?, ?)"
    " ON CONFLICT (identity, generation) DO UPDATE SET sensor = excluded.sensor"
)
_GIVEN_BY_SOURCE = (
    "SELECT l.source, l.source_inode, l.source_generation, n.sensor FROM log_sensors AS n"
    " JOIN log_files AS l ON l.identity = n.identity AND l.generation = n.generation"
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
_MARK_SESSIONS_OF_SENSORS = """
    INSERT INTO sessions_to_rename (session_id)
    SELECT session_id FROM session_sensors WHERE sensors_differ OR given_sensor IN ({0}) OR logged_sensor IN ({0})
    ON CONFLICT DO NOTHING
"""


class SourceName(NamedTuple):
    """The rows of one log in raw_events, and the name that was given to it."""

    source: str
    source_inode: str | None
    source_generation: int
    sensor: str


class SensorNames:
    """The names of sensors as one transaction sees them.

    Args:
        connection: a connection in a transaction; in a write transaction call `lock` before.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._renamed = renamed(connection)

    def resolve(self, name: str) -> str:
        """Return the name that a sensor has now."""
        return self._renamed.get(name, name)

    def given_to(self, log: Log) -> str | None:
        """Return the present name of the sensor that a log was given; None if it was given none."""
        rows = _query(self._connection, _GIVEN, log)
        return self.resolve(rows[0][0]) if rows else None

    def given_by_source(self) -> dict[tuple[str, str | None, int], str]:
        """Return the present name by source, inode and generation for the logs that were given one."""
        rows = _query(self._connection, _GIVEN_BY_SOURCE, ())
        return {(row[0], row[1], row[2]): self.resolve(row[3]) for row in rows}

    def given_where_left_out(self, session_id: str) -> list[str]:
        """Return the present names of the logs whose events of a session were stored already."""
        return [self.resolve(row[0]) for row in _query(self._connection, _LEFT_OUT, (session_id,))]


def lock(connection: Connection, *, to_change: bool = False) -> None:
    """Lock the names until the transaction ends: beside others to use them, alone to change them.

    Args:
        connection: in a write transaction, before any row lock.
        to_change: whether this transaction changes names.
    """
    statement = sql_of(connection).named_lock(NAMES_LOCK, shared=not to_change)
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


def mark_sessions_of_sensors(connection: Connection, names: Sequence[str]) -> None:
    """Mark all sessions on sensors of these names, and those on several sensors."""
    statement = _MARK_SESSIONS_OF_SENSORS.format(", ".join("?" * len(names)))
    _execute(connection, statement, (*names, *names))


def marked_sessions(connection: Connection, limit: int) -> list[str]:
    """Return some of the sessions that are marked, by id."""
    sql = "SELECT session_id FROM sessions_to_rename ORDER BY session_id LIMIT ?"
    return [row[0] for row in _query(connection, sql, (limit,))]


def unmark(connection: Connection, session_ids: Iterable[str]) -> None:
    """Remove marks of sessions whose sensors were computed again."""
    cursor = connection.connection.cursor()
    try:
        cursor.executemany(
            sql_of(connection).statement("DELETE FROM sessions_to_rename WHERE session_id = ?"),
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
        cursor.execute(sql_of(connection).statement(sql), values)
        return list(cursor.fetchall())
    finally:
        cursor.close()


def _execute(connection: Connection, sql: str, values: Sequence[Any]) -> None:
    cursor = connection.connection.cursor()
    try:
        cursor.execute(sql_of(connection).statement(sql), values)
    finally:
        cursor.close()
