"""Which log a file is, whatever it is called, and how far it has been read.

A log is known by its first JSON object. Before anything of a file is skipped, it is proven to be the log it looks
like: the bytes before the cursor are the same, or, in another form of writing, the last value before the cursor is;
or, where the file is an older, shorter copy, its last event is found stored. Otherwise it is a new generation.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Connection

from cowrieprocessor.db import log_files as table
from cowrieprocessor.db.log_files import HeldRow
from cowrieprocessor.events import Event, parse_event
from cowrieprocessor.loader.compression import LogStream
from cowrieprocessor.loader.reader import Value, ValueReader
from cowrieprocessor.sanitize import inert_cut

MAX_SOURCE_CHARS = 512
HELD_WINDOW = 5000


class HeldRows:
    """The rows that are stored for a log's offsets, read ahead window by window.

    Args:
        read: returns the rows of the offsets from the first to the last given, both included.
        until: the last offset that may be held.
    """

    def __init__(self, read: Callable[[int, int], dict[int, HeldRow]], until: int) -> None:
        self._read = read
        self._until = until
        self._window: dict[int, HeldRow] = {}
        self._window_end = -1

    def get(self, offset: int) -> HeldRow | None:
        """Return the row at an offset; offsets are asked for in rising order."""
        if offset > self._until:
            return None
        if offset > self._window_end:
            self._window_end = offset + HELD_WINDOW
            self._window = self._read(offset, self._window_end)
        return self._window.get(offset)


@dataclass(slots=True)
class LogCursor:
    """A log and how far it is stored; the fields are the columns of `log_files`.

    Attributes:
        stored_values: `values_done` as the database has it, None before the first transaction.
        held_rows: rows that v3 wrote for this log, None where there are none ahead.
        held_until: the last offset for which v3 may have written rows, -1 if there are none.
        spill_generation: where a row goes whose offset another row holds.
        other_form: the file holds the log in another form of writing than the one the cursor was stored for.
    """

    identity: str
    generation: int
    source: str
    source_inode: str
    source_generation: int
    current_path: str
    values_done: int = 0
    next_line: int = 0
    next_offset: int = 0
    byte_pos: int = 0
    tail_hash: str | None = None
    tail_bytes: int = 0
    last_value_hash: str | None = None
    bytes_stored: int = 0
    bytes_dead: int = 0
    bytes_nul: int = 0
    bytes_gap: int = 0
    stored_values: int | None = None
    held_rows: HeldRows | None = None
    held_until: int = -1
    spill_generation: int = 0
    other_form: bool = False

    def take_offset(self, line: int) -> int:
        """Return the source_offset of a value that starts on a line, and move behind it.

        It is the line's number, except where several values share a line: each takes at least the next one.
        """
        offset = line if line > self.next_offset else self.next_offset
        self.next_offset = offset + 1
        return offset

    def columns(self, now: str) -> dict[str, Any]:
        """Return the row of `log_files`."""
        return {name: getattr(self, name) for name in table.COLUMNS} | {"updated_at": now}


@dataclass(frozen=True, slots=True)
class Resume:
    """Where the reading of a log goes on.

    Attributes:
        cursor: the log.
        reader: the values that are not stored yet; None where there is nothing to read.
    """

    cursor: LogCursor
    reader: ValueReader | None


def first_object(stream: LogStream, max_value_bytes: int) -> Value | None:
    """Return the first object of a log, None where it has none (yet)."""
    for value in ValueReader(stream, max_value_bytes=max_value_bytes):
        if value.fields is not None:
            return value
    return None


def identity_of(fields_: dict[str, Any]) -> str:
    """Return the SHA-256 of a log's first object with sorted keys: what a log is known by."""
    return sha256(orjson.dumps(fields_, option=orjson.OPT_SORT_KEYS)).hexdigest()


