"""Aggregates stored events for the backfill, with the loaders' code, so that the rows are the same."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from sqlalchemy import Connection

from cowrieprocessor.db.ingest import sensor_names, session_sensors
from cowrieprocessor.db.ingest.event_scan import SourceKey, StoredEvent
from cowrieprocessor.db.ingest.sensor_names import SensorNames
from cowrieprocessor.db.ingest.session_sensors import SensorFacts
from cowrieprocessor.db.ingest.statements import LoadingStatements
from cowrieprocessor.events import (
    CLIENT_KEX,
    COMMAND_INPUT,
    LOGIN_FAILED,
    LOGIN_SUCCESS,
    SESSION_CONNECT,
    Event,
    Refused,
    parse_stored,
)
from cowrieprocessor.interpret.file_events import ORIGINS
from cowrieprocessor.loader.rows.file_aggregates import FileAggregates
from cowrieprocessor.loader.rows.file_mentions import FILE_EVENTS
from cowrieprocessor.loader.rows.session_aggregates import SessionAggregate, SessionAggregates
from cowrieprocessor.loader.rows.stored_payload import read_stored

EVENTS_READ = "events_read"
EVENTS_OF_OTHERS = "events_of_other_types"
EVENTS_OF_OUR_LOADERS = "events_of_our_loaders"
EVENTS_REFUSED = "events_refused"
EVENTS_STORED_TWICE = "events_stored_twice"

_KEPT_PAYLOAD_CHARS = 64 << 10


@dataclass(slots=True)
class Slice(ABC):
    """Aggregates of a run of stored events. What one transaction writes is one slice, or several merged into one.

    Attributes:
        now: time of the run, for the rows.
        last_id: the largest raw_events.id in the slice.
        values: number of stored events.
        counters: events by outcome.
        dead_letters: rows for `LoadingStatements.insert_dead_letters`.
    """

    now: str
    last_id: int = 0
    values: int = 0
    counters: Counter[str] = field(default_factory=Counter)
    dead_letters: list[list[Any]] = field(default_factory=list)

    job: ClassVar[str]
    event_types: ClassVar[tuple[str, ...]]
    by_type: ClassVar[bool] = False
    """Whether each type is read on its own, by the index: for types of which there are few events."""
    all_types: ClassVar[bool] = False
    """Whether events of other types are aggregated, too: any event can name a session's address."""

    @abstractmethod
    def _aggregate(self, event: Event) -> Refused | None:
        """Add one event to the aggregates; return the reason if it is refused."""

    @property
    def rows(self) -> int:
        """The number of rows to write, about."""
        return self.values

    def merge(self, later: Self) -> None:
        """Add the slice that follows. Rows are sorted over all of it, as loaders sort theirs: neither deadlocks."""
        self.last_id = later.last_id
        self.values += later.values
        self.counters.update(later.counters)
        self.dead_letters += later.dead_letters
        self._merge_aggregates(later)

    @abstractmethod
    def _merge_aggregates(self, later: Self) -> None:
        """Add the aggregates of the slice that follows."""

    @abstractmethod
    def write(self, statements: LoadingStatements, connection: Connection) -> None:
        """Merge the aggregates into their tables in the caller's transaction, which the statements are on."""

    def add(self, row: StoredEvent, own_logs: Collection[SourceKey], last_v3_id: int) -> None:
        """Add one stored event, unless v4's loaders wrote it and thus aggregated it already, or it is a twin.

        Args:
            row: the stored event.
            own_logs: the logs that v4's loaders stored.
            last_v3_id: rows up to this id are v3's.
        """
        self.last_id = row.id
        self.values += 1
        self.counters[EVENTS_READ] += 1
        if row.id > last_v3_id and row.source_key in own_logs:
            self.counters[EVENTS_OF_OUR_LOADERS] += 1
            return
        if row.is_twin:
            self.counters[EVENTS_STORED_TWICE] += 1
            return
        event = read_stored(row.payload)
        if isinstance(event, Event) and event.event_type not in self.event_types:
            self.counters[EVENTS_OF_OTHERS] += 1
            if self.all_types:
                self._aggregate(event)
            return
        refused = event if isinstance(event, Refused) else self._aggregate(event)
        if refused is not None and (isinstance(event, Event) or _may_be_of_type(row, self.event_types)):
            self.counters[EVENTS_REFUSED] += 1
            self.dead_letters.append(_dead_letter(row, refused, self.now))


@dataclass(slots=True)
class FilesSlice(Slice):
    """Aggregates of file events: rows of `files` and `file_hashes`."""

    files: FileAggregates = field(default_factory=FileAggregates)

    job: ClassVar[str] = "backfill-files"
    event_types: ClassVar[tuple[str, ...]] = tuple(sorted(ORIGINS))
    by_type: ClassVar[bool] = True

    def _aggregate(self, event: Event) -> Refused | None:
        return self.files.add(event)

    def _merge_aggregates(self, later: Self) -> None:
        self.files.merge(later.files)

    def write(self, statements: LoadingStatements, connection: Connection) -> None:
        """Merge hashes and files, in the lock order of the loaders."""
        statements.merge_hashes(self.files.hash_rows(self.now))
        new = statements.merge_files(self.files.file_rows(), self.now)
        statements.insert_dead_letters(self.dead_letters)
        self.counters.update(self.files.counters)
        self.counters["files_added"] += len(new)


