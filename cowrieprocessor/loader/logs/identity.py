"""Which log a file is, whatever it is called, and how far it has been read.

A log is known by its first JSON object. Before anything of a file is skipped, it is proven to be the log it looks
like: the bytes before the cursor are the same, or, in another form of writing, the last value before the cursor is.
Otherwise (another log, an older or a better copy) it is a new generation, and each of its events is looked up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from hashlib import blake2b, sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection

from cowrieprocessor.db.ingest import log_files as table
from cowrieprocessor.db.ingest.stored_events import SourceKey, offsets
from cowrieprocessor.errors import ArchiveCut
from cowrieprocessor.events import Event, canonical_json, parse_event
from cowrieprocessor.loader.logs.checkpoint import Checkpoint
from cowrieprocessor.loader.logs.duplicate_lookup import FIRST_LOOK, PATIENCE, DuplicateLookup, V3Log
from cowrieprocessor.loader.logs.v3_logs import FirstValue, find_v3_log
from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.loader.reading.value_reader import TAIL_BYTES, Value, ValueReader
from cowrieprocessor.sanitize import inert_cut
from cowrieprocessor.settings import Settings

_BETWEEN_VALUES = b" \t\r\n,[]\0"


@dataclass(frozen=True, slots=True)
class Resume:
    """Where the reading of a log goes on.

    Attributes:
        cursor: the log.
        reader: the values behind its cursor.
        is_copy: a log with the same first event is known, and this is another or a damaged or older copy.
    """

    cursor: Checkpoint
    reader: ValueReader
    is_copy: bool = False


class Search(NamedTuple):
    """How far a file was searched for a first object in vain.

    Attributes:
        position: up to here there is none.
        fragments: bytes before that, without NULs, that are torn lines of a log.
        is_text: whether there are lines that are no part of a log.
    """

    position: int = 0
    fragments: int = 0
    is_text: bool = False


def identity_of(fields_: dict[str, Any]) -> str:
    """Return the SHA-256 of a log's first object with sorted keys: what a log is known by."""
    return sha256(canonical_json(fields_)).hexdigest()


def tail_before(stream: LogStream, byte_pos: int, tail_bytes: int) -> bytes | None:
    """Return the bytes before a place of a log, and stay there; None where the log ends before it."""
    stream.rewind()
    start = byte_pos - tail_bytes
    if stream.skip(start) < start:
        return None
    return stream.read_exactly(tail_bytes)