class LogOpener:
    """Opens a file as the log it is, at the place where reading goes on.

    Args:
        open_stream: opens the file from its beginning.
        max_value_bytes: the largest value that is an event.
    """

    def __init__(self, path: Path, open_stream: Callable[[], LogStream], max_value_bytes: int) -> None:
        self._path = path
        self._open = open_stream
        self._max = max_value_bytes
        self.stream = open_stream()

    def resume(self, connection: Connection) -> Resume | None:
        """Return where to go on, or None where the file has no complete object yet."""
        first = first_object(self.stream, self._max)
        if first is None or first.fields is None:
            return None
        identity = identity_of(first.fields)
        known = [_cursor(row) for row in table.generations(connection, identity)]
        for cursor in known:
            if resume := self._prove(connection, cursor):
                return resume
        generation = 1 + max((cursor.generation for cursor in known), default=-1)
        return Resume(self._new_log(connection, identity, generation, first), self._reader_from_start())

    def _prove(self, connection: Connection, cursor: LogCursor) -> Resume | None:
        """Return where to go on if the file is this log, else None."""
        cursor.current_path = _name(self._path)
        reader = self._at_same_bytes(cursor) or self._at_same_values(connection, cursor)
        if reader is None:
            return None
        self._look_for_held_rows(connection, cursor)
        return Resume(cursor, reader if isinstance(reader, ValueReader) else None)

    def _at_same_bytes(self, cursor: LogCursor) -> ValueReader | None:
        """Return a reader at the cursor if the bytes before it are the ones that were stored."""
        self._reopen()
        start = cursor.byte_pos - cursor.tail_bytes
        if self.stream.skip(start) < start:
            return None
        tail = self.stream.read_exactly(cursor.tail_bytes)
        if sha256(tail).hexdigest() != cursor.tail_hash:
            return None
        return ValueReader(
            self.stream,
            position=cursor.byte_pos,
            line=cursor.next_line,
            before=tail,
            max_value_bytes=self._max,
        )

    def _at_same_values(self, connection: Connection, cursor: LogCursor) -> ValueReader | bool | None:
        """Return a reader behind the last stored value, if the log is the same in another form of writing.

        True means that the file is an older, shorter copy: all of it is stored.
        """
        reader = self._reader_from_start()
        dead, last_event = 0, None
        for count, value in enumerate(reader, start=1):
            event = parse_event(value.raw, value.fields) if value.problem is None else None
            if isinstance(event, Event):
                last_event = event
            else:
                dead += value.end - value.start
            if count == cursor.values_done:
                if _value_hash(value, event) != cursor.last_value_hash:
                    return None
                cursor.other_form = True
                cursor.byte_pos, cursor.next_line = reader.position, reader.line
                cursor.bytes_dead, cursor.bytes_nul, cursor.bytes_gap = dead, reader.take_nul_bytes(), 0
                cursor.bytes_stored = cursor.byte_pos - dead - cursor.bytes_nul
                return reader
        if last_event is None:
            return None
        return True if table.is_stored(connection, cursor.columns(""), last_event) else None

    def _new_log(self, connection: Connection, identity: str, generation: int, first: Value) -> LogCursor:
        event = parse_event(first.raw, first.fields)
        name = _name(self._path)
        held = table.log_of_v3(connection, event, first.line, name) if isinstance(event, Event) else None
        if held:
            source, inode, source_generation = held
        else:
            source, inode = name, None
            source_generation = table.free_generation(connection, source, self.stream.inode)
            if table.allows_one_generation(connection) and source_generation > 0:
                source = inert_cut(f"{name}#{source_generation}", MAX_SOURCE_CHARS)
        cursor = LogCursor(
            identity=identity,
            generation=generation,
            source=source,
            source_inode=inode or self.stream.inode,
            source_generation=source_generation,
            current_path=name,
        )
        self._look_for_held_rows(connection, cursor)
        return cursor

    def _look_for_held_rows(self, connection: Connection, cursor: LogCursor) -> None:
        cursor.held_until = table.held_until(connection, cursor.source, cursor.source_inode, cursor.source_generation)
        if cursor.held_until >= cursor.next_offset:
            cursor.spill_generation = table.free_generation(connection, cursor.source, cursor.source_inode)

    def _reader_from_start(self) -> ValueReader:
        self._reopen()
        return ValueReader(self.stream, max_value_bytes=self._max)

    def _reopen(self) -> None:
        self.stream.close()
        self.stream = self._open()


def _cursor(row: Mapping[str, Any]) -> LogCursor:
    names = {one.name for one in fields(LogCursor)}
    return LogCursor(**{key: value for key, value in row.items() if key in names}, stored_values=row["values_done"])


def _value_hash(value: Value, event: object) -> str:
    if isinstance(event, Event):
        return event.payload_hash
    return value.digest or blake2b(value.raw, digest_size=32).hexdigest()


def _name(path: Path) -> str:
    """Return a file's absolute path as text that every database can store."""
    return inert_cut(os.path.abspath(path), MAX_SOURCE_CHARS)  # noqa: PTH100 - resolve() would follow links
