"""The rows of one write transaction, made from consecutive values of a log, as plain data."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from cowrieprocessor.db.ingest.damage_kinds import NUL, REFUSED
from cowrieprocessor.events import SQLITE_MAX_NESTING, Event, Refused, parse_event
from cowrieprocessor.loader.logs.checkpoint import Checkpoint
from cowrieprocessor.loader.logs.damage import digest_of_value
from cowrieprocessor.loader.reading.log_reader import LogReader
from cowrieprocessor.loader.reading.value_reader import DEAD_LETTER_HEAD_BYTES, DEAD_LETTER_WHOLE_BYTES, Value
from cowrieprocessor.loader.rows.file_aggregates import FileAggregates
from cowrieprocessor.loader.rows.file_mentions import FILE_EVENTS
from cowrieprocessor.loader.rows.session_aggregates import SessionAggregates

MAX_BATCH_BYTES = 8 << 20

EVENTS = "events"
DEAD_LETTERS = "dead_letters"
NO_SESSION = "events_without_session"
NO_TYPE = "events_without_eventid"
NO_MOMENT = "events_without_readable_time"

ACCOUNTS = ("bytes_stored", "bytes_dead", "bytes_nul")
"""The columns of `log_files` that account for every byte read."""

PAYLOAD = 6
"""Where a row of `BatchRows.events` has the event."""

DAY_CHARS = len("2026-11-22")

DAMAGE_KEY = ("", "damage")
"""Takes the place of a sensor and day for loaders that store damage: those must not do so at the same time."""

Rows = list[list[Any]]


@dataclass(slots=True)
class BatchRows:
    """The rows that one transaction writes, each in the column order of `LoadingStatements`.

    Plain data throughout, so that a parser process can make it.

    Attributes:
        log: the columns of `log_files` after this batch.
        stored_values: `values_done` before this batch, None for a log without a row.
        stored_bytes: `byte_pos` before this batch, likewise.
        more_bytes: by how much the batch increases the byte counters (ACCOUNTS) in `log`.
        first_event: (line, session_id, event_type, timestamp, payload_hash) of the batch's first event, or None.
        last_event: the same for its last event.
        file_position: bytes of the file on disk read so far, for progress.
        sensor_days: (sensor, day) of its events, which other loaders may write at the same time (PostgreSQL).
        looked_up: (session_id, timestamp, payload_hash, count) for each event that was looked up; `count` is the
            number of rows of other logs with an identical event. None if nothing was looked up.
        elsewhere: number of events found in logs that start differently, by source.
        left_out: how often an event was not stored because other logs hold as many of it, by payload_hash.
        damage: the damaged places of the log; each as columns of `log_damage`, with the dead letter as `letter`.
        order: (offset, hash of the value before) of each event, also of those that are not stored; empty unless kept.
        times: the times of its first and last event, also of those that are not stored; None where no event has one.
        first_moment: the time of the first event of the log that has one, if there are only other values before it.
        sensors: (session_id, names in the events, first and last time of a connect) of each session.
        left_out_sessions: the sessions of events that were not stored because they are stored already.
        wrapped: wrapper, lines_foreign and bytes_foreign for `wrapped_logs`; None if it has no row and needs none.
    """

    log: dict[str, Any]
    stored_values: int | None
    stored_bytes: int | None
    more_bytes: dict[str, int]
    now: str
    events: Rows
    sessions: Rows
    attributes: Rows
    commands: Rows
    logins: Rows
    hashes: Rows
    files: Rows
    mentions: Rows
    dead_letters: Rows
    counters: dict[str, int]
    first_event: list[Any] | None
    last_event: list[Any] | None
    file_position: int
    sensor_days: Rows
    looked_up: Rows | None
    elsewhere: dict[str, int]
    left_out: dict[str, int]
    damage: list[dict[str, Any]]
    order: Rows
    times: list[str] | None
    sensors: Rows
    left_out_sessions: list[str]
    first_moment: str | None = None
    wrapped: list[Any] | None = None


@dataclass(slots=True)
class Batch:
    """Collects values of one log for one transaction.

    Attributes:
        cursor: the log's checkpoint; advances with each value added.
        ingest_id: identifies the load.
        now: the time of the load, as text.
        fills_event_columns: whether event rows carry session, type and timestamp (PostgreSQL).
        max_nesting: the deepest JSON nesting allowed.
        keeps_order: whether to keep `BatchRows.order`.
        values: values added so far.
        size_bytes: their size.
    """

    cursor: Checkpoint
    ingest_id: str
    now: str
    fills_event_columns: bool
    max_nesting: int = SQLITE_MAX_NESTING
    keeps_order: bool = False
    values: int = 0
    size_bytes: int = 0
    _dead_bytes: int = 0
    _events: Rows = field(default_factory=list)
    _sessions: SessionAggregates = field(default_factory=SessionAggregates)
    _files: FileAggregates = field(default_factory=FileAggregates)
    _dead_letters: Rows = field(default_factory=list)
    _damage: list[dict[str, Any]] = field(default_factory=list)
    _order: Rows = field(default_factory=list)
    _beginning: dict[str, Any] | None = None
    _first_moment: str | None = None
    _first_at: str | None = None
    _last_at: str | None = None
    _counters: Counter[str] = field(default_factory=Counter)
    _first_event: list[Any] | None = None
    _last_event: list[Any] | None = None
    _sensor_days: set[tuple[str, str]] = field(default_factory=set)
    _left_out_sessions: set[str] = field(default_factory=set)

    def add(self, value: Value) -> None:
        """Add one value: an event as rows, anything else as a dead letter."""
        cursor = self.cursor
        raw, fields, line, start, end, refused, _ = value
        offset = cursor.take_offset(line)
        self.values += 1
        self.size_bytes += end - start
        if refused is None:
            event = parse_event(raw, fields, max_nesting=self.max_nesting)
            if type(event) is Event:
                if self.keeps_order:
                    self._order.append([offset, cursor.last_value_hash])
                cursor.last_value_hash = event.payload_hash
                moment = event.moment
                if moment is not None:
                    if self._last_at is None or moment < self._last_at:
                        self._note_time(moment)
                    else:
                        self._last_at = moment
                    cursor.last_event_at = moment
                if cursor.lookup is None or not cursor.lookup.is_stored(event, offset):
                    self._add_event(event, offset, value)
                elif event.session_id:
                    self._left_out_sessions.add(event.session_id)
                return
            assert isinstance(event, Refused)  # noqa: S101
            refused = event
        self._add_refused(value, offset, refused)

    def _note_time(self, moment: str) -> None:
        """Note the first time of the batch, also of events that are stored already, or one before it."""
        if self._first_at is None:
            self._first_at = self._last_at = moment
            if self.cursor.last_event_at is None and self.cursor.stored_values is not None:
                self._first_moment = moment
            if self._beginning is not None:
                self._beginning["moment"] = moment
        elif moment < self._first_at:
            self._first_at = moment

    def _add_refused(self, value: Value, offset: int, refused: Refused) -> None:
        """Add a value that is not an event, unless version 3 stored it."""
        cursor = self.cursor
        context, cursor.last_value_hash = cursor.last_value_hash, digest_of_value(value)
        if cursor.lookup is not None and cursor.lookup.is_refused_stored(offset, raw_payload(value)):
            return
        self._dead_bytes += value.end - value.start
        self._counters[DEAD_LETTERS] += 1
        place: dict[str, Any] = {
            "kind": REFUSED,
            "byte_start": value.start,
            "byte_end": value.end,
            "source_offset": offset,
            "context": context or "",
            "digest": cursor.last_value_hash,
            "letter": self.dead_letter(value, offset, refused, {}),
        }
        if context is None and value.digest is None:
            place |= {"raw": value.raw, "moment": None}
            self._beginning = place  # it may be the rest of a value that was torn at the end of another log
        self._damage.append(place)

    def finish(self, reader: LogReader, file_position: int) -> BatchRows:
        """Advance the cursor to the reader's position, account for every byte, and return the rows."""
        cursor = self.cursor
        stored_values, stored_bytes = cursor.stored_values, cursor.stored_bytes
        is_wrapped = cursor.wrapper is not None or cursor.stored_wrapper is not None
        before = {name: getattr(cursor, name) for name in ACCOUNTS}
        self._advance(reader)
        self._finish_damage(reader)
        more_bytes = {name: getattr(cursor, name) - count for name, count in before.items()}
        return self.rows(stored_values, stored_bytes, more_bytes, file_position, is_wrapped=is_wrapped)

    def rows(
        self,
        stored_values: int | None = None,
        stored_bytes: int | None = None,
        more_bytes: dict[str, int] | None = None,
        file_position: int = 0,
        *,
        is_wrapped: bool = False,
    ) -> BatchRows:
        """Return the rows; see `BatchRows`."""
        cursor = self.cursor
        self._counters[EVENTS] = len(self._events)
        looked_up = cursor.lookup.take_looked_up() if cursor.lookup else None
        return BatchRows(
            log=cursor.columns(self.now),
            stored_values=stored_values,
            stored_bytes=stored_bytes,
            more_bytes=more_bytes or {},
            now=self.now,
            events=self._events,
            sessions=session_rows(self._sessions, json.dumps([cursor.source], ensure_ascii=False), self.now),
            attributes=self._sessions.attribute_rows(),
            commands=self._sessions.command_rows(),
            logins=self._sessions.login_rows(),
            hashes=self._files.hash_rows(self.now),
            files=self._files.file_rows(),
            mentions=self._files.mention_rows(),
            dead_letters=self._dead_letters,
            counters=dict(+(self._counters + self._files.counters)),
            first_event=self._first_event,
            last_event=self._last_event,
            file_position=file_position,
            sensor_days=sorted(map(list, self._sensor_days)),
            looked_up=looked_up.new if looked_up else None,
            elsewhere=looked_up.elsewhere if looked_up else {},
            left_out=dict(looked_up.left_out) if looked_up else {},
            damage=self._damage,
            order=self._order,
            times=[self._first_at, self._last_at] if self._first_at and self._last_at else None,
            sensors=self._sessions.sensor_rows(),
            left_out_sessions=sorted(self._left_out_sessions),
            first_moment=self._first_moment,
            wrapped=[cursor.wrapper, cursor.lines_foreign, cursor.bytes_foreign] if is_wrapped else None,
        )

    def _advance(self, reader: LogReader) -> None:
        cursor = self.cursor
        nul_bytes = reader.take_nul_bytes()
        lines_foreign, bytes_foreign = reader.take_foreign()
        tail = reader.tail()
        cursor.bytes_nul += nul_bytes
        cursor.bytes_dead += self._dead_bytes
        cursor.lines_foreign += lines_foreign
        cursor.bytes_foreign += bytes_foreign
        cursor.bytes_stored += reader.position - cursor.byte_pos - nul_bytes - self._dead_bytes - bytes_foreign
        cursor.bytes_gap = max(0, cursor.bytes_gap - (reader.position - cursor.byte_pos))
        cursor.byte_pos = reader.position
        cursor.next_line = reader.line
        cursor.tail_hash, cursor.tail_bytes = sha256(tail).hexdigest(), len(tail)
        cursor.values_done += self.values
        cursor.stored_values, cursor.stored_bytes = cursor.values_done, cursor.byte_pos
        cursor.stored_wrapper = cursor.wrapper

    def _finish_damage(self, reader: LogReader) -> None:
        """Add the NUL runs; complete a first value with the separators before it, which may belong to it."""
        runs = reader.take_nul_runs()
        self._damage += [{"kind": NUL, "byte_start": start, "byte_end": end} for start, end in runs]
        first = self._beginning
        if first is not None and reader.leading is not None:
            first["raw"] = reader.leading + first["raw"]
        if (self._damage or self._first_moment) and self.fills_event_columns:
            self._sensor_days.add(DAMAGE_KEY)

    def _add_event(self, event: Event, offset: int, value: Value) -> None:
        cursor = self.cursor
        fields, payload, payload_hash, session_id, event_type, timestamp, moment = event
        row = [
            self.ingest_id,
            self.now,
            cursor.source,
            offset,
            cursor.source_inode,
            cursor.source_generation,
            payload,
            payload_hash,
        ]
        if self.fills_event_columns:
            row += (session_id, event_type, timestamp)
            sensor = fields.get("sensor")
            self._sensor_days.add((sensor if type(sensor) is str else "", (timestamp or "")[:DAY_CHARS]))
        self._events.append(row)
        self._sessions.add(event)
        # Not the event: its fields can be large, and it would be kept alive longer than the value.
        self._last_event = [value.line, session_id, event_type, timestamp, payload_hash]
        if self._first_event is None:
            self._first_event = self._last_event
        if not session_id or event_type is None or moment is None:
            self._count_missing_fields(event)
        if event_type in FILE_EVENTS:
            self._add_file(event, offset, value)

    def _count_missing_fields(self, event: Event) -> None:
        self._counters[NO_SESSION] += not event.session_id
        self._counters[NO_TYPE] += event.event_type is None
        self._counters[NO_MOMENT] += event.moment is None

    def _add_file(self, event: Event, offset: int, value: Value) -> None:
        """Add the file of a file event; if the file is refused, the event is kept and a dead letter says why."""
        refused = self._files.add(event)
        if refused is not None:
            self._dead_letters.append(self.dead_letter(value, offset, refused, {"event_stored": True}))

    def dead_letter(self, value: Value, offset: int, refused: Refused, more: Mapping[str, object]) -> list[Any]:
        """Return the row of a dead letter, in the column order of `LoadingStatements`."""
        metadata = {
            "line": value.line + 1,
            "byte_start": value.start,
            "byte_end": value.end,
            "detail": refused.detail,
            "generation": self.cursor.source_generation,
            **({"wrapper": self.cursor.wrapper} if self.cursor.wrapper else {}),
            **more,
        }
        return [
            self.ingest_id,
            self.cursor.source,
            offset,
            refused.reason,
            _json(raw_payload(value)),
            _json(metadata),
            self.now,
        ]


def raw_payload(value: Value) -> dict[str, Any]:
    """Return a value's bytes for JSON: as `text` if they are UTF-8, else as `base64`.

    A value over 1 MiB is truncated to 64 KiB, with its full `length` and `sha256`.
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


def session_rows(aggregates: SessionAggregates, sources: str, now: str) -> Rows:
    """Return rows for `LoadingStatements.merge_sessions`, sorted by key; `sources` is a JSON list."""
    return [
        [
            session_id,
            session.first_event_at,
            session.last_event_at,
            session.event_count,
            session.command_count,
            session.file_downloads,
            session.login_attempts,
            None,  # its sensor: known once it is merged with what is stored
            sources,
            now,
            now,
        ]
        for session_id, session in sorted(aggregates.sessions.items())
    ]


def _json(document: object) -> str:
    """Return a document as JSON text in ASCII, which every database stores unchanged."""
    return json.dumps(document, sort_keys=True)
