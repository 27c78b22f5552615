"""Cowrie's vocabulary: the names of its events, and the only parser of a line.

A log value becomes an `Event`, or is refused with a reason that goes into its dead letter. `json_extract` in SQLite and
this parser read the same from the stored payload: anything they could read differently is refused here (a duplicate
key, nesting that SQLite rejects, a session that is not text) or normalized to a spelling that every SQLite version
reads the same way (an escaped key, a timestamp that is a decimal number).

Source: Cowrie's docs/OUTPUT.rst, and 482,000 real log lines from 2016 to 2026.
"""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from typing import Any, NamedTuple

import orjson

from cowrieprocessor.errors import UnreadableTimestamp
from cowrieprocessor.json_text import (
    has_spelled_surrogates,
    hash_payload,
    hash_with_surrogates,
    json_problem,
    kind_of,
    may_have_surrogates,
    spell_lone_surrogates,
)
from cowrieprocessor.wording import plural

SESSION_CONNECT = "cowrie.session.connect"
SESSION_CLOSED = "cowrie.session.closed"
CLIENT_KEX = "cowrie.client.kex"
LOGIN_SUCCESS = "cowrie.login.success"
LOGIN_FAILED = "cowrie.login.failed"
COMMAND_INPUT = "cowrie.command.input"
FILE_DOWNLOAD = "cowrie.session.file_download"
FILE_DOWNLOAD_FAILED = "cowrie.session.file_download.failed"
FILE_UPLOAD = "cowrie.session.file_upload"

EVENT_NAMES: dict[str, str] = {
    SESSION_CONNECT: "an attacker connected",
    SESSION_CLOSED: "the connection ended",
    "cowrie.session.params": "architecture and other parameters of the session",
    "cowrie.session.input": "text typed at a prompt of a program",
    FILE_DOWNLOAD: "a file was fetched, written by a redirect, or sent to standard input",
    FILE_DOWNLOAD_FAILED: "a file could not be fetched; names no file",
    FILE_UPLOAD: "a file was uploaded with SFTP or SCP",
    "cowrie.client.version": "the client's version string",
    CLIENT_KEX: "the client's key exchange, with its HASSH fingerprint",
    "cowrie.client.fingerprint": "the fingerprint of a public key",
    "cowrie.client.size": "the size of the client's terminal",
    "cowrie.client.var": "an environment variable of the client",
    "cowrie.client.malformed_packet": "a packet that is not of the protocol",
    LOGIN_SUCCESS: "a login that the honeypot let in",
    LOGIN_FAILED: "a login that the honeypot turned away",
    COMMAND_INPUT: "a command line",
    "cowrie.command.failed": "a command that the honeypot does not know",
    "cowrie.command.success": "a command that the honeypot knows (older versions)",
    "cowrie.command.chpasswd": "a change of a password",
    "cowrie.log.open": "the recording of the terminal began",
    "cowrie.log.closed": "the recording of the terminal ended; its shasum is never a file's",
    "cowrie.direct-tcpip.request": "a request to forward a connection",
    "cowrie.direct-tcpip.data": "data of a forwarded connection",
    "cowrie.direct-tcpip.redirect": "a forwarded connection sent elsewhere",
    "cowrie.direct-tcpip.tunnel": "a forwarded connection tunnelled through a proxy",
    "cowrie.direct-tcpip.ja4": "the JA4 fingerprint of TLS in a forwarded connection",
    "cowrie.direct-tcpip.ja4h": "the JA4H fingerprint of HTTP in a forwarded connection",
    "cowrie.tunnelproxy-tcpip.data": "data of a forwarded connection that was tunnelled through a proxy",
    "cowrie.abuseipdb.started": "Cowrie's own AbuseIPDB plug-in began its work",
    "cowrie.abuseipdb.reportedip": "an address was reported to AbuseIPDB",
    "cowrie.abuseipdb.reportfail": "an address could not be reported to AbuseIPDB",
    "cowrie.abuseipdb.ratelimited": "AbuseIPDB's limit was reached; the plug-in pauses",
    "cowrie.abuseipdb.wakeup": "Cowrie's own AbuseIPDB plug-in goes on after a pause",
    "cowrie.greynoise.result": "what GreyNoise knows about the address",
    "cowrie.malwarebazaar.submitted": "a file was submitted to MalwareBazaar",
    "cowrie.urlhaus.submitted": "a URL was submitted to URLhaus",
    "cowrie.virustotal.scanfile": "VirusTotal's verdict on a file, from Cowrie's own plug-in",
}
"""Every event name that Cowrie's docs list individually, with its meaning. An unknown name is still an event.

Source: `cowrie.core.eventids` of Cowrie 3.1.4, and the docs of older versions.
"""

