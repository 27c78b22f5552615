"""One-line descriptions of a session's events.

A description contains the attacker's text as it is stored: the renderers, not this module, make it safe to show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cowrieprocessor.events import duration_s
from cowrieprocessor.interpret.commands import command_of

Fields = Mapping[str, Any]
_HASH_CHARS = 12


def describe_event(event_type: str | None, fields: Fields) -> str:
    """Return one line that describes an event.

    An event type without a description of its own is described by Cowrie's message, else by its fields.

    Args:
        event_type: Cowrie's `eventid`; None if the event has none.
        fields: the event as it is stored.
    """
    describe = _DESCRIPTIONS.get(event_type or "")
    return (describe(fields) if describe else "") or _message(fields) or _other_fields(fields)


def command_text(fields: Fields) -> str:
    """Return the command line of a command event.

    Version 3 stored a rewritten `input_safe` instead of `input`; see `command_of`.
    """
    return _first_text(fields, "input", "command") or command_of(fields) or ""


def _text(value: object) -> str:
    """Return a field as text; empty if it is missing or null."""
    if value is None:
        return ""
    return value if isinstance(value, str) else str(value)


def _first_text(fields: Fields, *keys: str) -> str:
    """Return the first of these fields that is not empty, or an empty text."""
    return next((text for key in keys if (text := _text(fields.get(key)))), "")


def _address(fields: Fields, host_key: str, port_key: str) -> str:
    """Return `host:port`, with brackets around an IPv6 address."""
    host, port = _text(fields.get(host_key)), _text(fields.get(port_key))
    if host and port:
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return host


def _describe_connect(fields: Fields) -> str:
    origin = _address(fields, "src_ip", "src_port") or "an unknown address"
    target = _address(fields, "dst_ip", "dst_port")
    protocol = _text(fields.get("protocol"))
    return f"from {origin}" + (f" to {target}" if target else "") + (f" with {protocol}" if protocol else "")


def _describe_close(fields: Fields) -> str:
    seconds = duration_s(dict(fields))
    return "connection ended" + (f" after {seconds:.1f} s" if seconds is not None else "")


def _describe_login(fields: Fields) -> str:
    user = _text(fields.get("username"))
    if fields.get("password") is not None:
        return f"{user} / {_text(fields['password'])}"
    key = _first_text(fields, "fingerprint", "key")
    return f"{user} with key {key}" if key else user


def _describe_file(fields: Fields) -> str:
    """Return a file's name, URL and short hash. Cowrie's event never has its size."""
    parts = [_first_text(fields, "destfile", "filename")]
    url = _text(fields.get("url"))
    if url and url != parts[0]:
        parts.append(f"from {url}")
    shasum = _text(fields.get("shasum"))
    parts.append(f"SHA-256 {shasum[:_HASH_CHARS]}" if shasum else "no content")
    return "  ".join(part for part in parts if part)


def _describe_forwarding(fields: Fields) -> str:
    target = _address(fields, "dst_ip", "dst_port")
    data = _text(fields.get("data"))
    return (f"to {target}" if target else "") + (f": {data}" if data else "")


def _join_fields(*keys: str) -> Callable[[Fields], str]:
    """Return a description that joins these fields with blanks."""

    def describe(fields: Fields) -> str:
        return " ".join(text for key in keys if (text := _text(fields.get(key))))

    return describe


_DESCRIPTIONS: dict[str, Callable[[Fields], str]] = {
    "cowrie.session.connect": _describe_connect,
    "cowrie.session.closed": _describe_close,
    "cowrie.session.params": _join_fields("arch"),
    "cowrie.session.input": _join_fields("input"),
    "cowrie.session.file_download": _describe_file,
    "cowrie.session.file_download.failed": _join_fields("url", "error"),
    "cowrie.session.file_upload": _describe_file,
    "cowrie.client.version": _join_fields("version"),
    "cowrie.client.kex": _join_fields("hassh"),
    "cowrie.client.fingerprint": _join_fields("username", "type", "fingerprint"),
    "cowrie.client.var": _join_fields("name", "value"),
    "cowrie.login.success": _describe_login,
    "cowrie.login.failed": _describe_login,
    "cowrie.command.input": command_text,
    "cowrie.command.failed": command_text,
    "cowrie.command.success": command_text,
    "cowrie.command.chpasswd": _join_fields("username", "password"),
    "cowrie.log.closed": _join_fields("ttylog"),
    "cowrie.direct-tcpip.request": _describe_forwarding,
    "cowrie.direct-tcpip.data": _describe_forwarding,
    "cowrie.tunnelproxy-tcpip.data": _describe_forwarding,
}

_COMMON_FIELDS = frozenset(
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
    return " ".join(f"{key}={_text(value)}" for key, value in fields.items() if key not in _COMMON_FIELDS)
