"""Joins the halves of an event: the torn value at the end of a log, and the value that the next log begins with."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import replace

import orjson
from sqlalchemy import Connection

from cowrieprocessor.db.ingest import log_damage as table
from cowrieprocessor.db.ingest.log_damage import Damage, Log
from cowrieprocessor.db.ingest.overlapping_events import add_left_out, times_left_out
from cowrieprocessor.db.ingest.stored_events import copies_of
from cowrieprocessor.events import Event, parse_event
from cowrieprocessor.loader.logs.duplicate_lookup import count_events
from cowrieprocessor.loader.reading.log_names import log_name
from cowrieprocessor.loader.reading.value_reader import Value
from cowrieprocessor.loader.row_writer import write_rows
from cowrieprocessor.loader.torn_letters import Loading, batch_at, source_key_of, withdraw
from cowrieprocessor.sanitize import restore

_NAMES = ("cowrie.", "KIPP")
_HALVES_APART = dt.timedelta(hours=12)


def join_end(connection: Connection, end: Damage, loading: Loading) -> Counter[str]:
    """Join a torn end with the value that the next log begins with, if that is stored."""
    for beginning in _beginnings_after(connection, end):
        changes = _join(connection, end, beginning, loading)
        if changes is not None:
            return changes
    return Counter()


def may_be_joined(connection: Connection, end: Damage) -> bool:
    """Return whether a value that no event is joined from yet makes one with a torn end."""
    return any(
        not beginning.is_explained and _joined_event(connection, end, beginning) is not None
        for beginning in _beginnings_after(connection, end)
    )


def join_beginning(connection: Connection, beginning: Damage, loading: Loading) -> Counter[str] | None:
    """Join the value that a log begins with to the torn end of the log before; None if there is no such log.

    Args:
        connection: in a write transaction that holds the locks of the events.
        beginning: the stored row of the value.
        loading: the load.
    """
    if beginning.moment is None or beginning.raw is None:
        return None
    since = shifted(beginning.moment, -2 * _HALVES_APART)
    for end in reversed(table.ends(connection, since, beginning.moment)):
        changes = _join(connection, end, beginning, loading)
        if changes is not None:
            return changes
    return None


def date_beginning(connection: Connection, log: Log, moment: str, loading: Loading) -> Counter[str]:
    """Note the time of the first event after the value that a log begins with, and join the value if it can be now.

    Args:
        connection: in a write transaction that holds the locks of the events.
        log: the log.
        moment: the time (UTC text) of its first event that has one.
        loading: the load.
    """
    beginning = table.undated_beginning(connection, log)
    if beginning is None:
        return Counter()
    beginning = replace(beginning, moment=moment)
    table.update_row(connection, beginning)
    return join_beginning(connection, beginning, loading) or Counter()


def joined_with(connection: Connection, end: Damage) -> list[Damage]:
    """Return the values of other logs that were joined to a torn end, and are stored as one event with it."""
    if end.joined is None:
        return []
    return [beginning for beginning in _beginnings_after(connection, end) if beginning.joined == end.joined]


def _join(connection: Connection, end: Damage, beginning: Damage, loading: Loading) -> Counter[str] | None:
    """Store the event that two halves make, unless it is stored; None if they do not belong together."""
    event = _joined_event(connection, end, beginning)
    if event is None:
        return None
    if beginning.is_explained and beginning.joined != event.payload_hash:
        return None  # it is the rest of another value
    changes: Counter[str] = Counter()
    for copy in [end, *(other for other in table.same_values(connection, end) if other != end)]:
        changes += withdraw(connection, copy, event.payload_hash)
    if beginning.is_explained:
        return changes
    raw = (end.raw or b"") + (beginning.raw or b"")
    for copy in [beginning, *(other for other in table.same_values(connection, beginning) if other != beginning)]:
        changes += withdraw(connection, copy, event.payload_hash)
        table.move_dead_bytes(connection, copy.log, copy.byte_end - copy.byte_start)
        changes += _store(connection, event, raw, copy, loading)
    return changes


def _joined_event(connection: Connection, end: Damage, beginning: Damage) -> Event | None:
    """Return the event that two halves make, None if they do not belong together."""
    event = None if end.log == beginning.log else _event((end.raw or b"") + (beginning.raw or b""))
    if event is None or not _is_between(end, event, beginning):
        return None
    is_next = end.path is not None and log_name(restore(end.path)) in _names(connection, beginning.log)
    return event if is_next else None


def _beginnings_after(connection: Connection, end: Damage) -> list[Damage]:
    if end.moment is None:
        return []
    return table.beginnings(connection, end.moment, shifted(end.moment, 2 * _HALVES_APART))


def _names(connection: Connection, log: Log) -> set[tuple[str, str]]:
    """Return folder and name, without rotation, of the files that a log was first loaded from and last seen in."""
    row = table.log_of(connection, log)
    return {log_name(restore(row[column])) for column in ("source", "current_path")}


def _store(connection: Connection, event: Event, raw: bytes, beginning: Damage, loading: Loading) -> Counter[str]:
    """Store a joined event as one of the log that has its end, unless other logs have as many of it."""
    row = table.log_of(connection, beginning.log)
    left_out = times_left_out(connection, beginning.log, event.payload_hash)
    if count_events(copies_of(connection, event, source_key_of(row))) > left_out:
        add_left_out(connection, beginning.log, {event.payload_hash: 1})
        return Counter()
    batch = batch_at(row, beginning, loading)
    batch.add(Value(raw.strip(), event.fields, beginning.source_offset, beginning.byte_start, beginning.byte_end))
    rows = batch.rows()
    write_rows(connection, [rows])
    return Counter(rows.counters)


def _event(raw: bytes) -> Event | None:
    """Return the event of Cowrie's that some bytes are, None if they are not exactly one."""
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    event = parse_event(raw.strip(), fields)
    if not isinstance(event, Event) or not event.session_id or event.moment is None:
        return None
    return event if event.event_type is not None and event.event_type.startswith(_NAMES) else None


def _is_between(end: Damage, event: Event, beginning: Damage) -> bool:
    """Return whether an event's time is between those of the events around its halves, and near both."""
    moment = _datetime(event.moment or "")
    before, after = (_datetime(damage.moment) if damage.moment else moment for damage in (end, beginning))
    return before <= moment <= after and moment - before <= _HALVES_APART and after - moment <= _HALVES_APART


def shifted(moment: str, by: dt.timedelta) -> str:
    """Return a time as UTC text, moved by a span, at most to the end of the calendar."""
    try:
        moved = _datetime(moment) + by
    except OverflowError:
        moved = dt.datetime.max if by > dt.timedelta() else dt.datetime.min
    return moved.isoformat(" ", "microseconds")


def _datetime(moment: str) -> dt.datetime:
    return dt.datetime.fromisoformat(moment)
