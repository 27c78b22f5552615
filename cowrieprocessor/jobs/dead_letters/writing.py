"""Writes replayed dead letters as the loaders would have written them, and resolves the letters.

Everything runs in one transaction that locks the letters: if killed at any point, nothing is lost or duplicated.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection

from cowrieprocessor.db.dead_letters import positions
from cowrieprocessor.db.dead_letters import statements as table
from cowrieprocessor.db.dead_letters.positions import ByteCountChange, SourceLog
from cowrieprocessor.db.dead_letters.statements import StoredLetter
from cowrieprocessor.db.ingest import sensor_names, session_sensors
from cowrieprocessor.db.ingest.sensor_names import Log
from cowrieprocessor.db.ingest.statements import LoadingStatements
from cowrieprocessor.db.ingest.stored_events import SourceKey, copies_of
from cowrieprocessor.events import Event, utc_text
from cowrieprocessor.interpret.file_events import ORIGINS
from cowrieprocessor.jobs.dead_letters.reading import NewValues, Readable, StoredAlready
from cowrieprocessor.jobs.dead_letters.source_bytes import range_of
from cowrieprocessor.loader.logs.checkpoint import Checkpoint, LookedUp
from cowrieprocessor.loader.recompute import recompute_mentions
from cowrieprocessor.loader.rows.batch import Batch
from cowrieprocessor.loader.rows.file_aggregates import FileAggregates
from cowrieprocessor.loader.rows.session_aggregates import SessionAggregates
from cowrieprocessor.settings import Settings

RESOLVED = "letters_resolved"
KNOWN = "events_stored_already"
FILES = "files_taken_up"
FOR_BACKFILL = "events_for_the_backfill"

_OFFSET, _INODE = 3, 4
"""Indexes of source_offset and source_inode in a row for raw_events."""

_NO_LOG = SourceKey("", None, -1)
"""The log of a letter of v3 for lookups: rows of every log count, including its own."""


class ResolvedLetter(NamedTuple):
    """A resolved letter with the number of its events that were stored now, and of those stored before (`known`)."""

    letter: StoredLetter
    events: int
    known: int


class _OtherLogsLookup:
    """Looks up which events of a letter are already stored from other logs; `found` counts them."""

    is_active = True

    def __init__(self, connection: Connection, log: SourceLog | None) -> None:
        self._connection = connection
        self._source_key = log.source_key if log else _NO_LOG
        self.found = 0

    def is_stored(self, event: Event, offset: int) -> bool:
        """Return whether an event is stored already, at any offset of another log."""
        is_stored = bool(copies_of(self._connection, event, self._source_key))
        self.found += is_stored
        return is_stored

    def is_refused_stored(self, offset: int, payload: Mapping[str, Any]) -> bool:
        """Return False: values that are still refused are not stored."""
        return False

    def take_looked_up(self) -> LookedUp:
        """Return nothing: lookups and writes share one transaction."""
        return LookedUp([], {})

    def release(self) -> None:
        """Do nothing: the write transaction owns the connection."""


@dataclass(slots=True)
class ReplayWriter:
    """Collects the rows of replayed letters, and writes them at the end of the transaction.

    Args:
        connection: a write transaction; with `is_dry` a read transaction.
        settings: the current limits.
        ingest_id: id of the replay.
        is_dry: write nothing.
    """

    connection: Connection
    settings: Settings
    ingest_id: str
    is_dry: bool = False
    counters: Counter[str] = field(default_factory=Counter)
    resolved: list[ResolvedLetter] = field(default_factory=list)
    _moment: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    _sessions: list[list[Any]] = field(default_factory=list)
    _left_out: dict[Log, list[str]] = field(default_factory=dict)
    _sessions_touched: set[str] = field(default_factory=set)
    _attributes: list[list[Any]] = field(default_factory=list)
    _commands: list[list[Any]] = field(default_factory=list)
    _logins: list[list[Any]] = field(default_factory=list)
    _hashes: list[list[Any]] = field(default_factory=list)
    _files: list[list[Any]] = field(default_factory=list)
    _mentions: list[list[Any]] = field(default_factory=list)
    _mentions_outdated: set[str] = field(default_factory=set)
    _dead_letters: list[list[Any]] = field(default_factory=list)
    _byte_count_changes: list[ByteCountChange] = field(default_factory=list)

    @property
    def _now(self) -> str:
        return utc_text(self._moment)

    def add(self, readable: Readable) -> ResolvedLetter:
        """Store the events of a locked letter, and collect its other rows."""
        resolved = self._add_values(readable) if isinstance(readable, NewValues) else self._add_derived(readable)
        self.resolved.append(resolved)
        self.counters[RESOLVED] += 1
        self.counters[KNOWN] += resolved.known
        return resolved

    def finish(self) -> None:
        """Write the collected rows in the lock order of the loaders, and resolve the letters."""
        if self.is_dry:
            return
        statements = LoadingStatements(self.connection)
        try:
            positions.update_byte_counts(self.connection, self._byte_count_changes)
            self._compute_sensors()
            statements.merge_sessions(_by_key(self._sessions, 1))
            statements.merge_attributes(_by_key(self._attributes, 1))
            statements.merge_commands(_by_key(self._commands, 2))
            statements.merge_logins(_by_key(self._logins, 2))
            statements.merge_hashes(_merged_hashes(self._hashes))
            for rows in _without_repeated_files(self._files):
                self.counters[FILES] += len(statements.merge_files(rows, self._now))
            statements.merge_mentions(_by_key(self._mentions, 2))
            statements.insert_dead_letters(self._dead_letters)
        finally:
            statements.close()
        recompute_mentions(self.connection, self._mentions_outdated)
        updates = [
            (resolved.letter.id, {**resolved.letter.metadata, "replayed": _replay_note(resolved)})
            for resolved in self.resolved
        ]
        table.resolve(self.connection, updates, self._moment)

    def _compute_sensors(self) -> None:
        """Compute the sensors of the sessions anew: their events are stored by now, and letters are few."""
        sensor_names.lock(self.connection)
        for log, session_ids in self._left_out.items():
            session_sensors.note_left_out(self.connection, log, session_ids)
        session_sensors.compute(self.connection, sorted(self._sessions_touched))
        session_sensors.fill_matchers(self.connection, self._sessions)

    def _add_values(self, new: NewValues) -> ResolvedLetter:
        """Store the events among the values of a letter; values still refused become dead letters of their own."""
        lookup = _OtherLogsLookup(self.connection, new.log)
        statements = LoadingStatements(self.connection)
        try:
            batch = Batch(
                _checkpoint(new, lookup),
                self.ingest_id,
                self._now,
                not statements.computes_event_columns,
                self.settings.max_nesting,
            )
            for value in new.values:
                batch.add(value)
            rows = batch.finish(new.reader, 0)
            is_last = new.log is not None and positions.is_last_value(
                self.connection, new.log, _offset(new.letter), lock=not self.is_dry
            )
            if not self._assign_offsets(new, rows.events, batch.cursor.next_offset - 1 if is_last else 0):
                return ResolvedLetter(new.letter, 0, len(rows.events) + lookup.found)
            if not self.is_dry:
                statements.insert_raw_events(rows.events)
        finally:
            statements.close()
        self._sessions += rows.sessions
        self._sessions_touched.update(row[0] for row in rows.sessions)
        if new.log is not None and rows.left_out_sessions:
            self._sessions_touched.update(rows.left_out_sessions)
            self._left_out.setdefault((new.log.identity, new.log.generation), []).extend(rows.left_out_sessions)
        self._dead_letters += rows.dead_letters + [place["letter"] for place in rows.damage if "letter" in place]
        self.counters.update(rows.counters)
        if new.log is None:
            self.counters[FOR_BACKFILL] += len(rows.events)
        else:
            self._attributes += rows.attributes
            self._commands += rows.commands
            self._logins += rows.logins
            self._hashes += rows.hashes
            self._files += rows.files
            self._mentions += rows.mentions
            self._byte_count_changes.append(_byte_count_change(new, new.log, batch, is_last=is_last))
        return ResolvedLetter(new.letter, len(rows.events), lookup.found)

    def _assign_offsets(self, new: NewValues, events: list[list[Any]], until: int) -> bool:
        """Assign each event a free offset of its letter, or NULL if there is none left.

        Args:
            new: the values of the letter.
            events: rows for raw_events, which are changed.
            until: last offset that may be assigned if it is after the lines of the letter.

        Returns:
            False if v3 refused a line twice and its event is stored at the letter's offset already.
        """
        free = self._free_offsets(new, until)
        if free is None:
            return False
        first = new.letter.source_offset
        for row in events:
            wanted = row[_OFFSET] if row[_OFFSET] in free else first
            row[_OFFSET] = wanted if wanted in free else None
            row[_INODE] = new.source_key.source_inode
            free.discard(row[_OFFSET])
        return True

    def _free_offsets(self, new: NewValues, until: int) -> set[int] | None:
        """Return the unused offsets of a letter's lines and up to `until`; None if a letter of v3 has none."""
        first = new.letter.source_offset
        if first is None or not new.keeps_offset:
            return set()
        last = first if new.log is None else max(first, new.end_line, until)
        taken = positions.taken_offsets(self.connection, new.source_key, first, last)
        if taken and new.log is None:
            return None
        return set(range(first, last + 1)) - taken

    def _add_derived(self, stored: StoredAlready) -> ResolvedLetter:
        """Collect the derived rows of an event that is stored already."""
        event = stored.event
        if event is None:
            return ResolvedLetter(stored.letter, 0, 1)
        sessions = SessionAggregates()
        sessions.add(event)
        files = FileAggregates()
        files.add(event)
        if event.event_type in ORIGINS:
            self._mentions_outdated.add(event.session_id or "")  # its URL counted as one without a file
            self._hashes += files.hash_rows(self._now)
            self._files += files.file_rows()
            self._attributes += sessions.attribute_rows()  # merged a second time, they stay the same
        elif stored.by_backfill:
            self._mentions += files.mention_rows()
            self._attributes += sessions.attribute_rows()
            self._commands += sessions.command_rows()
            self._logins += sessions.login_rows()
            self._sessions_touched.update(sessions.sessions)
        return ResolvedLetter(stored.letter, 0, 0)


