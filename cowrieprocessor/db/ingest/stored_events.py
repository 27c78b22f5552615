"""What raw_events holds of other logs: the same event elsewhere, and the rows of a log in their order.

A row of version 3 belongs to no log of `log_files`. Version 3 rewrote commands before it stored them, so that its rows
are compared without what it rewrote; ours by the hash of the whole payload.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, Text, and_, bindparam, case, cast, func, null, or_, select

from cowrieprocessor.db.chunks import MAX_PARAMETERS, chunks
from cowrieprocessor.db.models import DeadLetterEvent, LogFile, RawEvent
from cowrieprocessor.events import Event, moment_or_none

MAX_COMPARED_CHARS = 64 << 10
"""A payload of version 3 that is longer is fetched by itself: many rows are fetched at once."""

REWRITTEN = frozenset({"input", "command", "input_safe", "input_hash"})
"""What version 3 put in the place of a command, and the keys that it emptied."""

_EVENTS_AT_ONCE = MAX_PARAMETERS // 2 - 2
_NOT_COMPARED = REWRITTEN | {"session", "eventid", "timestamp"}  # the last are compared as columns

_LOG = LogFile.__table__
_EVENT = RawEvent.__table__
_EVENT_AND_LOG = _EVENT.outerjoin(
    _LOG,
    and_(
        _LOG.c.source == _EVENT.c.source,
        _LOG.c.source_inode == _EVENT.c.source_inode,
        _LOG.c.source_generation == _EVENT.c.source_generation,
    ),
)
_TEXT = cast(_EVENT.c.payload, Text)
_PAYLOAD_OF_V3 = case(
    (and_(_LOG.c.identity.is_(None), func.length(_TEXT) <= MAX_COMPARED_CHARS), _TEXT), else_=null()
).label("payload")
_ROW = select(
    _EVENT.c.id,
    _EVENT.c.source,
    _EVENT.c.source_inode,
    _EVENT.c.source_generation,
    _EVENT.c.source_offset,
    _EVENT.c.session_id,
    _EVENT.c.event_type,
    _EVENT.c.event_timestamp,
    _EVENT.c.payload_hash,
    _LOG.c.identity,
    _PAYLOAD_OF_V3,
).select_from(_EVENT_AND_LOG)


class Place(NamedTuple):
    """Which log a row of raw_events was read from, as the row says it; version 3 left inodes out at times."""

    source: str
    source_inode: str | None
    source_generation: int


class StoredRow(NamedTuple):
    """One row of raw_events; `identity` is None where version 3 wrote it, `payload` is only given then."""

    row_id: int
    place: Place
    offset: int
    session_id: str | None
    event_type: str | None
    timestamp: str | None
    payload_hash: str | None
    identity: str | None
    payload: str | None

    @property
    def names_nothing(self) -> bool:
        """Whether it has neither session, name nor time: what version 3 made of a line that is no event."""
        return self.session_id is None and self.event_type is None and self.timestamp is None


_NOT_OURS = or_(
    _EVENT.c.source != bindparam("source"),
    func.coalesce(_EVENT.c.source_inode, "") != bindparam("inode"),
    _EVENT.c.source_generation != bindparam("generation"),
)
_SAME_SESSION = func.coalesce(_EVENT.c.session_id, "") == bindparam("session")
_BY_TIME = _ROW.where(_EVENT.c.event_timestamp == bindparam("timestamp"), _SAME_SESSION, _NOT_OURS)
_BY_SESSION = _ROW.where(
    _EVENT.c.session_id == bindparam("session"), _EVENT.c.event_timestamp.is_(None), _NOT_OURS
).limit(1000)
_EQUAL = (
    select(_EVENT.c.payload_hash, func.count())
    .where(_EVENT.c.payload_hash.in_(bindparam("hashes", expanding=True)), _NOT_OURS)
    .group_by(_EVENT.c.payload_hash)
)
_EQUAL_BY_TIME = _EQUAL.where(_EVENT.c.event_timestamp.in_(bindparam("keys", expanding=True)))
_EQUAL_BY_SESSION = _EQUAL.where(_EVENT.c.session_id.in_(bindparam("keys", expanding=True)))
_IN_ORDER = {
    has_inode: _ROW.where(
        _EVENT.c.source == bindparam("source"),
        _EVENT.c.source_inode == bindparam("inode") if has_inode else _EVENT.c.source_inode.is_(None),
        _EVENT.c.source_generation == bindparam("generation"),
        _EVENT.c.source_offset > bindparam("after"),
    )
    .order_by(_EVENT.c.source_offset, _EVENT.c.id)
    .limit(bindparam("count"))
    for has_inode in (False, True)
}
_BY_ID = select(_TEXT).where(_EVENT.c.id == bindparam("row_id"))


def copies_of(connection: Connection, event: Event, log: Place) -> list[StoredRow]:
    """Return the rows of other logs that hold the same event.

    An event without a time is looked up among those of its session; one that has neither cannot be looked up.

    Args:
        connection: any.
        event: as it was parsed.
        log: the log it was read from, whose rows do not count.
    """
    values = _values(log) | {"session": event.session_id or ""}
    if event.timestamp is not None:
        rows = _rows(connection, _BY_TIME, values | {"timestamp": event.timestamp})
    elif event.session_id:
        rows = _rows(connection, _BY_SESSION, values)
    else:
        return []
    return [row for row in rows if is_same(connection, row, event)]


def times_stored(connection: Connection, log: Place, events: Iterable[Sequence[Any]]) -> Counter[str]:
    """Return how many rows of other logs hold events with the same payload_hash.

    Args:
        connection: any.
        log: the log whose rows do not count.
        events: session_id, timestamp and payload_hash of each event; more may follow. One of the first two is there.
    """
    found: Counter[str] = Counter()
    by_time: dict[str, str] = {}
    by_session: dict[str, str] = {}
    for session_id, timestamp, payload_hash, *_ in events:
        if timestamp is None:
            by_session[payload_hash] = session_id
        else:
            by_time[payload_hash] = timestamp
    for statement, keys in ((_EQUAL_BY_TIME, by_time), (_EQUAL_BY_SESSION, by_session)):
        for hashes in chunks(list(keys), _EVENTS_AT_ONCE):
            named = {"hashes": hashes, "keys": sorted({keys[one] for one in hashes})}
            for payload_hash, count in connection.execute(statement, _values(log) | named):
                found[payload_hash] = count
    return found


def rows_after(connection: Connection, place: Place, offset: int, count: int) -> list[StoredRow]:
    """Return the next rows of a log behind an offset, in its order, at most `count`."""
    values = {"source": place.source, "generation": place.source_generation, "after": offset, "count": count}
    if place.source_inode is not None:
        values["inode"] = place.source_inode
    return _rows(connection, _IN_ORDER[place.source_inode is not None], values)


def logs_like(connection: Connection, identity: str) -> list[Place]:
    """Return the logs that begin with the same object, as their rows say them."""
    query = select(_LOG.c.source, _LOG.c.source_inode, _LOG.c.source_generation).where(_LOG.c.identity == identity)
    return [Place(*row) for row in connection.execute(query)]


def holds_dead_letter(connection: Connection, place: Place, offset: int, payload: Mapping[str, Any]) -> bool:
    """Return whether a log has a dead letter at an offset that holds the same bytes."""
    query = select(DeadLetterEvent.payload, DeadLetterEvent.metadata_json).where(
        DeadLetterEvent.source == place.source, DeadLetterEvent.source_offset == offset
    )
    return any(
        stored == payload and (metadata or {}).get("generation", place.source_generation) == place.source_generation
        for stored, metadata in connection.execute(query)
    )


def offsets(connection: Connection, place: Place) -> tuple[int, int] | None:
    """Return the lowest and the highest source_offset that is stored of a log, None where nothing is."""
    inode = place.source_inode
    of_log = (
        _EVENT.c.source == place.source,
        _EVENT.c.source_inode.is_(None) if inode is None else _EVENT.c.source_inode == inode,
        _EVENT.c.source_generation == place.source_generation,
        _EVENT.c.source_offset.is_not(None),
    )
    # One at a time, because SQLite goes straight to either end of an index, but not to both.
    first = connection.execute(select(func.min(_EVENT.c.source_offset)).where(*of_log)).scalar()
    last = connection.execute(select(func.max(_EVENT.c.source_offset)).where(*of_log)).scalar()
    return None if first is None or last is None else (int(first), int(last))


def is_same(connection: Connection, row: StoredRow, event: Event) -> bool:
    """Return whether a row holds an event."""
    if row.payload_hash == event.payload_hash:
        return True
    if row.identity is not None or (row.session_id, row.event_type) != (event.session_id, event.event_type):
        return False
    if row.timestamp != event.timestamp and (event.moment is None or moment_or_none(row.timestamp) != event.moment):
        return False
    payload = row.payload
    if payload is None:
        payload = connection.execute(_BY_ID, {"row_id": row.row_id}).scalar()
    try:
        stored = json.loads(payload or "null")
    except (ValueError, RecursionError):
        return False
    return isinstance(stored, dict) and _compared(stored) == _compared(event.fields)


def _compared(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in _NOT_COMPARED}


def _values(log: Place) -> dict[str, Any]:
    """Return what a statement has to know to leave a log's own rows out."""
    return {"source": log.source, "inode": log.source_inode or "", "generation": log.source_generation}


def _rows(connection: Connection, statement: Select[Any], values: dict[str, Any]) -> list[StoredRow]:
    return [_row(row) for row in connection.execute(statement, values)]


def _row(row: Sequence[Any]) -> StoredRow:
    row_id, source, inode, generation, offset, *rest = row
    return StoredRow(row_id, Place(source, inode, generation), -1 if offset is None else offset, *rest)
