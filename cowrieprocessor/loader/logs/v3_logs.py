"""Which log of version 3 a file is: found by its first events and by version 3's cursors, proven by what is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import Connection

from cowrieprocessor.db.ingest.stored_events import SourceKey, copies_of, offsets
from cowrieprocessor.db.ingest.v3_cursors import V3Cursor, cursors
from cowrieprocessor.events import Event, hash_payload
from cowrieprocessor.loader.logs.duplicate_lookup import V3Log

FirstValue = tuple[int, Event | bytes]
"""source_offset of a value, and the event that it is or else its bytes."""

_NO_LOG = SourceKey("", "", -1)


def find_v3_log(connection: Connection, values: Sequence[FirstValue]) -> V3Log | None:
    """Return what version 3 stored of a log, None where it does not seem to have known it.

    The same log can be there under several names. The one that holds most of the first events is taken; where it
    holds none of them, the one of whose first line a cursor keeps the hash.

    Args:
        connection: any.
        values: the log's first values.
    """
    known = cursors(connection)
    votes: Counter[tuple[SourceKey, int]] = Counter()
    for offset, value in values:
        if isinstance(value, Event):
            rows = copies_of(connection, value, _NO_LOG)
            votes.update({(row.source_key, row.offset - offset) for row in rows if row.identity is None})
    if votes:
        most = max(votes.values())
        reached = {
            (place, shift): _reached(connection, place, known) - shift
            for (place, shift), count in votes.items()
            if count == most
        }
        (place, shift), until = max(reached.items(), key=lambda one: (one[1], one[0][0].source))
        return V3Log(place, shift, until)
    first = _first_hash(values)
    for cursor in known:
        if first is not None and cursor.first_hash == first and offsets(connection, cursor.source_key):
            return V3Log(cursor.source_key, 0, _reached(connection, cursor.source_key, known))
    return None


def _reached(connection: Connection, source_key: SourceKey, known: Sequence[V3Cursor]) -> int:
    """Return the last line that version 3 read of a log: what it stored, and what it passed over behind that."""
    stored = offsets(connection, source_key)
    return max(-1, stored[1] if stored else -1, *(one.last_offset for one in known if one.source_key == source_key))


def _first_hash(values: Sequence[FirstValue]) -> str | None:
    """Return the payload_hash that version 3 would have given the first line."""
    if not values or values[0][0]:
        return None
    value = values[0][1]
    if isinstance(value, Event):
        return value.payload_hash
    return hash_payload({"malformed": value.decode(errors="replace")})
