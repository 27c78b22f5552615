"""The rows of a v3 database: the events of all sensors, log by log, with sessions, dead letters and cursors."""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from benchmarks.session_scripts import TIMESTAMP
from benchmarks.v3.answer import V3Answer
from benchmarks.v3.oddities import DOWNLOAD, HOSTILE_FILES, JUNK, MICROSECONDS, UPLOAD, Junk, junk_event
from benchmarks.v3.scripts import (
    QUARANTINE_RISK,
    NamedFile,
    hashed_bytes,
    make_stored_scripts,
    payload_hash,
    stored_text,
)
from benchmarks.v3.sessions import LiveSession, SessionLedger, SessionMaker, Sighting
from benchmarks.v3.sources import DAY_S, SENSORS, START_S, Source, source_of

EVENTS_PER_SESSION = 14
HOSTILE_EVERY = 25
"""Every 25th event that names a file has a hostile name."""

UPPER_CASE_SHARE = 0.05
NUMBERED_SESSIONS = 1_000_000_000
TORN_LINE = '{"eventid": "cowrie.session.closed", "durat'
ORIGINS = {DOWNLOAD: "download", UPLOAD: "upload"}

_STAMP = TIMESTAMP.encode()


class RowSink(Protocol):
    """The consumer of the rows; `make_v3_db` writes them into the database."""

    def events(self, rows: list[tuple[Any, ...]]) -> None:
        """Store rows of raw_events: ingest_id … quarantined."""

    def copy_events(self, source: Source, first_row: int, path: str, inode: str | None) -> int:
        """Store the events of a log again, from a row of raw_events on, and return their number."""

    def sessions(self, rows: list[tuple[Any, ...]]) -> None:
        """Store rows of session_summaries."""

    def dead_letters(self, rows: list[tuple[Any, ...]]) -> None:
        """Store rows of dead_letter_events."""

    def cursor(self, row: tuple[Any, ...]) -> None:
        """Store a row of ingest_cursors."""


@dataclass(slots=True)
class _Sensor:
    """A sensor and its unfinished sessions: for each the time of its next event, its number, and itself."""

    name: str
    next_session: int
    running: list[tuple[int, int, LiveSession]] = field(default_factory=list)


@dataclass(slots=True)
class _Log:
    """A log that is being written."""

    source: Source
    first_row: int
    line: int = 0
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    dead: list[tuple[Any, ...]] = field(default_factory=list)
    flushes: int = 0
    ingest_at: str = ""
    first_hash: str | None = None
    second: int = -1
    second_text: str = ""

    def stamp(self, moment: int) -> str:
        """Return a timestamp as Cowrie writes it into this log."""
        second, fraction = divmod(moment, MICROSECONDS)
        if second != self.second:
            self.second = second
            local = time.gmtime(second + self.source.shift_s)
            self.second_text = time.strftime("%Y-%m-%dT%H:%M:%S.", local)
        hours = self.source.shift_s // 3600
        return f"{self.second_text}{fraction:06}{f'+{hours:02}00' if hours else 'Z'}"


