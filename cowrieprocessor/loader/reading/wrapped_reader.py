"""A reader for the events in a wrapped log, with the places of the values that hold them.

A line may be split over several values, and a value may hold several events. Reading can resume only where neither is
the case, so `position` stays before the first value of such a group until all of its events were returned.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cowrieprocessor.events import REFUSED_TOO_LARGE, Refused
from cowrieprocessor.loader.reading.line_reader import LineReader
from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.loader.reading.value_reader import Value, ValueReader, has_event_name
from cowrieprocessor.loader.reading.wrappers.base import (
    Found,
    Piece,
    Wrapper,
    find_events,
    is_event,
    is_object,
    may_be_torn_event,
)
from cowrieprocessor.loader.reading.wrappers.registry import wrapper_named
from cowrieprocessor.wording import plural


@dataclass(slots=True)
class _SplitLine:
    """The parts of a line read so far.

    Attributes:
        first: the value with its first part.
        parts: the parts.
        size: their length.
        outer_bytes: the length of the values that hold them.
    """

    first: Value
    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    outer_bytes: int = 0


class WrappedReader:
    """Iterates over the events in a wrapped log, in bounded memory.

    Lines of other programs are counted and passed over; what is left of a damaged event is returned as a problem.

    Attributes:
        position: the end of the values whose events were all returned, in decompressed bytes.
        line: 0-based number of the line at `position`.

    Args:
        reader: the values of the log.
        wrapper: its wrapper.
        stream: the log.
        max_value_bytes: the largest event that is returned as such.
    """

    def __init__(
        self, reader: ValueReader | LineReader, wrapper: Wrapper, stream: LogStream, max_value_bytes: int
    ) -> None:
        self._reader = reader
        self._wrapper = wrapper
        self._stream = stream
        self._max = max_value_bytes
        self._ready: deque[Value] = deque()
        self._split: dict[str, _SplitLine] = {}
        self._held_bytes = 0
        self._found = [0, 0]
        self._nul_bytes = 0
        self._foreign = [0, 0]
        self.position, self.line, self._tail = reader.position, reader.line, reader.tail()

    def __iter__(self) -> Iterator[Value]:
        """Yield the events up to the current end of the log.

        Raises:
            CompressedDataError: the archive ends early or is damaged; all events before that were yielded.
        """
        yield from self._take_ready()
        for outer in self._reader:
            self._add(outer)
            if not self._split:
                yield from self._take_ready()
        if self._split and self._stream.is_finished:
            for stream in list(self._split):
                self._finish_line(stream, self._split[stream].first)
            yield from self._take_ready()
        if not self._split:
            self._advance()

    @property
    def is_between_values(self) -> bool:
        """Whether all events before the reader's place were returned, so that reading can resume at `position`."""
        return not self._ready and not self._split

    @property
    def pending_bytes(self) -> int:
        """Bytes read after `position`: an unfinished value or line."""
        return self._reader.position - self.position + self._reader.pending_bytes

    @property
    def is_in_object(self) -> bool:
        """Whether what is unfinished may be an event."""
        return bool(self._split) or self._reader.is_in_object

    @property
    def pending(self) -> bytes | None:
        """None: what is torn in a wrapper is not joined."""
        return None

    @property
    def leading(self) -> bytes | None:
        """None: what a wrapper begins with is not joined."""
        return None

    def take_nul_runs(self) -> list[tuple[int, int]]:
        """Return none: in a wrapper, places cannot be compared with another copy."""
        return []

    def take_nul_bytes(self) -> int:
        """Return the number of NUL bytes skipped since the last call."""
        count, self._nul_bytes = self._nul_bytes, 0
        return count

    def take_foreign(self) -> tuple[int, int]:
        """Return lines and bytes of other programs passed over since the last call."""
        (lines, size), self._foreign = self._foreign, [0, 0]
        return lines, size

    def tail(self) -> bytes:
        """Return the bytes before `position` that identify the log when reading resumes, at most 512."""
        return self._tail

    def _take_ready(self) -> Iterator[Value]:
        """Yield the events of a group; with the last of them, the place moves after the group."""
        ready = self._ready
        if not ready:
            self._advance()
        while ready:
            value = ready.popleft()
            if not ready:
                self._advance()
            yield value

    def _advance(self) -> None:
        reader = self._reader
        self.position, self.line, self._tail = reader.position, reader.line, reader.tail()
        self._nul_bytes += reader.take_nul_bytes()
        self._foreign = [total + count for total, count in zip(self._foreign, self._found, strict=True)]
        self._found, self._held_bytes = [0, 0], 0

    def _add(self, outer: Value) -> None:
        """Add what one value of the log holds."""
        if outer.problem is not None:
            if self._wrapper.reads_lines and not may_be_torn_event(outer.raw):
                self._pass_over(outer.end - outer.start)
            else:
                self._ready.append(outer)
        elif outer.fields is not None and not self._wrapper.is_frame(outer.fields):
            if is_event(outer.fields):
                self._ready.append(outer)
            else:
                self._pass_over(outer.end - outer.start)
        else:
            for piece in self._wrapper.pieces(outer):
                self._add_piece(piece, outer)
        if self._split:
            self._bound(outer)

    def _add_piece(self, piece: Piece, outer: Value) -> None:
        split = self._split.get(piece.stream)
        if split is not None and is_object(piece.text.strip()):
            self._finish_line(piece.stream, split.first)  # its rest was never written
            split = None
        if split is None and not piece.continues:
            start, end = outer.start, outer.end
            if piece.start is not None and piece.end is not None:
                start, end = outer.start + piece.start, outer.start + piece.end
            line = outer.line + outer.raw.count(b"\n", 0, piece.start or 0)
            self._add_text(piece.text, line, start, end)
            return
        if split is None:
            split = self._split[piece.stream] = _SplitLine(outer)
        split.parts.append(piece.text)
        split.size += len(piece.text)
        split.outer_bytes += outer.end - outer.start
        if not piece.continues:
            self._finish_line(piece.stream, outer)

    def _finish_line(self, stream: str, last: Value) -> None:
        """Add the event in a line whose parts are all there, or as many as there will ever be."""
        split = self._split.pop(stream)
        start = split.first.start
        end = last.end if not self._ready and not self._found[0] else start + split.outer_bytes
        self._add_text(b"".join(split.parts), split.first.line, start, max(end, start + split.outer_bytes))

    def _add_text(self, text: bytes, line: int, start: int, end: int) -> None:
        """Add what a text holds: an event, or what is left of one, or a line of another program."""
        if len(text) > self._max and may_be_torn_event(text):
            found = [Found(text, None, Refused(REFUSED_TOO_LARGE, plural(len(text), "byte")))]
        else:
            found = find_events(text)
        if not found:
            self._pass_over(end - start)
        for raw, fields, problem in found:
            self._ready.append(Value(raw, fields, line, start, end, problem))

    def _pass_over(self, size_bytes: int) -> None:
        self._found[0] += 1
        self._found[1] += size_bytes

    def _bound(self, outer: Value) -> None:
        """Give up a line that goes on for too long, so that no more than the limit is held."""
        self._held_bytes += outer.end - outer.start
        if self._held_bytes > 2 * self._max:
            self._finish_line(next(iter(self._split)), outer)
            self._held_bytes = sum(split.outer_bytes for split in self._split.values())


def wrapped_reader_of(
    stream: LogStream, name: str, position: int, line: int, before: bytes, max_value_bytes: int
) -> WrappedReader:
    """Return a reader of a wrapped log from a position on; see `log_reader.reader_of`.

    Args:
        stream: the log, at `position`.
        name: the name of its wrapper.
        position: where to start, in decompressed bytes.
        line: 0-based number of the line at `position`.
        before: known bytes before `position`.
        max_value_bytes: the largest event that is returned as such.
    """
    wrapper = wrapper_named(name)

    def is_value(fields: Mapping[str, Any]) -> bool:
        return has_event_name(fields) or wrapper.is_frame(fields)

    place: dict[str, Any] = {"position": position, "line": line, "before": before, "max_value_bytes": max_value_bytes}
    values = LineReader(stream, **place) if wrapper.reads_lines else ValueReader(stream, **place, is_value=is_value)
    return WrappedReader(values, wrapper, stream, max_value_bytes)
