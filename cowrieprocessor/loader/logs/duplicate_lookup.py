"""Events of a log that are stored although its checkpoint does not cover them: from other logs, or by version 3.

Two kinds of logs need the lookup: one without a checkpoint that is not new (a damaged, cut or older copy, or a log that
version 3 loaded), and one that overlaps with another. For the latter the writer refuses a batch, and the batch is built
again with each of its events looked up. So when the lookup ends decides only how long loading takes, never what is
stored.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from cowrieprocessor.db.ingest.overlapping_events import has_overlaps, times_left_out
from cowrieprocessor.db.ingest.stored_events import (
    SourceKey,
    StoredRow,
    copies_of,
    holds_dead_letter,
    is_same,
    rows_after,
    times_stored,
)
from cowrieprocessor.events import Event
from cowrieprocessor.loader.logs.checkpoint import LookedUp

PROBED_EVENTS = 50
"""Number of events at the beginning of a log that are looked up before it counts as not loaded by version 3."""

MISS_LIMIT = 10_000
"""Number of consecutive new events that end a lookup for which there was reason."""

_LOOKAHEAD_ROWS = 8
_MIN_FETCHED_ROWS, _MAX_FETCHED_ROWS = 16, 256
_MAX_COUNTED_HASHES = 20_000
_FREE_JUMPS, _JUMPS_PER_FETCH = 4, 16


@dataclass(frozen=True, slots=True)
class V3Log:
    """What version 3 stored of a log.

    Attributes:
        source_key: the log as its rows in raw_events identify it.
        shift: by how much the offsets of these rows exceed those of the log's values.
        until: the highest source_offset that version 3 reached, counted as the log counts.
    """

    source_key: SourceKey
    shift: int
    until: int


class DuplicateLookup:
    """Decides which events of one log are stored already.

    An event is in the database as often as in the log that has most of it. So the next of several identical events is
    stored already only if other logs hold more of them than were left out of this one so far.

    Args:
        log: the log as its rows in raw_events identify it; its own rows do not count as duplicates.
        identity: the log's identity.
        generation: the log's generation.
        connect: opens a transaction for reading.
        initial_limit: number of consecutive new events that end the lookup as long as no duplicate was found.
        start: the source_offset at which reading resumes.
        of_v3: what version 3 stored of the log; all of it is looked up.
        miss_limit: number of consecutive new events that end the lookup once a duplicate was found.
    """

    def __init__(
        self,
        log: SourceKey,
        identity: str,
        generation: int,
        connect: Callable[[], AbstractContextManager[Connection]],
        initial_limit: int,
        *,
        start: int = 0,
        of_v3: V3Log | None = None,
        miss_limit: int = MISS_LIMIT,
    ) -> None:
        self._new: list[list[Any]] = []
        self._elsewhere: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._log = log
        self._identity = identity
        self._generation = generation
        self._has_left_out: bool | None = None
        self._connect = connect
        self._limit = initial_limit
        self._miss_limit = miss_limit
        self._until = of_v3.until if of_v3 else -1
        self._of_v3 = of_v3
        self._rows = _RowLookahead()
        if of_v3:
            self._rows.follow(of_v3.source_key, start - 1 + of_v3.shift, of_v3.shift)
        self._offset = start - 1
        self._misses = 0
        self._at_same_line: dict[str, int] = {}
        self._transaction = ExitStack()
        self._connection: Connection | None = None

    @property
    def is_active(self) -> bool:
        """Whether the next events should still be looked up."""
        return self._misses < self._limit or self._offset < self._until

    def is_stored(self, event: Event, offset: int) -> bool:
        """Return whether an event is stored already.

        Args:
            event: the next event of the log.
            offset: its source_offset.
        """
        self._offset = offset
        connection = self._connected()
        row = self._find(connection, event, offset)
        if row is None:
            self._misses += 1
            return False
        self._misses, self._limit = 0, max(self._limit, self._miss_limit)
        if row.identity != self._identity and not (row.identity is None and self._of_v3 is not None):
            self._elsewhere[row.source_key.source] += 1
        return True

    def is_refused_stored(self, offset: int, payload: Mapping[str, Any]) -> bool:
        """Return whether version 3 stored a value that is not an event, or had a dead letter for it.

        Args:
            offset: the source_offset of the value, the log's next.
            payload: the payload that its dead letter would have.
        """
        self._offset = offset
        connection = self._connected()
        if self._rows.take_refused(connection, offset):
            return True
        of_v3 = self._of_v3
        return of_v3 is not None and holds_dead_letter(connection, of_v3.source_key, offset + of_v3.shift, payload)

    def take_looked_up(self) -> LookedUp:
        """Return the results since the last call; they are as old as the transaction that read them."""
        looked_up = LookedUp(self._new, dict(self._elsewhere), dict(self._left_out))
        if self._left_out:
            self._has_left_out = True
        self._new, self._elsewhere, self._left_out = [], Counter(), Counter()
        return looked_up

    def release(self) -> None:
        """End the transaction, so that a write can follow."""
        self._connection = None
        self._transaction.close()

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._transaction.enter_context(self._connect())
        return self._connection

    def _find(self, connection: Connection, event: Event, offset: int) -> StoredRow | None:
        """Return a row of another log with the event, if other logs have more of them than were left out so far."""
        left_out = self._times_left_out(connection, event.payload_hash)
        row = self._rows.take(connection, event)
        if row is None or left_out:
            copies = copies_of(connection, event, self._log)
            if left_out >= count_events(copies):
                self._note_new(connection, event, copies)
                return None
            row = row or self._follow_one_of(copies, left_out, offset)
        self._note_left_out(event.payload_hash, row, offset)
        return row

    def _follow_one_of(self, copies: list[StoredRow], left_out: int, offset: int) -> StoredRow:
        """Return the row that this event is, and expect the following events of the log in the rows after it."""
        candidates = [row for row in copies if row.source_key == self._rows.source_key] or copies
        row = candidates[min(left_out, len(candidates) - 1)]
        self._rows.follow(row.source_key, row.offset, row.offset - offset)
        return row

    def _times_left_out(self, connection: Connection, payload_hash: str) -> int:
        """Return how many of these events were left out of the log before this one."""
        if self._has_left_out is None:
            self._has_left_out = has_overlaps(connection, (self._identity, self._generation))
        count = self._left_out[payload_hash] + self._at_same_line.get(payload_hash, 0)
        if self._has_left_out:
            count += times_left_out(connection, (self._identity, self._generation), payload_hash)
        return count

    def _note_left_out(self, payload_hash: str, row: StoredRow, offset: int) -> None:
        """Count an event that is not stored.

        A row of version 3 at the same line is the event itself, stored by an earlier program. Counts of these are only
        kept while the log is read, and only of the last ones: version 3 may have stored tens of millions.
        """
        of_v3 = self._of_v3
        if of_v3 is None or (row.source_key, row.offset) != (of_v3.source_key, offset + of_v3.shift):
            self._left_out[payload_hash] += 1
            return
        self._at_same_line[payload_hash] = self._at_same_line.pop(payload_hash, 0) + 1
        if len(self._at_same_line) > _MAX_COUNTED_HASHES:
            del self._at_same_line[next(iter(self._at_same_line))]

    def _note_new(self, connection: Connection, event: Event, copies: list[StoredRow]) -> None:
        """Note the number of equal rows: if it is higher when the event is written, the lookup has to be repeated."""
        if event.timestamp is not None:
            count = sum(row.payload_hash == event.payload_hash for row in copies)
        elif event.session_id:
            key = [event.session_id, None, event.payload_hash]
            count = times_stored(connection, self._log, [key])[event.payload_hash]
        else:
            return
        self._new.append([event.session_id, event.timestamp, event.payload_hash, count])


class _RowLookahead:
    """The rows after the last one found: usually the next event is the next of them."""

    def __init__(self) -> None:
        self.source_key: SourceKey | None = None
        self.shift = 0
        self._rows: deque[StoredRow] = deque()
        self._last_offset = -1
        self._fetch_rows = _MIN_FETCHED_ROWS
        self._has_more = False
        self._jumps_without_hit = 0

    def follow(self, source_key: SourceKey, offset: int, shift: int) -> None:
        """Continue after an offset of a log.

        Args:
            source_key: the log.
            offset: the source_offset of the row that was found.
            shift: by how much the offsets of its rows exceed those of the log being loaded.
        """
        self.source_key, self._last_offset, self.shift = source_key, offset, shift
        self._rows.clear()
        self._jumps_without_hit += 1
        # In a log assembled from several others the next event is never the next row: then rows are fetched rarely.
        jumps = self._jumps_without_hit
        self._fetch_rows, self._has_more = _MIN_FETCHED_ROWS, jumps <= _FREE_JUMPS or jumps % _JUMPS_PER_FETCH == 0

    def take(self, connection: Connection, event: Event) -> StoredRow | None:
        """Return the row with an event, if it is among the next rows, and advance past it."""
        self._fetch(connection)
        for index, row in enumerate(self._rows):
            if index == _LOOKAHEAD_ROWS:
                break
            if is_same(connection, row, event):
                self._drop(index + 1)
                self._jumps_without_hit = 0
                return row
        return None

    def take_refused(self, connection: Connection, offset: int) -> bool:
        """Return whether version 3 has a row for a value that is not an event, and advance past it."""
        self._fetch(connection)
        for index, row in enumerate(self._rows):
            if index == _LOOKAHEAD_ROWS or row.identity is not None:
                break
            if row.offset == offset + self.shift:
                self._drop(index + 1)
                return True
        return False

    def _drop(self, count: int) -> None:
        for _ in range(count):
            self._rows.popleft()

    def _fetch(self, connection: Connection) -> None:
        if self.source_key is None or not self._has_more or len(self._rows) >= _LOOKAHEAD_ROWS:
            return
        rows = rows_after(connection, self.source_key, self._last_offset, self._fetch_rows)
        self._has_more = len(rows) == self._fetch_rows
        self._fetch_rows = min(2 * self._fetch_rows, _MAX_FETCHED_ROWS)
        self._rows += rows
        if rows:
            self._last_offset = rows[-1].offset


def count_events(copies: list[StoredRow]) -> int:
    """Return how many events of the honeypot the rows of one event stand for.

    Rows of version 4 hold each event once. Version 3 stored a log that it met under several names once per name, and
    rows without an inode repeatedly under one name.
    """
    ours = sum(row.identity is not None for row in copies)
    of_v3 = Counter(
        source_key for source_key, _ in {(row.source_key, row.offset) for row in copies if row.identity is None}
    )
    return ours + max(of_v3.values(), default=0)
