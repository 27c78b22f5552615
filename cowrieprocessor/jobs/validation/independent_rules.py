"""What events say about files and sessions, stated once more: by these rules a validation judges the tables.

Nothing of the loaders or of the backfill is used for files and attributes; only the vocabulary is shared
(timestamps, inert text). Commands are normalised by the one function that defines how they are counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cowrieprocessor.events import (
    CLIENT_KEX,
    COMMAND_INPUT,
    FILE_DOWNLOAD,
    FILE_UPLOAD,
    LOGIN_FAILED,
    LOGIN_SUCCESS,
    SESSION_CONNECT,
    moment_or_none,
)
from cowrieprocessor.interpret.commands import describe_command
from cowrieprocessor.sanitize import inert_cut, last_path_segment

HASH = re.compile(r"[0-9a-f]{64}")
STATUSES = frozenset({"pending", "enriched", "failed", "skipped"})
ORIGINS = {FILE_DOWNLOAD: "download", FILE_UPLOAD: "upload"}

SEPARATOR = "\x01"
"""Joins the parts of a candidate to one text that compares as they do: no inert text holds it, or anything smaller."""

NO_MOMENT = "9999-12-31 23:59:59.999999"

NO_HASH = "file events that name no hash"
BAD_HASH = "file events whose shasum is not 64 hexadecimal characters"
NO_TIME = "file events without a readable time"
NO_SESSION = "file events without a session"
UNREADABLE = "events whose payload cannot be read"

Part = tuple[Any, ...]

_ANY_HASH = re.compile(r"[0-9a-fA-F]{64}")
_MAX_KEY_CHARS = 64


def readable(fields: Mapping[str, Any]) -> bool:
    """Return whether an event's session and timestamp are texts or numbers, as loaders and backfill want them."""
    return _is_key(fields.get("session"), decimals=False) and _is_key(fields.get("timestamp"), decimals=True)


def session_of(fields: Mapping[str, Any]) -> str:
    """Return the session that an event names; empty where it names none."""
    session = fields.get("session")
    return "" if session is None else str(session)


def file_part(fields: Mapping[str, Any]) -> Part | str:
    """Return (session, hash, name, URL, origin, time, time) of a file event, or why it names no storable file.

    The name is `destfile`, else `filename`, else the last segment of the URL; a redirect's `url` that is a path
    and standard input's `stdin` are no URLs; an upload has none.
    """
    shasum = fields.get("shasum")
    if shasum is None or shasum == "":
        return NO_HASH
    if not isinstance(shasum, str) or _ANY_HASH.fullmatch(shasum) is None:
        return BAD_HASH
    session, moment = session_of(fields), moment_or_none(fields.get("timestamp"))
    if not session or moment is None:
        return NO_TIME if session else NO_SESSION
    url = _given(fields, "url")
    if url == "stdin":
        url = None
    name = _given(fields, "destfile") or _given(fields, "filename")
    if name is None and url is not None:
        name = last_path_segment(url)
    origin = ORIGINS[str(fields["eventid"])]
    if origin == "upload" or (url is not None and url.startswith("/")):
        url = None
    return (
        session,
        shasum.lower(),
        None if name is None else inert_cut(name, 512),
        None if url is None else inert_cut(url, 1024),
        origin,
        moment,
        moment,
    )


class SessionParts:
    """Candidates for the attributes of sessions and counts of their commands, merged in memory for a while."""

    def __init__(self) -> None:
        self._attributes: dict[str, list[str | None]] = {}
        self._commands: dict[tuple[str, str], list[Any]] = {}

    def __len__(self) -> int:
        return len(self._attributes) + len(self._commands)

    def add(self, fields: Mapping[str, Any]) -> None:
        """Add what one event says."""
        event_type = fields.get("eventid")
        session = session_of(fields)
        if not session or not isinstance(event_type, str) or event_type not in _EVENTS:
            return
        moment = moment_or_none(fields.get("timestamp"))
        if event_type == COMMAND_INPUT:
            self._command(session, fields, moment)
            return
        at = moment or NO_MOMENT
        if event_type == SESSION_CONNECT:
            place, candidate = 0, (at, _cut(fields, "src_ip", 45), _cut(fields, "protocol", 16))
        elif event_type == CLIENT_KEX:
            place, candidate = 1, (at, _cut(fields, "hassh", 32), "")
        else:
            failed = "1" if event_type == LOGIN_FAILED else "0"
            place, candidate = 2, (failed, at, _cut(fields, "username", 255))
        joined = SEPARATOR.join(candidate)
        known = self._attributes.setdefault(session, [None, None, None])
        before = known[place]
        known[place] = joined if before is None else min(before, joined)

    def _command(self, session: str, fields: Mapping[str, Any], moment: str | None) -> None:
        """Count a command; v3 kept only a defanged text of it."""
        given = fields.get("input")
        text = given if isinstance(given, str) else fields.get("input_safe")
        if not isinstance(text, str) or not text:
            return
        command, is_risky = describe_command(text)
        if not command:
            return
        known = self._commands.setdefault((session, command), [0, None, None, 0])
        known[0] += 1
        if moment is not None:
            known[1] = min(moment, known[1] or moment)
            known[2] = max(moment, known[2] or moment)
        known[3] |= is_risky

    def take(self) -> tuple[list[Part], list[Part]]:
        """Return the rows of attributes and of commands, and begin anew."""
        attributes: list[Part] = [(session, *known) for session, known in sorted(self._attributes.items())]
        commands: list[Part] = [(*key, *known) for key, known in sorted(self._commands.items())]
        self._attributes, self._commands = {}, {}
        return attributes, commands


_EVENTS = frozenset({SESSION_CONNECT, CLIENT_KEX, LOGIN_SUCCESS, LOGIN_FAILED, COMMAND_INPUT})


def _given(fields: Mapping[str, Any], key: str) -> str | None:
    value = fields.get(key)
    return value if isinstance(value, str) and value else None


def _cut(fields: Mapping[str, Any], key: str, max_chars: int) -> str:
    value = fields.get(key)
    return inert_cut(value, max_chars) if isinstance(value, str) else ""


def _is_key(value: object, *, decimals: bool) -> bool:
    """Return whether a value can stand where SQLite reads a key: the same for loaders and backfill."""
    if value is None:
        return True
    if isinstance(value, str):
        return len(value) <= _MAX_KEY_CHARS and "\0" not in value
    if isinstance(value, float):
        return decimals
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
