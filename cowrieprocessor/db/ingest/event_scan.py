"""Reads stored events for the backfill, by type or by id, and the logs that v4's own loaders wrote."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.jobs import MIGRATION_JOB
from cowrieprocessor.db.models import Job, LogFile, RawEvent, TwinEvent

MAX_PAYLOAD_CHARS = 2 << 20
"""Longer payloads of version 3 are not read: no event of Cowrie is that large. Those that our loaders stored are."""

FETCHED_ROWS = 16
"""Rows fetched at a time; each may hold MAX_PAYLOAD_CHARS characters."""

MIGRATION_LAST_ID = "raw_events_max_id"

_IS_TWIN = "EXISTS (SELECT 1 FROM twin_events AS t WHERE t.event_id = raw_events.id)"

SourceKey = tuple[str, str | None, int]
"""source, source_inode, source_generation: the log that a row came from; `stored_events.SourceKey` as a plain tuple."""


class StoredEvent(NamedTuple):
    """One row of raw_events; a payload of version 3 over the limit is None and its event type is in `long_type`.

    `is_twin` marks a copy of another row, which counts nowhere: see `db.upgrade.twins`.
    """

    id: int
    source: str
    source_inode: str | None
    source_generation: int
    source_offset: int | None
    ingest_id: str | None
    payload: str | None
    long_type: str | None
    payload_hash: str | None = None
    is_twin: bool = False

    @property
    def source_key(self) -> SourceKey:
        """The log that the row came from."""
        return self.source, self.source_inode, self.source_generation


def last_event_id(connection: Connection) -> int:
    """Return the largest id in raw_events, 0 if the table is empty."""
    return int(connection.execute(select(func.coalesce(func.max(RawEvent.id), 0))).scalar_one())


def count_events_of_type(connection: Connection, event_type: str, after: int, until: int) -> int:
    """Count the events of a type with `after` < id <= `until`; an index-only scan."""
    query = select(func.count()).where(RawEvent.event_type == event_type, RawEvent.id > after, RawEvent.id <= until)
    return int(connection.execute(query).scalar_one())


def events_of_type(
    connection: Connection, event_type: str, after: int, until: int, limit: int
) -> Iterator[StoredEvent]:
    """Yield up to `limit` events of one type ordered by id, with `after` < id <= `until`.

    One type at a time: the index on the type orders ids only within a type, so a query for several types would sort
    all remaining rows for each batch.
    """
    where = "event_type = ? AND id > ? AND id <= ? ORDER BY id LIMIT ?"
    return _select_events(connection, where, (event_type, after, until, limit))


def events_in_order(connection: Connection, after: int, until: int, limit: int) -> Iterator[StoredEvent]:
    """Yield up to `limit` events of all types ordered by id, with `after` < id <= `until`."""
    return _select_events(connection, "id > ? AND id <= ? ORDER BY id LIMIT ?", (after, until, limit))


def events_of_session(connection: Connection, session_id: str, after: int, limit: int) -> Iterator[StoredEvent]:
    """Yield up to `limit` events of a session ordered by id, with `after` < id; twins are left out."""
    where = f"session_id = ? AND id > ? AND NOT {_IS_TWIN} ORDER BY id LIMIT ?"
    return _select_events(connection, where, (session_id, after, limit))


def all_events_of_session(connection: Connection, session_id: str) -> Iterator[StoredEvent]:
    """Yield all events of a session ordered by id; twins are left out."""
    return _select_events(connection, f"session_id = ? AND NOT {_IS_TWIN} ORDER BY id", (session_id,))


def events_with_ids(connection: Connection, ids: Sequence[int]) -> Iterator[StoredEvent]:
    """Yield events by their ids; `ids` fit into one statement."""
    return _select_events(connection, f"id IN ({', '.join('?' * len(ids))})", tuple(ids))


def long_payload(connection: Connection, event_id: int) -> str:
    """Return the payload of an event, also one over the limit."""
    sql = dialect_of(connection).sql
    statement = sql.statement(f"SELECT {sql.json_text('payload')} FROM raw_events WHERE id = ?")
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute(statement, (event_id,))
        return str(next(iter(cursor.fetchall()))[0])


def count_twins_between(connection: Connection, after: int, until: int) -> int:
    """Return how many events with `after` < id <= `until` are marked as twins."""
    return int(
        connection.execute(
            select(func.count()).select_from(TwinEvent).where(TwinEvent.event_id > after, TwinEvent.event_id <= until)
        ).scalar_one()
    )


def own_source_keys(connection: Connection) -> Collection[SourceKey]:
    """Return the logs that v4's loaders stored; rows of any other log came from v3."""
    rows = connection.execute(select(LogFile.source, LogFile.source_inode, LogFile.source_generation))
    return {(source, inode, generation) for source, inode, generation in rows}


def last_v3_event_id(connection: Connection) -> int:
    """Return the largest id of raw_events at the migration, 0 if unknown; all rows up to it are v3's."""
    cursor = connection.execute(select(Job.cursor).where(Job.name == MIGRATION_JOB)).scalar() or {}
    return int(cursor.get(MIGRATION_LAST_ID) or 0)


def is_ours(row: str, last_v3_id: int) -> str:
    """Return the SQL condition that our own loaders wrote a row.

    Args:
        row: the name of raw_events in the statement.
        last_v3_id: rows up to this id are version 3's.
    """
    return (
        f"({row}.id > {int(last_v3_id)} AND EXISTS (SELECT 1 FROM log_files AS l WHERE l.source = {row}.source"
        f" AND l.source_inode = {row}.source_inode AND l.source_generation = {row}.source_generation))"
    )


def _select_events(connection: Connection, where: str, values: tuple[Any, ...]) -> Iterator[StoredEvent]:
    sql = dialect_of(connection).sql
    payload = sql.json_text("payload")
    statement = sql.statement(
        "SELECT id, source, source_inode, source_generation, source_offset, ingest_id,"
        f" CASE WHEN length({payload}) <= {MAX_PAYLOAD_CHARS} THEN {payload} END,"
        f" CASE WHEN length({payload}) > {MAX_PAYLOAD_CHARS} THEN event_type END, payload_hash, {_IS_TWIN}"
        f" FROM raw_events WHERE {where}"
    )
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute(statement, values)
        while rows := cursor.fetchmany(FETCHED_ROWS):
            for row in map(StoredEvent._make, rows):
                yield row if row.payload is not None else _with_own_payload(connection, row)


def _with_own_payload(connection: Connection, row: StoredEvent) -> StoredEvent:
    """Return a row whose payload is over the limit with it, if our own loaders stored it."""
    is_own = select(LogFile.source).where(
        LogFile.source == row.source,
        LogFile.source_inode == row.source_inode,
        LogFile.source_generation == row.source_generation,
    )
    if row.id <= last_v3_event_id(connection) or connection.execute(is_own).first() is None:
        return row
    return row._replace(payload=long_payload(connection, row.id), long_type=None)
