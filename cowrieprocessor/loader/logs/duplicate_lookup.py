"""Events of a log that are stored already though its cursor does not say so: from other logs, or by version 3.

Looking up is for a log that is not new though nothing is known of it (a damaged, cut or older copy, one that version 3
loaded), and for one that overlaps with another: then whoever writes a batch refuses it, and it is made again with
each of its events looked up. So when the looking up ends is a matter of time only, not of what is stored.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from cowrieprocessor.db.ingest.stored_events import (
    SourceKey,
    StoredRow,
    copies_of,
    holds_dead_letter,
    is_same,
    logs_like,
    rows_after,
    times_stored,
)
from cowrieprocessor.events import Event
from cowrieprocessor.loader.logs.checkpoint import LookedUp

FIRST_LOOK = 50
"""How many events at the beginning of a log are looked up before it counts as none that version 3 loaded."""

PATIENCE = 10_000
"""How many new events in a row end the looking up, once there is reason to look."""

_LOOK_AHEAD = 8
_FIRST_ROWS, _MOST_ROWS = 16, 256
_REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class V3Log:
    """What version 3 stored of a log.

    Attributes:
        source_key: as its rows in raw_events say it.
        shift: how much higher the offsets of its rows are than those of the log's values.
        until: the highest source_offset, as the log counts, that version 3 reached.
    """

    source_key: SourceKey
    shift: int
    until: int


class DuplicateLookup:
    """Tells which events of one log are stored already.

    Of equal events in the log the second is stored already only if other logs hold two.

    Args:
        log: the log, as its rows in raw_events say it; what it stored itself does not count.
        identity: the log's.
        connect: opens a transaction for reading.
        patience: how many new events in a row end the looking up, at first.
        start: the source_offset at which the reading goes on.
        of_v3: what version 3 is known to have stored of it: all of that is looked up.
    """

    def __init__(
        self,
        log: SourceKey,
        identity: str,
        connect: Callable[[], AbstractContextManager[Connection]],
        patience: int,
        *,
        start: int = 0,
        of_v3: V3Log | None = None,
    ) -> None:
        self._new: list[list[Any]] = []
        self._elsewhere: Counter[str] = Counter()
        self._log = log
        self._identity = identity
        self._connect = connect
        self._patience = patience
        self._until = of_v3.until if of_v3 else -1
        self._is_of_v3 = of_v3 is not None
        self._rows = _RowsAhead()
        if of_v3:
            self._rows.follow(of_v3.source_key, start - 1 + of_v3.shift, of_v3.shift)
        self._offset = start - 1
        self._misses = 0
        self._seen: dict[str, int] = {}
        self._open = ExitStack()
        self._connection: Connection | None = None

    @property
    def is_looking(self) -> bool:
        """Whether the next events should still be looked up."""
        return self._misses < self._patience or self._offset < self._until

    def holds(self, event: Event, offset: int) -> bool:
        """Return whether an event is stored already.

        Args:
            event: the next event of the log.
            offset: its source_offset.
        """
        self._offset = offset
        number = self._number(event.payload_hash)
        connection = self._reading()
        row = self._rows.take(connection, event) or self._find(connection, event, number, offset)
        if row is None:
            self._misses += 1
            return False
        self._misses, self._patience = 0, max(self._patience, PATIENCE)
        if row.identity != self._identity and not (row.identity is None and self._is_of_v3):
            self._elsewhere[row.source_key.source] += 1
        return True

    def holds_refused(self, offset: int, payload: Mapping[str, Any]) -> bool:
        """Return whether a value that is no event is stored: by version 3, or as the dead letter of another copy.

        Args:
            offset: the value's source_offset, the log's next.
            payload: what its dead letter would hold.
        """
        self._offset = offset
        connection = self._reading()
        if self._rows.take_refused(connection, offset):
            return True
        copies = [(place, offset) for place in logs_like(connection, self._identity) if place != self._log]
        if self._rows.source_key is not None:
            copies.append((self._rows.source_key, offset + self._rows.shift))
        return any(holds_dead_letter(connection, place, at, payload) for place, at in dict.fromkeys(copies))

    def take_looked_up(self) -> LookedUp:
        """Return what was looked up since the last time, which is as old as the transaction that looked."""
        looked_up = LookedUp(self._new, dict(self._elsewhere))
        self._new, self._elsewhere = [], Counter()
        return looked_up

    def release(self) -> None:
        """End the transaction, so that a write can follow."""
        self._connection = None
        self._open.close()

    def _reading(self) -> Connection:
        if self._connection is None:
            self._connection = self._open.enter_context(self._connect())
        return self._connection

    def _number(self, payload_hash: str) -> int:
        """Return the how-manieth of the equal events of the log this is; equal ones are near each other."""
        number = self._seen.pop(payload_hash, 0) + 1
        self._seen[payload_hash] = number
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return number

    def _find(self, connection: Connection, event: Event, number: int, offset: int) -> StoredRow | None:
        """Return a row of another log that holds the event, if they hold as many as the log has up to here."""
        copies = copies_of(connection, event, self._log)
        if number > _times_stored(copies):
            self._note_new(connection, event, copies)
            return None
        of_one = [row for row in copies if row.source_key == self._rows.source_key] or copies
        row = of_one[min(number, len(of_one)) - 1]
        self._rows.follow(row.source_key, row.offset, row.offset - offset)
        return row

    def _note_new(self, connection: Connection, event: Event, copies: list[StoredRow]) -> None:
        """Note how many equal rows there are: if there are more when it is written, it has to be looked up again."""
        if event.timestamp is not None:
            count = sum(row.payload_hash == event.payload_hash for row in copies)
        elif event.session_id:
            key = [event.session_id, None, event.payload_hash]
            count = times_stored(connection, self._log, [key])[event.payload_hash]
        else:
            return
        self._new.append([event.session_id, event.timestamp, event.payload_hash, count])


class _RowsAhead:
    """The rows behind the one that was found last: most often the next event is the next of them."""

    def __init__(self) -> None:
        self.source_key: SourceKey | None = None
        self._rows: deque[StoredRow] = deque()
        self.shift = 0
        self._last = -1
        self._count = _FIRST_ROWS
        self._has_more = False
        self._fruitless = 0

    def follow(self, source_key: SourceKey, offset: int, shift: int) -> None:
        """Go on behind an offset of a log.

        Args:
            source_key: the log.
            offset: the source_offset of the row that was found.
            shift: how much higher the offsets of its rows are.
        """
        self.source_key, self._last, self.shift = source_key, offset, shift
        self._rows.clear()
        self._fruitless += 1
        # In a log that was put together from several, the next event is never the next row: then it is tried rarely.
        self._count, self._has_more = _FIRST_ROWS, self._fruitless <= 4 or self._fruitless % 16 == 0

    def take(self, connection: Connection, event: Event) -> StoredRow | None:
        """Return the row that holds an event, if it is one of the next, and go behind it."""
        self._fill(connection)
        for number, row in enumerate(self._rows):
            if number == _LOOK_AHEAD:
                break
            if is_same(connection, row, event):
                self._drop(number + 1)
                self._fruitless = 0
                return row
        return None

    def take_refused(self, connection: Connection, offset: int) -> bool:
        """Return whether version 3 has a row for a value that is no event, and go behind it."""
        self._fill(connection)
        for number, row in enumerate(self._rows):
            if number == _LOOK_AHEAD or row.identity is not None:
                break
            if row.offset == offset + self.shift:
                self._drop(number + 1)
                return True
        return False

    def _drop(self, count: int) -> None:
        for _ in range(count):
            self._rows.popleft()

    def _fill(self, connection: Connection) -> None:
        if self.source_key is None or not self._has_more or len(self._rows) >= _LOOK_AHEAD:
            return
        rows = rows_after(connection, self.source_key, self._last, self._count)
        self._has_more = len(rows) == self._count
        self._count = min(2 * self._count, _MOST_ROWS)
        self._rows += rows
        if rows:
            self._last = rows[-1].offset


def _times_stored(copies: list[StoredRow]) -> int:
    """Return how many events of the honeypot rows with the same event stand for.

    Our logs hold each event once. Version 3 stored what it met under several names again under each, and rows
    without an inode under one name, too.
    """
    ours = sum(row.identity is not None for row in copies)
    of_v3 = Counter(place for place, _ in {(row.source_key, row.offset) for row in copies if row.identity is None})
    return ours + max(of_v3.values(), default=0)
