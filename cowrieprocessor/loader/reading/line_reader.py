"""A reader for the lines of a text, with the places and counts that `ValueReader` has."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

from cowrieprocessor.events import REFUSED_TOO_LARGE, Refused
from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.loader.reading.value_reader import DEAD_LETTER_HEAD_BYTES, TAIL_BYTES, Value
from cowrieprocessor.wording import plural


class LineReader:
    """Iterates over the lines of a text, in bounded memory; empty lines and NULs around a line are skipped.

    Attributes:
        position: the end of the lines read so far, in decompressed bytes.
        line: 0-based number of the line at `position`.
        nul_bytes: NUL bytes skipped since the last call of `take_nul_bytes`.

    Args:
        stream: the log, at `position`.
        position: where to start, in decompressed bytes.
        line: 0-based number of the line at `position`.
        before: known bytes before `position`, for `tail`.
        max_value_bytes: of a longer line only the beginning is returned, as a problem.
    """

    def __init__(
        self,
        stream: LogStream,
        *,
        position: int = 0,
        line: int = 0,
        before: bytes = b"",
        max_value_bytes: int = 2 << 20,
    ) -> None:
        self._stream = stream
        self._max = max_value_bytes
        self.position = position
        self.line = line
        self.nul_bytes = 0
        self._before = before[-TAIL_BYTES:]
        self._buffer = b""
        self._at = 0
        self._skipped = 0

    def __iter__(self) -> Iterator[Value]:
        """Yield the lines up to the current end of the log; the last one only with its line end or in a finished log.

        Raises:
            CompressedDataError: the archive ends early or is damaged; all lines before that were yielded.
        """
        while self._fill():
            self._skip_nuls()
            yield from self._lines()
            if len(self._buffer) - self._at > self._max and (value := self._long_line()):
                yield value
        if self._stream.is_finished and self._at < len(self._buffer) and (value := self._take(len(self._buffer), 0)):
            yield value

    @property
    def pending_bytes(self) -> int:
        """Bytes read after `position`: a line without its end."""
        return self._skipped + len(self._buffer) - self._at

    @property
    def is_in_object(self) -> bool:
        """Whether the unfinished line holds the beginning of an object."""
        return b"{" in self._buffer[self._at :]

    def take_nul_bytes(self) -> int:
        """Return the number of NUL bytes skipped since the last call."""
        count, self.nul_bytes = self.nul_bytes, 0
        return count

    def tail(self) -> bytes:
        """Return the bytes before `position` that identify the log when reading resumes, at most 512."""
        return (self._before + self._buffer[max(0, self._at - TAIL_BYTES) : self._at])[-TAIL_BYTES:]

    def _skip_nuls(self) -> None:
        """Skip a run of NULs before a line, which may be longer than any line."""
        data = self._buffer[self._at :]
        count = len(data) - len(data.lstrip(b"\0"))
        self.nul_bytes += count
        self._advance(self._at + count, 0)

    def _lines(self) -> Iterator[Value]:
        while (end := self._buffer.find(b"\n", self._at)) >= 0:
            if (value := self._take(end, 1)) is not None:
                yield value

    def _take(self, end: int, ending: int) -> Value | None:
        """Consume a line and its line end, and return the line; None if it is empty.

        Args:
            end: the end of the line in the buffer.
            ending: the length of the line end.
        """
        raw, start, line = self._buffer[self._at : end], self.position, self.line
        self._advance(end + ending, ending)
        text = raw.lstrip(b"\0\r\t ").rstrip(b"\0\r")
        if not text:
            self.nul_bytes += raw.count(b"\0")
            return None
        at = raw.index(text)
        self.nul_bytes += raw.count(b"\0", 0, at) + raw.count(b"\0", at + len(text))
        start += at
        if len(text) > self._max:
            return _too_large(text[:DEAD_LETTER_HEAD_BYTES], line, start, len(text), sha256(text).hexdigest())
        return Value(text, None, line, start, start + len(text))

    def _long_line(self) -> Value | None:
        """Consume a line over the limit; None if its end was not written yet."""
        head, digest = self._buffer[self._at :][:DEAD_LETTER_HEAD_BYTES], sha256()
        start, line, before = self.position, self.line, self.tail()
        size = 0
        while (end := self._buffer.find(b"\n", self._at)) < 0:
            digest.update(self._buffer[self._at :])
            size += len(self._buffer) - self._at
            self._advance(len(self._buffer), 0)
            if not self._fill():
                break
        if end < 0 and not self._stream.is_finished:
            self.position, self._before, self._skipped = start, before, size
            self._buffer, self._at = b"", 0
            return None
        if end >= 0:
            digest.update(self._buffer[self._at : end])
            size += end - self._at
            self._advance(end + 1, 1)
        return _too_large(head, line, start, size, digest.hexdigest())

    def _advance(self, end: int, lines: int) -> None:
        self.position += end - self._at
        self.line += lines
        self._at = end

    def _fill(self) -> bool:
        """Drop the consumed part of the buffer and append the next piece of the log; return False at the end."""
        data = b"" if self._skipped else self._stream.read()
        if not data:
            return False
        self._before = self.tail()
        self._buffer = self._buffer[self._at :] + data
        self._at = 0
        return True


def _too_large(head: bytes, line: int, start: int, size: int, digest: str) -> Value:
    return Value(head, None, line, start, start + size, Refused(REFUSED_TOO_LARGE, plural(size, "byte")), digest)
