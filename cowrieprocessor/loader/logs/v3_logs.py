"""Which log of version 3 a file is: found by its first events and version 3's cursors, proven by stored rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import Connection

from cowrieprocessor.db.ingest.stored_events import SourceKey, copies_of, offsets
from cowrieprocessor.db.ingest.v3_cursors import V3Cursor, cursors
from cowrieprocessor.events import Event
from cowrieprocessor.json_text import hash_payload
from cowrieprocessor.loader.logs.duplicate_lookup import V3Log

FirstValue = tuple[int, Event | bytes]
"""source_offset of a value, and its event, or its bytes if it is not an event."""

_NO_LOG = SourceKey("", "", -1)


def find_v3_log(connection: Connection, values: Sequence[FirstValue]) -> V3Log | None:
    """Return what version 3 stored of a log, or None if it seems not to have known it.

    Version 3 may have stored the same log under several names. The one with most of the first events is taken; where
    none has any, the one whose cursor has the hash of the first line.

    Args:
        connection: a connection to the database.
        values: the log's first values.
    """
    v3_cursors = cursors(connection)
    votes = _count_matches(connection, values)
    if votes:
        return _furthest_match(connection, votes, v3_cursors)
    return _match_by_first_line(connection, values, v3_cursors)


def _count_matches(connection: Connection, values: Sequence[FirstValue]) -> Counter[tuple[SourceKey, int]]:
    """Return how many of the values each log of version 3 has, by log and shift of its offsets."""
    votes: Counter[tuple[SourceKey, int]] = Counter()
    for offset, value in values:
        if isinstance(value, Event):
            rows = copies_of(connection, value, _NO_LOG)
            votes.update({(row.source_key, row.offset - offset) for row in rows if row.identity is None})
    return votes


def _furthest_match(
    connection: Connection, votes: Counter[tuple[SourceKey, int]], v3_cursors: Sequence[V3Cursor]
) -> V3Log:
    """Return the log with most matches; of several, the one of which version 3 read most."""
    most = max(votes.values())
    candidates = [
        V3Log(source_key, shift, _last_offset_read(connection, source_key, v3_cursors) - shift)
        for (source_key, shift), count in votes.items()
        if count == most
    ]
    return max(candidates, key=lambda log: (log.until, log.source_key.source))


def _match_by_first_line(
    connection: Connection, values: Sequence[FirstValue], v3_cursors: Sequence[V3Cursor]
) -> V3Log | None:
    """Return the log whose cursor has the hash of the first line, if any of its rows is stored."""
    first_hash = _first_hash(values)
    if first_hash is None:
        return None
    for cursor in v3_cursors:
        if cursor.first_hash == first_hash and offsets(connection, cursor.source_key):
            return V3Log(cursor.source_key, 0, _last_offset_read(connection, cursor.source_key, v3_cursors))
    return None


def _last_offset_read(connection: Connection, source_key: SourceKey, v3_cursors: Sequence[V3Cursor]) -> int:
    """Return the last line that version 3 read of a log: the last one stored, or one it skipped after that."""
    stored = offsets(connection, source_key)
    read = (cursor.last_offset for cursor in v3_cursors if cursor.source_key == source_key)
    return max(-1, stored[1] if stored else -1, *read)


def _first_hash(values: Sequence[FirstValue]) -> str | None:
    """Return the payload_hash that version 3 would have given the first line."""
    if not values or values[0][0]:
        return None
    value = values[0][1]
    if isinstance(value, Event):
        return value.payload_hash
    return hash_payload({"malformed": value.decode(errors="replace")})
