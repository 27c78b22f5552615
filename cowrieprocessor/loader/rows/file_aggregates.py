"""Aggregates of a batch's file events by file and by hash, shared by the loaders and the backfill."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from cowrieprocessor.db.enrichment.skipped_hashes import initial_status
from cowrieprocessor.errors import InvalidShasum
from cowrieprocessor.events import FILE_DOWNLOAD_FAILED, Event, Refused
from cowrieprocessor.interpret.file_events import FileSighting, file_sighting, reason_without_file, smallest
from cowrieprocessor.loader.rows.file_mentions import FILE_EVENTS, NO_FILE, FileMentions

FILE_SIGHTINGS = "file_sightings"
FILE_DEAD_LETTERS = "file_dead_letters"

REASON_SHASUM = "file: shasum is not 64 hexadecimal characters"
REASON_TIME = "file: event without a readable timestamp"
REASON_SESSION = "file: event without a session"


@dataclass(slots=True)
class HashAggregate:
    """The first and the last time that a batch saw a hash."""

    first_seen: str
    last_seen: str


@dataclass(slots=True)
class FileAggregates:
    """The aggregates of a batch's file events.

    Attributes:
        counters: sightings, events without a file by reason, and events whose file was refused.
    """

    counters: Counter[str] = field(default_factory=Counter)
    _files: dict[tuple[str, str], FileSighting] = field(default_factory=dict)
    _hashes: dict[str, HashAggregate] = field(default_factory=dict)
    _mentions: FileMentions = field(default_factory=FileMentions)

    def add(self, event: Event) -> Refused | None:
        """Add the file of a file event and what it mentions; return the refusal if that file cannot be stored.

        Events of other types add nothing.
        """
        if event.event_type not in FILE_EVENTS:
            return None
        if event.event_type == FILE_DOWNLOAD_FAILED:
            self._mentions.add(event, NO_FILE)
            return None
        refused = self._add(event)
        self.counters[FILE_DEAD_LETTERS] += refused is not None
        return refused

    def _add(self, event: Event) -> Refused | None:
        try:
            sighting = file_sighting(event.fields, event.session_id or "")
        except InvalidShasum as error:
            self._mentions.add(event, NO_FILE)
            return Refused(REASON_SHASUM, str(error))
        if sighting is None:
            self.counters[reason_without_file(event.fields)] += 1
            self._mentions.add(event, NO_FILE)
        elif not event.session_id:
            return Refused(REASON_SESSION, "the event names no session")
        elif sighting.first_seen is None:
            return Refused(REASON_TIME, f"timestamp {event.timestamp!r}")
        else:
            self.counters[FILE_SIGHTINGS] += 1
            self._add_sighting(sighting)
            self._add_times(sighting.sha256, sighting.first_seen, sighting.first_seen)
            self._mentions.add(event, sighting.sha256)
        return None

    def merge(self, other: FileAggregates) -> None:
        """Add the aggregates of other events."""
        self.counters.update(other.counters)
        for sighting in other._files.values():
            self._add_sighting(sighting)
        for sha256, times in other._hashes.items():
            self._add_times(sha256, times.first_seen, times.last_seen)
        self._mentions.merge(other._mentions)

    def _add_sighting(self, sighting: FileSighting) -> None:
        key = (sighting.session_id, sighting.sha256)
        known = self._files.get(key)
        self._files[key] = sighting if known is None else _merged(sighting, known)

    def _add_times(self, sha256: str, first_seen: str, last_seen: str) -> None:
        times = self._hashes.setdefault(sha256, HashAggregate(first_seen, last_seen))
        times.first_seen = min(times.first_seen, first_seen)
        times.last_seen = max(times.last_seen, last_seen)

    def file_rows(self) -> list[list[Any]]:
        """Return rows for `LoadingStatements.merge_files`, sorted by key."""
        return [
            [*key, file.filename, file.download_url, file.origin, file.first_seen]
            for key, file in sorted(self._files.items())
        ]

    def hash_rows(self, now: str) -> list[list[Any]]:
        """Return rows for `LoadingStatements.merge_hashes`, sorted by key."""
        return [
            [sha256, times.first_seen, times.last_seen, initial_status(sha256), now]
            for sha256, times in sorted(self._hashes.items())
        ]

    def mention_rows(self) -> list[list[Any]]:
        """Return rows for `LoadingStatements.merge_mentions`, sorted by key."""
        return self._mentions.rows()


def _merged(left: FileSighting, right: FileSighting) -> FileSighting:
    """Merge two sightings of the same file in the same session: the smallest value of each field."""
    return FileSighting(
        session_id=left.session_id,
        sha256=left.sha256,
        filename=smallest(left.filename, right.filename),
        download_url=smallest(left.download_url, right.download_url),
        origin=min(left.origin, right.origin),
        first_seen=smallest(left.first_seen, right.first_seen),
    )
