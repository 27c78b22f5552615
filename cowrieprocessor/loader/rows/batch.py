"""The rows that a run of values becomes: all that one transaction will write, as plain data."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from typing import Any

from cowrieprocessor.events import SQLITE_MAX_NESTING, Event, Refused, parse_event
from cowrieprocessor.loader.file_processor import ORIGINS
from cowrieprocessor.loader.logs.checkpoint import Checkpoint
from cowrieprocessor.loader.reading.value_reader import (
    DEAD_LETTER_HEAD_BYTES,
    DEAD_LETTER_WHOLE_BYTES,
    Value,
    ValueReader,
)
from cowrieprocessor.loader.rows.file_aggregates import FileAggregates
from cowrieprocessor.loader.rows.session_aggregates import SessionAggregates

MAX_BATCH_BYTES = 8 << 20

EVENTS = "events"
DEAD_LETTERS = "dead_letters"
NO_SESSION = "events_without_session"
NO_TYPE = "events_without_eventid"
NO_MOMENT = "events_without_readable_time"

ACCOUNTS = ("bytes_stored", "bytes_dead", "bytes_nul")
"""The columns of `log_files` that say what became of bytes."""

DAY_CHARS = len("2026-11-22")

Rows = list[list[Any]]


@dataclass(slots=True)
class BatchRows:
    """What one transaction writes: rows in the order of the columns that `LoadingStatements` names.

    All of it is plain data, so that it can be made in another process.

    Attributes:
        log: the columns of `log_files` after this batch.
        stored_values: `values_done` before it, None for a log that has no row yet.
        stored_bytes: `byte_pos` before it, likewise.
        more_bytes: what it adds to the accounts of bytes in `log`; None where these are counted anew.
        first_event: (line, session_id, event_type, timestamp, payload_hash) of the batch's first event, or None.
        last_event: the same of its last event.
        file_position: bytes of the file itself that were read, for progress.
        sensor_days: (sensor, day) of its events, where other loaders may write at the same moment (PostgreSQL).
        looked_up: (session_id, timestamp, payload_hash, count) of its events, if each was looked up before: how many
            rows of other logs held an equal one. None where nothing was looked up.
        elsewhere: how many events were looked up and found in logs that begin differently, by their source.
    """

    log: dict[str, Any]
    stored_values: int | None
    stored_bytes: int | None
    more_bytes: dict[str, int] | None
    now: str
    events: Rows
    sessions: Rows
    attributes: Rows
    commands: Rows
    hashes: Rows
    files: Rows
    dead_letters: Rows
    counters: dict[str, int]
    first_event: list[Any] | None
    last_event: list[Any] | None
    file_position: int
    sensor_days: Rows
    looked_up: Rows | None
    elsewhere: dict[str, int]


@dataclass(slots=True)
class Batch:
    """Gathers the values of one log until a transaction's worth is there.

    Attributes:
        cursor: the log; it moves on with each value that is added.
        ingest_id: the load.
        now: the moment of the load, as text.
        fills_event_columns: whether rows carry session, type and timestamp (PostgreSQL).
        max_nesting: the deepest nesting allowed.
    """

    cursor: Checkpoint
    ingest_id: str
    now: str
    fills_event_columns: bool
    max_nesting: int = SQLITE_MAX_NESTING
    values: int = 0
    size_bytes: int = 0
    _dead_bytes: int = 0
    _events: Rows = field(default_factory=list)
    _tallies: SessionAggregates = field(default_factory=SessionAggregates)
    _files: FileAggregates = field(default_factory=FileAggregates)
    _dead_letters: Rows = field(default_factory=list)
    _counters: Counter[str] = field(default_factory=Counter)
    _first_event: list[Any] | None = None
    _last_event: list[Any] | None = None
    _sensor_days: set[tuple[str, str]] = field(default_factory=set)

    def add(self, value: Value) -> None:
        """Add one value: an event becomes rows, anything else a dead letter."""
        cursor = self.cursor
        offset = cursor.take_offset(value.line)
        self.values += 1
        self.size_bytes += value.end - value.start
        refused = value.problem
        if refused is None:
            event = parse_event(value.raw, value.fields, max_nesting=self.max_nesting)
            if type(event) is Event:
                cursor.last_value_hash = event.payload_hash
                if cursor.lookup is None or not cursor.lookup.is_stored(event, offset):
                    self._add_event(event, offset, value)
                return
            assert isinstance(event, Refused)  # noqa: S101
            refused = event
        cursor.last_value_hash = value.digest or blake2b(value.raw, digest_size=32).hexdigest()
        if cursor.lookup is not None and cursor.lookup.is_refused_stored(offset, raw_payload(value)):
            return
        self._dead_bytes += value.end - value.start
        self._counters[DEAD_LETTERS] += 1
        self._add_dead_letter(value, offset, refused, {})

    def finish(self, reader: ValueReader, file_position: int) -> BatchRows:
        """Return the rows, with the log's cursor moved to the reader's position and every byte accounted for."""
        cursor = self.cursor
        stored_values, stored_bytes = cursor.stored_values, cursor.stored_bytes
        before = None if cursor.other_form else {name: getattr(cursor, name) for name in ACCOUNTS}
        self._advance(reader)
        self._counters[EVENTS] = len(self._events)
        looked_up = cursor.lookup.take_looked_up() if cursor.lookup else None
        return BatchRows(
            log=cursor.columns(self.now),
            stored_values=stored_values,
            stored_bytes=stored_bytes,
            more_bytes=before and {name: getattr(cursor, name) - count for name, count in before.items()},
            now=self.now,
            events=self._events,
            sessions=_session_rows(self._tallies, cursor.source, self.now),
            attributes=self._tallies.attribute_rows(),
            commands=self._tallies.command_rows(),
            hashes=self._files.hash_rows(self.now),
            files=self._files.file_rows(),
            dead_letters=self._dead_letters,
            counters=dict(+(self._counters + self._files.counters)),
            first_event=self._first_event,
            last_event=self._last_event,
            file_position=file_position,
            sensor_days=sorted(map(list, self._sensor_days)),
            looked_up=looked_up.new if looked_up else None,
            elsewhere=looked_up.elsewhere if looked_up else {},
        )

    def _advance(self, reader: ValueReader) -> None:
        cursor = self.cursor
        nul_bytes = reader.take_nul_bytes()
        tail = reader.tail()
        cursor.bytes_nul += nul_bytes
        cursor.bytes_dead += self._dead_bytes
        cursor.bytes_stored += reader.position - cursor.byte_pos - nul_bytes - self._dead_bytes
        cursor.bytes_gap = max(0, cursor.bytes_gap - (reader.position - cursor.byte_pos))
        cursor.byte_pos = reader.position
        cursor.next_line = reader.line
        cursor.tail_hash, cursor.tail_bytes = sha256(tail).hexdigest(), len(tail)
        cursor.other_form = False
        cursor.values_done += self.values
        cursor.stored_values, cursor.stored_bytes = cursor.values_done, cursor.byte_pos

    def _add_event(self, event: Event, offset: int, value: Value) -> None:
        cursor = self.cursor
        row = [
            self.ingest_id,
            self.now,
            cursor.source,
            offset,
            cursor.source_inode,
            cursor.source_generation,
            event.payload,
            event.payload_hash,
        ]
        if self.fills_event_columns:
            row += (event.session_id, event.event_type, event.timestamp)
            sensor = event.fields.get("sensor")
            self._sensor_days.add((sensor if type(sensor) is str else "", (event.timestamp or "")[:DAY_CHARS]))
        self._events.append(row)
        self._tallies.add(event)
        # Not the event itself: its fields can be large, and it would outlive the value.
        self._last_event = [value.line, event.session_id, event.event_type, event.timestamp, event.payload_hash]
        if self._first_event is None:
            self._first_event = self._last_event
        if not event.session_id or event.event_type is None or event.moment is None:
            self._count_gaps(event)
        if event.event_type in ORIGINS:
            self._add_file(event, offset, value)

    def _count_gaps(self, event: Event) -> None:
        self._counters[NO_SESSION] += not event.session_id
        self._counters[NO_TYPE] += event.event_type is None
        self._counters[NO_MOMENT] += event.moment is None

    def _add_file(self, event: Event, offset: int, value: Value) -> None:
        """Add the file that an event names; where it cannot be, the event stays and a dead letter says why."""
        refused = self._files.add(event)
        if refused is not None:
            self._add_dead_letter(value, offset, refused, {"event_stored": True})

    def _add_dead_letter(self, value: Value, offset: int, refused: Refused, more: Mapping[str, object]) -> None:
        metadata = {
            "line": value.line + 1,
            "byte_start": value.start,
            "byte_end": value.end,
            "detail": refused.detail,
            "generation": self.cursor.source_generation,
            **more,
        }
        self._dead_letters.append(
            [
                self.ingest_id,
                self.cursor.source,
                offset,
                refused.reason,
                _json(raw_payload(value)),
                _json(metadata),
                self.now,
            ]
        )


def raw_payload(value: Value) -> dict[str, Any]:
    """Return a value's bytes for JSON: `text` where they are UTF-8, else `base64`.

    Of a value over 1 MiB the first 64 KiB, with its length and SHA-256.
    """
    raw, more = value.raw, {}
    if value.digest:
        more = {"length": value.end - value.start, "sha256": value.digest}
    elif len(raw) > DEAD_LETTER_WHOLE_BYTES:
        more = {"length": len(raw), "sha256": sha256(raw).hexdigest()}
        raw = raw[:DEAD_LETTER_HEAD_BYTES]
    try:
        return {"text": raw.decode(), **more}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode(), **more}


def _session_rows(tallies: SessionAggregates, source: str, now: str) -> Rows:
    sources = json.dumps([source], ensure_ascii=False)
    return [
        [
            session_id,
            one.first_event_at,
            one.last_event_at,
            one.event_count,
            one.command_count,
            one.file_downloads,
            one.login_attempts,
            one.sensor,
            sources,
            now,
            now,
        ]
        for session_id, one in sorted(tallies.sessions.items())
    ]


def _json(document: object) -> str:
    """Return a document as JSON text in ASCII, which every database stores alike."""
    return json.dumps(document, sort_keys=True)
