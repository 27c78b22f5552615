"""A pool of sessions as v3 stored them: payload templates, and the facts about them.

All facts that the exact answer needs are collected when the pool is made, once for 2,000 sessions: which events name
files and under which name, how many commands there are, who logged in.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Any

from benchmarks.session_scripts import EMPTY_HASH, FILES, SESSION, SRC_IP, SRC_PORT, TIMESTAMP, Script, make_scripts

Event = dict[str, Any]

POOL_SCRIPTS = 2000
SENSOR = "\x1e"
"""The placeholder of the sensor's name; one pool serves all sensors."""

NEWER_COWRIE_KEPT = 0.1
ALGORITHMS_KEPT = 5
HOSTILE_USER_EVERY = 25
QUARANTINE_RISK = 70
"""The risk from which on v3 set `quarantined`."""

NO_SHASUM = "file_event_no_shasum"
EMPTY_SHASUM = "file_event_empty_shasum"
ORIGINS = {"cowrie.session.file_download": "download", "cowrie.session.file_upload": "upload"}

HOSTILE_USERS = (
    ("ro\x1bot", "ro\\x1bot"),
    ("\u202etoor", "\\u202etoor"),
    ("x" * 300, "x" * 254 + "…"),
    ("DOMAIN\\admin", "DOMAIN\\\\admin"),
)
"""User names, and the form in which they have to be stored, written by hand."""

_BARE_PORT = re.compile(rf"(?<=:){SRC_PORT}(?=[,}}])")
_REWRITES = (("&&", " [AND] "), (";", " [SC] "), ("|", " [PIPE] "), ("https://", "[URL]"), ("http://", "[URL]"))
_PORT = json.dumps(SRC_PORT)
_MARKERS = (
    (_PORT, SRC_PORT),
    *((json.dumps(marker)[1:-1], marker) for marker in (SESSION, SRC_IP, SRC_PORT, TIMESTAMP, SENSOR, *FILES)),
)
_BLANKS = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file that an event of a script names.

    Attributes:
        slot: index of its hash among those of the session.
        filename: the file name as it has to be stored.
        url: the URL as it has to be stored.
        origin: `download` or `upload`.
    """

    slot: int
    filename: str | None
    url: str | None
    origin: str


@dataclass(frozen=True, slots=True)
class Login:
    """A login event of a script.

    Attributes:
        index: the index of the event.
        failed: 0 if it succeeded, else 1.
        username: the user name as it has to be stored.
    """

    index: int
    failed: int
    username: str


@dataclass(frozen=True, slots=True)
class StoredScript:
    """A session as v3 stored it.

    Attributes:
        payloads: the payloads as v3 wrote them, joined by newlines, with the placeholders of `session_scripts`.
        sorted_payloads: the same as v3 hashed them: compact JSON with sorted keys.
        offsets_s: seconds from the start of the session to each event.
        files: how many hashes the session needs.
        risks: v3's risk score of each event.
        pretty_lines: how many lines each event takes in a pretty-printed log.
        file_events: for the index of each file event, the file that it names, or the reason why it names none.
        kex: index and HASSH of the key exchange event; None without one.
        logins: the login events, in order.
        protocol: the protocol of the connection.
        commands: for each n, how many of the first n events v3 counted as commands.
        downloads: the same for downloads.
        logins_before: the same for logins.
        commands_counted: for each n, how many of the first n events are commands with a text.
        distinct_commands: how many different commands the session has.
    """

    payloads: str
    sorted_payloads: str
    offsets_s: tuple[float, ...]
    files: int
    risks: tuple[int, ...]
    pretty_lines: tuple[int, ...]
    file_events: dict[int, NamedFile | str]
    kex: tuple[int, str] | None
    logins: tuple[Login, ...]
    protocol: str
    commands: tuple[int, ...]
    downloads: tuple[int, ...]
    logins_before: tuple[int, ...]
    commands_counted: tuple[int, ...]
    distinct_commands: int


def make_stored_scripts(rng: Random, count: int = POOL_SCRIPTS) -> list[StoredScript]:
    """Return a pool of sessions of every kind as v3 stored them; five in six are from Cowrie 2.2."""
    drawn = make_scripts(rng, int(count * 2.7), SENSOR)
    kept = [script for script in drawn if script.text.startswith('{"eventid"') or rng.random() < NEWER_COWRIE_KEPT]
    return [_stored(script, number) for number, script in enumerate(kept[:count])]


def rewritten(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return a command event as v3 stored it: the command replaced by a defanged text and a hash of the original."""
    original = event["input"]
    safe = original
    for plain, mark in _REWRITES:
        safe = safe.replace(plain, mark)
    digest = hashlib.blake2b(original.encode(), digest_size=32).hexdigest()
    added = {"input_safe": _BLANKS.sub(" ", safe).strip(), "input_hash": digest, "command": None}
    return {**event, "input": None, **added}


def stored_text(event: object) -> str:
    """Return a payload as v3 wrote it."""
    return json.dumps(event)


def hashed_bytes(event: object) -> bytes:
    """Return the bytes of a payload that v3 hashed: compact JSON with sorted keys."""
    return json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def payload_hash(compact: bytes) -> str:
    """Return the BLAKE2b-256 digest of the bytes from `hashed_bytes`."""
    return hashlib.blake2b(compact, digest_size=32).hexdigest()