@dataclass(slots=True)
class MentionsSlice(Slice):
    """URLs and names of files: rows of `file_mentions`. Merging an event again changes nothing, so all are read."""

    files: FileAggregates = field(default_factory=FileAggregates)

    job: ClassVar[str] = "backfill-mentions"
    event_types: ClassVar[tuple[str, ...]] = tuple(sorted(FILE_EVENTS))
    by_type: ClassVar[bool] = True

    def add(self, row: StoredEvent, own_logs: Collection[SourceKey], last_v3_id: int) -> None:
        """Add one stored event, whichever program stored it; of one that is refused `FilesSlice` tells."""
        self.last_id = row.id
        self.values += 1
        self.counters[EVENTS_READ] += 1
        event = read_stored(row.payload)
        if isinstance(event, Event):
            self._aggregate(event)

    def _aggregate(self, event: Event) -> None:
        self.files.add(event)

    def _merge_aggregates(self, later: Self) -> None:
        self.files.merge(later.files)

    def write(self, statements: LoadingStatements, connection: Connection) -> None:
        """Merge the mentions."""
        statements.merge_mentions(self.files.mention_rows())


@dataclass(slots=True)
class SessionsSlice(Slice):
    """Aggregates of sessions: `session_attributes`, `command_stats` and `session_logins`.

    Any event can name the address and the protocol; only those of `event_types` say more, and get a dead letter if they
    cannot be read.
    """

    sessions: SessionAggregates = field(default_factory=SessionAggregates)

    job: ClassVar[str] = "backfill-sessions"
    all_types: ClassVar[bool] = True
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

    @property
    def rows(self) -> int:
        """The number of rows to write."""
        return len(self.sessions.attributes) + len(self.sessions.commands) + len(self.sessions.logins)

    def _merge_aggregates(self, later: Self) -> None:
        self.sessions.merge(later.sessions)

    def write(self, statements: LoadingStatements, connection: Connection) -> None:
        """Merge session attributes, commands and logins."""
        statements.merge_attributes(self.sessions.attribute_rows())
        statements.merge_commands(self.sessions.command_rows())
        statements.merge_logins(self.sessions.login_rows())
        statements.insert_dead_letters(self.dead_letters)


@dataclass(slots=True)
class SensorsSlice(Slice):
    """The sensors of sessions: rows of `session_sensors`. Merging an event again changes nothing, so all are read."""

    sessions: dict[str, SessionAggregate] = field(default_factory=lambda: defaultdict(SessionAggregate))
    sources: dict[str, set[SourceKey]] = field(default_factory=lambda: defaultdict(set))

    job: ClassVar[str] = "backfill-sensors"
    event_types: ClassVar[tuple[str, ...]] = ()

    def add(self, row: StoredEvent, own_logs: Collection[SourceKey], last_v3_id: int) -> None:
        """Add one stored event, whichever program stored it."""
        self.last_id = row.id
        self.values += 1
        self.counters[EVENTS_READ] += 1
        event = parse_stored(row.payload)
        if event is None or not event.session_id:
            return
        self._aggregate(event)
        if row.source_key in own_logs:
            self.sources[event.session_id].add(row.source_key)

    def _aggregate(self, event: Event) -> None:
        session = self.sessions[event.session_id or ""]
        session.add_sensor(event.fields.get("sensor"))
        if event.event_type == SESSION_CONNECT and event.moment is not None:
            session.add_connect(event.moment)

    @property
    def rows(self) -> int:
        """The number of rows to write."""
        return len(self.sessions)

    def _merge_aggregates(self, later: Self) -> None:
        for session_id, session in later.sessions.items():
            self.sessions[session_id].merge(session)
        for session_id, keys in later.sources.items():
            self.sources[session_id] |= keys

    def write(self, statements: LoadingStatements, connection: Connection) -> None:
        """Merge the sensors, and bring `session_summaries.matcher` to them."""
        sensor_names.lock(connection)
        names = SensorNames(connection)
        rows = []
        for session_id, session in sorted(self.sessions.items()):
            facts = SensorFacts(
                given={given for key in self.sources.get(session_id, ()) if (given := names.of_source(key).given)},
                logged={names.resolve(name) for name in session.sensors},
                first_connect_at=session.first_connect_at,
                last_connect_at=session.last_connect_at,
            )
            rows.append(facts.row(session_id))
        session_sensors.merge(connection, rows)
        session_sensors.update_matchers(connection, sorted(self.sessions), keeps_missing=True)


def _may_be_of_type(row: StoredEvent, event_types: Collection[str]) -> bool:
    """Return whether an unreadable payload may be an event of one of the types."""
    if row.payload is None:
        return row.long_type in event_types
    return any(event_type in row.payload for event_type in event_types)


def _dead_letter(row: StoredEvent, refused: Refused, now: str) -> list[Any]:
    """Return a row for `LoadingStatements.insert_dead_letters`; the event stays in raw_events."""
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