FORWARDED = ("cowrie.direct-tcpip", "cowrie.tunnelproxy-tcpip")
"""Prefixes of events of forwarded connections. Their `src_ip` is what the client claims, never the attacker's address.

Source: RFC 4254, 7.2: the originator's address in a direct-tcpip request is the client's word; Cowrie logs it.
"""

EVENT_FAMILIES: dict[str, str] = {
    "cowrie.telnet.": "what a telnet client negotiated",
    "cowrie.proxy.": "what went through the proxy to a real machine",
    "cowrie.virustotal.": "what Cowrie's own VirusTotal plug-in asked and learned",
    "cowrie.reversedns.": "the name of the attacker's address",
    "KIPP": "events of Kippo and of Cowrie before 2016, by number",
}
"""Prefixes of event names with a variable part, and what each family means."""

MAX_SESSION_CHARS = 64
MAX_EVENT_TYPE_CHARS = 128
MAX_TIMESTAMP_CHARS = 64
SQLITE_MAX_NESTING = 1000
_COLUMN_CHARS = (
    ("session", MAX_SESSION_CHARS),
    ("eventid", MAX_EVENT_TYPE_CHARS),
    ("timestamp", MAX_TIMESTAMP_CHARS),
)

REFUSED_NOT_JSON = "not JSON"
REFUSED_NUMBER = "a number out of range"
REFUSED_NOT_OBJECT = "JSON, but not an object"
REFUSED_DUPLICATE_KEY = "an object names a key twice"
REFUSED_TOO_DEEP = "nested too deep"
REFUSED_TOO_LARGE = "larger than the limit for one event"

_REASONS = {"depth limit": REFUSED_TOO_DEEP, "number is infinity": REFUSED_NUMBER}
"""Reasons by the beginning of orjson's message, for what is JSON all the same."""

_COWRIE_NAMES = ("cowrie.", "KIPP")

_ISO = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?)\s*(Z|UTC|GMT|[+-]\d\d(?::?[0-5]\d)?)?",
    re.IGNORECASE | re.ASCII,
)
_NUMBER = re.compile(r"-?\d{1,20}(\.\d+)?", re.ASCII)
_from_iso = dt.datetime.fromisoformat
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

_JSON_TOKEN = re.compile(rb'("(?:[^"\\]++|\\.)*+")([ \t\r\n]*+:[ \t\r\n]*+)?|[{}\[\]]')
_JSON_NUMBER = re.compile(rb"[0-9.eE+-]+")
_TIMESTAMP_KEY = b'"timestamp"'
_EXTRACTED_KEYS = frozenset({b'"session"', b'"eventid"', _TIMESTAMP_KEY})
"""Keys that SQLite extracts into columns, as JSON text."""


class Event(NamedTuple):
    """One event of a log.

    Attributes:
        fields: the decoded object.
        payload: the original text, except where databases would read it differently or not at all.
        payload_hash: BLAKE2b-256 (hex) of the compact JSON with sorted keys.
        session_id: None if the field is missing; empty if it is the empty string.
        event_type: None if the event has no name.
        timestamp: the timestamp as text, as SQLite reads it from the payload.
        moment: the timestamp in UTC as `YYYY-MM-DD HH:MM:SS.ffffff`; None if it is missing or unreadable.
    """

    fields: dict[str, Any]
    payload: str
    payload_hash: str
    session_id: str | None
    event_type: str | None
    timestamp: str | None
    moment: str | None


