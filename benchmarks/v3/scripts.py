"""The pool of sessions as v3 stored them: each event as text to be filled in, and what is known of it.

Everything that the exact answer needs is written down here when the pool is made, once for 2,000 sessions: which
events name files and under which name, what the commands come to, who logged in.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Any

from benchmarks.session_scripts import EMPTY_HASH, FILES, SESSION, SRC_IP, SRC_PORT, TIMESTAMP, Script, make_scripts

POOL_SCRIPTS = 2000
SENSOR = "\x1e"
"""Where the sensor's name goes; one pool serves all sensors."""

NEWER_COWRIE_KEPT = 0.1
ALGORITHMS_KEPT = 5
HOSTILE_USER_EVERY = 25
QUARANTINE_RISK = 70
"""From this risk on v3 set `quarantined`."""

NO_SHASUM = "file_event_no_shasum"
EMPTY_SHASUM = "file_event_empty_shasum"
ORIGINS = {"cowrie.session.file_download": "download", "cowrie.session.file_upload": "upload"}

HOSTILE_USERS = (
    ("ro\x1bot", "ro\\x1bot"),
    ("\u202etoor", "\\u202etoor"),
    ("x" * 300, "x" * 254 + "…"),
    ("DOMAIN\\admin", "DOMAIN\\\\admin"),
)
"""User names and, stated by hand, the form in which they are to be stored."""

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
    """What a file event of a script says about a file.

    Attributes:
        slot: which of the session's hashes.
        filename: as it is to be stored.
        url: as it is to be stored.
        origin: download or upload.
    """

    slot: int
    filename: str | None
    url: str | None
    origin: str


@dataclass(frozen=True, slots=True)
class Login:
    """A login event of a script: its place, 0 where it succeeded, else 1, and the user as it is to be stored."""

    index: int
    failed: int
    username: str


@dataclass(frozen=True, slots=True)
class StoredScript:
    """One session as v3 stored it.

    Attributes:
        payloads: payloads with v3's separators, joined by newlines, with the markers of `session_scripts`.
        sorted_payloads: the same, compact with sorted keys: what v3 hashed.
        offsets_s: when each event comes.
        files: how many hashes the session needs.
        risks: v3's risk score of each event.
        pretty_lines: how many lines each event takes in a pretty-printed log.
        file_events: the events about files by place: what they name, or the reason why they name none.
        kex: place and HASSH of the key exchange.
        logins: in the order of the log.
        protocol: of the connection.
        commands, downloads, logins_before: how many of the first n events v3 counted as such, for each n.
        commands_counted: how many of the first n events are command lines with a text.
        distinct_commands: how many different ones the session gives.
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
    """Return a pool of sessions of every kind, as v3 stored them, five in six of them of Cowrie 2.2."""
    drawn = make_scripts(rng, int(count * 2.7), SENSOR)
    kept = [script for script in drawn if script.text.startswith('{"eventid"') or rng.random() < NEWER_COWRIE_KEPT]
    return [_stored(script, place) for place, script in enumerate(kept[:count])]


def rewritten(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return a command event as v3 stored it: without the command, with a defanged text and a hash of the original."""
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
    """Return what v3 hashed of a payload: compact JSON with sorted keys."""
    return json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def payload_hash(compact: bytes) -> str:
    """Return the BLAKE2b-256 of what `hashed_bytes` gave."""
    return hashlib.blake2b(compact, digest_size=32).hexdigest()


def _stored(script: Script, place: int) -> StoredScript:
    events = [json.loads(_BARE_PORT.sub(f'"{SRC_PORT}"', line), strict=False) for line in script.text.split("\n")]
    for event in events:
        _shorten(event)
    named = _hostile_user(events, place // HOSTILE_USER_EVERY) if place % HOSTILE_USER_EVERY == 0 else None
    events = [rewritten(event) if _is_command(event) else event for event in events]
    names = [event["eventid"] for event in events]
    texts = [event.get("input_safe") if event["eventid"] == "cowrie.command.input" else None for event in events]
    kex = [(place, event["hassh"]) for place, event in enumerate(events) if "hassh" in event]
    return StoredScript(
        payloads="\n".join(_with_markers(stored_text(event)) for event in events),
        sorted_payloads="\n".join(_with_markers(hashed_bytes(event).decode()) for event in events),
        offsets_s=script.offsets_s,
        files=script.files,
        risks=tuple(_risk(event) for event in events),
        pretty_lines=tuple(json.dumps(event, indent=2).count("\n") + 1 for event in events),
        file_events={place: _named_file(one) for place, one in enumerate(events) if one["eventid"] in ORIGINS},
        kex=kex[0] if kex else None,
        logins=tuple(
            Login(place, int(one["eventid"] == "cowrie.login.failed"), named or one["username"])
            for place, one in enumerate(events)
            if one["eventid"].startswith("cowrie.login.")
        ),
        protocol=events[0]["protocol"],
        commands=_counts("cowrie.command" in name for name in names),
        downloads=_counts("file_download" in name or "cowrie.session.file" in name for name in names),
        logins_before=_counts("cowrie.login" in name for name in names),
        commands_counted=_counts(bool(text) for text in texts),
        distinct_commands=len({text for text in texts if text}),
    )


def _is_command(event: Mapping[str, Any]) -> bool:
    return str(event["eventid"]).startswith("cowrie.command.") and "input" in event


def _hostile_user(events: list[dict[str, Any]], number: int) -> str:
    """Give the session's logins a hostile user name, and return how it is to be stored."""
    raw, stored = HOSTILE_USERS[number % len(HOSTILE_USERS)]
    for event in events:
        if event["eventid"].startswith("cowrie.login."):
            event["username"] = raw
    return stored


def _shorten(event: dict[str, Any]) -> None:
    """Leave a client that offers everything fewer algorithms, as those had in whose time v3 wrote."""
    if "hassh" in event:
        for key in ("kexAlgs", "keyAlgs", "encCS", "macCS"):
            event[key] = event[key][:ALGORITHMS_KEPT]
        offered = (event["kexAlgs"], event["encCS"], event["macCS"], event["compCS"])
        event["hasshAlgorithms"] = ";".join(",".join(names) for names in offered)


def _named_file(event: Mapping[str, Any]) -> NamedFile | str:
    """Return what one of the pool's file events says; its names and URLs hold nothing that has to be escaped."""
    shasum = event.get("shasum")
    if shasum is None:
        return NO_SHASUM
    if shasum == EMPTY_HASH:
        return EMPTY_SHASUM
    url = event.get("url")
    name = event.get("destfile") or event.get("filename") or (url.rsplit("/", 1)[-1] if url else None)
    return NamedFile(FILES.index(shasum), name or None, url, ORIGINS[event["eventid"]])


def _risk(event: Mapping[str, Any]) -> int:
    """Return a risk score as v3 gave them: by the kind of event and by what a command does."""
    command = event.get("input_safe")
    if command is None:
        return 30 if event["eventid"] in ORIGINS else 0
    if "wget" in command or "curl" in command:
        return 85
    if "chmod" in command or "chpasswd" in command:
        return 60
    return 45 if "[PIPE]" in command else 20


def _counts(found: Any) -> tuple[int, ...]:
    return tuple(accumulate(found, initial=0))


def _with_markers(text: str) -> str:
    """Return JSON text with bare markers where JSON escaped them, the port being a number where it stands alone."""
    for escaped, marker in _MARKERS:
        text = text.replace(escaped, marker)
    return text
