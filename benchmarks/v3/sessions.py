"""Sessions while their events are written, and their rows in v3's summaries and in the exact answer."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from random import Random
from typing import Any

from benchmarks.session_scripts import FILES, SESSION, SRC_IP, SRC_PORT
from benchmarks.v3.answer import RowDigest, V3Answer
from benchmarks.v3.oddities import MICROSECONDS, Junk
from benchmarks.v3.scripts import SENSOR, StoredScript
from benchmarks.v3.sources import Source

POOL_HASHES = 5000
NEW_HASH_SHARE = 0.04
TOP_HASH_SHARE = 0.35
IPV6_SHARE = 0.05

EMPTY_FILE = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
LONE_NEWLINE = "01ba4719c80b6fe911b091a7c05124b64eeece964e09c058ef8f9805daca546b"

_ODD = 0x5DEECE66D
_ENRICHMENTS = ("null", "null", "null", "null", '{"dshield": {"ip": {"count": 5, "attacks": 2}}}', None)
"""Mostly the JSON text `null` where SQL NULL was meant."""


@dataclass(slots=True)
class Sighting:
    """One file in one session, aggregated over its events; times in microseconds since 1970."""

    filename: str | None
    url: str | None
    origin: str
    first_seen: int
    last_seen: int


@dataclass(slots=True)
class LiveSession:
    """A session of which some events are not written yet.

    Attributes:
        script: its events.
        session_id: 12 hexadecimal characters, unique.
        src_ip: the attacker's address.
        payloads: its payloads as v3 wrote them, without the time.
        hashed: its payloads as v3 hashed them, without the time.
        times: the times of its events, in microseconds since 1970.
        hashes: the hashes of its files.
        index: the next event.
        segments: the logs that contain it, each with the index of its first event there.
        files: for each hash, the file as seen so far.
        early_logins: logins that appear late in the log: 1 for failed, time, user name.
        extra: junk in the session that v3 counted: events, commands, downloads, logins.
    """

    script: StoredScript
    session_id: str
    src_ip: str
    payloads: list[str]
    hashed: list[bytes]
    times: list[int]
    hashes: list[str]
    index: int = 0
    segments: list[tuple[Source, int]] = field(default_factory=list)
    files: dict[str, Sighting] = field(default_factory=dict)
    early_logins: list[tuple[int, int, str]] = field(default_factory=list)
    extra: list[int] = field(default_factory=lambda: [0, 0, 0, 0])

    def see(self, sha256: str, filename: str | None, url: str | None, origin: str, moment: int) -> None:
        """Aggregate one file event."""
        known = self.files.get(sha256)
        if known is None:
            self.files[sha256] = Sighting(filename, url, origin, moment, moment)
            return
        known.filename = _smaller(known.filename, filename)
        known.url = _smaller(known.url, url)
        known.origin = min(known.origin, origin)
        known.first_seen = min(known.first_seen, moment)
        known.last_seen = max(known.last_seen, moment)

    def count_junk(self, kind: Junk, event_type: str, times_counted: int) -> None:
        """Count a piece of junk of this session as v3 counted it."""
        counts = (
            1,
            "cowrie.command" in event_type,
            "file_download" in event_type or "cowrie.session.file" in event_type,
            "cowrie.login" in event_type,
        )
        self.extra = [total + times_counted * count for total, count in zip(self.extra, counts, strict=True)]


class SessionMaker:
    """Makes sessions from the pool, each with a unique identifier."""

    def __init__(self, rng: Random, scripts: list[StoredScript]) -> None:
        self._rng = rng
        self._scripts = scripts
        self._pool = [f"{rng.getrandbits(256):064x}" for _ in range(POOL_HASHES)]
        self._pool[1], self._pool[2] = EMPTY_FILE, LONE_NEWLINE
        self._start = rng.getrandbits(48)
        self.made = 0

    def make(self, sensor: str, start: int) -> LiveSession:
        """Return a new session.

        Args:
            sensor: its sensor.
            start: its begin, in microseconds since 1970.
        """
        rng = self._rng
        script = self._scripts[int(rng.random() * len(self._scripts))]
        session_id = f"{(self._start + self.made * _ODD) % (1 << 48):012x}"  # unique, as the factor is odd
        self.made += 1
        bits = rng.getrandbits(16)
        src_ip = f"198.{18 + (bits & 1)}.{(bits >> 1) & 127}.{bits >> 8}"
        if rng.random() < IPV6_SHARE:
            src_ip = f"2001:db8::{bits:x}"
        hashes = [self._choose_hash() for _ in range(script.files)]
        replacements = [(SESSION, session_id), (SRC_IP, src_ip), (SRC_PORT, str(1024 + rng.getrandbits(15)))]
        replacements += [(SENSOR, sensor), *zip(FILES, hashes, strict=False)]
        payloads, hashed = script.payloads, script.sorted_payloads
        for marker, text in replacements:
            payloads, hashed = payloads.replace(marker, text), hashed.replace(marker, text)
        pace = (0.5 + rng.random()) * MICROSECONDS
        times = [start + int(offset * pace) for offset in script.offsets_s]
        return LiveSession(
            script, session_id, src_ip, payloads.split("\n"), hashed.encode().split(b"\n"), times, hashes
        )

    def _choose_hash(self) -> str:
        """Return the most frequent hash, a new one, or one of the pool, where earlier ones are more likely."""
        rng = self._rng
        chance = rng.random()
        if chance < TOP_HASH_SHARE:
            return self._pool[0]
        if chance < TOP_HASH_SHARE + NEW_HASH_SHARE:
            return f"{rng.getrandbits(256):064x}"
        return self._pool[int(POOL_HASHES * rng.random() ** 4)]


class SessionLedger:
    """Adds finished sessions to the exact answer, and makes their rows in `session_summaries`.

    Args:
        answer: the answer to complete.
    """

    def __init__(self, answer: V3Answer) -> None:
        self._answer = answer
        self._files = RowDigest()
        self._attributes = RowDigest()
        self._hashes: dict[str, list[int]] = {}
        self._logged = 0

    def finish(self, live: LiveSession) -> tuple[Any, ...]:
        """Add a finished session to the answer, and return its row of `session_summaries`."""
        self._add_attributes(live)
        for sha256, seen in live.files.items():
            self.add_file(live.session_id, sha256, seen)
        return self._summary(live)

    def add_file(self, session_id: str, sha256: str, seen: Sighting) -> None:
        """Add one row of `files`."""
        self._answer.files += 1
        self._files.add((session_id, sha256, seen.filename, seen.url, seen.origin, moment_text(seen.first_seen)))
        known = self._hashes.setdefault(sha256, [seen.first_seen, seen.last_seen, 0])
        known[0], known[1] = min(known[0], seen.first_seen), max(known[1], seen.last_seen)
        known[2] += 1

    def close(self) -> None:
        """Complete the answer."""
        hashes = RowDigest()
        for sha256, (first, last, sessions) in self._hashes.items():
            hashes.add((sha256, moment_text(first), moment_text(last), sessions))
        self._answer.hashes = len(self._hashes)
        self._answer.files_digest = self._files.text()
        self._answer.file_hashes_digest = hashes.text()
        self._answer.session_attributes_digest = self._attributes.text()

    def lone_summary(self, session_id: str, src_ip: str, source: Source, moment: int) -> tuple[Any, ...]:
        """Return the row of a session that consists of one file event, which names its address only."""
        self._answer.sessions_with_attributes += 1
        self._attributes.add((session_id, None, src_ip, None, None, None, None, None, None))
        counts = (source.times_counted, 0, source.times_counted, 0)
        self._count_session(doubled=source.counted_again)
        first = last = moment_text(moment, source.shift_s)
        return self._row(session_id, (first, last), counts, 30, source)

    def _add_attributes(self, live: LiveSession) -> None:
        script = live.script
        logins = [(login.failed, live.times[login.index], login.username) for login in script.logins]
        first_login = min(logins + live.early_logins, default=None)
        self._answer.sessions_with_attributes += 1
        self._answer.session_logins += len({name for _, _, name in logins + live.early_logins})
        self._attributes.add(
            (
                live.session_id,
                moment_text(live.times[0]),
                live.src_ip,
                script.protocol,
                moment_text(live.times[script.kex[0]]) if script.kex else None,
                script.kex[1] if script.kex else None,
                moment_text(first_login[1]) if first_login else None,
                first_login[2] if first_login else None,
                first_login[0] == 0 if first_login else None,
            )
        )

    def _summary(self, live: LiveSession) -> tuple[Any, ...]:
        script, answer = live.script, self._answer
        counts = list(live.extra)
        doubled = False
        ends = [index for _, index in live.segments[1:]] + [len(live.times)]
        for (source, begin), end in zip(live.segments, ends, strict=True):
            columns = (range(len(live.times) + 1), script.commands, script.downloads, script.logins_before)
            for column, running in enumerate(columns):
                counts[column] += source.times_counted * (running[end] - running[begin])
            counted = script.commands_counted[end] - script.commands_counted[begin]
            answer.command_occurrences += source.times_stored * counted
            doubled = doubled or source.counted_again
        answer.command_stats += script.distinct_commands
        self._count_session(doubled=doubled)
        first, last = live.segments[0][0], live.segments[-1][0]
        times = (moment_text(live.times[0], first.shift_s), moment_text(live.times[-1], last.shift_s))
        return self._row(live.session_id, times, tuple(counts), max(script.risks), last)

    def _row(
        self, session_id: str, times: tuple[str, str], counts: tuple[int, ...], risk: int, source: Source
    ) -> tuple[Any, ...]:
        number = self._logged = self._logged + 1
        flagged, enrichment = int(number % 50 == 7), _ENRICHMENTS[number % 17 % 6] if number % 3 == 0 else "null"
        stored_at = source.ingest_at()
        files = json.dumps([source.last_name])
        flags = (flagged, int(number % 30 == 4), risk)
        return (session_id, *times, *counts, *flags, source.sensor, files, enrichment, stored_at, stored_at)

    def _count_session(self, *, doubled: bool) -> None:
        self._answer.sessions += 1
        self._answer.doubled_sessions += doubled


def moment_text(moment: int, shift_s: int = 0) -> str:
    """Return a moment in the database's format.

    Args:
        moment: microseconds since 1970.
        shift_s: offset of the clock from UTC.
    """
    second, fraction = divmod(moment, MICROSECONDS)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(second + shift_s))}.{fraction:06}"


def _smaller(a: str | None, b: str | None) -> str | None:
    """Return the smaller string; None only if both are None."""
    if a is None or b is None:
        return a or b
    return min(a, b)
