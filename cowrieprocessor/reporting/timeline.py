"""One event of a session in words.

The words are still the attacker's: nothing here makes them inert, the renderers do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cowrieprocessor.events import duration_s

Fields = Mapping[str, Any]
_HASH_CHARS = 12


def describe_event(event_type: str | None, fields: Fields) -> str:
    """Return what happened in one line.

    An event name without words of its own is described by the message that Cowrie wrote, else by its fields.

    Args:
        event_type: Cowrie's name of the event, None where it has none.
        fields: the event as it is stored.
    """
    describe = _WORDS.get(event_type or "")
    return (describe(fields) if describe else "") or _message(fields) or _other_fields(fields)


def command_text(fields: Fields) -> str:
    """Return the command line of a command event.

    Version 3 stored a rewritten `input_safe` instead of `input`; the original is gone, so that is shown.
    """
    for key in ("input", "command", "input_safe"):
        text = _text(fields.get(key))
        if text:
            return text
    return ""


def _text(value: object) -> str:
    """Return a field as text; a field that is missing or null is empty."""
    if value is None:
        return ""
    return value if isinstance(value, str) else str(value)


def _pick(fields: Fields, *keys: str) -> str:
    return next((text for key in keys if (text := _text(fields.get(key)))), "")


def _address(fields: Fields, host: str, port: str) -> str:
    name, number = _text(fields.get(host)), _text(fields.get(port))
    if name and number:
        return f"[{name}]:{number}" if ":" in name else f"{name}:{number}"
    return name


def _connected(fields: Fields) -> str:
    origin = _address(fields, "src_ip", "src_port") or "an unknown address"
    target = _address(fields, "dst_ip", "dst_port")
    protocol = _text(fields.get("protocol"))
    return f"from {origin}" + (f" to {target}" if target else "") + (f" with {protocol}" if protocol else "")


def _closed(fields: Fields) -> str:
    seconds = duration_s(dict(fields))
    return "connection ended" + (f" after {seconds:.1f} s" if seconds is not None else "")


def _login(fields: Fields) -> str:
    user = _text(fields.get("username"))
    if fields.get("password") is not None:
        return f"{user} / {_text(fields['password'])}"
    key = _pick(fields, "fingerprint", "key")
    return f"{user} with key {key}" if key else user


def _file(fields: Fields) -> str:
    """Return name, source and the beginning of the hash of a file. Its size is never in the event."""
    parts = [_pick(fields, "destfile", "filename")]
    url = _text(fields.get("url"))
    if url and url != parts[0]:
        parts.append(f"from {url}")
    shasum = _text(fields.get("shasum"))
    parts.append(f"SHA-256 {shasum[:_HASH_CHARS]}" if shasum else "no content")
    return "  ".join(part for part in parts if part)


def _forward(fields: Fields) -> str:
    target = _address(fields, "dst_ip", "dst_port")
    data = _text(fields.get("data"))
    return (f"to {target}" if target else "") + (f": {data}" if data else "")


def _named(*keys: str) -> Callable[[Fields], str]:
    """Return words made of a few fields, one after the other."""

    def words(fields: Fields) -> str:
        return " ".join(text for key in keys if (text := _text(fields.get(key))))

    return words


_WORDS: dict[str, Callable[[Fields], str]] = {
    "cowrie.session.connect": _connected,
    "cowrie.session.closed": _closed,
    "cowrie.session.params": _named("arch"),
    "cowrie.session.input": _named("input"),
    "cowrie.session.file_download": _file,
    "cowrie.session.file_download.failed": _named("url", "error"),
    "cowrie.session.file_upload": _file,
    "cowrie.client.version": _named("version"),
    "cowrie.client.kex": _named("hassh"),
    "cowrie.client.fingerprint": _named("username", "type", "fingerprint"),
    "cowrie.client.var": _named("name", "value"),
    "cowrie.login.success": _login,
    "cowrie.login.failed": _login,
    "cowrie.command.input": command_text,
    "cowrie.command.failed": command_text,
    "cowrie.command.success": command_text,
    "cowrie.command.chpasswd": _named("username", "password"),
    "cowrie.log.closed": _named("ttylog"),
    "cowrie.direct-tcpip.request": _forward,
    "cowrie.direct-tcpip.data": _forward,
    "cowrie.tunnelproxy-tcpip.data": _forward,
}

_SHARED = frozenset(
    (
        "eventid",
        "session",
        "timestamp",
        "sensor",
        "uuid",
        "src_ip",
        "src_port",
        "dst_ip",
        "dst_port",
        "protocol",
        "time",
    )
)


def _message(fields: Fields) -> str:
    message = fields.get("message")
    if isinstance(message, list):
        return " ".join(_text(part) for part in message)
    return _text(message)


def _other_fields(fields: Fields) -> str:
    return " ".join(f"{key}={_text(value)}" for key, value in fields.items() if key not in _SHARED)
