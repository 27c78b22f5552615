"""The rows that a run of values becomes, gathered until one transaction writes them."""

from __future__ import annotations

import base64
import json
from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from cowrieprocessor.errors import InvalidShasum
from cowrieprocessor.events import SQLITE_MAX_NESTING, Event, Refused, parse_event
from cowrieprocessor.loader.file_processor import (
    ORIGINS,
    FileSighting,
    file_sighting,
    reason_without_file,
    smallest,
)
from cowrieprocessor.loader.log_files import LogCursor
from cowrieprocessor.loader.reader import DEAD_LETTER_HEAD_BYTES, DEAD_LETTER_WHOLE_BYTES, Value
from cowrieprocessor.loader.sessions import SessionTallies

MAX_BATCH_BYTES = 8 << 20

EVENTS = "events"
DEAD_LETTERS = "dead_letters"
FILE_DEAD_LETTERS = "file_dead_letters"
NO_SESSION = "events_without_session"
NO_TYPE = "events_without_eventid"
NO_MOMENT = "events_without_readable_time"
FILE_SIGHTINGS = "file_sightings"

REASON_SHASUM = "file: shasum is not 64 hexadecimal characters"
REASON_TIME = "file: event without a readable timestamp"
REASON_SESSION = "file: event without a session"


@dataclass(slots=True)
class HashTally:
    """When a batch saw a hash."""

    first_seen: str
    last_seen: str


@dataclass(slots=True)
class DeadLetter:
    """A value that is kept as it came because it could not become what it should."""

    offset: int
    reason: str
    payload: dict[str, Any]
    metadata: dict[str, Any]


@dataclass(slots=True)
class Batch:
    """What one transaction will write for one log.

    Attributes:
        cursor: the log; its offset moves on with each value that is added.
        fills_event_columns: whether rows carry session, type and timestamp (PostgreSQL).
    """

    cursor: LogCursor
    ingest_id: str
    now: str
    fills_event_columns: bool
    max_nesting: int = SQLITE_MAX_NESTING
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    tallies: SessionTallies = field(default_factory=SessionTallies)
    files: dict[tuple[str, str], FileSighting] = field(default_factory=dict)
    hashes: dict[str, HashTally] = field(default_factory=dict)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)
    size_bytes: int = 0
    dead_bytes: int = 0
    values: int = 0

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
                held = cursor.held_rows.get(offset) if cursor.held_rows else None
                if held and held.is_same(event):
                    return  # v3 loaded it from this log
                self._add_event(event, offset, cursor.spill_generation if held else cursor.source_generation, value)
                return
            refused = event  # type: ignore[assignment]
        assert refused is not None  # noqa: S101
        cursor.last_value_hash = value.digest or blake2b(value.raw, digest_size=32).hexdigest()
        self.dead_bytes += value.end - value.start
        if cursor.held_rows and (held := cursor.held_rows.get(offset)) and held.is_malformed:
            return
        self.counters[DEAD_LETTERS] += 1
        self.dead_letters.append(_dead_letter(value, offset, refused))

    def _add_event(self, event: Event, offset: int, generation: int, value: Value) -> None:
        cursor = self.cursor
        row: tuple[Any, ...] = (
            self.ingest_id,
            self.now,
            cursor.source,
            offset,
            cursor.source_inode,
            generation,
            event.payload,
            event.payload_hash,
        )
        if self.fills_event_columns:
            row += (event.session_id, event.event_type, event.timestamp)
        self.rows.append(row)
        self.tallies.add(event)
        if not event.session_id or event.event_type is None or event.moment is None:
            self._count_gaps(event)
        if event.event_type in ORIGINS:
            self._add_file(event, offset, value)

    def _count_gaps(self, event: Event) -> None:
        self.counters[NO_SESSION] += not event.session_id
        self.counters[NO_TYPE] += event.event_type is None
        self.counters[NO_MOMENT] += event.moment is None

    def _add_file(self, event: Event, offset: int, value: Value) -> None:
        """Add the file that an event names; where it cannot be, the event stays and a dead letter says why."""
        try:
            sighting = file_sighting(event.fields, event.session_id or "")
        except InvalidShasum as error:
            self._file_dead_letter(value, offset, REASON_SHASUM, str(error))
            return
        if sighting is None:
            self.counters[reason_without_file(event.fields)] += 1
        elif not event.session_id:
            self._file_dead_letter(value, offset, REASON_SESSION, "the event names no session")
        elif sighting.first_seen is None:
            self._file_dead_letter(value, offset, REASON_TIME, f"timestamp {event.timestamp!r}")
        else:
            self._merge_file(sighting, sighting.first_seen)

    def _merge_file(self, sighting: FileSighting, moment: str) -> None:
        self.counters[FILE_SIGHTINGS] += 1
        key = (sighting.session_id, sighting.sha256)
        other = self.files.get(key)
        self.files[key] = sighting if other is None else merged(sighting, other)
        tally = self.hashes.get(sighting.sha256)
        if tally is None:
            self.hashes[sighting.sha256] = HashTally(moment, moment)
        else:
            tally.first_seen = min(tally.first_seen, moment)
            tally.last_seen = max(tally.last_seen, moment)

    def _file_dead_letter(self, value: Value, offset: int, reason: str, detail: str) -> None:
        self.counters[FILE_DEAD_LETTERS] += 1
        letter = _dead_letter(value, offset, Refused(reason, detail))
        letter.metadata["event_stored"] = True
        self.dead_letters.append(letter)


def merged(one: FileSighting, other: FileSighting) -> FileSighting:
    """Return two sightings of one file in one session as one: of each field the smallest."""
    return FileSighting(
        session_id=one.session_id,
        sha256=one.sha256,
        filename=smallest(one.filename, other.filename),
        download_url=smallest(one.download_url, other.download_url),
        origin=min(one.origin, other.origin),
        first_seen=smallest(one.first_seen, other.first_seen),
    )


def _dead_letter(value: Value, offset: int, refused: Refused) -> DeadLetter:
    metadata: dict[str, Any] = {
        "line": value.line + 1,
        "byte_start": value.start,
        "byte_end": value.end,
        "detail": refused.detail,
    }
    return DeadLetter(offset, refused.reason, raw_payload(value), metadata)


def raw_payload(value: Value) -> dict[str, Any]:
    """Return a value's bytes for JSON: `text` where they are UTF-8, else `base64`.

    Of a value over 1 MiB the first 64 KiB, with its length and SHA-256.
    """
    raw, more = value.raw, {}
    if value.digest:
        more = {"length": value.end - value.start, "sha256": value.digest}
    elif len(raw) > DEAD_LETTER_WHOLE_BYTES:
        more = {"length": len(raw), "sha256": _sha256(raw)}
        raw = raw[:DEAD_LETTER_HEAD_BYTES]
    try:
        return {"text": raw.decode(), **more}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode(), **more}


def _sha256(raw: bytes) -> str:
    from hashlib import sha256

    return sha256(raw).hexdigest()


def json_text(document: object) -> str:
    """Return a document as JSON text in ASCII, which every database stores alike."""
    return json.dumps(document, sort_keys=True)
