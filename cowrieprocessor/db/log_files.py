"""The statements about logs: `log_files`, and what raw_events tells about logs that v3 loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, and_, func, inspect, or_, select

from cowrieprocessor.db.dialects.writing import writing_of
from cowrieprocessor.db.models import LogFile, RawEvent
from cowrieprocessor.events import Event

COLUMNS = tuple(column.name for column in LogFile.__table__.columns if column.name != "updated_at")
_LOG = LogFile.__table__
_EVENT = RawEvent.__table__
_LOG_KEY = (_EVENT.c.source, _EVENT.c.source_inode, _EVENT.c.source_generation)
_EVENT_AND_LOG = _EVENT.outerjoin(
    _LOG,
    and_(
        _LOG.c.source == _EVENT.c.source,
        _LOG.c.source_inode == _EVENT.c.source_inode,
        _LOG.c.source_generation == _EVENT.c.source_generation,
    ),
)
MAX_SOURCE_CHARS = 512


def generations(connection: Connection, identity: str) -> Sequence[Mapping[str, Any]]:
    """Return the logs with this first object, the longest first."""
    rows = connection.execute(
        select(_LOG).where(_LOG.c.identity == identity).order_by(_LOG.c.values_done.desc(), _LOG.c.generation)
    )
    return [dict(row) for row in rows.mappings()]


def stored_elsewhere(
    connection: Connection, log: Mapping[str, Any], event: Sequence[str | None]
) -> tuple[str, int] | None:
    """Return source and offset of the same event in another log, or None.

    Args:
        connection: any.
        log: the columns of `log_files` of the log it was read from.
        event: its session_id, event_type, event_timestamp and payload_hash.
    """
    session_id, event_type, timestamp, payload_hash = event
    found = connection.execute(
        select(_EVENT.c.source, _EVENT.c.source_offset)
        .where(
            _EVENT.c.event_timestamp == timestamp,
            _EVENT.c.session_id == session_id,
            _EVENT.c.event_type == event_type,
            _EVENT.c.payload_hash == payload_hash,
            or_(
                _EVENT.c.source != log["source"],
                _EVENT.c.source_inode != log["source_inode"],
                _EVENT.c.source_generation != log["source_generation"],
            ),
        )
        .limit(1)
    ).first()
    return (found.source, found.source_offset) if found else None


def has_rows_of_v3(connection: Connection) -> bool:
    """Return whether raw_events holds rows that belong to none of our logs: v3's, which came before all of ours."""
    oldest = connection.execute(select(*_LOG_KEY).order_by(_EVENT.c.id).limit(1)).first()
    if oldest is None:
        return False
    return connection.execute(select(_LOG.c.identity).where(*_same_log(oldest)).limit(1)).first() is None


def v3_had_path(connection: Connection, path: str) -> bool:
    """Return whether there are rows under this path that belong to none of our logs."""
    found = connection.execute(
        select(_EVENT.c.id)
        .select_from(_EVENT_AND_LOG)
        .where(_EVENT.c.source == path, _LOG.c.identity.is_(None))
        .limit(1)
    )
    return found.first() is not None


def stored_copies(connection: Connection, identity: str, generation: int, event: Event) -> tuple[int, int]:
    """Return how often an event is stored already: by other logs with this identity, and by v3.

    v3 rewrote payloads before it stored them, so that its rows are compared by session, type and timestamp; ours
    by the whole payload.
    """
    rows = connection.execute(
        select(_LOG.c.identity, _EVENT.c.payload_hash)
        .select_from(_EVENT_AND_LOG)
        .where(
            *_same_event(event),
            or_(_LOG.c.identity.is_(None), and_(_LOG.c.identity == identity, _LOG.c.generation != generation)),
        )
    ).all()
    ours = sum(row.identity is not None and row.payload_hash == event.payload_hash for row in rows)
    return ours, sum(row.identity is None for row in rows)


def free_place(connection: Connection, path: str, inode: str) -> tuple[str, int]:
    """Return source and source_generation for a new log: a pair that no log and no event has with this inode.

    Where raw_events keeps v1's constraint that a source has each offset only once, a further log under one path
    gets a source of its own: the path with `#1`, `#2` and so on behind.
    """
    if _allows_one_log_per_source(connection):
        number = 0
        source = path
        while _is_taken(connection, source):
            number += 1
            source = f"{path[: MAX_SOURCE_CHARS - 8]}#{number}"
        return source, 0
    highest = -1
    for table in (_LOG, _EVENT):
        found = connection.execute(
            select(func.max(table.c.source_generation)).where(table.c.source == path, table.c.source_inode == inode)
        ).scalar()
        highest = max(highest, -1 if found is None else int(found))
    return path, highest + 1


def _is_taken(connection: Connection, source: str) -> bool:
    return any(
        connection.execute(select(table.c.source).where(table.c.source == source).limit(1)).first() is not None
        for table in (_LOG, _EVENT)
    )


def _allows_one_log_per_source(connection: Connection) -> bool:
    return any(
        constraint["column_names"] == ["source", "source_offset"]
        for constraint in inspect(connection).get_unique_constraints("raw_events")
    )


def store(connection: Connection, row: Mapping[str, Any], stored_values: int | None) -> bool:
    """Write a log's cursor and return whether nobody else moved it meanwhile.

    Args:
        connection: inside the transaction that writes the log's events.
        row: the columns of `log_files`.
        stored_values: `values_done` as it was read; None for a log that has no row yet.
    """
    if stored_values is None:
        sql = f"INSERT INTO log_files ({', '.join(row)}) VALUES ({', '.join('?' * len(row))}) ON CONFLICT DO NOTHING"
        values = tuple(row.values())
    else:
        changed = [name for name in row if name not in {"identity", "generation"}]
        sql = (
            f"UPDATE log_files SET {', '.join(f'{name} = ?' for name in changed)}"
            " WHERE identity = ? AND generation = ? AND values_done = ?"
        )
        values = (*(row[name] for name in changed), row["identity"], row["generation"], stored_values)
    cursor = connection.connection.cursor()
    try:
        cursor.execute(writing_of(connection).statement(sql), values)
        return bool(cursor.rowcount == 1)
    finally:
        cursor.close()


def _same_log(row: Any) -> tuple[Any, ...]:
    return (
        _LOG.c.source == row.source,
        _LOG.c.source_inode == row.source_inode,
        _LOG.c.source_generation == row.source_generation,
    )


def _same_event(event: Event) -> tuple[Any, ...]:
    """Return the conditions that find an event by its indexed columns."""
    return (
        _EVENT.c.event_timestamp == event.timestamp,
        _EVENT.c.session_id == event.session_id,
        _EVENT.c.event_type == event.event_type,
    )
