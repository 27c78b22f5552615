"""What dead letters hold when they are read again with today's program and settings.

Each is read by the reader of the loaders, so that several events in a damaged stretch are each taken. Which of the
events are stored already is asked when they are written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import cast

import orjson

from cowrieprocessor.db.dead_letters import positions as places
from cowrieprocessor.db.dead_letters.positions import SourceLog
from cowrieprocessor.db.dead_letters.statements import StoredLetter, event_payload
from cowrieprocessor.db.ingest.event_scan import MAX_PAYLOAD_CHARS
from cowrieprocessor.db.ingest.stored_events import SourceKey
from cowrieprocessor.events import REFUSED_NOT_JSON, Event, Refused, parse_event
from cowrieprocessor.jobs.dead_letters.source_bytes import Connect, LetterBytes, Stays, is_cut, payload_of, range_of
from cowrieprocessor.loader.file_processor import ORIGINS
from cowrieprocessor.loader.reading.log_stream import READ_SIZE, LogStream
from cowrieprocessor.loader.reading.value_reader import Value, ValueReader
from cowrieprocessor.loader.rows.file_aggregates import FileAggregates
from cowrieprocessor.settings import Settings

NOTHING_KEPT = "version 3 kept nothing of it"
NO_EVENT = "its event is not stored any more"
TOO_LONG = "still backfill: the stored payload is over 2 MiB"

_SEPARATORS = b" \t\r,[]"
_ANY_LENGTH = 1 << 62
_TERMINATOR = b"\n{"
"""The next line and the next object: where whatever is damaged ends at the latest."""


@dataclass(slots=True)
class NewValues:
    """Values of a log at least one of which is an event now, or none of which is left.

    Attributes:
        letter: the dead letter.
        log: the log it came from; None where v3 loaded it.
        source_key: what rows of the log carry.
        values: what the reader makes of the bytes.
        reader: the reader, at their end.
        end_line: 0-based number of the line on which they end.
        keeps_place: whether the place of the letter may be free; beside a line that v3 stored it is not.
    """

    letter: StoredLetter
    log: SourceLog | None
    source_key: SourceKey
    values: list[Value]
    reader: ValueReader
    end_line: int
    keeps_place: bool = True

    @property
    def size_bytes(self) -> int:
        """How many bytes the values have."""
        return sum(value.end - value.start for value in self.values)


@dataclass(slots=True)
class StoredAlready:
    """An event that is stored, of which only what belongs beside it is missing.

    Attributes:
        letter: the dead letter.
        event: the event; None where nothing is missing.
        by_backfill: whether the backfill refused it, so that attributes and commands of its session are missing too.
    """

    letter: StoredLetter
    event: Event | None
    by_backfill: bool = False

    @property
    def size_bytes(self) -> int:
        """How many characters the event has."""
        return len(self.event.payload) if self.event else 0


Readable = NewValues | StoredAlready


class LetterReader:
    """Reads dead letters again.

    Args:
        connect: opens a transaction for reading.
        settings: the limits of today.
    """

    def __init__(self, connect: Connect, settings: Settings) -> None:
        self._connect = connect
        self._settings = settings
        self._bytes = LetterBytes(connect, settings)
        self._places: dict[str, list[SourceKey]] = {}

    def __enter__(self) -> LetterReader:
        """Return the reader itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the log that is open."""
        self._bytes.__exit__(kind, error, trace)

    def read(self, letter: StoredLetter) -> Readable:
        """Return what a letter holds now.

        Raises:
            Stays: it holds nothing that could be stored, or its bytes cannot be had.
        """
        facts = letter.metadata
        if isinstance(facts.get("raw_event_id"), int):
            return self._refused_by_backfill(letter)
        if isinstance(facts.get("byte_start"), int) and isinstance(facts.get("byte_end"), int):
            return self._without_file(letter) if facts.get("event_stored") is True else self._of_ours(letter)
        return self._of_v3(letter)

    def _of_ours(self, letter: StoredLetter) -> NewValues:
        """Return the values of what our loaders refused."""
        raw, log = self._bytes.of(letter)
        start, _ = range_of(letter)
        brackets = len(raw) - len(raw.lstrip(_SEPARATORS))  # they were kept to show what is behind them
        line = int(letter.metadata.get("line", 1)) - 1
        values, reader = self._values(raw, start - brackets, line)
        log = log or self._bytes.log_of(letter, raw)
        return NewValues(letter, log, log.source_key, values, reader, line + raw.count(b"\n"))

    def _without_file(self, letter: StoredLetter) -> StoredAlready:
        """Return the event of which our loaders stored everything but its file."""
        if not is_cut(payload_of(letter)):
            raw, _ = self._bytes.of(letter)
            return StoredAlready(letter, self._event_to_take_up(raw))
        log = self._bytes.log_of(letter, None, holds_event=True)
        with self._connect() as connection:
            stored = places.payload_at(connection, log.source_key, letter.source_offset or 0)
        return StoredAlready(letter, self._event_to_take_up(_utf8(stored or "")))

    def _refused_by_backfill(self, letter: StoredLetter) -> StoredAlready:
        event_id = int(letter.metadata["raw_event_id"])
        with self._connect() as connection:
            payload = event_payload(connection, event_id, MAX_PAYLOAD_CHARS)
            if payload is None:
                is_there = event_payload(connection, event_id, _ANY_LENGTH) is not None
                raise Stays(TOO_LONG if is_there else NO_EVENT, f"raw_events {event_id}")
        return StoredAlready(letter, self._event_to_take_up(_utf8(payload)), by_backfill=True)

    def _of_v3(self, letter: StoredLetter) -> Readable:
        """Return what a letter of v3 holds: the line that it could not read, or an event that it found suspect.

        v3 stored the event as well, so that only one that is not there is new; a line stands in raw_events as
        `{"malformed": …}`, and stays there.
        """
        payload = payload_of(letter)
        malformed = payload.get("malformed")
        is_line = set(payload) == {"malformed"}
        if not payload or letter.source is None or (is_line and not isinstance(malformed, str)):
            raise Stays(NOTHING_KEPT, "load its log again to take in what it holds")
        place, stored = self._stored_by_v3(letter)
        line, keeps_place = letter.source_offset or 0, stored is None
        if is_line:
            values, reader = self._values(_utf8(str(malformed)), 0, line)
            return NewValues(letter, None, place, values, reader, line, keeps_place)
        event = self._event(_utf8(letter.payload))
        if stored is not None and _is_event(stored):
            return StoredAlready(letter, None)
        value = Value(_utf8(event.payload), event.fields, line, 0, 0)
        return NewValues(letter, None, place, [value], _reader(b"", 0, line, 1), line, keeps_place)

    def _stored_by_v3(self, letter: StoredLetter) -> tuple[SourceKey, str | None]:
        """Return what rows of a letter's log carry, and the payload that v3 stored for its line."""
        source, offset = letter.source or "", letter.source_offset
        with self._connect() as connection:
            if source not in self._places:
                self._places[source] = places.source_keys_of(connection, source)
            known = self._places[source]
            for place in known if offset is not None else ():
                payload = places.payload_at(connection, place, offset or 0)
                if payload is not None:
                    return place, payload
        return (known[0] if known else SourceKey(source, None, 0)), None

    def _values(self, raw: bytes, start: int, line: int) -> tuple[list[Value], ValueReader]:
        """Return the values of some bytes, and the reader behind them.

        Raises:
            Stays: none of them is an event.
        """
        reader = _reader(raw, start, line, self._settings.max_value_bytes)
        values = list(reader)
        pending_bytes = reader.pending_bytes - len(_TERMINATOR.lstrip())
        if pending_bytes > 0:
            rest = raw[len(raw) - pending_bytes :]
            unfinished = Refused(REFUSED_NOT_JSON, "its end is missing")
            values.append(Value(rest, None, reader.line, reader.position, start + len(raw), unfinished))
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
            fields = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise Stays(f"still {REFUSED_NOT_JSON}", str(error)) from error
        parsed = parse_event(raw, fields, max_nesting=self._settings.max_nesting)
        if isinstance(parsed, Refused):
            raise Stays(f"still {parsed.reason}", parsed.detail)
        return parsed

    def _event_to_take_up(self, raw: bytes) -> Event:
        """Return a stored event whose file, if it names one, can be taken up now."""
        event = self._event(raw)
        refused = FileAggregates().add(event) if event.event_type in ORIGINS else None
        if refused is not None:
            raise Stays(f"still {refused.reason}", refused.detail)
        return event


class _ByteRange:
    """Bytes that are read as they were in their log: something that ends them stands behind."""

    is_complete = True

    def __init__(self, raw: bytes) -> None:
        pieces = [raw[at : at + READ_SIZE] for at in range(0, len(raw), READ_SIZE)]
        self._pieces: Iterator[bytes] = iter([*pieces, _TERMINATOR])

    def read(self) -> bytes:
        """Return the next piece, empty at the end."""
        return next(self._pieces, b"")


def _reader(raw: bytes, start: int, line: int, max_value_bytes: int) -> ValueReader:
    stream = cast(LogStream, _ByteRange(raw))  # the reader asks for no more than a stretch has
    return ValueReader(stream, position=start, line=line, max_value_bytes=max_value_bytes)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _is_event(payload: str) -> bool:
    """Return whether a payload that v3 stored is an event, and not a line that it could not read."""
    try:
        fields = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return False
    return isinstance(fields, dict) and bool(fields) and set(fields) != {"malformed"}