def _stored(script: Script, number: int) -> StoredScript:
    """Return a script as v3 stored it.

    Args:
        script: the script.
        number: its number in the pool; it selects the scripts with a hostile user name.
    """
    events = list(map(_parsed, script.text.split("\n")))
    username = _hostile_user(events, number // HOSTILE_USER_EVERY) if number % HOSTILE_USER_EVERY == 0 else None
    events = [rewritten(event) if _is_command(event) else event for event in events]
    commands = list(filter(None, map(_command_text, events)))
    return StoredScript(
        payloads=_joined(map(stored_text, events)),
        sorted_payloads=_joined(hashed_bytes(event).decode() for event in events),
        offsets_s=script.offsets_s,
        files=script.files,
        risks=tuple(map(_risk, events)),
        pretty_lines=tuple(map(_pretty_lines, events)),
        file_events=_file_events(events),
        kex=_key_exchange(events),
        logins=_logins(events, username),
        protocol=events[0]["protocol"],
        commands=_running_counts(events, lambda event: "cowrie.command" in event["eventid"]),
        downloads=_running_counts(events, _v3_counts_as_download),
        logins_before=_running_counts(events, lambda event: "cowrie.login" in event["eventid"]),
        commands_counted=_running_counts(events, lambda event: bool(_command_text(event))),
        distinct_commands=len(set(commands)),
    )


def _joined(payloads: Iterable[str]) -> str:
    """Return payloads joined by newlines, with unescaped placeholders."""
    return "\n".join(map(_with_markers, payloads))


def _parsed(line: str) -> Event:
    """Return the event of a script's line, with its placeholders and fewer algorithms."""
    event: Event = json.loads(_BARE_PORT.sub(f'"{SRC_PORT}"', line), strict=False)
    _limit_algorithms(event)
    return event


def _key_exchange(events: Sequence[Event]) -> tuple[int, str] | None:
    """Return index and HASSH of the first key exchange event."""
    return next(((index, event["hassh"]) for index, event in enumerate(events) if "hassh" in event), None)


def _logins(events: Sequence[Event], username: str | None) -> tuple[Login, ...]:
    """Return the login events.

    Args:
        events: the events of the script.
        username: the stored form of the user name; None for those of the events.
    """
    return tuple(
        Login(index, int(event["eventid"] == "cowrie.login.failed"), username or event["username"])
        for index, event in enumerate(events)
        if _is_login(event)
    )


def _is_login(event: Mapping[str, Any]) -> bool:
    return str(event["eventid"]).startswith("cowrie.login.")


def _is_command(event: Mapping[str, Any]) -> bool:
    return str(event["eventid"]).startswith("cowrie.command.") and "input" in event


def _hostile_user(events: Sequence[Event], number: int) -> str:
    """Set a hostile user name in the login events, and return the form in which it has to be stored."""
    raw, stored = HOSTILE_USERS[number % len(HOSTILE_USERS)]
    for event in events:
        if _is_login(event):
            event["username"] = raw
    return stored


def _limit_algorithms(event: Event) -> None:
    """Shorten the lists of algorithms to the length that was usual when v3 was in use."""
    if "hassh" in event:
        for key in ("kexAlgs", "keyAlgs", "encCS", "macCS"):
            event[key] = event[key][:ALGORITHMS_KEPT]
        offered = (event["kexAlgs"], event["encCS"], event["macCS"], event["compCS"])
        event["hasshAlgorithms"] = ";".join(",".join(names) for names in offered)


def _named_file(event: Mapping[str, Any]) -> NamedFile | str:
    """Return the file that an event of the pool names; its names and URLs need no escaping."""
    shasum = event.get("shasum")
    if shasum is None:
        return NO_SHASUM
    if shasum == EMPTY_HASH:
        return EMPTY_SHASUM
    url = event.get("url")
    name = event.get("destfile") or event.get("filename") or (url.rsplit("/", 1)[-1] if url else None)
    return NamedFile(FILES.index(shasum), name or None, url, ORIGINS[event["eventid"]])


def _risk(event: Mapping[str, Any]) -> int:
    """Return the risk score that v3 gave an event, by its type and its command."""
    command = event.get("input_safe")
    if command is None:
        return 30 if event["eventid"] in ORIGINS else 0
    if "wget" in command or "curl" in command:
        return 85
    if "chmod" in command or "chpasswd" in command:
        return 60
    return 45 if "[PIPE]" in command else 20


def _pretty_lines(event: Event) -> int:
    """Return the number of lines of a pretty-printed event."""
    return json.dumps(event, indent=2).count("\n") + 1


def _command_text(event: Event) -> str | None:
    """Return the command that was typed, which stands in the message, too; None for any other event."""
    if event["eventid"] != "cowrie.command.input":
        return None
    return _BLANKS.sub(" ", event["message"].removeprefix("CMD: ")).strip()


def _file_events(events: Sequence[Event]) -> dict[int, NamedFile | str]:
    """Return for the index of each file event the file that it names, or the reason why it names none."""
    return {index: _named_file(event) for index, event in enumerate(events) if event["eventid"] in ORIGINS}


def _v3_counts_as_download(event: Event) -> bool:
    """Return whether v3 counted an event as a download: uploads and failed downloads, too."""
    return "file_download" in event["eventid"] or "cowrie.session.file" in event["eventid"]


def _running_counts(events: Sequence[Event], matches: Callable[[Event], bool]) -> tuple[int, ...]:
    """Return for each n how many of the first n events match."""
    return tuple(accumulate(map(matches, events), initial=0))


def _with_markers(text: str) -> str:
    """Return JSON text with unescaped placeholders, and the port as a number where it is a value of its own."""
    for escaped, marker in _MARKERS:
        text = text.replace(escaped, marker)
    return text
