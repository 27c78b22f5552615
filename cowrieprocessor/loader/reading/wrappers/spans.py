"""Where the members of a JSON object and the elements of an array stand, so that they are taken out byte for byte."""

from __future__ import annotations

import re
from collections.abc import Iterator

import orjson

_BLANK = rb"[ \t\r\n]*+"
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_NESTED = rb"[{\[](?:[^\"{}\[\]]++|" + _STRING + rb")*+[}\]]"
for _ in range(3):
    _NESTED = rb"[{\[](?:[^\"{}\[\]]++|" + _STRING + rb"|" + _NESTED + rb")*+[}\]]"
_ITEM = re.compile(
    _BLANK
    + rb"(?:(%b)%b:%b)?+" % (_STRING, _BLANK, _BLANK)
    + rb"(%b|%b|[^\"{}\[\],:\s]++)" % (_STRING, _NESTED)
    + _BLANK
    + rb"([,}\]])"
)
_TOKEN = re.compile(_STRING + rb"|[{}\[\],:]")

Span = tuple[int, int]


def elements(raw: bytes, start: int = 0, end: int | None = None) -> Iterator[Span]:
    """Yield the spans of the elements of an array, or of the values of an object.

    Args:
        raw: valid JSON.
        start: where the array or object begins.
        end: where it ends, exclusive.
    """
    return (value for _, _, value in _items(raw, start, len(raw) if end is None else end))


def members(raw: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[str, Span, Span]]:
    """Yield the members of an object: key, span of key and value, span of the value."""
    for key, first, value in _items(raw, start, len(raw) if end is None else end):
        yield orjson.loads(key), (first, value[1]), value


def member(raw: bytes, name: str, start: int = 0, end: int | None = None) -> Span:
    """Return the span of a member's value; of several with this name the last, which is the one that is decoded."""
    found = [span for key, _, span in members(raw, start, end) if key == name]
    return found[-1]


def _items(raw: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, Span]]:
    """Yield key (empty in an array), start and span of the value of what an object or array holds."""
    at = start + 1
    while match := _ITEM.match(raw, at, end):
        key, _, closing = match.groups()
        value = match.span(2)
        yield key or b"", match.start(1) if key else value[0], value
        if closing != b",":
            return
        at = match.end()
    yield from _deep_items(raw, at, end)


def _deep_items(raw: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, Span]]:
    """Yield the same from a place after a comma or the opening bracket on, where more is nested than `_ITEM` knows."""
    depth, begin, key, first = 1, at, b"", -1
    for token in _TOKEN.finditer(raw, at, end):
        text = token.group()
        if text in b"{[":
            depth += 1
        elif depth == 1 and text == b":":
            whole = _trimmed(raw, begin, token.start())
            key, first, begin = raw[slice(*whole)], whole[0], token.end()
        elif depth == 1 and text in b",]}":
            value = _trimmed(raw, begin, token.start())
            if value[0] < value[1]:
                yield key, value[0] if first < 0 else first, value
            key, first, begin = b"", -1, token.end()
        if text in b"]}":
            depth -= 1
            if not depth:
                return


def _trimmed(raw: bytes, start: int, end: int) -> Span:
    text = raw[start:end]
    return start + len(text) - len(text.lstrip()), max(start, end - len(text) + len(text.rstrip()))
