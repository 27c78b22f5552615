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
from dataclasses import replace
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection

from cowrieprocessor.db.ingest import log_damage as table
from cowrieprocessor.db.ingest.damage_kinds import TORN_END
from cowrieprocessor.db.ingest.log_damage import Damage, Log
from cowrieprocessor.events import moment_or_none
from cowrieprocessor.loader.joined_halves import join_end, may_be_joined, shifted
from cowrieprocessor.loader.logs.damage import digest_of_bytes
from cowrieprocessor.loader.rows.batch import PAYLOAD, BatchRows
from cowrieprocessor.loader.torn_letters import Loading, add_letter, withdraw
from cowrieprocessor.sanitize import inert

_SAME_DAY = dt.timedelta(days=1)
_TIMESTAMP = re.compile(r'"timestamp"\s*:\s*"((?:[^"\\]|\\.)+)"')


class File(NamedTuple):
    """A file that a log is in.

    Attributes:
        place: its key, as in `followed_files`.
        path: where it is.
    """

    place: str
    path: str


def explain_ends(connection: Connection, rows: BatchRows) -> Counter[str]:
    """Find the torn ends whose events are in a batch; return what changed, by counter.

    Args:
        connection: in the batch's transaction.
        rows: the batch.
    """
    if rows.times is None or not rows.events:
        return Counter()
    since, until = shifted(rows.times[0], -_SAME_DAY), rows.times[1]
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
        changes += join_end(connection, end, loading)
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
    if ends[0].joined is None and may_be_joined(connection, ends[0]):
        return True
    if not is_finished or ends[0].is_explained:
        return False
    return not any(other.has_letter for other in table.same_values(connection, ends[0]))


def begins(end: Damage, payload: str) -> bool:
    """Return whether the event of a payload may be the one of which a torn end is the beginning."""
    text = _text(end)
    if text is None:
        return False
    beginning = table.without_blanks(text)
    head = table.without_blanks(payload[: table.head_length(len(beginning))])
    return head.startswith(beginning) and _is_in_time(end, _timestamp(payload))


def is_stored(connection: Connection, end: Damage) -> bool:
    """Return whether an event is stored that a torn end is the beginning of."""
    text = _text(end)
    if text is None or end.moment is None:
        return False
    since, until = (shifted(end.moment, days).replace(" ", "T") for days in (-_SAME_DAY, 2 * _SAME_DAY))
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
    return _own_timestamp(_text(end) or "") is not None or end.moment <= moment <= shifted(end.moment, _SAME_DAY)


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
