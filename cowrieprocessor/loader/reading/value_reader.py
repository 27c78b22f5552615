r"""The values of a log, one after the other, in whatever form it was written.

A log is a sequence of JSON objects. White space, commas, square brackets, byte-order marks and NUL runs between them
separate them, so that a line per event, pretty-printed objects and JSON arrays are one grammar, and reading can go
on after any value. What is no object goes up to the end of its line and is given back as a problem.

What is damaged ends where the next object begins: at an intact event behind it (one that was glued to a torn line, the
next element of an array), else at a NUL, else at the end of its line; an object of several lines at the next line that
begins with `{` and is indented no deeper than it is. No decision depends on how the bytes happen to arrive, nor on
where the file ends today: what cannot be decided yet stays behind the cursor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from typing import Any, NamedTuple

import orjson

from cowrieprocessor.errors import InputError
from cowrieprocessor.events import (
    REFUSED_NOT_JSON,
    REFUSED_NOT_OBJECT,
    REFUSED_TOO_DEEP,
    REFUSED_TOO_LARGE,
    Refused,
)
from cowrieprocessor.loader.reading.log_stream import LogStream

TAIL_BYTES = 512
"""How many bytes before the cursor prove that a log is the same."""

DEAD_LETTER_HEAD_BYTES = 64 << 10
"""How much of a value over 1 MiB is kept in its dead letter."""

DEAD_LETTER_WHOLE_BYTES = 1 << 20
_MAX_SALVAGE_TRIES = 16

_STRING = rb'"(?:[^"\\\x00-\x1f]++|\\[^\x00-\x1f])*+"'
_SEPARATORS = re.compile(rb"(?:[ \t\r\n,\[\]\x00]++|\xef\xbb\xbf)*+")
_FLAT_OBJECT = re.compile(
    rb'\{(?:[^"{}\[\]\x00\n]++|' + _STRING + rb'|\[(?:[^"{}\[\]\x00\n]++|' + _STRING + rb"|\n[ \t\r]*+(?!\{))*+\]"
    rb"|\n[ \t\r]*+(?!\{))*+\}"
)
_TOKEN = re.compile(_STRING + rb'|\n[ \t\r]*+\{|[{}\[\]"\x00]')
_CUT_STRING = re.compile(rb'"(?:[^"\\\x00-\x1f]++|\\[^\x00-\x1f])*+\\?\Z')
_END_OF_LINE = re.compile(rb"[\n\x00]")
_PERHAPS_OBJECT_LINE = re.compile(rb"\n[ \t\r]{0,%d}\Z" % TAIL_BYTES)
_OBJECT_START = re.compile(rb'\{[ \t\r\n]*+"')
_BLANKS = b" \t\r\n"
_SEPARATING = b" \t\r,[]"
_CLOSES = {b"}": b"{", b"]": b"["}


class Value(NamedTuple):
    """One value of a log.

    Attributes:
        raw: its bytes without the white space around; of a problem over 1 MiB the first 64 KiB; of JSON that is no
            object with the brackets before it.
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
        self._passed = 0

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
        return self._passed + len(self._buffer) - self._at

    @property
    def is_in_object(self) -> bool:
        """Whether what waits after the cursor begins like an object."""
        return self._buffer[self._at : self._at + 1] == b"{"

    def take_nul_bytes(self) -> int:
        """Return the NUL bytes passed over since the last call."""
        count, self.nul_bytes = self.nul_bytes, 0
        return count

    def tail(self) -> bytes:
        """Return the bytes before `position` that prove that a log is the same, at most 512."""
        return self._bytes_before(self._at)

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
            text = raw.strip()
            if len(text) != size:
                start += size - len(raw.lstrip())
            yield Value(text, fields, line, start, start + len(text))

    # --- every form ---

    def _scan(self) -> Iterator[Value]:
        try:
            while True:
                self._pass_separators()
                if self._at == len(self._buffer):
                    return
                yield self._object() if self._buffer[self._at] == 0x7B else self._junk()
        except _NeedMore:
            return

    def _object(self) -> Value:
        at, limit = self._at, self._limit()
        match = _FLAT_OBJECT.match(self._buffer, at, limit)
        end, damaged = (match.end(), False) if match else self._balance(at, limit)
        if end is None or end - at > self._max:
            if limit - at > self._max:
                return self._too_large()
            raise _NeedMore
        if damaged:
            return self._damaged(end)
        if end == len(self._buffer) and not self._ended:
            raise _NeedMore  # a last value that nothing follows waits
        try:
            fields = orjson.loads(self._buffer[at:end])
        except orjson.JSONDecodeError as error:
            return self._give(self._next_event(end) or end, problem=_refused(error))
        return self._give(end, fields=fields)

    def _balance(self, at: int, limit: int) -> tuple[int | None, bool]:
        """Return where the object ends, or where it is seen to be damaged; None where more is needed."""
        opened: list[bytes] = []
        indentation = self._indentation(at)
        for token in _TOKEN.finditer(self._buffer, at, limit):
            text = token.group()
            kind = text[:1]
            if kind == b'"':
                if len(text) > 1:
                    continue
                cut = _CUT_STRING.match(self._buffer, token.start(), limit)
                return (None, False) if cut else (token.start(), True)
            if kind == b"\n":
                may_follow = b"[," if opened[-1] == b"[" else b":"
                if len(text) - len(b"\n{") <= indentation or self._last_byte(token.start()) not in may_follow:
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

    def _indentation(self, at: int) -> int:
        """Return how many blanks the line begins with on which an object begins."""
        line = self._bytes_before(at).rpartition(b"\n")[2]
        return len(line) - len(line.lstrip(b" \t\r"))

    def _damaged(self, seen: int) -> Value:
        """Return the problem that a damaged object is."""
        at = self._at
        end = self._end_of_problem(self._boundary(seen), seen)
        if end is None:
            return self._too_large()
        return self._give(end, problem=Refused(REFUSED_NOT_JSON, f"damaged at byte {self.position + seen - at}"))

    def _junk(self) -> Value:
        """Return the problem that is no object: JSON of another kind, or no JSON at all."""
        end = self._end_of_problem(_END_OF_LINE, self._at)
        if end is None:
            return self._too_large()
        tail = self.tail()
        brackets = tail[len(tail.rstrip(_SEPARATING)) :].lstrip(_SEPARATING.replace(b"[", b""))
        whole = (brackets + self._buffer[self._at : end]).strip(_BLANKS)
        try:
            kind = type(orjson.loads(whole)).__name__
        except orjson.JSONDecodeError as error:
            return self._give(end, problem=_refused(error))
        return self._give(end, problem=Refused(REFUSED_NOT_OBJECT, f"a {kind}"), raw=whole)

    def _boundary(self, seen: int) -> re.Pattern[bytes]:
        """Return what ends a problem at the latest: the next line, or of several lines the next object."""
        if self._buffer.find(b"\n", self._at, seen) < 0:
            return _END_OF_LINE
        return _next_object_line(self._indentation(self._at))

    def _end_of_problem(self, boundary: re.Pattern[bytes], seen: int) -> int | None:
        """Return where a problem ends: at the next event, else at the boundary; None if it is larger than the limit."""
        limit = self._limit()
        if found := boundary.search(self._buffer, seen, limit):
            return self._next_event(found.start()) or found.start()
        if limit - self._at > self._max:
            return self._next_event(limit)
        if self._ended:
            return self._next_event(limit) or limit
        raise _NeedMore

    def _next_event(self, limit: int) -> int | None:
        """Return where an intact event begins that a problem before it would hide."""
        starts = _OBJECT_START.finditer(self._buffer, self._at + 1, limit)
        for start in islice(starts, _MAX_SALVAGE_TRIES):
            at = start.start()
            end, damaged = self._balance(at, limit)
            if end is None or damaged:
                continue
            try:
                fields = orjson.loads(self._buffer[at:end])
            except orjson.JSONDecodeError:
                continue
            if "eventid" in fields:
                return at
        return None

    def _give(
        self, end: int, *, fields: dict[str, Any] | None = None, problem: Refused | None = None, raw: bytes = b""
    ) -> Value:
        """Return the bytes up to `end` as one value and move behind them."""
        start, line, data = self.position, self.line, self._buffer[self._at : end]
        self._advance(end)
        if problem and len(data) > DEAD_LETTER_WHOLE_BYTES:
            digest = sha256(data).hexdigest()
            return Value(data[:DEAD_LETTER_HEAD_BYTES], None, line, start, self.position, problem, digest)
        return Value(raw or data.strip(_BLANKS), fields, line, start, self.position, problem)

    def _too_large(self) -> Value:
        """Pass over a value that is larger than the limit, and return its beginning, digest and range."""
        start, line, before = self.position, self.line, self.tail()
        head, digest, limit = bytearray(), sha256(), self._limit()
        boundary = self._boundary(limit)
        edge = _PERHAPS_OBJECT_LINE.search(self._buffer, self._at, limit)
        seen = edge.start() if edge else limit
        try:
            while not (found := boundary.search(self._buffer, seen)):
                edge = _PERHAPS_OBJECT_LINE.search(self._buffer, seen)
                digest.update(self._pass(edge.start() if edge else len(self._buffer), head))
                if not self._fill_if_it_can_end():
                    break
                seen = 0
            digest.update(self._pass(found.start() if found else len(self._buffer), head))
        except (_NeedMore, InputError):
            self._passed = self.position - start + len(self._buffer) - self._at
            self.position, self.line, self._before, self._buffer, self._at = start, line, before, b"", 0
            raise
        problem = Refused(REFUSED_TOO_LARGE, f"{self.position - start} bytes, allowed are {self._max}")
        if self.position - start <= DEAD_LETTER_WHOLE_BYTES:
            return Value(bytes(head).strip(_BLANKS), None, line, start, self.position, problem)
        raw = bytes(head[:DEAD_LETTER_HEAD_BYTES])
        return Value(raw, None, line, start, self.position, problem, digest.hexdigest())

    def _pass(self, end: int, head: bytearray) -> bytes:
        """Move to `end` and return the bytes passed over; what is still missing of a dead letter's head goes there."""
        piece = self._buffer[self._at : end]
        head += piece[: DEAD_LETTER_WHOLE_BYTES - len(head)]
        self._advance(end)
        return piece

    @property
    def _ended(self) -> bool:
        """Whether all is in the buffer, and nothing can follow."""
        return self._final and self._stream.is_complete

    def _limit(self) -> int:
        """Return where a value that is too large is seen to be, or the end of what there is."""
        return min(len(self._buffer), self._at + self._max + 1)

    def _pass_separators(self) -> None:
        match = _SEPARATORS.match(self._buffer, self._at)
        end = match.end() if match else self._at
        if end > self._at:
            self.nul_bytes += self._buffer.count(b"\0", self._at, end)
            self._advance(end)

    def _bytes_before(self, at: int) -> bytes:
        return (self._before + self._buffer[max(0, at - TAIL_BYTES) : at])[-TAIL_BYTES:]

    def _advance(self, end: int) -> None:
        self.line += self._buffer.count(b"\n", self._at, end)
        self.position += end - self._at
        self._at = end

    def _fill(self) -> bool:
        """Append the next piece of the log to what is left of the buffer; False at the end."""
        data = b"" if self._passed else self._stream.read()
        if not data:
            return False
        self._before = self.tail()
        self._buffer = self._buffer[self._at :] + data
        self._at = 0
        return True

    def _fill_if_it_can_end(self) -> bool:
        """Append the next piece; False at the end of a finished log, while the end of a growing one is not known."""
        if self._fill():
            return True
        if self._stream.is_complete:
            return False
        raise _NeedMore


@lru_cache
def _next_object_line(indentation: int) -> re.Pattern[bytes]:
    return re.compile(rb"\n(?=[ \t\r]{0,%d}\{)|\x00" % indentation)


def _refused(error: orjson.JSONDecodeError) -> Refused:
    return Refused(REFUSED_TOO_DEEP if error.msg.startswith("depth limit") else REFUSED_NOT_JSON, str(error))