class LogIdentifier:
    """Finds in an open file the log that it is, and the place where reading goes on.

    Args:
        stream: the file, from its beginning.
        settings: the limits.
        connect: opens a transaction for reading.
        patience: look up each event that follows, though its log's cursor is known, until so many in a row are new.
            0: only where there is reason to.
    """

    def __init__(
        self,
        stream: LogStream,
        settings: Settings,
        connect: Callable[[], AbstractContextManager[Connection]],
        *,
        patience: int = 0,
    ) -> None:
        self._stream = stream
        self._settings = settings
        self._connect = connect
        self._patience = patience
        self.searched = Search()
        self.unfinished_bytes = 0

    def resume(self, likely: tuple[str, int] | None = None, *, searched: Search | None = None) -> Resume | None:
        """Return where to go on, or None where the file has no complete object yet.

        Args:
            likely: identity and generation of the log that the file held a moment ago and has grown since; if it still
                does, its beginning is not read again, which may be NUL bytes for gigabytes.
            searched: how far the file was searched a moment ago, if it has only grown since.
        """
        if likely is not None:
            with self._connect() as connection:
                if resume := self._still(connection, likely):
                    return resume
            self._stream.rewind()
        first = self._first_object(searched or Search())
        if first is None or first.fields is None:
            return None
        identity = identity_of(first.fields)
        with self._connect() as connection:
            return self._find(connection, identity)

    def _first_object(self, searched: Search) -> Value | None:
        """Return the first object of the log, and keep what was found where there is none (yet)."""
        reader = self._reader_behind(searched.position)
        start, is_text = reader.position, searched.is_text and reader.position > 0
        is_torn = False
        for value in reader:
            if value.fields is not None:
                return value
            is_torn = True
            is_text = is_text or not (value.raw.startswith(b"{") or value.raw.endswith(b"}"))
        fragments = (reader.position - start - reader.nul_bytes) * is_torn + (searched.fragments if start else 0)
        self.searched = Search(reader.position, fragments, is_text)
        if is_text:
            self.unfinished_bytes = reader.pending_bytes if reader.is_in_object else 0
        else:
            self.unfinished_bytes = fragments + reader.pending_bytes
        return None

    def _still(self, connection: Connection, likely: tuple[str, int]) -> Resume | None:
        """Return where to go on if the file still holds a log, as events before the cursor show, not just NULs."""
        known = [_cursor(row) for row in table.generations(connection, likely[0])]
        if len(known) != 1 or known[0].generation != likely[1]:
            return None
        of_v3 = self._log_of_v3(connection, known)
        reader = self._at_same_bytes(known[0])
        if reader is None or not reader.tail().strip(_BETWEEN_VALUES):
            return None
        return self._going_on(known[0], reader, of_v3)

    def _going_on(self, cursor: Checkpoint, reader: ValueReader, of_v3: V3Log | None) -> Resume:
        cursor.current_path = _name(self._stream.path)
        cursor.stored_events = self._stored_events(cursor, self._patience, of_v3)
        return Resume(cursor, reader)

    def _find(self, connection: Connection, identity: str) -> Resume:
        known = [_cursor(row) for row in table.generations(connection, identity)]
        of_v3 = self._log_of_v3(connection, known)
        for cursor in known:
            reader = self._proven(self._at_same_bytes, cursor) or self._proven(self._at_same_values, cursor)
            if reader:
                return self._going_on(cursor, reader, of_v3)
        cursor = self._new_log(connection, identity, 1 + max((one.generation for one in known), default=-1))
        cursor.stored_events = self._stored_events(cursor, max(self._patience, PATIENCE * bool(known)), of_v3)
        return Resume(cursor, self._reader_from_start(), is_copy=bool(known))

    @staticmethod
    def _proven(at_same: Callable[[Checkpoint], ValueReader | None], cursor: Checkpoint) -> ValueReader | None:
        """Return what a proof gives; an archive that was cut before the cursor is a shorter copy of the log."""
        try:
            return at_same(cursor)
        except ArchiveCut:
            return None

    def _at_same_bytes(self, cursor: Checkpoint) -> ValueReader | None:
        """Return a reader at the cursor if the bytes before it are the ones that were stored."""
        tail = tail_before(self._stream, cursor.byte_pos, cursor.tail_bytes)
        if tail is None or sha256(tail).hexdigest() != cursor.tail_hash:
            return None
        return ValueReader(
            self._stream,
            position=cursor.byte_pos,
            line=cursor.next_line,
            before=tail,
            max_value_bytes=self._settings.max_value_bytes,
        )

    def _at_same_values(self, cursor: Checkpoint) -> ValueReader | None:
        """Return a reader behind the last stored value, if the log is the same in another form of writing."""
        reader = self._reader_from_start()
        dead = 0
        for count, value in enumerate(reader, start=1):
            event = self._event(value)
            dead += 0 if event else value.end - value.start
            if count == cursor.values_done:
                if _value_hash(value, event) != cursor.last_value_hash:
                    return None
                cursor.other_form = True
                cursor.byte_pos, cursor.next_line = reader.position, reader.line
                cursor.bytes_dead, cursor.bytes_nul = dead, reader.take_nul_bytes()
                cursor.bytes_stored = cursor.byte_pos - dead - cursor.bytes_nul
                return reader
        return None

    def _event(self, value: Value) -> Event | None:
        if value.problem is not None:
            return None
        event = parse_event(value.raw, value.fields, max_nesting=self._settings.max_nesting)
        return event if isinstance(event, Event) else None

    def _new_log(self, connection: Connection, identity: str, generation: int) -> Checkpoint:
        name = _name(self._stream.path)
        source, source_generation = table.free_source(connection, name, self._stream.inode)
        return Checkpoint(
            identity=identity,
            generation=generation,
            source=source,
            source_inode=self._stream.inode,
            source_generation=source_generation,
            current_path=name,
        )

    def _stored_events(self, cursor: Checkpoint, patience: int, of_v3: V3Log | None) -> DuplicateLookup | None:
        """Return what looks up events, where some may be stored that the cursor does not know of."""
        if not patience and (of_v3 is None or of_v3.until < cursor.next_offset):
            return None
        patience = patience or FIRST_LOOK
        return DuplicateLookup(
            _place(cursor), cursor.identity, self._connect, patience, start=cursor.next_offset, of_v3=of_v3
        )

    def _log_of_v3(self, connection: Connection, known: Sequence[Checkpoint]) -> V3Log | None:
        """Return what version 3 stored of the log, unless it is certain that there is nothing of it."""
        if not table.has_rows_of_v3(connection):
            return None
        if known and not self._patience:
            first = [offsets(connection, _place(cursor)) for cursor in known]
            if all(one is not None and one[0] == 0 for one in first):
                return None
        return find_v3_log(connection, self._first_values())

    def _first_values(self) -> list[FirstValue]:
        """Return the first values of the log with their places in it."""
        places = Checkpoint("", 0, "", "", 0, "")
        values = islice(self._reader_from_start(), FIRST_LOOK)
        return [(places.take_offset(value.line), self._event(value) or value.raw) for value in values]

    def _reader_behind(self, position: int) -> ValueReader:
        """Return a reader of what follows a place at which a value may begin."""
        before = b""
        if position:
            before = tail_before(self._stream, position, min(position, TAIL_BYTES)) or b""
            if self._stream.position < position:
                return self._reader_from_start()
        return ValueReader(
            self._stream, position=position, before=before, max_value_bytes=self._settings.max_value_bytes
        )

    def _reader_from_start(self) -> ValueReader:
        self._stream.rewind()
        return ValueReader(self._stream, max_value_bytes=self._settings.max_value_bytes)


def _cursor(row: Mapping[str, Any]) -> Checkpoint:
    names = {one.name for one in fields(Checkpoint)}
    columns = {key: value for key, value in row.items() if key in names}
    return Checkpoint(**columns, stored_values=row["values_done"], stored_bytes=row["byte_pos"])


def _place(cursor: Checkpoint) -> SourceKey:
    return SourceKey(cursor.source, cursor.source_inode, cursor.source_generation)


def _value_hash(value: Value, event: Event | None) -> str:
    if event:
        return event.payload_hash
    return value.digest or blake2b(value.raw, digest_size=32).hexdigest()


def _name(path: Path) -> str:
    """Return a file's absolute path as text that every database can store."""
    return inert_cut(os.path.abspath(path), table.MAX_SOURCE_CHARS)  # noqa: PTH100 - resolve() would follow links
