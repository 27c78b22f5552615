"""What stored events become in the backfill: the same rows, by the same code, as when a loader reads them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, ClassVar

import orjson

from cowrieprocessor.db.ingest.event_scan import MAX_PAYLOAD_CHARS, SourceKey, StoredEvent
from cowrieprocessor.db.ingest.statements import LoadingStatements
from cowrieprocessor.events import (
    CLIENT_KEX,
    COMMAND_INPUT,
    LOGIN_FAILED,
    LOGIN_SUCCESS,
    SESSION_CONNECT,
    Event,
    Refused,
    parse_event,
)
from cowrieprocessor.loader.file_processor import ORIGINS
from cowrieprocessor.loader.rows.file_aggregates import FileAggregates
from cowrieprocessor.loader.rows.session_aggregates import SessionAggregates

EVENTS_READ = "events_read"
EVENTS_OF_OTHERS = "events_of_other_types"
EVENTS_OF_OUR_LOADERS = "events_of_our_loaders"
EVENTS_REFUSED = "events_refused"

_KEPT_PAYLOAD_CHARS = 64 << 10
REASON_NOT_JSON = "backfill: the stored payload is not JSON"
REASON_TOO_LONG = "backfill: the stored payload is over 2 MiB"


@dataclass(slots=True)
class Slice(ABC):
    """A run of stored events, ready to be written; at most a few hundred, so that a transaction can end between two.

    Attributes:
        last_id: the largest raw_events.id in it.
        counters: what was read, by reason.
    """

    now: str
    last_id: int = 0
    values: int = 0
    counters: Counter[str] = field(default_factory=Counter)
    dead_letters: list[list[Any]] = field(default_factory=list)

    job: ClassVar[str]
    event_types: ClassVar[tuple[str, ...]]

    @abstractmethod
    def _aggregate(self, event: Event) -> Refused | None:
        """Count one event; return why it cannot be taken up."""

    @abstractmethod
    def write(self, statements: LoadingStatements) -> None:
        """Merge the rows into their tables, in the caller's transaction."""

    def add(self, row: StoredEvent, ours: Collection[SourceKey], last_id_of_v3: int) -> None:
        """Add one stored event; what our own loaders wrote is counted already.

        Args:
            row: the stored event.
            ours: the logs that our loaders stored.
            last_id_of_v3: up to this id every row was there before our loaders were.
        """
        self.last_id = row.id
        self.values += 1
        self.counters[EVENTS_READ] += 1
        if row.id > last_id_of_v3 and row.source_key in ours:
            self.counters[EVENTS_OF_OUR_LOADERS] += 1
            return
        event = _parsed(row.payload)
        if isinstance(event, Event) and event.event_type not in self.event_types:
            self.counters[EVENTS_OF_OTHERS] += 1
            return
        refused = event if isinstance(event, Refused) else self._aggregate(event)
        if refused is not None and (isinstance(event, Event) or _may_be_of_type(row, self.event_types)):
            self.counters[EVENTS_REFUSED] += 1
            self.dead_letters.append(_dead_letter(row, refused, self.now))


@dataclass(slots=True)
class FilesSlice(Slice):
    """File events: rows of `files` and `file_hashes`."""

    files: FileAggregates = field(default_factory=FileAggregates)

    job: ClassVar[str] = "backfill-files"
    event_types: ClassVar[tuple[str, ...]] = tuple(sorted(ORIGINS))

    def _aggregate(self, event: Event) -> Refused | None:
        return self.files.add(event)

    def write(self, statements: LoadingStatements) -> None:
        """Merge hashes and files, in the order in which the loaders lock them."""
        statements.merge_hashes(self.files.hash_rows(self.now))
        new = statements.merge_files(self.files.file_rows(), self.now)
        statements.insert_dead_letters(self.dead_letters)
        self.counters.update(self.files.counters)
        self.counters["files_added"] += len(new)


@dataclass(slots=True)
class SessionsSlice(Slice):
    """Connections, key exchanges, logins and commands: rows of `session_attributes` and `command_stats`."""

    sessions: SessionAggregates = field(default_factory=SessionAggregates)

    job: ClassVar[str] = "backfill-sessions"
    event_types: ClassVar[tuple[str, ...]] = (
        COMMAND_INPUT,
        LOGIN_FAILED,
        LOGIN_SUCCESS,
        CLIENT_KEX,
        SESSION_CONNECT,
    )

    def _aggregate(self, event: Event) -> Refused | None:
        self.sessions.add(event)
        return None

    def write(self, statements: LoadingStatements) -> None:
        """Merge attributes and commands."""
        statements.merge_attributes(self.sessions.attribute_rows())
        statements.merge_commands(self.sessions.command_rows())
        statements.insert_dead_letters(self.dead_letters)


def _parsed(payload: str | None) -> Event | Refused:
    if payload is None:
        return Refused(REASON_TOO_LONG, f"more than {MAX_PAYLOAD_CHARS} characters")
    raw = payload.encode("utf-8", "surrogatepass")
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return Refused(REASON_NOT_JSON, str(error))
    return parse_event(raw, fields, hashed=False)


def _may_be_of_type(row: StoredEvent, event_types: Collection[str]) -> bool:
    """Return whether a payload that cannot be read may be an event of one of the types."""
    if row.payload is None:
        return row.long_type in event_types
    return any(event_type in row.payload for event_type in event_types)


def _dead_letter(row: StoredEvent, refused: Refused, now: str) -> list[Any]:
    """Return a row for `LoadingStatements.insert_dead_letters`; the event itself stays where it is."""
    payload = row.payload or ""
    metadata = {"raw_event_id": row.id, "event_stored": True, "detail": refused.detail, "by": "backfill"}
    return [
        row.ingest_id,
        row.source,
        row.source_offset,
        refused.reason,
        json.dumps({"text": payload[:_KEPT_PAYLOAD_CHARS]}, sort_keys=True),
        json.dumps(metadata, sort_keys=True),
        now,
    ]
