"""Lookup of events already stored: copies of an event in other logs, and the rows of a log in order.

A row of version 3 belongs to no log of `log_files`. Version 3 rewrote commands before it stored them, so its rows are
compared without the rewritten keys; v4's rows are compared by the hash of the whole payload.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, Text, and_, bindparam, case, cast, func, null, or_, select

from cowrieprocessor.db.chunks import MAX_PARAMETERS, chunks
from cowrieprocessor.db.models import DeadLetterEvent, LogFile, RawEvent
from cowrieprocessor.events import Event, moment_or_none
from cowrieprocessor.json_text import stored_fields

MAX_COMPARED_CHARS = 64 << 10
"""Longer payloads of version 3 are fetched one at a time, because many rows are fetched at once."""

REWRITTEN = frozenset({"input", "command", "input_safe", "input_hash"})
"""Keys that version 3 added in place of a command, or emptied."""

_EVENTS_AT_ONCE = MAX_PARAMETERS // 2 - 2
_NOT_COMPARED = REWRITTEN | {"session", "eventid", "timestamp"}  # the last three are compared as columns

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


class SourceKey(NamedTuple):
    """The log that a row of raw_events was read from, by the row's columns; version 3 sometimes omitted the inode."""

    source: str
    source_inode: str | None
    source_generation: int


class StoredRow(NamedTuple):
    """One row of raw_events; for a row of version 3 `identity` is None, and only then is `payload` given."""

    row_id: int
    source_key: SourceKey
    offset: int
    session_id: str | None
    event_type: str | None
    timestamp: str | None
    payload_hash: str | None
    identity: str | None
    payload: str | None

    @property
    def names_nothing(self) -> bool:
        """Whether session, type and time are all missing, as in version 3's rows for lines that are not events."""
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


def copies_of(connection: Connection, event: Event, log: SourceKey) -> list[StoredRow]:
    """Return the rows of other logs that store the same event.

    An event without a time is looked up by its session; an event with neither cannot be looked up.

    Args:
        connection: any.
        event: the parsed event.
        log: the log that it was read from, whose rows are excluded.
    """
    values = _exclusion(log) | {"session": event.session_id or ""}
    if event.timestamp is not None:
        rows = _rows(connection, _BY_TIME, values | {"timestamp": event.timestamp})
    elif event.session_id:
        rows = _rows(connection, _BY_SESSION, values)
    else:
        return []
    return [row for row in rows if is_same(connection, row, event)]


def times_stored(connection: Connection, log: SourceKey, events: Iterable[Sequence[Any]]) -> Counter[str]:
    """Count the rows of other logs with the same payload_hash, by payload_hash.

    Args:
        connection: any.
        log: the log whose rows are excluded.
        events: session_id, timestamp and payload_hash of each event; further values are ignored. Either session_id or
            timestamp is given.
    """
    counts: Counter[str] = Counter()
    by_time: dict[str, str] = {}
    by_session: dict[str, str] = {}
    for session_id, timestamp, payload_hash, *_ in events:
        if timestamp is None:
            by_session[payload_hash] = session_id
        else:
            by_time[payload_hash] = timestamp
    for statement, keys in ((_EQUAL_BY_TIME, by_time), (_EQUAL_BY_SESSION, by_session)):
        for hashes in chunks(list(keys), _EVENTS_AT_ONCE):
            parameters = {"hashes": hashes, "keys": sorted({keys[payload_hash] for payload_hash in hashes})}
            for payload_hash, count in connection.execute(statement, _exclusion(log) | parameters):
                counts[payload_hash] = count
    return counts


def rows_after(connection: Connection, source_key: SourceKey, offset: int, count: int) -> list[StoredRow]:
    """Return up to `count` rows of a log after an offset, ordered by offset."""
    values = {"source": source_key.source, "generation": source_key.source_generation, "after": offset, "count": count}
    if source_key.source_inode is not None:
        values["inode"] = source_key.source_inode
    return _rows(connection, _IN_ORDER[source_key.source_inode is not None], values)


def holds_dead_letter(connection: Connection, source_key: SourceKey, offset: int, payload: Mapping[str, Any]) -> bool:
    """Return whether a log has a dead letter with the same payload at an offset."""
    query = select(DeadLetterEvent.payload, DeadLetterEvent.metadata_json).where(
        DeadLetterEvent.source == source_key.source, DeadLetterEvent.source_offset == offset
    )
    return any(
        stored == payload
        and (metadata or {}).get("generation", source_key.source_generation) == source_key.source_generation
        for stored, metadata in connection.execute(query)
    )


def offsets(connection: Connection, source_key: SourceKey) -> tuple[int, int] | None:
    """Return the lowest and the highest stored source_offset of a log, None if no row has one."""
    inode = source_key.source_inode
    is_of_log = (
        _EVENT.c.source == source_key.source,
        _EVENT.c.source_inode.is_(None) if inode is None else _EVENT.c.source_inode == inode,
        _EVENT.c.source_generation == source_key.source_generation,
        _EVENT.c.source_offset.is_not(None),
    )
    # Separate queries: SQLite seeks to one end of an index for min() or max(), but scans it for both together.
    first = connection.execute(select(func.min(_EVENT.c.source_offset)).where(*is_of_log)).scalar()
    last = connection.execute(select(func.max(_EVENT.c.source_offset)).where(*is_of_log)).scalar()
    return None if first is None or last is None else (int(first), int(last))


def is_same(connection: Connection, row: StoredRow, event: Event) -> bool:
    """Return whether a row stores an event."""
    if row.payload_hash == event.payload_hash:
        return True
    if row.identity is not None or not _has_same_columns(row, event):
        return False
    fields = _v3_fields(connection, row)
    return fields is not None and _compared(fields) == _compared(event.fields)


def _has_same_columns(row: StoredRow, event: Event) -> bool:
    """Return whether session, type and time are equal; version 3 stored a time as the log spelled it."""
    if (row.session_id, row.event_type) != (event.session_id, event.event_type):
        return False
    return row.timestamp == event.timestamp or (
        event.moment is not None and moment_or_none(row.timestamp) == event.moment
    )


def _v3_fields(connection: Connection, row: StoredRow) -> dict[str, Any] | None:
    """Return the decoded payload of a row of version 3, None if it is not a JSON object."""
    payload = row.payload
    if payload is None:
        payload = connection.execute(_BY_ID, {"row_id": row.row_id}).scalar()
    return stored_fields(payload)


def _compared(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in _NOT_COMPARED}


def _exclusion(log: SourceKey) -> dict[str, Any]:
    """Return the parameters that exclude a log's own rows."""
    return {"source": log.source, "inode": log.source_inode or "", "generation": log.source_generation}


def _rows(connection: Connection, statement: Select[Any], values: dict[str, Any]) -> list[StoredRow]:
    return [_row(row) for row in connection.execute(statement, values)]


def _row(row: Sequence[Any]) -> StoredRow:
    row_id, source, inode, generation, offset, *rest = row
    return StoredRow(row_id, SourceKey(source, inode, generation), -1 if offset is None else offset, *rest)
