"""Parsers for the values of settings.

A parser returns the type of the setting, or raises ValueError with what is expected; the caller adds the location of
the value.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from cowrieprocessor.settings.secrets import is_reference

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
MINUTE_S = 60.0
HOUR_S = 60 * MINUTE_S
DAY_S = 24 * HOUR_S

_SIZE = re.compile(r"(\d+)\s*(KiB|MiB|GiB)?", re.IGNORECASE)
_FACTOR = {"": 1, "kib": KIB, "mib": MIB, "gib": GIB}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(s|min|m|h|d)?")
_UNIT_S = {"": 1.0, "s": 1.0, "min": MINUTE_S, "m": MINUTE_S, "h": HOUR_S, "d": DAY_S}
_YES, _NO = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})
_MAIL_ADDRESS = re.compile(r"[\x21-\x3f\x41-\x7e]{1,64}@[\x21-\x3f\x41-\x7e]{1,255}")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


def text(value: object) -> str:
    """Return a non-empty text, or a path as text."""
    if isinstance(value, Path):
        return str(value)
    if not isinstance(value, str) or not value:
        raise ValueError("a non-empty text")
    return value


def choice(*allowed: str) -> Callable[[object], object]:
    """Return the parser of one of the allowed words."""

    def read(value: object) -> str:
        if value not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return str(value)

    return read


def whole_number(low: int, high: int | None = None) -> Callable[[object], object]:
    """Return the parser of a whole number from `low` to `high`, or without an upper limit."""
    expected = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"

    def read(value: object) -> int:
        number = _as_int(value, expected)
        if number < low or (high is not None and number > high):
            raise ValueError(expected)
        return number

    return read


def _as_int(value: object, expected: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value.strip()):
        return int(value)
    raise ValueError(expected)


def size(low: int) -> Callable[[object], object]:
    """Return the parser of a number of bytes from `low`, with or without a unit."""
    expected = f"a number of bytes of at least {low}, such as {low} or 4MiB"

    def read(value: object) -> int:
        match = _SIZE.fullmatch(str(value).strip()) if not isinstance(value, (bool, float)) else None
        if match is None:
            raise ValueError(expected)
        number = int(match[1]) * _FACTOR[(match[2] or "").lower()]
        if number < low:
            raise ValueError(expected)
        return number

    return read


def seconds(value: object) -> float:
    """Return a number of seconds."""
    number = "" if isinstance(value, bool) else str(value).strip()
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", number):
        raise ValueError("a number of seconds, 0 or more")
    return float(number)


def duration(value: object) -> float:
    """Return a duration in seconds, given as a number of seconds or with a unit: 90s, 15min, 12h, 30d."""
    match = None if isinstance(value, bool) else _DURATION.fullmatch(str(value).strip())
    if match is None:
        raise ValueError("a duration, such as 90s, 15min, 12h or 30d")
    return float(match[1]) * _UNIT_S[match[2] or ""]


def flag(value: object) -> bool:
    """Return a boolean, given as 1 or 0, true or false, yes or no, on or off."""
    word = str(value).strip().lower()
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise ValueError("1 or 0 (true or false, yes or no, on or off)")


def names(value: object) -> tuple[str, ...]:
    """Return names in the given order from a list or a comma-separated text; `none` stands for an empty list."""
    parts = value if isinstance(value, (list, tuple)) else str(value).split(",")
    result = tuple(str(part).strip().lower() for part in parts)
    if result == ("none",):
        return ()
    if not result or not all(_NAME.fullmatch(name) for name in result) or len(set(result)) != len(result):
        raise ValueError("distinct names separated by commas, or `none`")
    return result


def mail_address(value: object) -> str:
    """Return an e-mail address, or a reference to one; the format is checked only roughly."""
    address = str(value).strip() if isinstance(value, str) else ""
    if is_reference(address) or _MAIL_ADDRESS.fullmatch(address):
        return address
    raise ValueError("an e-mail address, or a reference to one: env:NAME, file:PATH or credential:NAME")


def web_address(value: object) -> str:
    """Return the address of a service without a trailing slash.

    Plain http is accepted only for this machine, so that keys are never sent unencrypted over a network.
    """
    expected = "an https:// address without user or password (http:// only for this machine itself)"
    address = str(value).strip().rstrip("/")
    try:
        parts = urlsplit(address)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        raise ValueError(expected) from None
    if not host or parts.username is not None or parts.query or parts.fragment:
        raise ValueError(expected)
    if parts.scheme == "https" or (parts.scheme == "http" and _is_this_machine(host)):
        return address
    raise ValueError(expected)


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