def _checkpoint(new: NewValues, lookup: _OtherLogsLookup) -> Checkpoint:
    """Return a checkpoint at the start of a letter, for its values only."""
    log = new.log
    return Checkpoint(
        identity=log.identity if log else "",
        generation=log.generation if log else 0,
        source=new.source_key.source,
        source_inode=new.source_key.source_inode or "",
        source_generation=new.source_key.source_generation,
        current_path=log.current_path if log else "",
        next_offset=_offset(new.letter),
        lookup=lookup,
    )


def _byte_count_change(new: NewValues, log: SourceLog, batch: Batch, *, is_last: bool) -> ByteCountChange:
    """Return the changes to the log's counters: the outcome of the bytes that were dead."""
    cursor = batch.cursor
    start, end = range_of(new.letter)
    size_bytes = end - start
    return ByteCountChange(
        identity=log.identity,
        generation=log.generation,
        stored=size_bytes - cursor.bytes_dead - cursor.bytes_nul,
        dead=cursor.bytes_dead - size_bytes,
        nul=cursor.bytes_nul,
        values=batch.values - 1,
        last_value_hash=cursor.last_value_hash if is_last else None,
        next_offset=cursor.next_offset,
        last_event_at=cursor.last_event_at if is_last else None,
    )


def _offset(letter: StoredLetter) -> int:
    return letter.source_offset or 0


