"""What dead letters hold goes into the database as loading would have written it, and the letters are resolved.

Everything here happens in one transaction, which holds the letters: killed anywhere, nothing is lost or doubled.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection

from cowrieprocessor.db.dead_letters import positions as places
from cowrieprocessor.db.dead_letters import statements as table
from cowrieprocessor.db.dead_letters.positions import LogOfLetter, MovedBytes
from cowrieprocessor.db.dead_letters.statements import StoredLetter
from cowrieprocessor.db.ingest.statements import LoadingStatements
from cowrieprocessor.db.ingest.stored_events import Place, copies_of
from cowrieprocessor.events import Event, utc_text
from cowrieprocessor.jobs.dead_letters.reading import NewValues, Readable, StoredAlready
from cowrieprocessor.jobs.dead_letters.source_bytes import range_of
from cowrieprocessor.loader.file_processor import ORIGINS
from cowrieprocessor.loader.logs.checkpoint import Checkpoint, LookedUp
from cowrieprocessor.loader.rows.batch import Batch
from cowrieprocessor.loader.rows.file_aggregates import FileAggregates
from cowrieprocessor.loader.rows.session_aggregates import SessionAggregates
from cowrieprocessor.settings import Settings

RESOLVED = "letters_resolved"
KNOWN = "events_stored_already"
FILES = "files_taken_up"
FOR_BACKFILL = "events_for_the_backfill"

_OFFSET, _INODE = 3, 4
"""Where a row for raw_events has its place."""

_NOWHERE = Place("", None, -1)
"""Stands for the log of a letter of v3: the rows of each log count, also those of its own."""


class Done(NamedTuple):
    """A letter that is resolved, and how many events came out of it that were not stored yet."""

    letter: StoredLetter
    events: int
    known: int


class _Elsewhere:
    """Tells which events of a letter are stored already, other than from its own log."""

    is_active = True

    def __init__(self, connection: Connection, log: LogOfLetter | None) -> None:
        self._connection = connection
        self._place = log.place if log else _NOWHERE
        self.found = 0

    def is_stored(self, event: Event, offset: int) -> bool:
        """Return whether an event is stored already; where in its log it stands makes no difference."""
        found = bool(copies_of(self._connection, event, self._place))
        self.found += found
        return found

    def is_refused_stored(self, offset: int, payload: Mapping[str, Any]) -> bool:
        """Return that what is still refused is not stored."""
        return False

    def take_looked_up(self) -> LookedUp:
        """Return nothing: what is looked up is written in the same transaction."""
        return LookedUp([], {})

    def release(self) -> None:
        """Do nothing: the transaction is the one that writes."""


@dataclass(slots=True)
class ReplayWriter:
    """Gathers what a run of letters gives, and writes it at the end of the transaction.

    Args:
        connection: a write transaction, or with `dry` one that only reads.
        settings: the limits.
        ingest_id: of the replay.
        dry: write nothing.
    """

    connection: Connection
    settings: Settings
    ingest_id: str
    dry: bool = False
    counters: Counter[str] = field(default_factory=Counter)
    done: list[Done] = field(default_factory=list)
    _moment: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    _sessions: list[list[Any]] = field(default_factory=list)
    _attributes: list[list[Any]] = field(default_factory=list)
    _commands: list[list[Any]] = field(default_factory=list)
    _hashes: list[list[Any]] = field(default_factory=list)
    _files: list[list[Any]] = field(default_factory=list)
    _dead_letters: list[list[Any]] = field(default_factory=list)
    _moved: list[MovedBytes] = field(default_factory=list)

    @property
    def _now(self) -> str:
        return utc_text(self._moment)

    def add(self, readable: Readable) -> Done:
        """Store the events of a letter that is held, and gather the rest of what it gives."""
        done = self._add_values(readable) if isinstance(readable, NewValues) else self._add_rest(readable)
        self.done.append(done)
        self.counters[RESOLVED] += 1
        self.counters[KNOWN] += done.known
        return done

    def finish(self) -> None:
        """Write all that was gathered, in the order in which loaders lock rows, and resolve the letters."""
        if self.dry:
            return
        statements = LoadingStatements(self.connection)
        try:
            places.move_bytes(self.connection, self._moved)
            statements.merge_sessions(_by_key(self._sessions, 1))
            statements.merge_attributes(_by_key(self._attributes, 1))
            statements.merge_commands(_by_key(self._commands, 2))
            statements.merge_hashes(_widened(self._hashes))
            for rows in _apart(self._files):
                self.counters[FILES] += len(statements.merge_files(rows, self._now))
            statements.insert_dead_letters(self._dead_letters)
        finally:
            statements.close()
        resolved = [(one.letter.id, {**one.letter.metadata} | {"replayed": _words(one)}) for one in self.done]
        table.resolve(self.connection, resolved, self._moment)

    def _add_values(self, new: NewValues) -> Done:
        """Store the events among values; what is still refused gets a letter of its own."""
        elsewhere = _Elsewhere(self.connection, new.log)
        statements = LoadingStatements(self.connection)
        try:
            batch = Batch(
                _cursor(new, elsewhere),
                self.ingest_id,
                self._now,
                not statements.computes_event_columns,
                self.settings.max_nesting,
            )
            for value in new.values:
                batch.add(value)
            rows = batch.finish(new.reader, 0)
            is_last = new.log is not None and places.is_last_value(
                self.connection, new.log, _offset(new.letter), hold=not self.dry
            )
            if not self._give_places(new, rows.events, batch.cursor.next_offset - 1 if is_last else 0):
                return Done(new.letter, 0, len(rows.events) + elsewhere.found)
            if not self.dry:
                statements.insert_raw_events(rows.events)
        finally:
            statements.close()
        self._sessions += rows.sessions
        self._dead_letters += rows.dead_letters
        self.counters.update(rows.counters)
        if new.log is None:
            self.counters[FOR_BACKFILL] += len(rows.events)
        else:
            self._attributes += rows.attributes
            self._commands += rows.commands
            self._hashes += rows.hashes
            self._files += rows.files
            self._moved.append(_moved(new, new.log, batch, is_last=is_last))
        return Done(new.letter, len(rows.events), elsewhere.found)

    def _give_places(self, new: NewValues, events: list[list[Any]], until: int) -> bool:
        """Give each event a place on the lines of the letter, or up to `until`; none where all are taken.

        The first takes the place of the letter. Return False where v3 refused a line twice and its event has the place
        by now.
        """
        first = new.letter.source_offset
        last = first if first is None or new.log is None else max(first, new.end_line, until)
        free: set[int] = set()
        if first is not None and last is not None and new.keeps_place:
            taken = places.taken_offsets(self.connection, new.place, first, last)
            if taken and new.log is None:
                return False
            free = set(range(first, last + 1)) - taken
        for row in events:
            wanted = row[_OFFSET] if row[_OFFSET] in free else first
            row[_OFFSET] = wanted if wanted in free else None
            row[_INODE] = new.place.source_inode
            free.discard(row[_OFFSET])
        return True

    def _add_rest(self, stored: StoredAlready) -> Done:
        """Gather what belongs beside an event that is stored already."""
        event = stored.event
        if event is None:
            return Done(stored.letter, 0, 1)
        if event.event_type in ORIGINS:
            files = FileAggregates()
            files.add(event)
            self._hashes += files.hash_rows(self._now)
            self._files += files.file_rows()
        elif stored.by_backfill:
            tallies = SessionAggregates()
            tallies.add(event)
            self._attributes += tallies.attribute_rows()
            self._commands += tallies.command_rows()
        return Done(stored.letter, 0, 0)


def _cursor(new: NewValues, elsewhere: _Elsewhere) -> Checkpoint:
    """Return a cursor at the beginning of a letter, for its values alone."""
    log = new.log
    return Checkpoint(
        identity=log.identity if log else "",
        generation=log.generation if log else 0,
        source=new.place.source,
        source_inode=new.place.source_inode or "",
        source_generation=new.place.source_generation,
        current_path=log.current_path if log else "",
        next_offset=_offset(new.letter),
        lookup=elsewhere,
    )


def _moved(new: NewValues, log: LogOfLetter, batch: Batch, *, is_last: bool) -> MovedBytes:
    """Return what became of the bytes that were dead."""
    cursor = batch.cursor
    start, end = range_of(new.letter)
    size_bytes = end - start
    return MovedBytes(
        identity=log.identity,
        generation=log.generation,
        stored=size_bytes - cursor.bytes_dead - cursor.bytes_nul,
        dead=cursor.bytes_dead - size_bytes,
        nul=cursor.bytes_nul,
        values=batch.values - 1,
        last_value_hash=cursor.last_value_hash if is_last else None,
        next_offset=cursor.next_offset,
    )


def _offset(letter: StoredLetter) -> int:
    return letter.source_offset or 0


def _words(done: Done) -> dict[str, int]:
    """Return what a resolved letter says about its replay."""
    return {"events": done.events, "events_stored_already": done.known}


def _by_key(rows: Sequence[list[Any]], columns: int) -> list[list[Any]]:
    """Return rows in the order in which loaders lock them."""
    return sorted(rows, key=lambda row: row[:columns])


def _widened(rows: Sequence[list[Any]]) -> list[list[Any]]:
    """Return rows about hashes with one for each hash: what one transaction adds is merged before it is written."""
    found: dict[str, list[Any]] = {}
    for row in rows:
        other = found.setdefault(row[0], row)
        found[row[0]] = [row[0], min(row[1], other[1]), max(row[2], other[2]), *row[3:]]
    return _by_key(list(found.values()), 1)


def _apart(rows: Sequence[list[Any]]) -> Iterator[list[list[Any]]]:
    """Yield rows about files in runs that name no file of a session twice."""
    rest = _by_key(rows, 2)
    while rest:
        run = {(row[0], row[1]): row for row in reversed(rest)}
        taken = {id(row) for row in run.values()}
        yield _by_key(list(run.values()), 2)
        rest = [row for row in rest if id(row) not in taken]
