"""Many small logs at once: those that are new and sound share one transaction, those that are stored are skipped.

Everything else (a log that has grown, waits for its end, holds lines that are no events, is a copy of another one or
overlaps with it, is in a wrapper or an archive, or gets another sensor) is left to `log_loading`, which takes one log
after the other.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.ingest.log_files import generations_of, has_rows_of_v3, taken_sources
from cowrieprocessor.db.ingest.sensor_names import Log, SensorNames
from cowrieprocessor.errors import InputError
from cowrieprocessor.loader.log_loading import KNOWN, LOADED, FileResult
from cowrieprocessor.loader.logs.checkpoint import Checkpoint
from cowrieprocessor.loader.logs.identity import LogIdentifier, source_name
from cowrieprocessor.loader.reading.read_sizes import ReadSizes
from cowrieprocessor.loader.reading.small_log import SmallLog
from cowrieprocessor.loader.rows.batch import MAX_BATCH_BYTES, BatchRows
from cowrieprocessor.loader.rows.batching import BatchConfig, LogEnd, prepare_batches
from cowrieprocessor.loader.writer import LogMoved, LogOverlaps, write_new_logs
from cowrieprocessor.sanitize import inert
from cowrieprocessor.settings import Settings
from cowrieprocessor.settings.sensor_paths import SensorPaths

WINDOW_LOGS = 200
"""How many logs are read before the database is asked about them; each has at most 64 KiB."""

MAX_GROUP_AGE_S = 1.0
"""A transaction takes no further log after this time."""

_PAYLOAD_HASH = 7
"""The column of an event's row with its payload_hash."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a log.

    Attributes:
        path: the log.
        result: its result; None if it has to be loaded by itself.
    """

    path: Path
    result: FileResult | None = None

    @property
    def is_known(self) -> bool:
        """Whether the log was stored before."""
        return self.result is not None and self.result.state == KNOWN


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A small log that was read, with the sensor that it is to be given."""

    identifier: LogIdentifier
    stream: SmallLog
    identity: str
    source: str
    sensor: str | None


@dataclass(slots=True)
class _Group:
    """The logs of one transaction, in the order of loading; those without rows are stored already.

    Attributes:
        logs: identity and source of each log.
        last_seen: each session with the time of its last event.
        hashes: payload_hash of each event.
        files: (session, hash) of each file.
    """

    began_at: float = field(default_factory=time.monotonic)
    outcomes: list[Outcome] = field(default_factory=list)
    batches: list[BatchRows] = field(default_factory=list)
    sensors: list[str | None] = field(default_factory=list)
    values: int = 0
    size_bytes: int = 0
    logs: set[str] = field(default_factory=set)
    last_seen: dict[str, str | None] = field(default_factory=dict)
    hashes: set[str] = field(default_factory=set)
    files: set[tuple[str, str]] = field(default_factory=set)
    _results: list[FileResult] = field(default_factory=list)

    def is_full(self, batch_size: int) -> bool:
        """Return whether no further log should share the transaction."""
        return (
            self.values >= batch_size
            or self.size_bytes >= MAX_BATCH_BYTES
            or time.monotonic() - self.began_at > MAX_GROUP_AGE_S
        )

    def may_overlap(self, rows: BatchRows) -> bool:
        """Return whether a log may share an event with those of the group, by the rules for stored logs."""
        return (
            not self.logs.isdisjoint((rows.log["identity"], rows.log["source"]))
            or any(self._may_share(*row[:2]) for row in rows.sessions)
            or any(end[4] in self.hashes for end in (rows.first_event, rows.last_event) if end and not end[1])
            or any((row[0], row[1]) in self.files for row in rows.files)
        )

    def add(self, path: Path, rows: BatchRows, sensor: str | None) -> None:
        """Add a new log."""
        result = FileResult(inert(str(path)), LOADED, bytes_read=rows.log["byte_pos"])
        self.outcomes.append(Outcome(path, result))
        self.batches.append(rows)
        self.sensors.append(sensor)
        self._results.append(result)
        self.values += rows.log["values_done"]
        self.size_bytes += rows.log["byte_pos"]
        self.logs.update((rows.log["identity"], rows.log["source"]))
        self.last_seen.update((row[0], row[2]) for row in rows.sessions)
        self.hashes.update(row[_PAYLOAD_HASH] for row in rows.events)
        self.files.update((row[0], row[1]) for row in rows.files)

    def take_counters(self) -> None:
        """Add what was stored of each log to its result."""
        for rows, result in zip(self.batches, self._results, strict=True):
            result.counters.update(rows.counters)

    def add_known(self, path: Path, log: Checkpoint) -> None:
        """Add a log that is stored already."""
        self.outcomes.append(Outcome(path, FileResult(inert(str(path)), KNOWN, bytes_read=log.byte_pos)))

    def _may_share(self, session_id: str, first_event_at: str | None) -> bool:
        """Return whether events of a session may be in the group already: it goes on, but not strictly later."""
        if session_id not in self.last_seen:
            return False
        last = self.last_seen[session_id]
        return last is None or first_event_at is None or first_event_at <= last


