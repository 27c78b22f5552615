"""What the backfill reads: stored events by type or in their order, and which of them our own loaders wrote."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import closing
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select

from cowrieprocessor.db.dialects.sql_expressions import sql_of
from cowrieprocessor.db.jobs import MIGRATION_JOB
from cowrieprocessor.db.models import Job, LogFile, RawEvent

MAX_PAYLOAD_CHARS = 2 << 20
"""A longer payload is not read: no Cowrie event is so large, and memory is bounded."""

FETCHED_ROWS = 16
"""Rows in memory at a time; each may be as long as MAX_PAYLOAD_CHARS."""

MIGRATION_LAST_ID = "raw_events_max_id"

SourceKey = tuple[str, str | None, int]
"""source, source_inode and source_generation: the log that a row came from."""


class StoredEvent(NamedTuple):
    """One row of raw_events. `payload` is None where it is too long to be read; `long_type` is its type then."""

    id: int
    source: str
    source_inode: str | None
    source_generation: int
    source_offset: int | None
    ingest_id: str | None
    payload: str | None
    long_type: str | None

    @property
    def source_key(self) -> SourceKey:
        """The log that it came from."""
        return self.source, self.source_inode, self.source_generation


def last_event_id(connection: Connection) -> int:
    """Return the largest id of raw_events, 0 where it is empty."""
    return int(connection.execute(select(func.coalesce(func.max(RawEvent.id), 0))).scalar_one())


def count_events_of_type(connection: Connection, event_type: str, after: int, until: int) -> int:
    """Return how many events of a type there are with `after` < id <= `until`; reads the index alone."""
    query = select(func.count()).where(RawEvent.event_type == event_type, RawEvent.id > after, RawEvent.id <= until)
    return int(connection.execute(query).scalar_one())


def events_of_type(
    connection: Connection, event_type: str, after: int, until: int, limit: int
) -> Iterator[StoredEvent]:
    """Yield the next events of one type in the order of their ids, `after` < id <= `until`.

    One type at a time, because an index on the type gives ids in order only within a type: for several at once
    the database would sort all that is left for each batch.
    """
    where = "event_type = ? AND id > ? AND id <= ? ORDER BY id LIMIT ?"
    return _select_events(connection, where, (event_type, after, until, limit))


def events_in_order(connection: Connection, after: int, until: int, limit: int) -> Iterator[StoredEvent]:
    """Yield the next events of all types in the order of their ids, `after` < id <= `until`."""
    return _select_events(connection, "id > ? AND id <= ? ORDER BY id LIMIT ?", (after, until, limit))


def own_source_keys(connection: Connection) -> Collection[SourceKey]:
    """Return the logs that our own loaders stored: the rest came from v3."""
    rows = connection.execute(select(LogFile.source, LogFile.source_inode, LogFile.source_generation))
    return {(source, inode, generation) for source, inode, generation in rows}


def last_v3_event_id(connection: Connection) -> int:
    """Return the largest id of raw_events when v4 began; 0 where it is not known. Up to there every row counts."""
    cursor = connection.execute(select(Job.cursor).where(Job.name == MIGRATION_JOB)).scalar() or {}
    return int(cursor.get(MIGRATION_LAST_ID) or 0)


def _select_events(connection: Connection, where: str, values: tuple[Any, ...]) -> Iterator[StoredEvent]:
    sql = sql_of(connection)
    payload = sql.json_text("payload")
    statement = sql.statement(
        "SELECT id, source, source_inode, source_generation, source_offset, ingest_id,"
        f" CASE WHEN length({payload}) <= {MAX_PAYLOAD_CHARS} THEN {payload} END,"
        f" CASE WHEN length({payload}) > {MAX_PAYLOAD_CHARS} THEN event_type END FROM raw_events WHERE {where}"
    )
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute(statement, values)
        while rows := cursor.fetchmany(FETCHED_ROWS):
            yield from map(StoredEvent._make, rows)
