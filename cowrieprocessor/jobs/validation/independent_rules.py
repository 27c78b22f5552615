"""Independent rules by which a validation computes expected rows of files and sessions from events.

Files, attributes and logins use no code of the loaders or the backfill; only the vocabulary is shared (timestamps,
inert text). Commands are read and normalised, and addresses and names of sensors spelled, by the functions that define
how they are counted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cowrieprocessor.events import (
    CLIENT_KEX,
    COMMAND_INPUT,
    FILE_DOWNLOAD,
    FILE_DOWNLOAD_FAILED,
    FILE_UPLOAD,
    FORWARDED,
    LOGIN_FAILED,
    LOGIN_SUCCESS,
    SESSION_CONNECT,
    moment_or_none,
)
from cowrieprocessor.interpret.addresses import canonical_address
from cowrieprocessor.interpret.commands import command_of, describe_command
from cowrieprocessor.interpret.sensors import sensor_name
from cowrieprocessor.interpret.urls import last_path_segment
from cowrieprocessor.sanitize import inert_cut, inert_key

HASH = re.compile(r"[0-9a-f]{64}")
STATUSES = frozenset({"pending", "enriched", "failed", "skipped"})
ORIGINS = {FILE_DOWNLOAD: "download", FILE_UPLOAD: "upload"}
FILE_EVENTS = (*ORIGINS, FILE_DOWNLOAD_FAILED)

SEPARATOR = "\x01"
"""Joins the fields of a candidate into a text with the same sort order: inert text contains nothing as small."""

NO_MOMENT = "9999-12-31 23:59:59.999999"
"""The time of an event without a readable one: it sorts last."""

NO_HASH = "file events that name no hash"
BAD_HASH = "file events whose shasum is not 64 hexadecimal characters"
NO_TIME = "file events without a readable time"
NO_SESSION = "file events without a session"
UNREADABLE = "events whose payload cannot be read"

ExpectedRow = tuple[Any, ...]

CONNECTED, ADDRESS, PROTOCOL, KEX, LOGIN = range(5)
ATTRIBUTE_COLUMNS = 5
"""The candidates of a session: when it connected, and its first address, protocol, key exchange and login."""

_ANY_HASH = re.compile(r"[0-9a-fA-F]{64}")
_MAX_KEY_CHARS = 64


def is_readable(fields: Mapping[str, Any]) -> bool:
    """Return whether an event's session and timestamp are texts or numbers, as loaders and backfill require."""
    return _is_key(fields.get("session"), decimals=False) and _is_key(fields.get("timestamp"), decimals=True)


def session_of(fields: Mapping[str, Any]) -> str:
    """Return the session of an event; empty if it has none."""
    session = fields.get("session")
    return "" if session is None else str(session)


def expected_file(fields: Mapping[str, Any]) -> ExpectedRow | str:
    """Return (session, hash, name, URL, origin, time, time) of a file event, or the reason why it makes no row."""
    session, moment = session_of(fields), moment_or_none(fields.get("timestamp"))
    reason = _why_no_row(fields, session, moment)
    if reason is not None:
        return reason
    origin = ORIGINS[str(fields["eventid"])]
    name, url = _name_and_url(fields, origin)
    return (session, fields["shasum"].lower(), name, url, origin, moment, moment)


def expected_mentions(fields: Mapping[str, Any]) -> Iterator[ExpectedRow]:
    """Yield (session, digest, hash, kind, value, time, time) for each URL and name that a file event mentions.

    A download that brought no file, or one with a malformed hash, has a URL only.
    """
    session, moment = session_of(fields), moment_or_none(fields.get("timestamp"))
    why_no_row = NO_HASH
    if fields.get("eventid") in ORIGINS:
        why_no_row = _why_no_row(fields, session, moment) or ""
    if not session or moment is None:
        return
    sha256 = "" if why_no_row else fields["shasum"].lower()
    place = _given(fields, "url")
    if place == "stdin":
        place = None
    names = _mentioned_names(fields, place) if sha256 else set()
    mentioned = {("name", inert_key(name, 512)) for name in names}
    if place is not None and fields.get("eventid") != FILE_UPLOAD and not place.startswith("/"):
        mentioned.add(("url", inert_key(place, 1024)))
    for kind, value in mentioned:
        digest = hashlib.sha256("\0".join((kind, sha256, value)).encode()).hexdigest()
        yield (session, digest[:32], sha256, kind, value, moment, moment)


def _mentioned_names(fields: Mapping[str, Any], place: str | None) -> set[str]:
    """Return `destfile` and `filename` of an event, or without them the last segment of its URL."""
    names = {_given(fields, "destfile"), _given(fields, "filename")} - {None}
    if not names and place is not None:
        names = {last_path_segment(place)}
    return {name for name in names if name is not None}


def _why_no_row(fields: Mapping[str, Any], session: str, moment: str | None) -> str | None:
    """Return the reason why a file event makes no row, or None if it makes one."""
    shasum = fields.get("shasum")
    if shasum is None or shasum == "":
        return NO_HASH
    if not isinstance(shasum, str) or _ANY_HASH.fullmatch(shasum) is None:
        return BAD_HASH
    if not session:
        return NO_SESSION
    return NO_TIME if moment is None else None


def _name_and_url(fields: Mapping[str, Any], origin: str) -> tuple[str | None, str | None]:
    """Return the name and the URL of a file event.

    The name is `destfile`, else `filename`, else the last segment of the URL. The path in a redirect's `url` and
    standard input's `stdin` are not URLs, and an upload has none.
    """
    url = _given(fields, "url")
    if url == "stdin":
        url = None
    name = _given(fields, "destfile") or _given(fields, "filename")
    if name is None and url is not None:
        name = last_path_segment(url)
    if origin == "upload" or (url is not None and url.startswith("/")):
        url = None
    return _inert_or_none(name, 512), _inert_or_none(url, 1024)


