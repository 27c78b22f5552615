"""Which log a file is, whatever its name, and how far it is stored.

A log is identified by its first JSON object. Before any part of a file is skipped, the file is proven to be the log it
looks like: the bytes before the checkpoint are the same, and where the log was damaged the file is, too. Otherwise
(another log, the log in another serialization, an older or a better copy) it becomes a new generation, and each of its
events is looked up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection

from cowrieprocessor.db.ingest import log_damage
from cowrieprocessor.db.ingest import log_files as table
from cowrieprocessor.db.ingest.log_damage import Log
from cowrieprocessor.db.ingest.stored_events import SourceKey, offsets
from cowrieprocessor.errors import ArchiveCut
from cowrieprocessor.events import Event, parse_event
from cowrieprocessor.json_text import canonical_json
from cowrieprocessor.loader.logs.checkpoint import Checkpoint
from cowrieprocessor.loader.logs.damage import holds_damage
from cowrieprocessor.loader.logs.duplicate_lookup import MISS_LIMIT, PROBED_EVENTS, DuplicateLookup, V3Log
from cowrieprocessor.loader.logs.log_form import find_form
from cowrieprocessor.loader.logs.v3_logs import FirstValue, find_v3_log
from cowrieprocessor.loader.reading.log_reader import LogReader, reader_of
from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.loader.reading.value_reader import TAIL_BYTES, Value
from cowrieprocessor.sanitize import inert_cut
from cowrieprocessor.settings import Settings

_SEPARATORS = b" \t\r\n,[]\0"


@dataclass(frozen=True, slots=True)
class Resume:
    """Where reading a log resumes.

    Attributes:
        checkpoint: the log and how far it is stored.
        reader: the values after the checkpoint.
        is_copy: another log with the same first event is known: it may be a copy.
        copies: damaged copies of the log, as far as they go with the same byte positions.
    """

    checkpoint: Checkpoint
    reader: LogReader
    is_copy: bool = False
    copies: tuple[Log, ...] = ()


class Search(NamedTuple):
    """How far a file was searched for a first object without finding one.

    Attributes:
        position: byte position up to which there is none.
        fragments: bytes before it that are torn lines of a log, without NULs.
        is_text: whether there are lines that do not belong to a log.
        wrapper: the wrapper of the log, if that shows already.
        foreign: what the file seems to be, if it is of another program.
    """

    position: int = 0
    fragments: int = 0
    is_text: bool = False
    wrapper: str | None = None
    foreign: str | None = None


def identity_of(fields_: dict[str, Any]) -> str:
    """Return the identity of a log: the SHA-256 of its first object with sorted keys, in hexadecimal."""
    return sha256(canonical_json(fields_)).hexdigest()


def read_tail(stream: LogStream, byte_pos: int, tail_bytes: int) -> bytes | None:
    """Return the `tail_bytes` bytes before a position and leave the stream there; None if the log ends before it."""
    stream.rewind()
    start = byte_pos - tail_bytes
    if stream.skip(start) < start:
        return None
    return stream.read_exactly(tail_bytes)


class LogIdentifier:
    """Identifies the log in an open file, and finds where reading it resumes.

    Args:
        stream: the file, at its beginning.
        settings: the limits.
        connect: opens a transaction for reading.
        place: the key of the file, see `file_key_of`.
        lookup_limit: look up each event after the checkpoint until this many in a row are new; with 0, events are
            looked up only where some may be stored.
        miss_limit: see `DuplicateLookup`.

    Attributes:
        searched: how far a file without a complete object was searched.
        holds_text: whether such a file holds text that is not the beginning of an object.
        unfinished_bytes: of such a file, the bytes of torn lines and of the incomplete object.
        had_torn_end: whether the file ended within a value when it was read last.
    """

    def __init__(
        self,
        stream: LogStream,
        settings: Settings,
        connect: Callable[[], AbstractContextManager[Connection]],
        *,
        place: str = "",
        lookup_limit: int = 0,
        miss_limit: int = MISS_LIMIT,
    ) -> None:
        self._stream = stream
        self._place = place
        self._settings = settings
        self._connect = connect
        self._lookup_limit = lookup_limit
        self._miss_limit = miss_limit
        self.searched = Search()
        self.unfinished_bytes = 0
        self.had_torn_end = False
        self.holds_text = False
        self._wrapper: str | None = None

    def resume(self, expected: tuple[str, int] | None = None, *, searched: Search | None = None) -> Resume | None:
        """Return where to resume, or None if the file has no complete object yet.

        Args:
            expected: identity and generation of the log that was in the file at the last poll, if the file has only
                grown since. If it still is, the beginning is not read again, which may be gigabytes of NUL bytes.
            searched: how far the file was searched at the last poll, if it has only grown since.
        """
        if expected is not None:
            with self._connect() as connection:
                if resume := self._resume_expected(connection, expected):
                    self._look_for_end(connection)
                    return resume
            self._stream.rewind()
        first = self._first_object(searched or Search())
        if first is None or first.fields is None:
            return None
        identity = identity_of(first.fields)
        with self._connect() as connection:
            self._look_for_end(connection)
            return self._resume_log(connection, identity)

    def _look_for_end(self, connection: Connection) -> None:
        self.had_torn_end = bool(self._place) and log_damage.has_end_in_file(connection, self._place)

    def identify(self) -> str | None:
        """Return the identity of the log in the file, None if it has no complete object yet."""
        first = self._first_object(Search())
        return None if first is None or first.fields is None else identity_of(first.fields)

    @property
    def is_wrapped(self) -> bool:
        """Whether the log that was identified is in a wrapper."""
        return self._wrapper is not None

    def stored_whole(self, known: Sequence[Mapping[str, Any]]) -> Checkpoint | None:
        """Return the log that is in the file and stored to its last byte, without one that was no event; else None.

        Args:
            known: the rows of `log_files` with the log's identity.
        """
        for checkpoint in map(_checkpoint, known):
            is_sound = not (checkpoint.wrapper or checkpoint.bytes_dead or checkpoint.bytes_nul or checkpoint.bytes_gap)
            if is_sound and self._reader_at_same_bytes(checkpoint) and not self._stream.read():
                return checkpoint
        return None

    def begin(self, identity: str) -> Resume:
        """Return where to begin with a log that nothing is known of, nor of its name."""
        name = source_name(self._stream.path)
        checkpoint = Checkpoint(identity, 0, name, self._stream.inode, 0, name)
        return Resume(checkpoint, self._reader_from_start())

    def _first_object(self, searched: Search) -> Value | None:
        """Return the first object of the log; where there is none (yet), record how far the file was searched."""
        self._wrapper = None
        if searched.wrapper is not None:
            return self._first_wrapped(searched)
        if searched.foreign and searched.position:
            self.searched = searched
            return None
        reader = self._reader_after(searched.position)
        start = reader.position
        form = find_form(reader, str(self._stream.path))
        if form.wrapper is not None:
            return self._first_wrapped(Search(wrapper=form.wrapper))
        if form.foreign is not None:
            self.searched = Search(reader.position * form.is_certain, is_text=True, foreign=form.foreign)
            return None
        if form.first is not None:
            return form.first
        is_text = form.is_text or (searched.is_text and start > 0)
        searched_bytes = reader.position - start - reader.take_nul_bytes()
        fragments = searched_bytes * form.is_torn + (searched.fragments if start else 0)
        self.searched = Search(reader.position, fragments, is_text)
        self.holds_text = is_text or fragments > 0 or (reader.pending_bytes > 0 and not reader.is_in_object)
        if is_text:
            self.unfinished_bytes = reader.pending_bytes if reader.is_in_object else 0
        else:
            self.unfinished_bytes = fragments + reader.pending_bytes
        return None

    def _first_wrapped(self, searched: Search) -> Value | None:
        """Return the first event in the wrapper of the log; without one, it is the log of another program."""
        self._wrapper = searched.wrapper
        reader = self._reader_after(searched.position)
        for value in reader:
            if value.fields is not None:
                return value
        foreign = f"no event of Cowrie is in it ({self._wrapper})"
        self.searched = Search(reader.position, is_text=True, wrapper=self._wrapper, foreign=foreign)
        self.unfinished_bytes = reader.pending_bytes
        return None

    def _resume_expected(self, connection: Connection, expected: tuple[str, int]) -> Resume | None:
        """Return where to resume if the file is still the expected log; NULs before the checkpoint do not prove it."""
        known = [_checkpoint(row) for row in table.generations(connection, expected[0])]
        if len(known) != 1 or known[0].generation != expected[1]:
            return None
        self._wrapper = known[0].wrapper
        of_v3 = self._log_of_v3(connection, known)
        reader = self._reader_at_same_bytes(known[0])
        if reader is None or not reader.tail().strip(_SEPARATORS):
            return None
        return self._resume_at(known[0], reader, of_v3, self._lookup_limit)

    def _resume_at(
        self,
        checkpoint: Checkpoint,
        reader: LogReader,
        of_v3: V3Log | None,
        limit: int,
        *,
        is_copy: bool = False,
        copies: Sequence[Log] = (),
    ) -> Resume:
        checkpoint.current_path = source_name(self._stream.path)
        checkpoint.wrapper = self._wrapper
        checkpoint.lookup = self._duplicate_lookup(checkpoint, limit, of_v3)
        return Resume(checkpoint, reader, is_copy, tuple(copies))

    def _resume_log(self, connection: Connection, identity: str) -> Resume:
        """Return where to resume in the generation that is proven to be in the file, or in a new one."""
        known = [_checkpoint(row) for row in table.generations(connection, identity)]
        of_v3 = self._log_of_v3(connection, known)
        copies: list[Log] = []
        for checkpoint in known:
            reader = self._proven(checkpoint)
            if reader is not None and not self._is_undamaged(checkpoint):
                has_same = self._has_same_damage(connection, checkpoint)
                reader = self._proven(checkpoint) if has_same else None
                if reader is None:
                    copies.append((checkpoint.identity, checkpoint.generation))
            if reader is not None:
                limit = max(self._lookup_limit, self._miss_limit * _is_before_reset(checkpoint, known))
                return self._resume_at(checkpoint, reader, of_v3, limit, is_copy=len(known) > 1, copies=copies)
        checkpoint = self._new_log(connection, identity, 1 + max((log.generation for log in known), default=-1))
        limit = max(self._lookup_limit, self._miss_limit * bool(known))
        checkpoint.lookup = self._duplicate_lookup(checkpoint, limit, of_v3)
        return Resume(checkpoint, self._reader_from_start(), is_copy=bool(known), copies=tuple(copies))

    def _proven(self, checkpoint: Checkpoint) -> LogReader | None:
        """Return a reader at the checkpoint; an archive that was cut before it is a shorter copy of the log."""
        try:
            return self._reader_at_same_bytes(checkpoint)
        except ArchiveCut:
            return None

    @staticmethod
    def _is_undamaged(checkpoint: Checkpoint) -> bool:
        """Return whether no damage is known that could tell a better copy; in a wrapper it cannot be compared."""
        return checkpoint.wrapper is not None or not (checkpoint.bytes_dead or checkpoint.bytes_nul)

    def _has_same_damage(self, connection: Connection, checkpoint: Checkpoint) -> bool:
        """Return whether the file is damaged where the log was: else it is a better copy, and read whole."""
        self._stream.rewind()
        damage = log_damage.places(connection, (checkpoint.identity, checkpoint.generation))
        return all(holds_damage(self._stream, place) for place in damage)

    def _reader_at_same_bytes(self, checkpoint: Checkpoint) -> LogReader | None:
        """Return a reader at the checkpoint if the bytes before it are the ones that were stored."""
        tail = read_tail(self._stream, checkpoint.byte_pos, checkpoint.tail_bytes)
        if tail is None or sha256(tail).hexdigest() != checkpoint.tail_hash:
            return None
        return self._reader(checkpoint.byte_pos, checkpoint.next_line, tail)

    def _event(self, value: Value) -> Event | None:
        if value.problem is not None:
            return None
        event = parse_event(value.raw, value.fields, max_nesting=self._settings.max_nesting)
        return event if isinstance(event, Event) else None

    def _new_log(self, connection: Connection, identity: str, generation: int) -> Checkpoint:
        name = source_name(self._stream.path)
        source, source_generation = table.free_source(connection, name, self._stream.inode)
        return Checkpoint(
            identity=identity,
            generation=generation,
            source=source,
            source_inode=self._stream.inode,
            source_generation=source_generation,
            current_path=name,
            wrapper=self._wrapper,
        )

    def _duplicate_lookup(self, checkpoint: Checkpoint, limit: int, of_v3: V3Log | None) -> DuplicateLookup | None:
        """Return the lookup of events that may be stored although the checkpoint does not cover them, if any may be."""
        if not limit and (of_v3 is None or of_v3.until < checkpoint.next_offset):
            return None
        return DuplicateLookup(
            _source_key(checkpoint),
            checkpoint.identity,
            checkpoint.generation,
            self._connect,
            limit or PROBED_EVENTS,
            start=checkpoint.next_offset,
            of_v3=of_v3,
            miss_limit=self._miss_limit,
        )

    def _log_of_v3(self, connection: Connection, known: Sequence[Checkpoint]) -> V3Log | None:
        """Return what version 3 stored of the log, or None, also where it certainly stored nothing."""
        if not table.has_rows_of_v3(connection):
            return None
        if known and not self._lookup_limit:
            ranges = [offsets(connection, _source_key(checkpoint)) for checkpoint in known]
            if all(stored is not None and stored[0] == 0 for stored in ranges):
                return None
        return find_v3_log(connection, self._first_values())

    def _first_values(self) -> list[FirstValue]:
        """Return the first values of the log with their source_offsets."""
        counting = Checkpoint("", 0, "", "", 0, "")
        values = islice(self._reader_from_start(), PROBED_EVENTS)
        return [(counting.take_offset(value.line), self._event(value) or value.raw) for value in values]

    def _reader_after(self, position: int) -> LogReader:
        """Return a reader from a position at which a value may begin; from the start if the file ends before it."""
        if not position:
            return self._reader_from_start()
        before = read_tail(self._stream, position, min(position, TAIL_BYTES)) or b""
        return self._reader_from_start() if self._stream.position < position else self._reader(position, 0, before)

    def _reader_from_start(self) -> LogReader:
        self._stream.rewind()
        return self._reader()

    def _reader(self, position: int = 0, line: int = 0, before: bytes = b"") -> LogReader:
        limit = self._settings.max_value_bytes
        return reader_of(
            self._stream, self._wrapper, position=position, line=line, before=before, max_value_bytes=limit
        )


def _checkpoint(row: Mapping[str, Any]) -> Checkpoint:
    names = {field.name for field in fields(Checkpoint)}
    columns = {key: value for key, value in row.items() if key in names}
    stored = {"stored_values": row["values_done"], "stored_bytes": row["byte_pos"], "stored_wrapper": row["wrapper"]}
    return Checkpoint(**columns, **stored)


def _is_before_reset(checkpoint: Checkpoint, known: Sequence[Checkpoint]) -> bool:
    """Return whether a generation whose cursor was reset (see `log_removal`) stored more of the log."""
    return any(log.values_done < 0 and log.byte_pos > checkpoint.byte_pos for log in known)


def _source_key(checkpoint: Checkpoint) -> SourceKey:
    return SourceKey(checkpoint.source, checkpoint.source_inode, checkpoint.source_generation)


def source_name(path: Path) -> str:
    """Return a file's absolute path as text that every database can store."""
    return inert_cut(os.path.abspath(path), table.MAX_SOURCE_CHARS)  # noqa: PTH100 - resolve() would follow links
