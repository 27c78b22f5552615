r"""The values of a log, one after the other, in whatever form it was written.

A log is a sequence of JSON objects. White space, commas, square brackets, byte-order marks and NUL runs between them
separate them, so that a line per event, pretty-printed objects and JSON arrays are one grammar, and reading can go
on after any value. What is no object goes up to the end of its line and is given back as a problem.

An object that is damaged ends where the next object begins: on the same line if the rest of the line is an event
that was glued to a torn one, else at the next line that begins with `{`. No decision depends on how the bytes happen
to arrive, nor on where the file ends today: what cannot be decided yet stays before the cursor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, NamedTuple

import orjson

from cowrieprocessor.events import REFUSED_NOT_JSON, REFUSED_NOT_OBJECT, REFUSED_TOO_LARGE, Refused
from cowrieprocessor.loader.compression import LogStream

TAIL_BYTES = 512
"""How many bytes before the cursor prove that a log is the same."""

DEAD_LETTER_HEAD_BYTES = 64 << 10
"""How much of a value over 1 MiB is kept in its dead letter."""

DEAD_LETTER_WHOLE_BYTES = 1 << 20
_MAX_SALVAGE_TRIES = 16

_STRING = rb'"(?:[^"\\\x00-\x1f]|\\[^\x00-\x1f])*+"'
_SEPARATORS = re.compile(rb"(?:[ \t\r\n,\[\]\x00]|\xef\xbb\xbf)*+")
_FLAT_OBJECT = re.compile(
    rb'\{(?:[^"{}\[\]\x00\n]++|' + _STRING + rb'|\[(?:[^"{}\[\]\x00\n]++|' + _STRING + rb"|\n[ \t\r]*+(?!\{))*+\]"
    rb"|\n[ \t\r]*+(?!\{))*+\}"
)
_TOKEN = re.compile(_STRING + rb'|\n[ \t\r]*\{|[{}\[\]"\x00]')
_CUT_STRING = re.compile(rb'"(?:[^"\\\x00-\x1f]|\\[^\x00-\x1f])*+\\?\Z')
_END_OF_LINE = re.compile(rb"[\n\x00]")
_NEXT_OBJECT_LINE = re.compile(rb"\n(?=[ \t\r]*\{)")
_CLOSES = {b"}": b"{", b"]": b"["}


class Value(NamedTuple):
    """One value of a log.

    Attributes:
        raw: its bytes without the white space around; of a value over 1 MiB that is no event, the first 64 KiB.
        fields: the decoded object, None where there is a problem.
        line: 0-based number of the line it starts on.
        start: where it starts, in decompressed bytes.
        end: where it ends, exclusive.
        problem: why it is no object.
        digest: SHA-256 of all its bytes, where `raw` is only the beginning.
    """

    raw: bytes
    fields: dict[str, Any] | None
    line: int
    start: int
    end: int
    problem: Refused | None = None
    digest: str | None = None


class _NeedMore(Exception):
    """What follows is needed to decide."""


class ValueReader:
    """Iterates over the values of a log, in bounded memory.

    Attributes:
        position: the end of what was given out (or is known to separate), in decompressed bytes.
        line: the number of the line at `position`.
        nul_bytes: NUL bytes passed over since `take_nul_bytes` was called last.

    Args:
        stream: the log, at `position`.
        position: where to begin, in decompressed bytes.
        line: the number of the line there.
        before: the bytes before `position` that are known, for `tail`.
        max_value_bytes: the largest value that is given out as an object.
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
        self._final = False

    def __iter__(self) -> Iterator[Value]:
        """Yield the values up to the end of the log as it is now.

        Raises:
            CompressedDataError: the archive ends early or is damaged; all before it was yielded.
        """
        while self._fill():
            yield from self._lines()
            yield from self._scan()
        self._final = True
        yield from self._scan()

    @property
    def pending_bytes(self) -> int:
        """Bytes after the cursor that wait for more: an unfinished value."""
        return len(self._buffer) - self._at

    def take_nul_bytes(self) -> int:
        """Return the NUL bytes passed over since the last call."""
        count, self.nul_bytes = self.nul_bytes, 0
        return count

    def tail(self) -> bytes:
        """Return the bytes before `position` that prove that a log is the same, at most 512."""
        return (self._before + self._buffer[max(0, self._at - TAIL_BYTES) : self._at])[-TAIL_BYTES:]

    # --- the common form: a line, an object ---

    def _lines(self) -> Iterator[Value]:
        """Yield objects as long as each stands alone on its line; the first that does not is left to `_scan`."""
        last = self._buffer.rfind(b"\n")
        if last < self._at:
            return
        loads, limit = orjson.loads, self._max
        for raw in self._buffer[self._at : last].split(b"\n"):
            try:
                fields = loads(raw)
            except orjson.JSONDecodeError:
                return
            size = len(raw)
            if type(fields) is not dict or size > limit:
                return
            start, line = self.position, self.line
            self._at += size + 1
            self.position = start + size + 1
            self.line = line + 1
            yield Value(raw.strip(), fields, line, start, start + size + 1)

    # --- every form ---

    def _scan(self) -> Iterator[Value]:
        try:
            while True:
                self._pass_separators()
                if self._at == len(self._buffer):
                    return
                yield from self._object() if self._buffer[self._at] == 0x7B else self._junk()
        except _NeedMore:
            return

    def _object(self) -> Iterator[Value]:
        at, limit = self._at, min(len(self._buffer), self._at + self._max + 1)
        match = _FLAT_OBJECT.match(self._buffer, at, limit)
        end, damaged = (match.end(), False) if match else self._balance(at, limit)
        if end is None or end - at > self._max:
            if len(self._buffer) - at > self._max:
                yield self._too_large()
                return
            raise _NeedMore
        if damaged:
            yield self._damaged(at, end)
            return
        if end == len(self._buffer) and not (self._final and self._stream.is_complete):
            raise _NeedMore  # a last value that nothing follows waits
        raw = self._buffer[at:end]
        try:
            fields = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            if b"\n" not in raw and (glued := _glued_event(raw)):
                raw = raw[:glued]
            yield self._give(at + len(raw), problem=Refused(REFUSED_NOT_JSON, str(error)))
        else:
            yield self._give(end, fields=fields)

    def _balance(self, at: int, limit: int) -> tuple[int | None, bool]:
        """Return where the object ends, or where it is seen to be damaged; None where more is needed."""
        opened: list[bytes] = []
        for token in _TOKEN.finditer(self._buffer, at, limit):
            text = token.group()
            kind = text[:1]
            if kind == b'"':
                if len(text) > 1:
                    continue
                cut = _CUT_STRING.match(self._buffer, token.start(), limit)
                return (None, False) if cut else (token.start(), True)
            if kind == b"\n":
                if len(text) == 2 or opened[-1:] != [b"["] or self._last_byte(token.start()) not in b"[,":
                    return token.start(), True
                opened.append(b"{")
            elif kind in b"{[":
                opened.append(kind)
            elif kind == b"\0" or opened.pop() != _CLOSES[kind]:
                return token.start(), True
            elif not opened:
                return token.end(), False
        return None, False

    def _last_byte(self, before: int) -> bytes:
        """Return the last byte before an index that is not white space."""
        while self._buffer[before - 1] in b" \t\r\n":
            before -= 1
        return self._buffer[before - 1 : before]

    def _damaged(self, at: int, seen: int) -> Value:
        """Return the problem that a damaged object is, with the bytes up to where the next one may begin."""
        problem = Refused(REFUSED_NOT_JSON, f"damaged at byte {self.position + seen - at}")
        if self._buffer.find(b"\n", at, seen) < 0:
            return self._give(self._end_of_line(seen), problem=problem, salvage=True)
        following = _NEXT_OBJECT_LINE.search(self._buffer, at)
        if following:
            return self._give(following.end(), problem=problem)
        if self._final and self._stream.is_complete:
            return self._give(len(self._buffer), problem=problem)
        if len(self._buffer) - at > self._max:
            return self._too_large()
        raise _NeedMore

    def _junk(self) -> Iterator[Value]:
        if len(self._buffer) - self._at > self._max and not _END_OF_LINE.search(
            self._buffer, self._at, self._at + self._max + 1
        ):
            yield self._too_large()
            return
        end = self._end_of_line(self._at)
        line_start = self._buffer.rfind(b"\n", 0, self._at) + 1
        whole = self._buffer[line_start:end].strip()
        try:
            kind = type(orjson.loads(whole)).__name__
        except orjson.JSONDecodeError as error:
            yield self._give(end, problem=Refused(REFUSED_NOT_JSON, str(error)), salvage=True)
        else:
            yield self._give(end, problem=Refused(REFUSED_NOT_OBJECT, f"a {kind}"), raw=whole)

    def _end_of_line(self, start: int) -> int:
        """Return the end of the line: a newline, a NUL run, or the end of a log that cannot grow."""
        match = _END_OF_LINE.search(self._buffer, start)
        if match:
            return match.start()
        if self._final and self._stream.is_complete:
            return len(self._buffer)
        raise _NeedMore

    def _give(
        self,
        end: int,
        *,
        fields: dict[str, Any] | None = None,
        problem: Refused | None = None,
        salvage: bool = False,
        raw: bytes | None = None,
    ) -> Value:
        """Return the bytes up to `end` as one value and move behind them.

        With `salvage`, an event that is glued to the end of a damaged line is left for the next value.
        """
        at, start, line = self._at, self.position, self.line
        data = self._buffer[at:end]
        if salvage and (glued := _glued_event(data)):
            data = data[:glued]
        self._advance(at + len(data))
        digest = None
        if problem and len(data) > DEAD_LETTER_WHOLE_BYTES:
            raw, digest = data[:DEAD_LETTER_HEAD_BYTES], sha256(data).hexdigest()
        return Value(data.strip() if raw is None else raw, fields, line, start, self.position, problem, digest)

    def _too_large(self) -> Value:
        """Pass over a value that is larger than the limit, and return its beginning, digest and range."""
        start, line = self.position, self.line
        head, digest = self._buffer[self._at : self._at + DEAD_LETTER_HEAD_BYTES], sha256()
        one_line = self._buffer.find(b"\n", self._at, self._at + self._max) < 0
        end_pattern = _END_OF_LINE if one_line else _NEXT_OBJECT_LINE
        while True:
            found = end_pattern.search(self._buffer, self._at)
            safe = found.start() if found else max(self._at, self._buffer.rfind(b"\n"))
            end = safe if found or not one_line else len(self._buffer)
            digest.update(memoryview(self._buffer)[self._at : end])
            self._advance(end)
            if found or not self._fill():
                break
        if not found and not one_line:
            digest.update(memoryview(self._buffer)[self._at :])
            self._advance(len(self._buffer))
        problem = Refused(REFUSED_TOO_LARGE, f"{self.position - start} bytes, allowed are {self._max}")
        return Value(head, None, line, start, self.position, problem, digest.hexdigest())

    def _pass_separators(self) -> None:
        if self._buffer[self._at : self._at + 1] == b"\0":
            # Rotation can leave half a gigabyte of them: much quicker than the pattern.
            rest = self._buffer[self._at :]
            count = len(rest) - len(rest.lstrip(b"\0"))
            self.nul_bytes += count
            self.position += count
            self._at += count
        match = _SEPARATORS.match(self._buffer, self._at)
        end = match.end() if match else self._at
        if end > self._at:
            self.nul_bytes += self._buffer.count(b"\0", self._at, end)
            self._advance(end)

    def _advance(self, end: int) -> None:
        self.line += self._buffer.count(b"\n", self._at, end)
        self.position += end - self._at
        self._at = end

    def _fill(self) -> bool:
        """Append the next piece of the log to what is left of the buffer; False at the end."""
        data = self._stream.read()
        if not data:
            return False
        self._before = self.tail()
        self._buffer = self._buffer[self._at :] + data
        self._at = 0
        return True


def _glued_event(line: bytes) -> int:
    """Return where an intact event begins that is glued to the end of a torn line, 0 if there is none."""
    at = 0
    for _ in range(_MAX_SALVAGE_TRIES):
        at = line.find(b'{"', at + 1)
        if at < 0:
            return 0
        try:
            fields = orjson.loads(line[at:])
        except orjson.JSONDecodeError:
            continue
        if type(fields) is dict and "eventid" in fields:
            return at
    return 0
