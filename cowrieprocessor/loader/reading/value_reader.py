r"""A reader for the values of a log, in any of the forms in which logs are written.

A log is a sequence of JSON objects, separated by white space, commas, square brackets, byte-order marks and NUL runs.
One event per line, pretty-printed objects and JSON arrays are thus one grammar, and reading can resume after any
value. Anything that is not an object extends to the end of its line and is returned as a problem.

A damaged value ends where the next object starts: at the next intact event (one appended to a torn line, or the next
element of an array), else at a NUL, else at the end of its line. A damaged object that spans lines ends at the next
line that starts with `{` and is indented no deeper. An object without a name that damage follows on its line is the end
of a torn event, not an event. No decision depends on how the bytes are split into reads or on where the file currently
ends: what cannot be decided yet remains after the cursor, also where a finished log ends with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from typing import Any, NamedTuple

import orjson

from cowrieprocessor.errors import InputError
from cowrieprocessor.events import (
    REFUSED_NOT_JSON,
    REFUSED_NOT_OBJECT,
    REFUSED_TOO_LARGE,
    Refused,
    refused_json,
)
from cowrieprocessor.json_text import kind_of, object_with_surrogates, read_json
from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.wording import plural

TAIL_BYTES = 512
"""Number of bytes before the cursor whose hash identifies a log when reading resumes."""

DEAD_LETTER_HEAD_BYTES = 64 << 10
"""Bytes that the dead letter of a value over 1 MiB keeps."""

DEAD_LETTER_WHOLE_BYTES = 1 << 20
"""Largest value that a dead letter keeps whole."""

_MAX_SALVAGE_TRIES = 16
_BRACE, _END_BRACE = b"{}"
_new_value = tuple.__new__  # half the time of calling the class, once for every line

_STRING = rb'"(?:[^"\\\x00-\x1f]++|\\[^\x00-\x1f])*+"'
_SEPARATORS = re.compile(rb"(?:[ \t\r\n,\[\]\x00]++|\xef\xbb\xbf)*+")
_FLAT_OBJECT = re.compile(
    rb'\{(?:[^"{}\[\]\x00\n]++|' + _STRING + rb'|\[(?:[^"{}\[\]\x00\n]++|' + _STRING + rb"|\n[ \t\r]*+(?!\{))*+\]"
    rb"|\n[ \t\r]*+(?!\{))*+\}"
)
_TOKEN = re.compile(_STRING + rb'|\n[ \t\r]*+\{|[{}\[\]"\x00]')
_CUT_STRING = re.compile(rb'"(?:[^"\\\x00-\x1f]++|\\[^\x00-\x1f])*+\\?\Z')
_END_OF_LINE = re.compile(rb"[\n\x00]")
_POSSIBLE_OBJECT_LINE = re.compile(rb"\n[ \t\r]{0,%d}\Z" % TAIL_BYTES)
_OBJECT_START = re.compile(rb'\{[ \t\r\n]*+"')
_BLANKS = b" \t\r\n"
_SEPARATING = b" \t\r,[]"
_REST_OF_LINE = re.compile(rb"[ \t\r,\[\]]*+")
_OPENING_BRACKETS = {b"}": b"{", b"]": b"["}
_AFTER_OBJECT = (b"", b"\n", b"{", b"\0", b"\xef")
"""What may follow an object on its line: nothing, the next object, a NUL run, a byte-order mark."""


class Value(NamedTuple):
    """One value of a log.

    Attributes:
        raw: its bytes without surrounding white space; of a problem over 1 MiB only the first 64 KiB; JSON that is
            not an object includes the brackets before it.
        fields: the decoded object, None for a problem.
        line: 0-based number of the line it starts on.
        start: its start, in decompressed bytes.
        end: its end, exclusive.
        problem: why it is not an object.
        digest: SHA-256 of all its bytes, if `raw` is truncated.
    """

    raw: bytes
    fields: dict[str, Any] | None
    line: int
    start: int
    end: int
    problem: Refused | None = None
    digest: str | None = None


def has_event_name(fields: Mapping[str, Any]) -> bool:
    """Return whether an object names an event."""
    return "eventid" in fields


class _NeedMore(Exception):
    """Deciding takes bytes that were not read yet."""


class ValueReader:
    """Iterates over the values of a log, in bounded memory.

    Attributes:
        position: the cursor: the end of the values and separators consumed so far, in decompressed bytes.
        line: 0-based number of the line at `position`.
        nul_bytes: NUL bytes skipped since the last call of `take_nul_bytes`.
        nul_runs: (start, end) of the places with NUL bytes that were skipped since the last call of `take_nul_runs`.
        leading: the separators before the first value of the log, without NULs; None if reading did not begin there.

    Args:
        stream: the log, at `position`.
        position: where to start, in decompressed bytes.
        line: 0-based number of the line at `position`.
        before: known bytes before `position`, for `tail`.
        max_value_bytes: the largest value that is returned as an object.
        is_value: whether an object within a damaged value is a value of its own.
    """

    is_between_values = True
    """Whether reading can resume at `position`: always, because a value is one object."""

    def __init__(
        self,
        stream: LogStream,
        *,
        position: int = 0,
        line: int = 0,
        before: bytes = b"",
        max_value_bytes: int = 2 << 20,
        is_value: Callable[[Mapping[str, Any]], bool] = has_event_name,
    ) -> None:
        self._stream = stream
        self._is_value = is_value
        self._max = max_value_bytes
        self.position = position
        self.line = line
        self.nul_bytes = 0
        self.nul_runs: list[tuple[int, int]] = []
        self.leading: bytes | None = None if position else b""
        self._leading_end = 0
        self._before = before[-TAIL_BYTES:]
        self._buffer = b""
        self._at = 0
        self._final = False
        self._skipped = 0

    def __iter__(self) -> Iterator[Value]:
        """Yield the values up to the current end of the log.

        Raises:
            CompressedDataError: the archive ends early or is damaged; all values before that were yielded.
        """
        while self._fill():
            yield from self._lines()
            yield from self._scan()
        self._final = True
        yield from self._scan()

    @property
    def pending_bytes(self) -> int:
        """Bytes read after the cursor: an unfinished value."""
        return self._skipped + len(self._buffer) - self._at

    @property
    def pending(self) -> bytes | None:
        """The unfinished value, None if it is over 1 MiB."""
        return None if self.pending_bytes > DEAD_LETTER_WHOLE_BYTES else self._buffer[self._at :]

    @property
    def is_in_object(self) -> bool:
        """Whether the unfinished value starts like an object."""
        return self._buffer[self._at : self._at + 1] == b"{"

    def take_nul_bytes(self) -> int:
        """Return the number of NUL bytes skipped since the last call."""
        count, self.nul_bytes = self.nul_bytes, 0
        return count

    def take_nul_runs(self) -> list[tuple[int, int]]:
        """Return the places with NUL bytes that were skipped since the last call."""
        runs, self.nul_runs = self.nul_runs, []
        return runs

    def take_foreign(self) -> tuple[int, int]:
        """Return lines and bytes of other programs since the last call: none in a log without a wrapper."""
        return 0, 0

    def tail(self) -> bytes:
        """Return the bytes before `position` that identify the log when reading resumes, at most 512."""
        return self._bytes_before(self._at)

    # --- the common form: one object per line ---

    def _lines(self) -> Iterator[Value]:
        """Yield values while each line is exactly one object; the first line that is not is left to `_scan`."""
        last = self._buffer.rfind(b"\n")
        if last < self._at:
            return
        loads, limit = orjson.loads, self._max
        for raw in self._buffer[self._at : last].split(b"\n"):
            try:
                fields = loads(raw)
            except orjson.JSONDecodeError:
                fields = object_with_surrogates(raw)
            size = len(raw)
            if type(fields) is not dict or size > limit:
                return
            start, line = self.position, self.line
            self._at += size + 1
            self.position = start + size + 1
            self.line = line + 1
            if raw[0] == _BRACE and raw[-1] == _END_BRACE:
                yield _new_value(Value, (raw, fields, line, start, start + size, None, None))
                continue
            text = raw.strip()
            start += size - len(raw.lstrip())
            yield Value(text, fields, line, start, start + len(text))

    # --- every form ---

    def _scan(self) -> Iterator[Value]:
        try:
            while True:
                self._skip_separators()
                if self._at == len(self._buffer):
                    return
                yield self._object() if self._buffer[self._at] == 0x7B else self._junk()
        except _NeedMore:
            return

    def _object(self) -> Value:
        at, limit = self._at, self._limit()
        match = _FLAT_OBJECT.match(self._buffer, at, limit)
        end, is_damaged = (match.end(), False) if match else self._balance(at, limit)
        if end is None or end - at > self._max:
            if limit - at > self._max:
                return self._too_large()
            raise _NeedMore
        if is_damaged:
            return self._damaged(end)
        try:
            fields = read_json(self._buffer[at:end])
        except orjson.JSONDecodeError as error:
            if end == len(self._buffer) and not self._ended:
                raise _NeedMore from error
            return self._value(self._next_event(end) or end, problem=refused_json(error))
        if "eventid" not in fields and self._is_fragment(end):
            return self._damaged(end)
        return self._value(end, fields=fields)

    def _is_fragment(self, end: int) -> bool:
        """Return whether damage follows an object on its line: then it is the end of an event that was torn."""
        match = _REST_OF_LINE.match(self._buffer, end)
        after = match.end() if match else end
        if after == len(self._buffer) and not self._ended:
            raise _NeedMore
        return self._buffer[after : after + 1] not in _AFTER_OBJECT

    def _balance(self, at: int, limit: int) -> tuple[int | None, bool]:
        """Match the brackets of an object.

        Returns:
            The end of the object and False, or the position of damage and True, or (None, False) if more bytes are
            needed.
        """
        opened: list[bytes] = []
        indentation = self._indentation(at)
        for token in _TOKEN.finditer(self._buffer, at, limit):
            text = token.group()
            kind = text[:1]
            if kind == b'"':
                if len(text) == 1:
                    return self._unterminated_string(token.start(), limit)
            elif kind in b"{[":
                opened.append(kind)
            elif kind == b"\n":
                if not self._may_be_nested(token, opened[-1], indentation):
                    return token.start(), True
                opened.append(b"{")
            elif kind == b"\0" or opened.pop() != _OPENING_BRACKETS[kind]:
                return token.start(), True
            elif not opened:
                return token.end(), False
        return None, False

    def _unterminated_string(self, at: int, limit: int) -> tuple[int | None, bool]:
        """Return what `_balance` does at a string without end: it is cut off at `limit`, or else damaged."""
        is_cut = _CUT_STRING.match(self._buffer, at, limit)
        return (None, False) if is_cut else (at, True)

    def _may_be_nested(self, token: re.Match[bytes], bracket: bytes, indentation: int) -> bool:
        """Return whether a `{` at the start of a line opens a nested object, rather than the next value of the log.

        Args:
            token: line break, indentation and `{`.
            bracket: the innermost open bracket.
            indentation: that of the enclosing top-level object.
        """
        may_follow = b"[," if bracket == b"[" else b":"
        is_deeper = token.end() - token.start() - len(b"\n{") > indentation
        return is_deeper and self._last_byte(token.start()) in may_follow

    def _last_byte(self, before: int) -> bytes:
        """Return the last byte before an index that is not white space."""
        while self._buffer[before - 1] in b" \t\r\n":
            before -= 1
        return self._buffer[before - 1 : before]

    def _indentation(self, at: int) -> int:
        """Return the indentation of the line on which an object starts."""
        line = self._bytes_before(at).rpartition(b"\n")[2]
        return len(line) - len(line.lstrip(b" \t\r"))

    def _damaged(self, damaged_at: int) -> Value:
        """Consume a damaged object and return it as a problem."""
        at = self._at
        end = self._end_of_problem(self._boundary(damaged_at), damaged_at)
        if end is None:
            return self._too_large()
        return self._value(end, problem=Refused(REFUSED_NOT_JSON, f"damaged at byte {self.position + damaged_at - at}"))

    def _junk(self) -> Value:
        """Consume something that is not an object (JSON of another type, or no JSON) and return it as a problem."""
        end = self._end_of_problem(_END_OF_LINE, self._at)
        if end is None:
            return self._too_large()
        tail = self.tail()
        brackets = tail[len(tail.rstrip(_SEPARATING)) :].lstrip(_SEPARATING.replace(b"[", b""))
        whole = (brackets + self._buffer[self._at : end]).strip(_BLANKS)
        try:
            kind = kind_of(read_json(whole))
        except orjson.JSONDecodeError as error:
            return self._value(end, problem=refused_json(error))
        return self._value(end, problem=Refused(REFUSED_NOT_OBJECT, kind), raw=whole)

    def _boundary(self, searched: int) -> re.Pattern[bytes]:
        """Return the pattern that ends a problem at the latest: the end of its line, or the next line with an object.

        Args:
            searched: the index up to which the problem was searched; decides whether it spans lines.
        """
        if self._buffer.find(b"\n", self._at, searched) < 0:
            return _END_OF_LINE
        return _next_object_line(self._indentation(self._at))

    def _end_of_problem(self, boundary: re.Pattern[bytes], searched: int) -> int | None:
        """Return where a problem ends: at the next event, else at the boundary; None if it exceeds the limit."""
        limit = self._limit()
        if match := boundary.search(self._buffer, searched, limit):
            return self._next_event(match.start()) or match.start()
        if limit - self._at > self._max:
            return self._next_event(limit)
        if self._ended and (event := self._next_event(limit)):
            return event
        raise _NeedMore

    def _next_event(self, limit: int) -> int | None:
        """Return the start of an intact event within a problem, which the problem would otherwise hide."""
        starts = _OBJECT_START.finditer(self._buffer, self._at + 1, limit)
        for start in islice(starts, _MAX_SALVAGE_TRIES):
            at = start.start()
            end, is_damaged = self._balance(at, limit)
            if end is None or is_damaged:
                continue
            try:
                fields = read_json(self._buffer[at:end])
            except orjson.JSONDecodeError:
                continue
            if self._is_value(fields):
                return at
        return None

    def _value(
        self, end: int, *, fields: dict[str, Any] | None = None, problem: Refused | None = None, raw: bytes = b""
    ) -> Value:
        """Consume the bytes up to `end` and return them as one value."""
        start, line, data = self.position, self.line, self._buffer[self._at : end]
        self._advance(end)
        if problem and len(data) > DEAD_LETTER_WHOLE_BYTES:
            digest = sha256(data).hexdigest()
            return Value(data[:DEAD_LETTER_HEAD_BYTES], None, line, start, self.position, problem, digest)
        return Value(raw or data.strip(_BLANKS), fields, line, start, self.position, problem)

    def _too_large(self) -> Value:
        """Consume a value over the limit and return its head, digest and range as a problem."""
        start, line, before = self.position, self.line, self.tail()
        head, digest, limit = bytearray(), sha256(), self._limit()
        boundary = self._boundary(limit)
        edge = _POSSIBLE_OBJECT_LINE.search(self._buffer, self._at, limit)
        searched = edge.start() if edge else limit
        try:
            while not (match := boundary.search(self._buffer, searched)):
                edge = _POSSIBLE_OBJECT_LINE.search(self._buffer, searched)
                digest.update(self._skip(edge.start() if edge else len(self._buffer), head))
                if not self._fill_unless_complete():
                    break
                searched = 0
            digest.update(self._skip(match.start() if match else len(self._buffer), head))
        except (_NeedMore, InputError):
            self._skipped = self.position - start + len(self._buffer) - self._at
            self.position, self.line, self._before, self._buffer, self._at = start, line, before, b"", 0
            raise
        problem = Refused(REFUSED_TOO_LARGE, f"{plural(self.position - start, 'byte')}, allowed are {self._max:,}")
        if self.position - start <= DEAD_LETTER_WHOLE_BYTES:
            return Value(bytes(head).strip(_BLANKS), None, line, start, self.position, problem)
        raw = bytes(head[:DEAD_LETTER_HEAD_BYTES])
        return Value(raw, None, line, start, self.position, problem, digest.hexdigest())

    def _skip(self, end: int, head: bytearray) -> bytes:
        """Advance to `end` and return the bytes skipped; append them to `head` until that is a whole dead letter."""
        piece = self._buffer[self._at : end]
        head += piece[: DEAD_LETTER_WHOLE_BYTES - len(head)]
        self._advance(end)
        return piece

    @property
    def _ended(self) -> bool:
        """Whether the buffer holds the rest of the log, and nothing can be appended to it."""
        return self._final and self._stream.is_finished

    def _limit(self) -> int:
        """Return the index at which a value is too large, or the end of the buffer."""
        return min(len(self._buffer), self._at + self._max + 1)

    def _skip_separators(self) -> None:
        match = _SEPARATORS.match(self._buffer, self._at)
        end = match.end() if match else self._at
        if end > self._at:
            if nul_bytes := self._buffer.count(b"\0", self._at, end):
                self.nul_bytes += nul_bytes
                self._add_nul_run(end)
            if self.leading is not None and self._leading_end == self.position:
                self.leading = (self.leading + self._buffer[self._at : end].replace(b"\0", b""))[:TAIL_BYTES]
                self._leading_end += end - self._at
            self._advance(end)

    def _add_nul_run(self, end: int) -> None:
        """Note the place from the first to the last NUL before an index; it may continue the last place."""
        shift = self.position - self._at
        first = self._buffer.index(b"\0", self._at) + shift
        last = self._buffer.rindex(b"\0", self._at, end) + 1 + shift
        if self.nul_runs and self.nul_runs[-1][1] == first:
            first = self.nul_runs.pop()[0]
        self.nul_runs.append((first, last))

    def _bytes_before(self, at: int) -> bytes:
        return (self._before + self._buffer[max(0, at - TAIL_BYTES) : at])[-TAIL_BYTES:]

    def _advance(self, end: int) -> None:
        self.line += self._buffer.count(b"\n", self._at, end)
        self.position += end - self._at
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

    def _fill_unless_complete(self) -> bool:
        """Append the next piece; return False at the end of a finished log.

        Raises:
            _NeedMore: the end of a log that may grow.
        """
        if self._fill():
            return True
        if self._stream.is_finished:
            return False
        raise _NeedMore


@lru_cache
def _next_object_line(indentation: int) -> re.Pattern[bytes]:
    return re.compile(rb"\n(?=[ \t\r]{0,%d}\{)|\x00" % indentation)
