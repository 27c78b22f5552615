"""Statements on `session_sensors`: which sensor each session was on, merged by minimum and maximum, or computed whole.

The names given to logs and those in the events are merged apart from each other, so that it does not matter from which
of several logs an event was stored, nor in which order the logs came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection

from cowrieprocessor.db.chunks import chunks, repeated_chunks
from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.ingest import event_scan
from cowrieprocessor.db.ingest.sensor_names import Log, SensorNames
from cowrieprocessor.events import SESSION_CONNECT, Event, parse_stored
from cowrieprocessor.interpret.sensors import matcher, sensor_name

Row = Sequence[Any]

MATCHER_INDEX = 7
"""Where a row for `LoadingStatements.merge_sessions` has its sensor."""

_EVENTS_AT_ONCE = 50
_COLUMNS = "session_id, given_sensor, logged_sensor, sensors_differ, first_connect_at, last_connect_at"
_NOTE_LEFT_OUT = (
    "INSERT INTO overlapping_sessions (identity, generation, session_id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
)


@dataclass(slots=True)
class SensorFacts:
    """What a row of `session_sensors` says, collected from the events of a session; names are the present ones.

    Attributes:
        given: the names given to logs that hold an event.
        logged: the names in the events.
        first_connect_at: the time of the first `cowrie.session.connect`, as `Event.moment`; None if there is none.
        last_connect_at: that of the last one.
    """

    given: set[str] = field(default_factory=set)
    logged: set[str] = field(default_factory=set)
    first_connect_at: str | None = None
    last_connect_at: str | None = None

    def add(self, event: Event, names: SensorNames) -> None:
        """Add what an event itself says."""
        sensor = event.fields.get("sensor")
        if isinstance(sensor, str) and sensor:
            self.logged.add(names.resolve(sensor_name(sensor)))
        moment = event.moment
        if event.event_type == SESSION_CONNECT and moment is not None:
            self.first_connect_at = min(moment, self.first_connect_at or moment)
            self.last_connect_at = max(moment, self.last_connect_at or moment)

    def row(self, session_id: str) -> list[Any]:
        """Return the row of a session."""
        return [
            session_id,
            min(self.given, default=None),
            min(self.logged, default=None),
            len(self.given) > 1 or len(self.logged) > 1,
            self.first_connect_at,
            self.last_connect_at,
        ]


class LogSessions(NamedTuple):
    """The sessions of which a batch of a log has events.

    Attributes:
        log: the log.
        sensors: (session_id, names in the events, first and last time of a connect), sorted by session.
        left_out: sessions of which the batch has events that are stored already.
    """

    log: Log
    sensors: Sequence[Row]
    left_out: Sequence[str] = ()


def store_batches(connection: Connection, batches: Sequence[LogSessions], sessions: Sequence[list[Any]]) -> None:
    """Merge the sensors of the sessions of batches, and fill them in where the rows of these sessions need them.

    Args:
        connection: in the transaction that stores the batches, with the lock on the names.
        batches: the sessions of each batch.
        sessions: rows for `LoadingStatements.merge_sessions` of all of them; their sensors are filled in.
    """
    names = SensorNames(connection)
    rows: list[list[Any]] = []
    given_left_out: list[str] = []
    for log, sensors, left_out in batches:
        given = names.given_to(log)
        present = {name: names.resolve(name) for row in sensors for name in row[1]}
        rows += [_batch_row(present, given, *row) for row in sensors]
        note_left_out(connection, log, left_out)
        if given is not None:
            rows += [[session_id, given, None, False, None, None] for session_id in left_out]
            given_left_out += left_out
    if given_left_out or len(batches) > 1:
        rows.sort(key=lambda row: row[0])  # rows are locked in this order
    merge(connection, rows)
    fill_matchers(connection, sessions)
    if given_left_out:
        update_matchers(connection, sorted(given_left_out))


def note_left_out(connection: Connection, log: Log, session_ids: Sequence[str]) -> None:
    """Record that a log holds events of these sessions that are stored already."""
    _execute_many(connection, _NOTE_LEFT_OUT, [(*log, session_id) for session_id in session_ids])


def _batch_row(
    present: Mapping[str, str],
    given: str | None,
    session_id: str,
    said: Sequence[str],
    first: str | None,
    last: str | None,
) -> list[Any]:
    if len(said) == 1:  # as good as always
        return [session_id, given, present[said[0]], False, first, last]
    logged = {present[name] for name in said}
    return [session_id, given, min(logged, default=None), len(logged) > 1, first, last]


def merge(connection: Connection, rows: Sequence[Row]) -> None:
    """Upsert rows of `session_sensors`: the smallest names, the first and the last connect, whether names differ.

    Merging the same rows again changes nothing.

    Args:
        connection: in a write transaction with the lock on the names.
        rows: in the order of the columns, sorted by session.
    """
    sql = dialect_of(connection).sql
    given, logged = (sql.earliest(sql.binary(f"s.{name}"), sql.binary(f"excluded.{name}")) for name in _NAMES)
    _execute_many(
        connection,
        f"""
        INSERT INTO session_sensors AS s ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)
        ON CONFLICT (session_id) DO UPDATE SET
            given_sensor = {given},
            logged_sensor = {logged},
            sensors_differ = CASE WHEN s.sensors_differ OR excluded.sensors_differ
                OR s.given_sensor <> excluded.given_sensor OR s.logged_sensor <> excluded.logged_sensor
                THEN TRUE ELSE FALSE END,
            first_connect_at = {sql.earliest("s.first_connect_at", "excluded.first_connect_at")},
            last_connect_at = {sql.latest("s.last_connect_at", "excluded.last_connect_at")}
        """,
        rows,
    )


_NAMES = ("given_sensor", "logged_sensor")


def compute(connection: Connection, session_ids: Sequence[str]) -> None:
    """Compute rows of `session_sensors` from the stored events, write them, and update `session_summaries.matcher`.

    The rows are locked before the events are read: a loader that stores an event of such a session meanwhile merges it
    afterwards.

    Args:
        connection: in a write transaction with the lock on the names.
        session_ids: sorted; few, because their events are read.
    """
    _execute_many(
        connection,
        "INSERT INTO session_sensors (session_id) VALUES (?) ON CONFLICT DO NOTHING",
        [(session_id,) for session_id in session_ids],
    )
    lock = dialect_of(connection).sql.for_update()
    for part in chunks(session_ids) if lock else ():
        where = f"session_id IN ({_placeholders(part)}) ORDER BY session_id"
        _query(connection, f"SELECT session_id FROM session_sensors WHERE {where}{lock}", part)
    names = SensorNames(connection)
    rows = [_facts(connection, names, session_id).row(session_id) for session_id in session_ids]
    changes = ", ".join(f"{column} = ?" for column in _COLUMNS.split(", ")[1:])
    _execute_many(
        connection,
        f"UPDATE session_sensors SET {changes} WHERE session_id = ?",
        [(*row[1:], row[0]) for row in rows],
    )
    update_matchers(connection, session_ids)


def _facts(connection: Connection, names: SensorNames, session_id: str) -> SensorFacts:
    """Return what the events of a session say."""
    facts = SensorFacts(given=set(names.given_where_left_out(session_id)))
    after = 0
    while rows := list(event_scan.events_of_session(connection, session_id, after, _EVENTS_AT_ONCE)):
        for row in rows:
            if given := names.of_source(row.source_key).given:
                facts.given.add(given)
            event = parse_stored(row.payload)
            if event is not None:
                facts.add(event, names)
        after = rows[-1].id
    return facts


def fill_matchers(connection: Connection, sessions: Sequence[list[Any]]) -> None:
    """Fill the present sensors of sessions into rows for `LoadingStatements.merge_sessions`."""
    found = _matchers(connection, [row[0] for row in sessions])
    for row in sessions:
        row[MATCHER_INDEX] = found.get(row[0])


def update_matchers(connection: Connection, session_ids: Sequence[str], *, keeps_missing: bool = False) -> None:
    """Write the sensors of sessions to `session_summaries.matcher`, where it differs.

    Args:
        connection: in a write transaction.
        session_ids: the sessions.
        keeps_missing: leave NULL as it is: version 3 wrote it, and a rollback returns to that.
    """
    found = sorted(_matchers(connection, session_ids).items())
    differs = "matcher <> ?" if keeps_missing else "coalesce(matcher, '') <> ?"
    _execute_many(
        connection,
        f"UPDATE session_summaries SET matcher = ? WHERE session_id = ? AND {differs}",
        [(name, session_id, name) for session_id, name in found],
    )


def _matchers(connection: Connection, session_ids: Sequence[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for part in repeated_chunks(session_ids):
        sql = (
            "SELECT session_id, coalesce(given_sensor, logged_sensor) AS name FROM session_sensors"
            f" WHERE session_id IN ({_placeholders(part)}) AND coalesce(given_sensor, logged_sensor) IS NOT NULL"
        )
        names.update(_query(connection, sql, part))
    matchers = {name: matcher(name) for name in set(names.values())}
    return {session_id: matchers[name] for session_id, name in names.items()}


def _placeholders(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _query(connection: Connection, sql: str, values: Sequence[Any]) -> list[Any]:
    cursor = connection.connection.cursor()
    try:
        cursor.execute(dialect_of(connection).sql.statement(sql), values)
        return list(cursor.fetchall())
    finally:
        cursor.close()


def _execute_many(connection: Connection, sql: str, rows: Sequence[Row]) -> None:
    if not rows:
        return
    cursor = connection.connection.cursor()
    try:
        cursor.executemany(dialect_of(connection).sql.statement(sql), rows)
    finally:
        cursor.close()