def expected_sensors(fields: Mapping[str, Any], given: str | None, renamed: Mapping[str, str]) -> ExpectedRow | None:
    """Return what an event adds to the sensors of its session; None if it has none.

    Args:
        fields: the event.
        given: the sensor that its log was given.
        renamed: the present names of renamed sensors.

    Returns:
        (session, given, given, logged, logged, time of a connect, the same time): pairs for minimum and maximum.
    """
    session = session_of(fields)
    if not session:
        return None
    said = _given(fields, "sensor")
    logged = None if said is None else sensor_name(said)
    moment = moment_or_none(fields.get("timestamp")) if fields.get("eventid") == SESSION_CONNECT else None
    names = (name and renamed.get(name, name) for name in (given, given, logged, logged))
    return (session, *names, moment, moment)


class ExpectedSessionRows:
    """Candidates for session attributes, and counts of commands and logins, merged in memory until they are drained."""

    def __init__(self) -> None:
        self._attributes: dict[str, list[str | None]] = {}
        self._commands: dict[tuple[str, str], list[Any]] = {}
        self._logins: dict[tuple[str, str], list[Any]] = {}

    def __len__(self) -> int:
        return len(self._attributes) + len(self._commands) + len(self._logins)

    def add(self, fields: Mapping[str, Any]) -> None:
        """Add one event."""
        event_type = fields.get("eventid")
        session = session_of(fields)
        if not session:
            return
        name = event_type if isinstance(event_type, str) else ""
        moment = moment_or_none(fields.get("timestamp"))
        at = moment or NO_MOMENT
        if not name.startswith(FORWARDED):
            self._add_names(session, "0" if name == SESSION_CONNECT else "1", at, fields)
        if name == COMMAND_INPUT:
            self._add_command(session, fields, moment)
        elif name == SESSION_CONNECT:
            self._offer(session, CONNECTED, at)
        elif name == CLIENT_KEX:
            self._offer(session, KEX, at, _cut(fields, "hassh", 32), "")
        elif name in (LOGIN_FAILED, LOGIN_SUCCESS):
            failed = "1" if name == LOGIN_FAILED else "0"
            self._offer(session, LOGIN, failed, at, _cut(fields, "username", 255))
            self._add_login(session, fields, moment, succeeds=name == LOGIN_SUCCESS)

    def _add_names(self, session: str, rank: str, at: str, fields: Mapping[str, Any]) -> None:
        """Offer the address and the protocol that an event names; a connection's go before those of others."""
        if (address := _given(fields, "src_ip")) is not None:
            self._offer(session, ADDRESS, rank, at, canonical_address(address))
        if (protocol := _given(fields, "protocol")) is not None:
            self._offer(session, PROTOCOL, rank, at, inert_cut(protocol, 16))

    def _offer(self, session: str, column: int, *candidate: str) -> None:
        """Keep the smallest candidate of a column."""
        joined = SEPARATOR.join(candidate)
        kept = self._attributes.setdefault(session, [None] * ATTRIBUTE_COLUMNS)
        before = kept[column]
        kept[column] = joined if before is None else min(before, joined)

    def _add_login(self, session: str, fields: Mapping[str, Any], moment: str | None, *, succeeds: bool) -> None:
        """Count an attempt under the name that was tried."""
        username = fields.get("username")
        name = inert_key(username, 255) if isinstance(username, str) else ""
        row = self._logins.setdefault((session, name), [0, 0, None, None])
        row[0] += 1
        row[1] += succeeds
        if moment is not None:
            row[2] = min(moment, row[2] or moment)
            row[3] = max(moment, row[3] or moment)

    def _add_command(self, session: str, fields: Mapping[str, Any], moment: str | None) -> None:
        """Count a command."""
        text = command_of(fields)
        if not text:
            return
        command, is_risky = describe_command(text)
        if not command:
            return
        row = self._commands.setdefault((session, command), [0, None, None, 0])
        row[0] += 1
        if moment is not None:
            row[1] = min(moment, row[1] or moment)
            row[2] = max(moment, row[2] or moment)
        row[3] |= is_risky

    def drain(self) -> tuple[list[ExpectedRow], list[ExpectedRow], list[ExpectedRow]]:
        """Return the rows of attributes, of commands and of logins, and clear them."""
        attributes: list[ExpectedRow] = [(session, *row) for session, row in sorted(self._attributes.items())]
        commands: list[ExpectedRow] = [(*key, *row) for key, row in sorted(self._commands.items())]
        logins: list[ExpectedRow] = [(*key, *row) for key, row in sorted(self._logins.items())]
        self._attributes, self._commands, self._logins = {}, {}, {}
        return attributes, commands, logins


def _given(fields: Mapping[str, Any], key: str) -> str | None:
    value = fields.get(key)
    return value if isinstance(value, str) and value else None


def _cut(fields: Mapping[str, Any], key: str, max_chars: int) -> str:
    value = fields.get(key)
    return inert_cut(value, max_chars) if isinstance(value, str) else ""


def _inert_or_none(text: str | None, max_chars: int) -> str | None:
    return None if text is None else inert_cut(text, max_chars)


def _is_key(value: object, *, decimals: bool) -> bool:
    """Return whether SQLite can use a value as a key: the same rule as of loaders and backfill."""
    if value is None:
        return True
    if isinstance(value, str):
        return len(value) <= _MAX_KEY_CHARS and "\0" not in value
    if isinstance(value, float):
        return decimals
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