class RowMaker:
    """Makes all rows of a database, one log at a time, in constant memory.

    Args:
        sink: stores the rows.
        seed: the same seed gives the same rows.
        events_per_log: approximate number of events in a log.
        pool: number of different sessions.
        junk: the share of junk, 0 to 1.
        from_v1: the database has the constraint of one upgraded from v1.
        rows_at_once: how many rows are passed to the sink at once.
    """

    def __init__(
        self,
        sink: RowSink,
        *,
        seed: int,
        events_per_log: int,
        pool: int,
        junk: float,
        from_v1: bool,
        rows_at_once: int = 4000,
    ) -> None:
        self.answer = V3Answer()
        self._rng = Random(f"v3/{seed}")
        self._sink = sink
        self._junk_share = junk
        self._from_v1 = from_v1
        self._rows_at_once = rows_at_once
        self._sessions = SessionMaker(self._rng, make_stored_scripts(self._rng, pool))
        self._ledger = SessionLedger(self.answer)
        self._mean_gap = DAY_S * MICROSECONDS * EVENTS_PER_SESSION / events_per_log
        self._sensors = [_Sensor(name, START_S * MICROSECONDS) for name in SENSORS]
        self._summaries: list[tuple[Any, ...]] = []
        self._until_junk = self._gap()
        self._pieces_of_junk = 0
        self._named_files = 0
        self._stopping = False

    def make(self, is_enough: Callable[[], bool]) -> V3Answer:
        """Make rows until there are enough, finish the sessions that have begun, and return the answer.

        Args:
            is_enough: called after every few thousand rows.
        """
        day = 0
        while not self._stopping or any(sensor.running for sensor in self._sensors):
            for sensor in self._sensors:
                if not self._stopping or sensor.running:
                    self._make_log(sensor, day, is_enough)
            day += 1
        self._flush_sessions()
        self._ledger.close()
        return self.answer

    def _make_log(self, sensor: _Sensor, day: int, is_enough: Callable[[], bool]) -> None:
        source = source_of(sensor.name, day, from_v1=self._from_v1)
        log = _Log(source, self.answer.raw_events + 1, ingest_at=source.ingest_at())
        day_end = (START_S + (day + 1) * DAY_S) * MICROSECONDS
        running = sensor.running
        while True:
            until = running[0][0] if running else day_end
            if not self._stopping and sensor.next_session <= until and sensor.next_session < day_end:
                live = self._sessions.make(sensor.name, sensor.next_session)
                heapq.heappush(running, (live.times[0], self._sessions.made, live))
                sensor.next_session += int(self._rng.expovariate(1.0) * self._mean_gap)
                continue
            if until >= day_end:
                break
            self._write_next(running, log)
            if len(log.rows) >= self._rows_at_once:
                self._flush(log)
                self._stopping = self._stopping or is_enough()
        self._end_log(log)
        self._stopping = self._stopping or is_enough()

    def _write_next(self, running: list[tuple[int, int, LiveSession]], log: _Log) -> None:
        """Write the next event, and a piece of junk if one is due."""
        moment, number, live = running[0]
        index, source, script = live.index, log.source, live.script
        if not live.segments or live.segments[-1][0] is not source:
            live.segments.append((source, index))
        stamp = log.stamp(moment)
        payload = live.payloads[index].replace(TIMESTAMP, stamp)
        hashed = live.hashed[index].replace(_STAMP, stamp.encode())
        if index in script.file_events:
            payload, hashed = self._file_event(live, log, moment, payload, hashed)
        self._add_row(log, payload, hashed, script.risks[index])
        log.line += script.pretty_lines[index] if source.pretty else 1
        self._until_junk -= 1
        if self._until_junk <= 0:
            self._until_junk = self._gap()
            self._write_junk(live, log, moment, stamp)
        live.index = index = index + 1
        if index < len(live.times):
            heapq.heapreplace(running, (live.times[index], number, live))
        else:
            heapq.heappop(running)
            self._summaries.append(self._ledger.finish(live))

    def _file_event(self, live: LiveSession, log: _Log, moment: int, payload: str, hashed: bytes) -> tuple[str, bytes]:
        """Record the file that an event of the script names, and return the event's payload and hashed bytes."""
        named = live.script.file_events[live.index]
        if not isinstance(named, NamedFile):
            self._count(self.answer.file_events_without_file, named, log)
            return payload, hashed
        sha256 = live.hashes[named.slot]
        self._named_files += 1
        if self._named_files % HOSTILE_EVERY == 0:
            return self._hostile_event(live, log, moment, sha256)
        live.see(sha256, named.filename, named.url, named.origin, moment)
        if self._rng.random() < UPPER_CASE_SHARE:
            upper = sha256.upper()
            return payload.replace(sha256, upper), hashed.replace(sha256.encode(), upper.encode())
        return payload, hashed

    def _hostile_event(self, live: LiveSession, log: _Log, moment: int, sha256: str) -> tuple[str, bytes]:
        file = HOSTILE_FILES[self._named_files // HOSTILE_EVERY % len(HOSTILE_FILES)]
        event = self._base(live, log, sha256, log.stamp(moment)) | {"eventid": file.event_type} | file.fields
        live.see(sha256, file.filename, file.url, ORIGINS[file.event_type], moment)
        return stored_text(event), hashed_bytes(event)

    def _base(self, live: LiveSession, log: _Log, sha256: str, stamp: str) -> dict[str, Any]:
        """Return a valid file event with a hash but no names."""
        outfile = f"var/lib/cowrie/downloads/{sha256}"
        event = {"eventid": DOWNLOAD, "session": live.session_id, "src_ip": live.src_ip, "sensor": log.source.sensor}
        return event | {"shasum": sha256, "outfile": outfile, "timestamp": stamp}

    def _write_junk(self, live: LiveSession, log: _Log, moment: int, stamp: str) -> None:
        kind = JUNK[self._pieces_of_junk % len(JUNK)]
        self._pieces_of_junk += 1
        sha256 = f"{self._rng.getrandbits(256):064x}" if kind.changes else live.hashes[0] if live.hashes else "d" * 64
        if kind.login is not None:
            moment -= kind.login * MICROSECONDS
            stamp = log.stamp(moment)
        base = self._base(live, log, sha256, stamp)
        if kind.own_session:
            base["session"] = NUMBERED_SESSIONS + self._pieces_of_junk
        event, moment = junk_event(kind, base, moment, stamp)
        malformed = kind.text is not None
        self._add_row(log, stored_text(event), hashed_bytes(event), 0, malformed=malformed)
        log.line += len(event) + 2 if log.source.pretty and not malformed else 1
        self._count_junk(kind, event, live, log, moment)

    def _count_junk(self, kind: Junk, event: dict[str, Any], live: LiveSession, log: _Log, moment: int) -> None:
        """Add a piece of junk to the answer."""
        if kind.text is not None:
            self.answer.malformed_rows += log.source.times_stored
            return
        if kind.refused:
            self._count(self.answer.file_events_refused, kind.refused, log)
        if kind.without_file:
            self._count(self.answer.file_events_without_file, kind.without_file, log)
        if kind.own_session:
            seen = Sighting(None, None, "download", moment, moment)
            self._ledger.add_file(str(event["session"]), event["shasum"], seen)
            self._summaries.append(self._ledger.lone_summary(str(event["session"]), live.src_ip, log.source, moment))
            return
        if kind.sighting:
            live.see(event["shasum"], kind.filename, None, "download", moment)
        if kind.login is not None:
            live.early_logins.append((1, moment, "early"))
        if event.get("session"):
            live.count_junk(kind, event["eventid"], log.source.times_counted)

    def _add_row(self, log: _Log, payload: str, hashed: bytes, risk: int, *, malformed: bool = False) -> None:
        source, digest = log.source, payload_hash(hashed)
        quarantined = int(malformed or risk >= QUARANTINE_RISK)
        position = (source.path, log.line, source.inode, source.generation)
        log.rows.append((source.ingest_id, log.ingest_at, *position, payload, digest, risk, quarantined))
        if log.first_hash is None:
            log.first_hash = digest
        if quarantined and source.delta:
            reason = "validation" if malformed else "quarantined"
            log.dead.append((source.ingest_id, source.path, log.line, reason, payload, log.ingest_at))

    def _end_log(self, log: _Log) -> None:
        """Write the end of a log: a torn line, the rows of loading it again, the cursor."""
        source, answer = log.source, self.answer
        if source.torn:
            torn = {"malformed": TORN_LINE}
            self._add_row(log, stored_text(torn), hashed_bytes(torn), 0, malformed=True)
            log.line += 1
            answer.malformed_rows += source.times_stored
        self._flush(log)
        if source.copy is not None:
            answer.raw_events += self._sink.copy_events(source, log.first_row, source.copy, source.copy_inode)
        if source.stored_again:
            answer.raw_events += self._sink.copy_events(source, log.first_row, source.path, None)
        if source.delta and log.line:
            metadata = json.dumps({"generation": source.generation, "first_hash": log.first_hash})
            self._sink.cursor((source.path, source.inode, log.line - 1, log.ingest_at, source.ingest_id, metadata))

    def _flush(self, log: _Log) -> None:
        self._sink.events(log.rows)
        self._sink.dead_letters(log.dead)
        self.answer.raw_events += len(log.rows)
        log.flushes += 1
        log.ingest_at = log.source.ingest_at(log.flushes)
        log.rows.clear()
        log.dead.clear()
        if len(self._summaries) >= self._rows_at_once:
            self._flush_sessions()

    def _flush_sessions(self) -> None:
        self._sink.sessions(self._summaries)
        self._summaries.clear()

    @staticmethod
    def _count(counts: dict[str, int], reason: str, log: _Log) -> None:
        counts[reason] = counts.get(reason, 0) + log.source.times_stored

    def _gap(self) -> int:
        """Return the number of events until the next piece of junk."""
        if self._junk_share <= 0:
            return 1 << 62
        return max(1, round(self._rng.expovariate(self._junk_share)))