class SmallLogs:
    """Loads small logs, many in one transaction.

    Args:
        engine: a database at the current version.
        settings: limits and batch size.
        ingest_id: identifies the load in `raw_events.ingest_id`.
        sensors: which sensor a log is given, by its path.
        sizes: how much of a log is read at once.
    """

    def __init__(
        self, engine: Engine, settings: Settings, ingest_id: str, *, sensors: SensorPaths, sizes: ReadSizes
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._ingest_id = ingest_id
        self._sensors = sensors
        self._sizes = sizes
        with read_transaction(engine) as connection:
            fills_event_columns = not dialect_of(connection).computes_event_columns
        self._config = BatchConfig(ingest_id, fills_event_columns, settings.batch_size, settings.max_nesting)

    def load(self, paths: Sequence[Path]) -> Iterator[Outcome]:
        """Yield what became of each log, in their order.

        A log that has to be loaded by itself is to be loaded before the next outcome is asked for.

        Args:
            paths: at most about `WINDOW_LOGS`.

        Raises:
            DatabaseError: the database refused; what was stored before stays.
        """
        with read_transaction(self._engine) as connection:
            is_upgraded = has_rows_of_v3(connection)
        if is_upgraded:  # each log has to be compared with what version 3 stored
            yield from map(Outcome, paths)
            return
        logs = zip(paths, self._identified(paths), strict=True)
        group = _Group()
        for path, log in logs:
            if log is None or (isinstance(log, BatchRows) and group.may_overlap(log)):
                yield from self._store(group)
                yield Outcome(path)
                group = _Group()
            elif isinstance(log, Checkpoint):
                group.add_known(path, log)
            else:
                group.add(path, log, self._sensor(path))
            if group.is_full(self._settings.batch_size):
                yield from self._store(group)
                group = _Group()
        yield from self._store(group)

    def _identified(self, paths: Sequence[Path]) -> Iterator[Checkpoint | BatchRows | None]:
        """Yield for each log its checkpoint if it is stored, its rows if it is new and sound, else None."""
        candidates = deque(map(self._read, paths))
        read = [candidate for candidate in candidates if candidate is not None]
        with read_transaction(self._engine) as connection:
            known = generations_of(connection, sorted({candidate.identity for candidate in read}))
            misnamed = _misnamed(connection, read, known)
            new = {candidate.source for candidate in read if candidate.identity not in known}
            taken = taken_sources(connection, sorted(new))
        del read  # each log goes when its rows are made
        while candidates:
            candidate = candidates.popleft()
            if candidate is None:
                yield None
            elif candidate.identity in known:
                log = _stored(candidate, known[candidate.identity])
                is_misnamed = log is not None and (log.identity, log.generation, candidate.sensor) in misnamed
                yield None if is_misnamed else log
            elif candidate.source in taken:
                yield None
            else:
                yield self._rows(candidate)

    def _read(self, path: Path) -> _Candidate | None:
        """Read a log; return None if it is not small, or cannot be read, or has no event yet."""
        limits = self._settings
        try:
            stream = SmallLog(
                path, max_ratio=limits.max_ratio, grace_bytes=limits.max_ratio_grace_bytes, sizes=self._sizes
            )
            if not stream.is_small:
                return None
            identifier = LogIdentifier(stream, limits, partial(read_transaction, self._engine))
            identity = identifier.identify()
            stream.rewind()  # the window of a decompressor may be larger than all small logs together
        except InputError:
            return None  # loading it by itself says why
        if identity is None or identifier.is_wrapped:
            return None
        return _Candidate(identifier, stream, identity, source_name(path), self._sensor(path))

    def _sensor(self, path: Path) -> str | None:
        sensor = self._sensors.of(path)
        return None if sensor is None else sensor.name

    def _rows(self, log: _Candidate) -> BatchRows | None:
        """Return the rows of a new log; None if it is too large for a transaction, or not sound to its last byte."""
        resume = log.identifier.begin(log.identity)
        items = list(islice(prepare_batches(resume.checkpoint, resume.reader, log.stream, self._config), 2))
        rows, end = items if len(items) == 2 else (None, None)
        if not isinstance(rows, BatchRows) or not isinstance(end, LogEnd):
            return None
        is_sound = not (
            rows.damage or rows.dead_letters or rows.log["bytes_nul"] or end.pending_bytes or end.error or end.is_stale
        )
        return rows if is_sound else None

    def _store(self, group: _Group) -> Iterator[Outcome]:
        """Store the new logs of a group, and yield what became of each log."""
        try:
            if group.batches:
                log = group.batches[-1].log
                progress = {"path": log["current_path"], "line": log["next_line"], "bytes": log["byte_pos"]}
                write_new_logs(self._engine, group.batches, progress, ingest_id=self._ingest_id, sensors=group.sensors)
                group.take_counters()
        except (LogMoved, LogOverlaps):
            yield from (outcome if outcome.is_known else Outcome(outcome.path) for outcome in group.outcomes)
        else:
            yield from group.outcomes


def _misnamed(
    connection: Connection, read: Sequence[_Candidate], known: Mapping[str, Sequence[Mapping[str, Any]]]
) -> set[tuple[str, int, str]]:
    """Return the stored logs that have other sensors than they are to be given, each with the one to give."""
    names = SensorNames(connection)
    misnamed = set()
    for sensor, identity in {(candidate.sensor, candidate.identity) for candidate in read if candidate.sensor}:
        for row in known.get(identity, ()):
            log: Log = (identity, row["generation"])
            if sensor is not None and names.given_to(log) != names.resolve(sensor):
                misnamed.add((*log, sensor))
    return misnamed


def _stored(log: _Candidate, known: Sequence[Mapping[str, Any]]) -> Checkpoint | None:
    """Return the checkpoint of a log that is stored whole, else None."""
    try:
        return log.identifier.stored_whole(known)
    except InputError:
        return None  # loading it by itself says why
