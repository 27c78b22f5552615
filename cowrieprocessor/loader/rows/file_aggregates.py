"""What the file events of one batch say about files and hashes: the same for the loaders and the backfill."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from cowrieprocessor.db.enrichment.skipped_hashes import initial_status
from cowrieprocessor.errors import InvalidShasum
from cowrieprocessor.events import Event, Refused
from cowrieprocessor.loader.file_processor import FileSighting, file_sighting, reason_without_file, smallest

FILE_SIGHTINGS = "file_sightings"
FILE_DEAD_LETTERS = "file_dead_letters"

REASON_SHASUM = "file: shasum is not 64 hexadecimal characters"
REASON_TIME = "file: event without a readable timestamp"
REASON_SESSION = "file: event without a session"


@dataclass(slots=True)
class HashAggregate:
    """When a batch saw a hash."""

    first_seen: str
    last_seen: str


@dataclass(slots=True)
class FileAggregates:
    """All that a batch says about files.

    Attributes:
        counters: sightings, events without a file by reason, and events whose file had to be refused.
    """

    counters: Counter[str] = field(default_factory=Counter)
    _files: dict[tuple[str, str], FileSighting] = field(default_factory=dict)
    _hashes: dict[str, HashAggregate] = field(default_factory=dict)

    def add(self, event: Event) -> Refused | None:
        """Add the file that a file event names; return why where it names one that cannot be stored."""
        refused = self._add(event)
        self.counters[FILE_DEAD_LETTERS] += refused is not None
        return refused

    def _add(self, event: Event) -> Refused | None:
        try:
            sighting = file_sighting(event.fields, event.session_id or "")
        except InvalidShasum as error:
            return Refused(REASON_SHASUM, str(error))
        if sighting is None:
            self.counters[reason_without_file(event.fields)] += 1
        elif not event.session_id:
            return Refused(REASON_SESSION, "the event names no session")
        elif sighting.first_seen is None:
            return Refused(REASON_TIME, f"timestamp {event.timestamp!r}")
        else:
            self._merge(sighting, sighting.first_seen)
        return None

    def _merge(self, sighting: FileSighting, moment: str) -> None:
        self.counters[FILE_SIGHTINGS] += 1
        key = (sighting.session_id, sighting.sha256)
        other = self._files.get(key)
        self._files[key] = sighting if other is None else merged(sighting, other)
        tally = self._hashes.setdefault(sighting.sha256, HashAggregate(moment, moment))
        tally.first_seen = min(tally.first_seen, moment)
        tally.last_seen = max(tally.last_seen, moment)

    def file_rows(self) -> list[list[Any]]:
        """Return rows for `LoadingStatements.merge_files`, in the order of their keys."""
        return [
            [*key, one.filename, one.download_url, one.origin, one.first_seen]
            for key, one in sorted(self._files.items())
        ]

    def hash_rows(self, now: str) -> list[list[Any]]:
        """Return rows for `LoadingStatements.merge_hashes`, in the order of their keys."""
        return [
            [sha256, one.first_seen, one.last_seen, initial_status(sha256), now]
            for sha256, one in sorted(self._hashes.items())
        ]


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
