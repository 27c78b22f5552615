"""Where the members of a JSON object and the elements of an array stand, so that they are taken out byte for byte."""

from __future__ import annotations

import re
from collections.abc import Iterator

import orjson

_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\],]')

Span = tuple[int, int]


def elements(raw: bytes, start: int = 0, end: int | None = None) -> Iterator[Span]:
    """Yield the spans of the elements of an array, or of the members of an object, key included.

    Args:
        raw: valid JSON.
        start: where the array or object begins.
        end: where it ends, exclusive.
    """
    depth, begin = 0, start
    for token in _TOKEN.finditer(raw, start, len(raw) if end is None else end):
        text = token.group()
        if text in b"{[":
            depth += 1
            begin = token.end() if depth == 1 else begin
        elif depth == 1 and text in b",]}":
            if raw[begin : token.start()].strip():
                yield _trimmed(raw, begin, token.start())
            begin = token.end()
        if text in b"]}":
            depth -= 1
            if not depth:
                return


def members(raw: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[str, Span, Span]]:
    """Yield the members of an object: key, span of key and value, span of the value."""
    for first, last in elements(raw, start, end):
        key = _TOKEN.match(raw, first)
        assert key is not None  # noqa: S101 - a member starts with its key
        value = raw.index(b":", key.end()) + 1
        yield orjson.loads(key.group()), (first, last), _trimmed(raw, value, last)


def member(raw: bytes, name: str, start: int = 0, end: int | None = None) -> Span:
    """Return the span of a member's value; of several with this name the last, which is the one that is decoded."""
    found = [span for key, _, span in members(raw, start, end) if key == name]
    return found[-1]


def _trimmed(raw: bytes, start: int, end: int) -> Span:
    text = raw[start:end]
    return start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())
