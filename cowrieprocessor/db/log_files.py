"""The statements about logs: `log_files`, and what raw_events tells about logs that v3 loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, func, inspect, or_, select

from cowrieprocessor.db.dialects.writing import writing_of
from cowrieprocessor.db.models import LogFile, RawEvent
from cowrieprocessor.events import Event

COLUMNS = tuple(column.name for column in LogFile.__table__.columns if column.name != "updated_at")
_LOG = LogFile.__table__
_EVENT = RawEvent.__table__
_SAME_EVENT_LIMIT = 100


@dataclass(frozen=True, slots=True)
class HeldRow:
    """A row that is in raw_events at an offset: what can be compared, since v3 rewrote some payloads."""

    session_id: str | None
    event_type: str | None
    event_timestamp: str | None

    def is_same(self, event: Event) -> bool:
        """Whether it is the row of this event."""
        return (self.session_id, self.event_type, self.event_timestamp) == (
            event.session_id,
            event.event_type,
            event.timestamp,
        )

    @property
    def is_malformed(self) -> bool:
        """Whether v3 kept a line here that it could not read."""
        return self.session_id is None and self.event_type is None


def generations(connection: Connection, identity: str) -> Sequence[Mapping[str, Any]]:
    """Return the logs with this first object, the longest first."""
    rows = connection.execute(
        select(_LOG).where(_LOG.c.identity == identity).order_by(_LOG.c.values_done.desc(), _LOG.c.generation)
    )
    return [dict(row) for row in rows.mappings()]


def is_stored(connection: Connection, log: Mapping[str, Any], event: Event) -> bool:
    """Return whether a log's rows hold this event."""
    found = connection.execute(
        select(_EVENT.c.id)
        .where(
            *_same_event(event),
            _EVENT.c.payload_hash == event.payload_hash,
            _EVENT.c.source == log["source"],
            _EVENT.c.source_inode == log["source_inode"],
        )
        .limit(1)
    )
    return found.first() is not None


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


def log_of_v3(connection: Connection, event: Event, offset: int, path: str) -> tuple[str, str | None, int] | None:
    """Return source, inode and generation of the log that v3 loaded with this first event at this offset.

    Of several, the one under the same path, else the first in binary order.
    """
    rows = connection.execute(
        select(_EVENT.c.source, _EVENT.c.source_inode, _EVENT.c.source_generation)
        .select_from(
            _EVENT.outerjoin(
                _LOG,
                and_(
                    _LOG.c.source == _EVENT.c.source,
                    _LOG.c.source_inode == _EVENT.c.source_inode,
                    _LOG.c.source_generation == _EVENT.c.source_generation,
                ),
            )
        )
        .where(*_same_event(event), _EVENT.c.source_offset == offset, _LOG.c.identity.is_(None))
        .limit(_SAME_EVENT_LIMIT)
    ).all()
    found = [(row.source, row.source_inode, row.source_generation) for row in rows]
    if not found:
        return None
    taken = {source for source, inode, _ in found if inode is None and _has_log(connection, source)}
    candidates = [key for key in found if key[0] not in taken]
    return min(candidates, key=lambda key: (not path.endswith(key[0]), key[0], str(key[1]), key[2]), default=None)


def _has_log(connection: Connection, source: str) -> bool:
    return connection.execute(select(_LOG.c.identity).where(_LOG.c.source == source).limit(1)).first() is not None


def free_generation(connection: Connection, source: str, inode: str) -> int:
    """Return the first source_generation of (source, inode) that neither a log nor an event has."""
    one_generation = allows_one_generation(connection)
    highest = -1
    for table in (_LOG, _EVENT):
        statement = select(func.max(table.c.source_generation)).where(table.c.source == source)
        if not one_generation:
            statement = statement.where(table.c.source_inode == inode)
        found = connection.execute(statement).scalar()
        highest = max(highest, -1 if found is None else int(found))
    return highest + 1


def allows_one_generation(connection: Connection) -> bool:
    """Return whether raw_events keeps v1's constraint that a source has each offset only once."""
    return any(
        constraint["column_names"] == ["source", "source_offset"]
        for constraint in inspect(connection).get_unique_constraints("raw_events")
    )


def held_until(connection: Connection, source: str, inode: str, generation: int) -> int:
    """Return the highest offset at which rows of this log, or of v3 without an inode, are stored; -1 if none."""
    highest = -1
    for key in (
        (_EVENT.c.source_inode == inode) & (_EVENT.c.source_generation == generation),
        _EVENT.c.source_inode.is_(None),
    ):
        found = connection.execute(
            select(func.max(_EVENT.c.source_offset)).where(_EVENT.c.source == source, key)
        ).scalar()
        highest = max(highest, -1 if found is None else int(found))
    return highest


def held_rows(connection: Connection, log: Mapping[str, Any], first: int, last: int) -> dict[int, HeldRow]:
    """Return the rows that are stored for a log's offsets from `first` to `last`, both included."""
    rows = connection.execute(
        select(_EVENT.c.source_offset, _EVENT.c.session_id, _EVENT.c.event_type, _EVENT.c.event_timestamp).where(
            _EVENT.c.source == log["source"],
            or_(
                and_(
                    _EVENT.c.source_inode == log["source_inode"],
                    _EVENT.c.source_generation == log["source_generation"],
                ),
                _EVENT.c.source_inode.is_(None),
            ),
            _EVENT.c.source_offset.between(first, last),
        )
    )
    return {row.source_offset: HeldRow(row.session_id, row.event_type, row.event_timestamp) for row in rows}


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


def _same_event(event: Event) -> tuple[Any, ...]:
    """Return the conditions that find an event by its indexed columns."""
    return (
        _EVENT.c.event_timestamp == event.timestamp,
        _EVENT.c.session_id == event.session_id,
        _EVENT.c.event_type == event.event_type,
    )
