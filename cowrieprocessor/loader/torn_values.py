"""Values torn at the end of a log: found whole elsewhere, joined with the rest in the next log, or dead letters.

A torn end stays after the log's cursor, so that the log can still grow. What becomes of it depends only on what is
stored, never on the order of loading: it is explained by a stored event that begins with its bytes, or by the value
that the next log begins with, if both together are an event. Only while neither is there, a finished log has a dead
letter for it.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection

from cowrieprocessor.db.ingest import log_damage as table
from cowrieprocessor.db.ingest.damage_kinds import TORN_END
from cowrieprocessor.db.ingest.log_damage import Damage, Log
from cowrieprocessor.db.ingest.overlapping_events import add_left_out, times_left_out
from cowrieprocessor.db.ingest.statements import LoadingStatements
from cowrieprocessor.db.ingest.stored_events import SourceKey, copies_of
from cowrieprocessor.events import REFUSED_NOT_JSON, Event, Refused, moment_or_none, parse_event
from cowrieprocessor.loader.logs.checkpoint import Checkpoint
from cowrieprocessor.loader.logs.damage import digest_of_bytes
from cowrieprocessor.loader.logs.duplicate_lookup import count_events
from cowrieprocessor.loader.reading.log_names import log_name
from cowrieprocessor.loader.reading.value_reader import Value
from cowrieprocessor.loader.row_writer import write_rows
from cowrieprocessor.loader.rows.batch import DEAD_LETTERS, PAYLOAD, Batch, BatchRows
from cowrieprocessor.sanitize import inert, restore

WITHDRAWN = "dead_letters_withdrawn"
"""Counter of dead letters that were deleted because what was torn is stored now."""

EVENTS_TAKEN_BACK = "events_taken_back"
"""Counter of joined events that were removed because the log with the first half goes on in another way."""

_SAME_DAY = dt.timedelta(days=1)
_NAMES = ("cowrie.", "KIPP")
_HALVES_APART = dt.timedelta(hours=12)
_TIMESTAMP = re.compile(r'"timestamp"\s*:\s*"((?:[^"\\]|\\.)+)"')
_FORMAT = "%Y-%m-%d %H:%M:%S.%f"
_TORN = Refused(REFUSED_NOT_JSON, "the log ends within it")
_REST = Refused(REFUSED_NOT_JSON, "the log begins within it")


class File(NamedTuple):
    """A file that a log is in.

    Attributes:
        place: its key, as in `followed_files`.
        path: where it is.
    """

    place: str
    path: str


@dataclass(frozen=True, slots=True)
class Loading:
    """What the rows of torn values carry of the load that writes them."""

    ingest_id: str
    now: str
    fills_event_columns: bool


def explain_ends(connection: Connection, rows: BatchRows) -> Counter[str]:
    """Find the torn ends whose events are in a batch; return what changed, by counter.

    Args:
        connection: in the batch's transaction.
        rows: the batch.
    """
    if rows.times is None or not rows.events:
        return Counter()
    since, until = _shifted(rows.times[0], -_SAME_DAY), rows.times[1]
    if not table.has_unexplained_end(connection, since, until):
        return Counter()
    changes: Counter[str] = Counter()
    payloads = [row[PAYLOAD] for row in rows.events]
    for end in table.unexplained_ends(connection, since, until):
        if any(begins(end, payload) for payload in payloads):
            changes += withdraw(connection, end)
    return changes


def record_end(
    connection: Connection, log: Log, pending: bytes, file: File, *, line: int, is_finished: bool, loading: Loading
) -> Counter[str]:
    """Store the torn value at the end of a log; return what changed, by counter.

    Args:
        connection: in a write transaction that holds the locks of all events.
        log: the log.
        pending: the bytes after its cursor.
        file: the file that ends with it.
        line: 0-based number of the line on which they begin.
        is_finished: whether nothing will be appended to the log.
        loading: the load.
    """
    row = table.log_of(connection, log)
    end = next((end for end in table.ends_in_file(connection, file.place) if is_same_end(end, row, pending)), None)
    changes: Counter[str] = Counter()
    if end is None:
        end = Damage(
            *log,
            byte_start=row["byte_pos"],
            byte_end=row["byte_pos"] + len(pending),
            kind=TORN_END,
            source_offset=max(line, row["next_offset"]),
            context=row["last_value_hash"] or "",
            digest=digest_of_bytes(pending),
            moment=moment_or_none(_own_timestamp(pending.decode(errors="replace"))) or row["last_event_at"],
            raw=pending,
            place=file.place,
            path=inert(file.path),
        )
        end = replace(end, is_explained=is_stored(connection, end))
        table.add(connection, [end])
    if end.joined is None:
        changes += _join_end(connection, end, loading)
    same = table.same_values(connection, end)
    end = next(other for other in same if (other.log, other.kind, other.place) == (log, TORN_END, file.place))
    if is_finished and not end.is_explained and not any(other.has_letter for other in same):
        changes += add_letter(connection, end, loading)
    return changes


def is_same_end(end: Damage, row: Mapping[str, Any], pending: bytes) -> bool:
    """Return whether a torn end is that of a log with these bytes after its cursor; `row` is of `log_files`."""
    place = (end.identity, end.generation, end.byte_start)
    return place == (row["identity"], row["generation"], row["byte_pos"]) and end.digest == digest_of_bytes(pending)


def needs_recording(connection: Connection, log: Log, pending: bytes, file: File, *, is_finished: bool) -> bool:
    """Return whether the torn ends of a file are not stored as they are now; without `pending` bytes it has none."""
    row = table.log_of(connection, log)
    ends = [end for end in table.ends_in_file(connection, file.place) if end.identity == log[0]]
    if not pending:
        return bool(ends)
    if len(ends) != 1 or not is_same_end(ends[0], row, pending):
        return True
    if ends[0].joined is None and _may_be_joined(connection, ends[0]):
        return True
    if not is_finished or ends[0].is_explained:
        return False
    return not any(other.has_letter for other in table.same_values(connection, ends[0]))


def add_letter(connection: Connection, damage: Damage, loading: Loading) -> Counter[str]:
    """Store the dead letter of a torn end, or of a value that is the rest of one."""
    row = table.log_of(connection, damage.log)
    refused, more = (_TORN, {"torn": True}) if damage.kind == TORN_END else (_REST, {})
    value = Value((damage.raw or b"").strip(), None, damage.source_offset, damage.byte_start, damage.byte_end, refused)
    letter = _batch(row, damage, loading).dead_letter(value, damage.source_offset, refused, more)
    statements = LoadingStatements(connection)
    try:
        statements.insert_dead_letters([letter])
    finally:
        statements.close()
    table.update_row(connection, replace(damage, has_letter=True))
    return Counter({DEAD_LETTERS: 1})


def join_beginning(connection: Connection, beginning: Damage, loading: Loading) -> Counter[str] | None:
    """Join the value that a log begins with to the torn end of the log before; None if there is no such log.

    Args:
        connection: in a write transaction that holds the locks of the events.
        beginning: the stored row of the value.
        loading: the load.
    """
    if beginning.moment is None or beginning.raw is None:
        return None
    since = _shifted(beginning.moment, -2 * _HALVES_APART)
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


def begins(end: Damage, payload: str) -> bool:
    """Return whether the event of a payload may be the one of which a torn end is the beginning."""
    text = _text(end)
    if text is None:
        return False
    beginning = table.without_blanks(text)
    head = table.without_blanks(payload[: table.head_length(len(beginning))])
    return head.startswith(beginning) and _is_in_time(end, _timestamp(payload))


def joined_with(connection: Connection, end: Damage) -> list[Damage]:
    """Return the values of other logs that were joined to a torn end, and are stored as one event with it."""
    if end.joined is None:
        return []
    return [beginning for beginning in _beginnings_after(connection, end) if beginning.joined == end.joined]


def forget_end(connection: Connection, end: Damage, loading: Loading) -> Counter[str]:
    """Forget the torn end of a file that does not end with it any more.

    Another file that ends with it keeps the dead letter.
    """
    changes = _withdraw(connection, end)
    table.remove(connection, end)
    if changes:
        others = [other for other in table.same_values(connection, end) if not other.is_explained]
        if others and not any(other.has_letter for other in others):
            changes += add_letter(connection, others[0], loading)
    return changes


def restore_letter(connection: Connection, damage: Damage, loading: Loading) -> Counter[str]:
    """Store the dead letter of a value that is not part of an event after all, unless a copy of the log has it."""
    if any(other.has_letter for other in table.same_values(connection, damage)):
        return Counter()
    return add_letter(connection, damage, loading)


def withdraw(connection: Connection, damage: Damage, joined: str | None = None) -> Counter[str]:
    """Delete the dead letter of a damaged place because its bytes are stored now, and note that.

    Args:
        connection: in a write transaction.
        damage: the place.
        joined: the hash of the event, if the bytes are a half of it.
    """
    changes = _withdraw(connection, damage)
    table.update_row(connection, replace(damage, has_letter=False, is_explained=True, joined=joined or damage.joined))
    return changes


def _withdraw(connection: Connection, damage: Damage) -> Counter[str]:
    if not damage.has_letter:
        return Counter()
    row = table.log_of(connection, damage.log)
    is_removed = table.remove_letter(connection, _source_key(row), damage)
    return Counter({WITHDRAWN: int(is_removed)}) if is_removed else Counter()


def _join_end(connection: Connection, end: Damage, loading: Loading) -> Counter[str]:
    """Join a torn end with the value that the next log begins with, if that is stored."""
    for beginning in _beginnings_after(connection, end):
        changes = _join(connection, end, beginning, loading)
        if changes is not None:
            return changes
    return Counter()


def _may_be_joined(connection: Connection, end: Damage) -> bool:
    """Return whether a value is stored that makes an event with a torn end, in a file that may be the next one."""
    return any(
        not beginning.is_explained and _joined_event(connection, end, beginning) is not None
        for beginning in _beginnings_after(connection, end)
    )


def _beginnings_after(connection: Connection, end: Damage) -> list[Damage]:
    if end.moment is None:
        return []
    return table.beginnings(connection, end.moment, _shifted(end.moment, 2 * _HALVES_APART))


def _join(connection: Connection, end: Damage, beginning: Damage, loading: Loading) -> Counter[str] | None:
    """Store the event that two halves make, unless it is stored; None if they do not belong together."""
    event = _joined_event(connection, end, beginning)
    if event is None:
        return None
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


def _names(connection: Connection, log: Log) -> set[tuple[str, str]]:
    """Return folder and name, without rotation, of the files that a log was first loaded from and last seen in."""
    row = table.log_of(connection, log)
    return {log_name(restore(row[column])) for column in ("source", "current_path")}


def _store(connection: Connection, event: Event, raw: bytes, beginning: Damage, loading: Loading) -> Counter[str]:
    """Store a joined event as one of the log that has its end, unless other logs have as many of it."""
    row = table.log_of(connection, beginning.log)
    left_out = times_left_out(connection, beginning.log, event.payload_hash)
    if count_events(copies_of(connection, event, _source_key(row))) > left_out:
        add_left_out(connection, beginning.log, {event.payload_hash: 1})
        return Counter()
    batch = _batch(row, beginning, loading)
    batch.add(Value(raw.strip(), event.fields, beginning.source_offset, beginning.byte_start, beginning.byte_end))
    rows = batch.rows()
    write_rows(connection, [rows])
    return Counter(rows.counters)


def _batch(row: Mapping[str, Any], damage: Damage, loading: Loading) -> Batch:
    """Return a batch for rows of a log at a damaged place."""
    checkpoint = Checkpoint(
        identity=row["identity"],
        generation=row["generation"],
        source=row["source"],
        source_inode=row["source_inode"],
        source_generation=row["source_generation"],
        current_path=row["current_path"],
        next_offset=damage.source_offset,
    )
    return Batch(checkpoint, loading.ingest_id, loading.now, loading.fills_event_columns)


def _source_key(row: Mapping[str, Any]) -> SourceKey:
    return SourceKey(row["source"], row["source_inode"], row["source_generation"])


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


def is_stored(connection: Connection, end: Damage) -> bool:
    """Return whether an event is stored that a torn end is the beginning of."""
    text = _text(end)
    if text is None or end.moment is None:
        return False
    since, until = (_shifted(end.moment, days).replace(" ", "T") for days in (-_SAME_DAY, 2 * _SAME_DAY))
    if timestamp := _own_timestamp(text):
        since = until = timestamp
    found = table.timestamps_beginning_with(connection, table.without_blanks(text), since, until)
    return any(_is_in_time(end, timestamp) for timestamp in found)


def _is_in_time(end: Damage, timestamp: object) -> bool:
    """Return whether an event that begins like a torn end may be its event: it names the time, or is of the next day.

    A torn end of a few bytes begins like most events; nothing more can be said of it.
    """
    moment = moment_or_none(timestamp)
    if moment is None or end.moment is None:
        return False
    return _own_timestamp(_text(end) or "") is not None or end.moment <= moment <= _shifted(end.moment, _SAME_DAY)


def _text(end: Damage) -> str | None:
    """Return the bytes of a torn end as text, without a character that is cut; None if it does not begin an object."""
    raw = end.raw or b""
    for cut in range(min(4, len(raw))):
        try:
            text = raw[: len(raw) - cut].decode()
        except UnicodeDecodeError:
            continue
        return text if text.startswith("{") else None
    return None


def _own_timestamp(text: str) -> str | None:
    found = _TIMESTAMP.search(text)
    return found[1] if found else None


def _timestamp(payload: str) -> object:
    return orjson.loads(payload).get("timestamp")


def _shifted(moment: str, by: dt.timedelta) -> str:
    return (_datetime(moment) + by).strftime(_FORMAT)


def _datetime(moment: str) -> dt.datetime:
    return dt.datetime.strptime(moment, _FORMAT)