_new_event = tuple.__new__  # half the time of calling the class, once for every event


class Refused(NamedTuple):
    """A value that cannot be stored as an event, and why."""

    reason: str
    detail: str


def is_cowrie_name(event_type: object) -> bool:
    """Return whether an event has a name that Cowrie or Kippo gives, known to us or not."""
    return type(event_type) is str and event_type.startswith(_COWRIE_NAMES)


def refused_json(error: orjson.JSONDecodeError) -> Refused:
    """Return the reason for a text that cannot be decoded."""
    reasons = (reason for beginning, reason in _REASONS.items() if error.msg.startswith(beginning))
    return Refused(next(reasons, REFUSED_NOT_JSON), json_problem(error))


def parse_event(
    raw: bytes, fields: Any, *, max_nesting: int = SQLITE_MAX_NESTING, hashed: bool = True
) -> Event | Refused:
    """Return the event that a log value represents, or why it is refused.

    Args:
        raw: the bytes of the value, valid JSON.
        fields: what orjson decoded them to.
        max_nesting: the deepest nesting allowed, at most SQLite's 1000.
        hashed: whether to compute payload_hash; it stays empty otherwise.
    """
    if type(fields) is not dict:
        return Refused(REFUSED_NOT_OBJECT, kind_of(fields))
    has_escapes = b"\\" in raw
    has_surrogates = has_escapes and b"\\u" in raw and may_have_surrogates(raw)
    if has_surrogates:
        raw = spell_lone_surrogates(raw)
        has_surrogates = has_spelled_surrogates(raw)
    get = fields.get
    session, event_type, timestamp = get("session"), get("eventid"), get("timestamp")
    if type(timestamp) is float or _may_be_ambiguous(raw, len(fields), max_nesting, has_escapes=has_escapes):
        normalized = _normalize(raw, fields, max_nesting)
        if isinstance(normalized, Refused):
            return normalized
        if normalized is not raw:
            return parse_event(normalized, orjson.loads(normalized), hashed=hashed)
    if not _fit_columns(session, event_type, timestamp, has_escapes=has_escapes):
        texts = _column_texts(fields)
        if isinstance(texts, Refused):
            return texts
        session, event_type, timestamp = texts
    payload_hash = "" if not hashed else hash_with_surrogates(raw) if has_surrogates else hash_payload(fields)
    moment = moment_or_none(timestamp)
    return _new_event(Event, (fields, raw.decode(), payload_hash, session, event_type, timestamp, moment))


def parse_stored(payload: str | None) -> Event | None:
    """Return the event of a payload in raw_events, without its hash; None if version 3 stored what is none."""
    if payload is None:
        return None
    raw = payload.encode("utf-8", "surrogatepass")
    try:
        event = parse_event(raw, orjson.loads(raw), hashed=False)
    except orjson.JSONDecodeError:
        return None
    return event if isinstance(event, Event) else None


def _may_be_ambiguous(raw: bytes, field_count: int, max_nesting: int, *, has_escapes: bool) -> bool:
    """Return whether SQLite might read an object differently: a quick test before `_normalize`."""
    return (
        raw.translate(None, b" \t\r\n").count(b'":') != field_count  # a duplicate key, or `":` in a string or below
        or (has_escapes and b"\\u00" in raw)  # an ASCII key may be spelled with escapes
        or (len(raw) >= 2 * max_nesting and raw.count(b"[") + raw.count(b"{") > max_nesting)
    )


def _fit_columns(session: object, event_type: object, timestamp: object, *, has_escapes: bool) -> bool:
    """Return whether the three values are texts that can be stored unchanged, as those of nearly every line."""
    return (
        type(session) is str
        and type(event_type) is str
        and type(timestamp) is str
        and len(session) <= MAX_SESSION_CHARS
        and len(event_type) <= MAX_EVENT_TYPE_CHARS
        and len(timestamp) <= MAX_TIMESTAMP_CHARS
        and not (has_escapes and ("\0" in session or "\0" in event_type or "\0" in timestamp))
    )