def _replay_note(resolved: ResolvedLetter) -> dict[str, int]:
    """Return the metadata of a resolved letter about its replay."""
    return {"events": resolved.events, "events_stored_already": resolved.known}


def _by_key(rows: Sequence[list[Any]], columns: int) -> list[list[Any]]:
    """Return rows sorted by their first columns, the lock order of the loaders."""
    return sorted(rows, key=lambda row: row[:columns])


def _merged_hashes(rows: Sequence[list[Any]]) -> list[list[Any]]:
    """Return one merged row for each hash, because a transaction writes each hash once."""
    merged: dict[str, list[Any]] = {}
    for row in rows:
        other = merged.setdefault(row[0], row)
        merged[row[0]] = [row[0], min(row[1], other[1]), max(row[2], other[2]), *row[3:]]
    return _by_key(list(merged.values()), 1)


def _without_repeated_files(rows: Sequence[list[Any]]) -> Iterator[list[list[Any]]]:
    """Yield file rows in runs without a repeated (session, hash) pair."""
    remaining = _by_key(rows, 2)
    while remaining:
        run = {(row[0], row[1]): row for row in reversed(remaining)}
        taken = {id(row) for row in run.values()}
        yield _by_key(list(run.values()), 2)
        remaining = [row for row in remaining if id(row) not in taken]
