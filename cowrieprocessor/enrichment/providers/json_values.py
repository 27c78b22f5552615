"""Typed reading of untrusted JSON: every value may be missing, null, of a wrong type, endless or malicious.

A value that is not what it should be counts as missing; nothing is made up in its place.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

MAX_INTEGER = 2**63 - 1
"""The largest integer that every database stores."""

MAX_RESPONSE_BYTES = 64 * 1024
"""How much of one answer is stored, as JSON."""

REDACTED = "***"
"""Replaces a key."""

_MAX_DEPTH = 6
_MAX_ITEMS = 100
_MAX_NAMES = 200
_MAX_NAME_CHARS = 128
_MAX_TEXT_CHARS = 1000
_MIN_KEY_CHARS = 4

_NOT_STORABLE = re.compile("[\x00\ud800-\udfff]")
_DIGITS = re.compile(r"[0-9]{1,19}")
_HEXADECIMAL = re.compile(r"[0-9a-f]+")
_MOMENT = re.compile(
    r"(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})(?:[ T](?P<time>[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]{1,9})?)?"
    r" ?(?P<zone>UTC|GMT|Z|[+-][0-9]{2}:?[0-9]{2})?"
)
_EARLIEST = dt.datetime(1980, 1, 1, tzinfo=dt.UTC)
_LATEST = dt.datetime(2200, 1, 1, tzinfo=dt.UTC)
_ABSENT = object()


def parsed(body: bytes | str) -> object:
    """Return the JSON value of a body, or None if it is not JSON. Never raises."""
    try:
        return json.loads(body, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        return None


def mapping(value: object) -> Mapping[str, Any]:
    """Return a JSON object; an empty one for any other value."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[Any]:
    """Return a JSON list; an empty one for any other value."""
    return value if isinstance(value, list) else []


def text(value: object, max_chars: int = 256) -> str | None:
    """Return a string that PostgreSQL can store, cut to `max_chars`; None if it is blank or no string.

    NUL and lone surrogates become U+FFFD. Other control characters stay: they are escaped where the text is shown.
    """
    if not isinstance(value, str):
        return None
    return _NOT_STORABLE.sub("\ufffd", value.strip()[:max_chars]).strip() or None


def integer(value: object, *, high: int = MAX_INTEGER) -> int | None:
    """Return an integer from 0 to `high`; None for any other value, including true, false and 7.0."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= high else None


def integer_in_text(value: object, *, high: int = MAX_INTEGER) -> int | None:
    """Return an integer as `integer` does, also from a string of digits."""
    if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        return integer(int(value), high=high)
    return integer(value, high=high)


def hexadecimal(value: object, length: int) -> str | None:
    """Return a string of exactly `length` hexadecimal digits in lower case; None for any other value."""
    digits = value.strip().lower() if isinstance(value, str) else ""
    return digits if len(digits) == length and _HEXADECIMAL.fullmatch(digits) else None


def time_from_epoch(value: object) -> dt.datetime | None:
    """Return the UTC time of an integer of seconds since 1970.

    None for any other value, and for times before 1980 or after 2199, when no source knew a file.
    """
    seconds = integer(value, high=int(_LATEST.timestamp()))
    return None if seconds is None else plausible_time(dt.datetime.fromtimestamp(seconds, dt.UTC))


def time_from_text(value: object) -> dt.datetime | None:
    """Return the UTC time of a string such as `2026-01-02 03:04:05 UTC`, or in ISO 8601.

    Without a zone it is in UTC, without a time of day at midnight; fractions of a second are dropped. None for any
    other value, and for times before 1980 or after 2199.
    """
    match = _MOMENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return None
    zone = match["zone"] or "UTC"
    offset = "+00:00" if zone in {"UTC", "GMT", "Z"} else zone
    try:
        read = dt.datetime.fromisoformat(f"{match['day']}T{match['time'] or '00:00:00'}{offset}").astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return None
    return plausible_time(read)


def plausible_time(read: dt.datetime) -> dt.datetime | None:
    """Return a time, or None if it is before 1980 or after 2199."""
    return read if _EARLIEST <= read < _LATEST else None


def redact(untrusted: str, *keys: str | None) -> str:
    """Return a text with every key in it replaced by `***`, also where it is URL-encoded."""
    redacted = untrusted
    for key in keys:
        if key is not None and len(key) >= _MIN_KEY_CHARS:
            for form in {key, quote(key), quote(key, safe="")}:
                redacted = re.sub(re.escape(form), REDACTED, redacted, flags=re.IGNORECASE)
    return redacted


def bounded(document: Mapping[str, Any], *keys: str | None, max_bytes: int = MAX_RESPONSE_BYTES) -> dict[str, Any]:
    """Return a bounded copy that every database can store: JSON of at most `max_bytes`, with every key redacted.

    Nulls, numbers beyond 64 bits and values nested too deeply are dropped, long lists and strings are cut. If that is
    not enough, the largest top-level entries are dropped.

    Args:
        document: what a source wrote, or a part of it.
        keys: API keys, which must not appear in the copy.
        max_bytes: maximum size of the JSON text.
    """
    copy = _copy(document, 0, keys)
    kept: dict[str, Any] = copy if isinstance(copy, dict) else {}
    sizes = {name: len(json.dumps({name: value})) for name, value in kept.items()}
    total = 2 + sum(sizes.values())
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        if total <= max_bytes:
            break
        total -= sizes[name]
        del kept[name]
    return kept


def _copy(value: object, depth: int, keys: tuple[str | None, ...]) -> object:
    """Return a bounded copy of a JSON value at a depth; _ABSENT if it is dropped."""
    if isinstance(value, str):
        return text(redact(value, *keys), _MAX_TEXT_CHARS) or ""
    if isinstance(value, (bool, int, float)):
        return value if _is_storable(value) else _ABSENT
    if depth >= _MAX_DEPTH:
        return _ABSENT
    if isinstance(value, Mapping):
        return _copy_object(value, depth, keys)
    return _copy_list(value, depth, keys) if isinstance(value, list) else _ABSENT


def _copy_object(value: Mapping[Any, Any], depth: int, keys: tuple[str | None, ...]) -> dict[str, Any]:
    """Return a bounded copy of a JSON object at a depth; of names that are equal once cut, the first counts."""
    copy: dict[str, Any] = {}
    for name, inner in list(value.items())[:_MAX_NAMES]:
        if (copied := _copy(inner, depth + 1, keys)) is not _ABSENT:
            copy.setdefault(text(redact(str(name), *keys), _MAX_NAME_CHARS) or "", copied)
    return copy


def _copy_list(value: list[Any], depth: int, keys: tuple[str | None, ...]) -> list[object]:
    """Return a bounded copy of a JSON list at a depth."""
    copies = (_copy(inner, depth + 1, keys) for inner in value[:_MAX_ITEMS])
    return [copied for copied in copies if copied is not _ABSENT]


def _is_storable(number: float) -> bool:
    """Return whether every database stores a number (or a boolean)."""
    return -MAX_INTEGER <= number <= MAX_INTEGER if isinstance(number, int) else math.isfinite(number)
