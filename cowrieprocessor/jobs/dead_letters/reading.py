"""Reads dead letters again with the current program and settings.

Letters are read with the loaders' reader, so that each of several events in a damaged byte range is found. Events
already stored are looked up later, when they are written.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

import orjson

from cowrieprocessor.db.dead_letters import positions
from cowrieprocessor.db.dead_letters.positions import SourceLog
from cowrieprocessor.db.dead_letters.statements import StoredLetter, event_payload
from cowrieprocessor.db.ingest.event_scan import MAX_PAYLOAD_CHARS
from cowrieprocessor.db.ingest.stored_events import SourceKey
from cowrieprocessor.events import REFUSED_NOT_JSON, Event, Refused, parse_event
from cowrieprocessor.interpret.file_events import ORIGINS
from cowrieprocessor.jobs.dead_letters.source_bytes import (
    MAX_RANGE_BYTES,
    TERMINATOR,
    Connect,
    LetterBytes,
    Stays,
    is_cut,
    payload_of,
    range_of,
    range_reader,
    wrapper_of,
)
from cowrieprocessor.json_text import json_problem, read_json
from cowrieprocessor.loader.reading.log_reader import LogReader
from cowrieprocessor.loader.reading.value_reader import Value
from cowrieprocessor.loader.rows.file_aggregates import FileAggregates
from cowrieprocessor.settings import Settings

NOTHING_KEPT = "version 3 kept nothing of it"
NO_EVENT = "its event is not stored any more"
TOO_LONG = "still backfill: the stored payload is over 2 MiB"

_SEPARATORS = b" \t\r,[]"
_ANY_LENGTH = 1 << 62


@dataclass(slots=True)
class NewValues:
    """Values read from a letter: at least one of them is an event, or there are none.

    Attributes:
        letter: the dead letter.
        log: the log that it came from; None if v3 loaded it.
        source_key: source columns of the log's rows.
        values: the values.
        reader: the reader, at their end.
        end_line: number of the line on which they end, from 0.
        keeps_offset: whether the letter's offset may be free; it is not where v3 stored the line.
    """

    letter: StoredLetter
    log: SourceLog | None
    source_key: SourceKey
    values: list[Value]
    reader: LogReader
    end_line: int
    keeps_offset: bool = True

    @property
    def size_bytes(self) -> int:
        """Size of the values in bytes."""
        return sum(value.end - value.start for value in self.values)


@dataclass(slots=True)
class StoredAlready:
    """An event already stored, for which only derived rows are missing.

    Attributes:
        letter: the dead letter.
        event: the event; None if nothing is missing.
        by_backfill: whether the backfill refused it, so that session attributes and commands are missing, too.
    """

    letter: StoredLetter
    event: Event | None
    by_backfill: bool = False

    @property
    def size_bytes(self) -> int:
        """Size of the event in characters."""
        return len(self.event.payload) if self.event else 0


Readable = NewValues | StoredAlready


class LetterReader:
    """Reads dead letters again.

    Args:
        connect: opens a read transaction.
        settings: the current limits.
        max_range_bytes: maximum byte range of a letter, unless a single event may be larger.
    """

    def __init__(self, connect: Connect, settings: Settings, *, max_range_bytes: int = MAX_RANGE_BYTES) -> None:
        self._connect = connect
        self._settings = settings
        self._bytes = LetterBytes(connect, settings, max_range_bytes=max_range_bytes)
        self._source_keys: dict[str, list[SourceKey]] = {}

    def __enter__(self) -> LetterReader:
        """Return the reader itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the open log."""
        self._bytes.__exit__(kind, error, trace)

    def read(self, letter: StoredLetter) -> Readable:
        """Return what can be stored from a letter.

        Raises:
            Stays: nothing can be stored, or the bytes are not available.
        """
        metadata = letter.metadata
        if isinstance(metadata.get("raw_event_id"), int):
            return self._read_backfilled(letter)
        if isinstance(metadata.get("byte_start"), int) and isinstance(metadata.get("byte_end"), int):
            return self._read_file_event(letter) if metadata.get("event_stored") is True else self._read_v4(letter)
        return self._read_v3(letter)

    def _read_v4(self, letter: StoredLetter) -> NewValues:
        """Return the values in a byte range that v4's loaders refused."""
        raw, log = self._bytes.of(letter)
        start, _ = range_of(letter)
        brackets = len(raw) - len(raw.lstrip(_SEPARATORS))  # the letter keeps them as context
        line = int(letter.metadata.get("line", 1)) - 1
        values, reader = self._values(raw, start - brackets, line, wrapper_of(letter))
        log = log or self._bytes.log_of(letter, raw)
        return NewValues(letter, log, log.source_key, values, reader, line + raw.count(b"\n"))

    def _read_file_event(self, letter: StoredLetter) -> StoredAlready:
        """Return the stored event whose file v4's loaders refused."""
        if not is_cut(payload_of(letter)):
            raw, _ = self._bytes.of(letter)
            return StoredAlready(letter, self._event_with_valid_file(raw))
        log = self._bytes.log_of(letter, None, holds_event=True)
        with self._connect() as connection:
            stored = positions.payload_at(connection, log.source_key, letter.source_offset or 0)
        return StoredAlready(letter, self._event_with_valid_file(_utf8(stored or "")))

    def _read_backfilled(self, letter: StoredLetter) -> StoredAlready:
        """Return the stored event that the backfill refused."""
        event_id = int(letter.metadata["raw_event_id"])
        with self._connect() as connection:
            payload = event_payload(connection, event_id, MAX_PAYLOAD_CHARS)
            if payload is None:
                is_there = event_payload(connection, event_id, _ANY_LENGTH) is not None
                raise Stays(TOO_LONG if is_there else NO_EVENT, f"raw_events {event_id}")
        return StoredAlready(letter, self._event_with_valid_file(_utf8(payload)), by_backfill=True)

    def _read_v3(self, letter: StoredLetter) -> Readable:
        """Return the contents of a letter of v3: a line that v3 could not read, or an event that it quarantined.

        v3 normally stored a quarantined event as well, so it is new only if it is missing. An unreadable line is in
        raw_events as `{"malformed": …}`, and stays there.
        """
        payload = payload_of(letter)
        malformed = payload.get("malformed")
        is_line = set(payload) == {"malformed"}
        if not payload or letter.source is None or (is_line and not isinstance(malformed, str)):
            raise Stays(NOTHING_KEPT, "load its log again to store its contents")
        source_key, stored = self._stored_by_v3(letter)
        line, keeps_offset = letter.source_offset or 0, stored is None
        if is_line:
            values, reader = self._values(_utf8(str(malformed)), 0, line)
            return NewValues(letter, None, source_key, values, reader, line, keeps_offset)
        event = self._event(_utf8(letter.payload))
        if stored is not None and _is_event(stored):
            return StoredAlready(letter, None)
        value = Value(_utf8(event.payload), event.fields, line, 0, 0)
        return NewValues(letter, None, source_key, [value], range_reader(b"", 0, line, 1), line, keeps_offset)

    def _stored_by_v3(self, letter: StoredLetter) -> tuple[SourceKey, str | None]:
        """Return the source columns of a letter's log, and the payload that v3 stored for its line."""
        source, offset = letter.source or "", letter.source_offset
        with self._connect() as connection:
            if source not in self._source_keys:
                self._source_keys[source] = positions.source_keys_of(connection, source)
            source_keys = self._source_keys[source]
            for source_key in source_keys if offset is not None else ():
                payload = positions.payload_at(connection, source_key, offset or 0)
                if payload is not None:
                    return source_key, payload
        return (source_keys[0] if source_keys else SourceKey(source, None, 0)), None

    def _values(self, raw: bytes, start: int, line: int, wrapper: str | None = None) -> tuple[list[Value], LogReader]:
        """Return the values in a byte range, and the reader at their end.

        Raises:
            Stays: no value is an event.
        """
        reader = range_reader(raw, start, line, self._settings.max_value_bytes, wrapper)
        values = list(reader)
        pending_bytes = reader.pending_bytes - len(TERMINATOR.lstrip())
        if pending_bytes > 0:
            remainder = raw[len(raw) - pending_bytes :]
            unfinished = Refused(REFUSED_NOT_JSON, "its end is missing")
            values.append(Value(remainder, None, reader.line, reader.position, start + len(raw), unfinished))
        if wrapper is not None and not values:
            raise Stays(f"still {REFUSED_NOT_JSON}", f"no event is in this value ({wrapper})")
        problems = [refused for value in values if (refused := self._problem(value)) is not None]
        if problems and len(problems) == len(values):
            raise Stays(f"still {problems[0].reason}", problems[0].detail)
        return values, reader

    def _problem(self, value: Value) -> Refused | None:
        if value.problem is not None:
            return value.problem
        parsed = parse_event(value.raw, value.fields, max_nesting=self._settings.max_nesting, hashed=False)
        return parsed if isinstance(parsed, Refused) else None

    def _event(self, raw: bytes) -> Event:
        try:
            fields = read_json(raw)
        except orjson.JSONDecodeError as error:
            raise Stays(f"still {REFUSED_NOT_JSON}", json_problem(error)) from error
        parsed = parse_event(raw, fields, max_nesting=self._settings.max_nesting)
        if isinstance(parsed, Refused):
            raise Stays(f"still {parsed.reason}", parsed.detail)
        return parsed

    def _event_with_valid_file(self, raw: bytes) -> Event:
        """Return a stored event; if it names a file, the file can be added now.

        Raises:
            Stays: it still cannot.
        """
        event = self._event(raw)
        refused = FileAggregates().add(event) if event.event_type in ORIGINS else None
        if refused is not None:
            raise Stays(f"still {refused.reason}", refused.detail)
        return event


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _is_event(payload: str) -> bool:
    """Return whether a payload stored by v3 is an event, not a line that v3 could not read."""
    try:
        fields = read_json(_utf8(payload))
    except orjson.JSONDecodeError:
        return False
    return isinstance(fields, dict) and bool(fields) and set(fields) != {"malformed"}