def _column_texts(fields: dict[str, Any]) -> tuple[str | None, str | None, str | None] | Refused:
    """Return session, event name and timestamp as the text that SQLite reads, or why the event is refused."""
    texts: list[str | None] = []
    for key, max_chars in _COLUMN_CHARS:
        text = _column_text(fields.get(key), key, max_chars)
        if isinstance(text, Refused):
            return text
        texts.append(text)
    return texts[0], texts[1], texts[2]


def parse_timestamp(value: object) -> dt.datetime:
    """Return a timestamp as an aware datetime in UTC.

    Accepts ISO 8601 with `Z`, an offset or no zone (taken as UTC, Cowrie's default) and any number of decimals, and
    epoch numbers in seconds, milliseconds, microseconds or nanoseconds, as a number or as text.

    Raises:
        UnreadableTimestamp: none of these forms, or outside the years 1 to 9999.

    Source: Cowrie writes `%Y-%m-%dT%H:%M:%S.%fZ` when it runs in UTC, else `…+0200`.
    """
    try:
        if isinstance(value, str):
            return _parse_text(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _from_epoch(value)
    except (ValueError, OverflowError) as error:
        raise UnreadableTimestamp(f"timestamp {value!r:.80}: {error}") from error
    raise UnreadableTimestamp(f"the timestamp is {kind_of(value)}: neither text nor a number")


def utc_text(moment: dt.datetime) -> str:
    """Return an aware datetime as `YYYY-MM-DD HH:MM:SS.ffffff` in UTC, as SQLite stores it."""
    return moment.astimezone(dt.UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


def moment_or_none(timestamp: object) -> str | None:
    """Return a timestamp as `YYYY-MM-DD HH:MM:SS.ffffff` in UTC, or None if it is missing or unreadable."""
    if type(timestamp) is str and len(timestamp) == 27 and timestamp[26] == "Z" and timestamp[7:20:3] == "-T::.":
        # Nearly every line has the form 2026-11-21T23:48:27.110758Z: slicing is faster than parsing and formatting.
        try:
            _from_iso(timestamp)
        except ValueError:
            pass
        else:
            return f"{timestamp[:10]} {timestamp[11:26]}"
    if timestamp is None:
        return None
    try:
        return utc_text(parse_timestamp(timestamp))
    except UnreadableTimestamp:
        return None


def duration_s(fields: dict[str, Any]) -> float | None:
    """Return the duration of a session in seconds from its closing event; None if the event has none.

    Source: `duration` is a float up to Cowrie 2.6, text from 2.7 to 3.0.3; `duration_ms` is an integer since 3.0.4.
    """
    milliseconds = fields.get("duration_ms")
    if isinstance(milliseconds, int | float) and not isinstance(milliseconds, bool):
        return milliseconds / 1000
    seconds = fields.get("duration")
    if isinstance(seconds, bool):
        return None
    if isinstance(seconds, int | float):
        return float(seconds)
    if isinstance(seconds, str) and re.fullmatch(r"\d+(\.\d+)?", seconds):
        return float(seconds)
    return None


def _parse_text(value: str) -> dt.datetime:
    text = value.strip()
    if match := _ISO.fullmatch(text):
        day, clock, zone = match.groups()
        parsed = _from_iso(f"{day}T{clock.replace(',', '.')}")
        return (parsed - _offset(zone)).replace(tzinfo=dt.UTC)
    if _NUMBER.fullmatch(text):
        return _from_epoch(float(text) if "." in text else int(text))
    raise ValueError("not a form that Cowrie writes")


def _offset(zone: str | None) -> dt.timedelta:
    if zone is None or zone.upper() in {"Z", "UTC", "GMT"}:
        return dt.timedelta(0)
    digits = zone[1:].replace(":", "")
    minutes = int(digits[:2]) * 60 + int(digits[2:] or 0)
    if minutes > 24 * 60:
        raise ValueError(f"zone {zone} is more than a day away")
    return dt.timedelta(minutes=-minutes if zone[0] == "-" else minutes)


def _from_epoch(number: float) -> dt.datetime:
    """Return an epoch number as a datetime; its magnitude determines its unit (seconds up to the year 5138)."""
    size = abs(number)
    for limit, per_second in ((1e11, 1), (1e14, 10**3), (1e17, 10**6), (1e20, 10**9)):
        if size < limit:
            if isinstance(number, int):
                return _EPOCH + dt.timedelta(microseconds=number * 10**6 // per_second)
            return _EPOCH + dt.timedelta(seconds=number / per_second)
    raise ValueError("too large for an epoch")


def _column_text(value: object, key: str, max_chars: int) -> str | Refused | None:
    """Return the text that SQLite reads for one field, or why the event is refused."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return Refused(f"{key} is not text", f"{key} is {kind_of(value)}")
    if isinstance(value, float) or (isinstance(value, int) and abs(value) >= 2**63):
        return Refused(f"{key} is not text", f"{key} is the number {value}")
    text = value if isinstance(value, str) else str(value)
    if "\0" in text:
        return Refused(f"{key} holds a NUL", f"{key} holds a NUL character")
    if len(text) > max_chars:
        return Refused(f"{key} is too long", f"{key} has {plural(len(text), 'character')}, allowed are {max_chars:,}")
    return text


def _normalize(raw: bytes, fields: dict[str, Any], max_nesting: int) -> bytes | Refused:
    """Return an object's JSON in a spelling that every SQLite version reads the same way, or why it is refused.

    SQLite before 3.44 does not find a key that is spelled with escapes, and the way it prints a decimal number depends
    on its version: such a key is rewritten without escapes, such a timestamp as a string of its digits. Returns `raw`
    itself if nothing has to change.
    """
    open_keys: list[set[bytes]] = []
    extracted: list[tuple[bytes, re.Match[bytes]]] = []
    for token in _JSON_TOKEN.finditer(raw):
        text, colon = token.groups()
        if text is None:
            if token.group() in b"{[":
                open_keys.append(set())
                if len(open_keys) > max_nesting:
                    return Refused(REFUSED_TOO_DEEP, f"more than {plural(max_nesting, 'level')}")
            else:
                open_keys.pop()
        elif colon is not None:
            key = orjson.dumps(orjson.loads(text)) if b"\\" in text else text
            if key in open_keys[-1]:
                return Refused(REFUSED_DUPLICATE_KEY, f"key {key.decode()[:80]}")
            open_keys[-1].add(key)
            if len(open_keys) == 1 and key in _EXTRACTED_KEYS:
                extracted.append((key, token))
    return _respell(raw, extracted, fields)


def _respell(raw: bytes, extracted: list[tuple[bytes, re.Match[bytes]]], fields: dict[str, Any]) -> bytes:
    """Return an object's JSON with plain keys and a decimal timestamp as text; `raw` itself if nothing changes.

    Args:
        raw: the JSON of the object.
        extracted: each key that SQLite extracts, as JSON without escapes, and its token in `raw`, colon included.
        fields: the decoded object.
    """
    is_decimal = type(fields.get("timestamp")) is float
    for key, token in reversed(extracted):  # from the back, so that earlier positions stay valid
        if is_decimal and key == _TIMESTAMP_KEY and (number := _JSON_NUMBER.match(raw, token.end())):
            raw = raw[: number.start()] + _quote_number(number.group(), fields["timestamp"]) + raw[number.end() :]
        if key != token.group(1):
            raw = raw[: token.start(1)] + key + raw[token.end(1) :]
    return raw


def _quote_number(literal: bytes, number: float) -> bytes:
    """Return a JSON number as a JSON string without an exponent."""
    digits = literal.decode() if b"e" not in literal.lower() else f"{Decimal(repr(number)):f}"
    return b'"%s"' % digits.encode()
