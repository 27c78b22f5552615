"""What a source wrote, read with care: everything may be missing, null, of a wrong type, endless or malicious.

Whatever is not what it should be counts as missing; nothing is made up in its place.
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
"""The largest number that every database keeps."""

MAX_RESPONSE_BYTES = 64 * 1024
"""As JSON: how much of one answer is kept."""

HIDDEN = "***"
"""Stands where a key stood."""

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
    """Return the JSON value that a body is, or None if it is none. Never raises."""
    try:
        return json.loads(body, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        return None


def mapping(value: object) -> Mapping[str, Any]:
    """Return a JSON object, or an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[Any]:
    """Return a JSON list, or an empty one in place of anything else."""
    return value if isinstance(value, list) else []


def text(value: object, max_chars: int = 256) -> str | None:
    """Return a text without what PostgreSQL cannot store, cut to `max_chars`; None if it is blank or none.

    NUL and lone surrogates become U+FFFD. Other control characters stay: who shows the text makes it inert.
    """
    if not isinstance(value, str):
        return None
    return _NOT_STORABLE.sub("\ufffd", value.strip()[:max_chars]).strip() or None


def integer(value: object, *, high: int = MAX_INTEGER) -> int | None:
    """Return a whole number from 0 to `high`; None if it is none (true and false are none, nor is 7.0)."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= high else None


def integer_in_text(value: object, *, high: int = MAX_INTEGER) -> int | None:
    """Return a whole number as `integer` does, also where it is written as a text of digits."""
    if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        return integer(int(value), high=high)
    return integer(value, high=high)


def hexadecimal(value: object, length: int) -> str | None:
    """Return so many hexadecimal digits in lower case; None if it is anything else."""
    found = value.strip().lower() if isinstance(value, str) else ""
    return found if len(found) == length and _HEXADECIMAL.fullmatch(found) else None


def moment_of_epoch(value: object) -> dt.datetime | None:
    """Return the time that is so many whole seconds after 1970, in UTC.

    None for anything else, and for times before 1980 or after 2199: no source knew a file then.
    """
    seconds = integer(value, high=int(_LATEST.timestamp()))
    return None if seconds is None else within_reason(dt.datetime.fromtimestamp(seconds, dt.UTC))


def moment_of_text(value: object) -> dt.datetime | None:
    """Return the time in UTC that is written as `2026-01-02 03:04:05 UTC`, or as ISO 8601 has it.

    Without a zone it is UTC, without a time of day midnight; fractions of a second are left out. None for anything
    else, and for times before 1980 or after 2199.
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
    return within_reason(read)


def within_reason(read: dt.datetime) -> dt.datetime | None:
    """Return a time, or None if it is before 1980 or after 2199."""
    return read if _EARLIEST <= read < _LATEST else None


def hide(said: str, *keys: str | None) -> str:
    """Return a text with every key in it replaced by `***`, as it is or as it stands in an address."""
    for key in keys:
        if key is not None and len(key) >= _MIN_KEY_CHARS:
            for form in {key, quote(key), quote(key, safe="")}:
                said = re.sub(re.escape(form), HIDDEN, said, flags=re.IGNORECASE)
    return said


def bounded(document: Mapping[str, Any], *keys: str | None, max_bytes: int = MAX_RESPONSE_BYTES) -> dict[str, Any]:
    """Return a copy that can be kept: JSON of at most `max_bytes`, storable everywhere, without any key of ours.

    Nulls, numbers beyond 64 bits and what lies too deep are left out, long lists and texts are cut. Where that is not
    enough the largest entries at the top are left out.

    Args:
        document: what a source wrote, or what was kept of it.
        keys: what must not stand in it.
        max_bytes: as JSON text.
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
    if isinstance(value, str):
        return text(hide(value, *keys), _MAX_TEXT_CHARS) or ""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -MAX_INTEGER <= value <= MAX_INTEGER else _ABSENT
    if isinstance(value, float):
        return value if math.isfinite(value) else _ABSENT
    if depth < _MAX_DEPTH and isinstance(value, Mapping):
        named: dict[str, Any] = {}
        for name, inner in list(value.items())[:_MAX_NAMES]:
            if (copied := _copy(inner, depth + 1, keys)) is not _ABSENT:
                named.setdefault(text(hide(str(name), *keys), _MAX_NAME_CHARS) or "", copied)
        return named
    if depth < _MAX_DEPTH and isinstance(value, list):
        copies = (_copy(inner, depth + 1, keys) for inner in value[:_MAX_ITEMS])
        return [copied for copied in copies if copied is not _ABSENT]
    return _ABSENT
