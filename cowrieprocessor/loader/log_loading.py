"""One log from an open file into the database: what every loader does with a log, and reports about it."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.ingest.followed_files import file_key_of, followed_host
from cowrieprocessor.db.ingest.log_damage import Log
from cowrieprocessor.db.ingest.removals import count_removals
from cowrieprocessor.loader.log_sensor import bring_to_names, give_sensors
from cowrieprocessor.loader.logs.checkpoint import Checkpoint
from cowrieprocessor.loader.logs.duplicate_lookup import MISS_LIMIT
from cowrieprocessor.loader.logs.identity import LogIdentifier, Resume, Search
from cowrieprocessor.loader.reading.log_names import has_later_log, is_live_name
from cowrieprocessor.loader.reading.log_stream import LogStream, ReadingStopped
from cowrieprocessor.loader.rows.batch import DEAD_LETTERS, EVENTS, BatchRows
from cowrieprocessor.loader.rows.batching import BatchConfig, LogEnd, prepare_batches
from cowrieprocessor.loader.rows.parser_process import ParserProcessDied, batches_from_process, is_worthwhile
from cowrieprocessor.loader.torn_end_writer import is_end_explained, write_torn_end
from cowrieprocessor.loader.torn_values import File
from cowrieprocessor.loader.writer import LogOverlaps, write_batch
from cowrieprocessor.settings import Settings
from cowrieprocessor.settings.sensor_paths import GivenSensor, SensorPaths

IN_PROCESS_S = 3600.0
"""How long this process parses by itself after its parser process died: another would probably die, too."""

LOADED, KNOWN, PENDING, FOREIGN, FAILED = "loaded", "known", "pending", "foreign", "failed"
FINISHED_AFTER_S = 3600.0
"""A rotated log that has not changed for this long is finished."""

MAX_TRIES = 20
"""How often a log is read again because another loader moved its checkpoint, or the file changed while it was read."""


@dataclass(slots=True)
class FileResult:
    """The result of loading one file.

    Attributes:
        path: as it was named, inert.
        state: loaded; known (nothing new in it); pending (no complete event yet); foreign (the log of another program,
            passed over); failed. An archive that was cut short is failed when it gave something new, known from then
            on.
        counters: events, dead_letters and reasons, of this load.
        bytes_read: decompressed bytes of the log that are stored now.
        bytes_pending: bytes at its end that wait for the rest of their value.
        bytes_nul: NUL bytes skipped by this load.
        wrapper: the wrapper from which its events were taken by this load.
        lines_foreign: lines of other programs that this load passed over in it.
        holds_text: whether it holds text that is neither an event nor the beginning of one.
        warnings: what the operator should know.
        error: why it failed, with the remedy.
    """

    path: str
    state: str = PENDING
    counters: Counter[str] = field(default_factory=Counter)
    bytes_read: int = 0
    bytes_pending: int = 0
    bytes_nul: int = 0
    wrapper: str | None = None
    lines_foreign: int = 0
    holds_text: bool = False
    warnings: list[str] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a load is. Sizes are of the files themselves, compressed or not."""

    path: str
    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int
    events: int


@dataclass(frozen=True, slots=True)
class LoadedLog:
    """The log in an open file, and how far it is stored now.

    Attributes:
        log: identity and generation; None while the file has no complete object.
        bytes_stored: the log is stored up to here, in decompressed bytes as `log_files` counts them.
        bytes_pending: bytes after that which wait for the rest of their value or could not be read; of a file without a
            log, those of torn lines and of an object that is not complete.
        bytes_gap: bytes after what is stored that the log once had and that have disappeared.
        searched: how far a file without a log was searched.
        line: 0-based number of the line on which the pending bytes begin.
        is_whole: whether the file was read without an error to what was then its end.
        is_stale: whether the file was overwritten while it was read; what was read before is stored.
        is_settled: whether the pending bytes are a dead letter, or part of an event that is stored.
        place: the key of the file, as in `followed_files`.
    """

    log: tuple[str, int] | None
    bytes_stored: int = 0
    bytes_pending: int = 0
    bytes_gap: int = 0
    searched: Search | None = None
    line: int = 0
    is_whole: bool = True
    is_stale: bool = False
    is_settled: bool = False
    place: str = ""


class LogLoading:
    """Loads logs one after the other, each from its checkpoint on.

    Args:
        engine: a database at the current version.
        settings: limits and batch size.
        ingest_id: identifies the load in `raw_events.ingest_id`.
        job: the row of `jobs` whose counters are increased.
        sensors: which sensor a log is given, by its path.
        on_batch: called after each transaction with the file's result so far and the bytes read of the file.
        in_transaction: called at the end of each transaction that stores a batch.
        stop: called after each transaction and before each read; loading ends once it returns True.
        miss_limit: see `DuplicateLookup`.
        clock: Unix seconds; a rotated log that has not changed for an hour is finished.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        ingest_id: str,
        *,
        job: str,
        sensors: SensorPaths | None = None,
        on_batch: Callable[[FileResult, int], None] = lambda _file, _position: None,
        in_transaction: Callable[[Connection, BatchRows], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
        miss_limit: int = MISS_LIMIT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._host = followed_host(engine)
        self._clock = clock
        self._copies: tuple[Log, ...] = ()
        self._settings = settings
        self._ingest_id = ingest_id
        self._job = job
        self._sensors = sensors or SensorPaths()
        self._on_batch = on_batch
        self._in_transaction = in_transaction
        self._stop = stop
        self._miss_limit = miss_limit
        self._elsewhere: Counter[str] = Counter()
        self._in_process_until = time.monotonic()
        self._uses_other_core = False
        with read_transaction(engine) as connection:
            self._fills_event_columns = not dialect_of(connection).computes_event_columns

    def load(
        self,
        stream: LogStream,
        result: FileResult,
        *,
        expected: tuple[str, int] | None = None,
        searched: Search | None = None,
    ) -> LoadedLog:
        """Store what is new in an open file, batch by batch, and record it in `result`.

        Args:
            stream: the file.
            result: receives counters, state, warnings and error of the file.
            expected: the log that the file held at the last poll, if it has only grown; see `LogIdentifier.resume`.
            searched: how far the file was searched for an object at the last poll, if it has only grown.

        Raises:
            LogMoved: another loader moved the log's checkpoint; what was stored before stays. Open the file again.
            InputError: the file cannot be read, or its archive is damaged.
            ReadingStopped: `stop` returned True; what was stored before stays.
            DatabaseError: the database refused; what was stored before stays.
        """
        stream.stop, stream_stop = self._stop, stream.stop
        # Of the log that is being loaded, if this one only has its turn in between:
        elsewhere, copies = self._elsewhere, self._copies
        try:
            return self._load(stream, result, expected, searched)
        finally:
            stream.stop, self._elsewhere, self._copies = stream_stop, elsewhere, copies

    def place_of(self, path: Path) -> str:
        """Return the key of a file, as in `followed_files`."""
        return file_key_of(self._host, Path(os.path.abspath(path)))  # noqa: PTH100 - keeps links

    def _load(
        self, stream: LogStream, result: FileResult, expected: tuple[str, int] | None, searched: Search | None
    ) -> LoadedLog:
        lookup_limit = 0
        self._elsewhere = Counter()
        stream.is_closed = is_finished(stream.path, stream.status.st_mtime, self._clock())
        while True:
            identifier = LogIdentifier(
                stream,
                self._settings,
                partial(read_transaction, self._engine),
                place=self.place_of(stream.path),
                lookup_limit=lookup_limit,
                miss_limit=self._miss_limit,
            )
            resume = identifier.resume(expected, searched=searched)
            if stream.is_stale:
                return LoadedLog(None, is_whole=False, is_stale=True)
            if resume is None:
                result.bytes_pending = stream.position
                result.holds_text = identifier.holds_text or identifier.searched.foreign is not None
                return LoadedLog(None, bytes_pending=identifier.unfinished_bytes, searched=identifier.searched)
            loaded, sensor = None, self._sensors.of(stream.path)
            if sensor is not None and resume.checkpoint.stored_values is not None:
                self._give_sensor(resume.checkpoint, sensor, result)
            try:
                loaded = self._store_values(resume, stream, result, sensor, had_end=identifier.had_torn_end)
            except LogOverlaps:
                # Twice as long each time: where two logs overlap in many places, soon all events are looked up.
                lookup_limit = 2 * lookup_limit or self._miss_limit
            except ParserProcessDied as died:
                if self._stop():
                    raise ReadingStopped from died  # the signal may have gone to both processes
                # What was committed stays; this process continues from there by itself.
                self._in_process_until = time.monotonic() + IN_PROCESS_S
                result.warnings.append(str(died))
            if loaded is not None:
                _warn_of_overlaps(self._elsewhere, result)
                return loaded
            stream.rewind()

    def _give_sensor(self, log: Checkpoint, sensor: GivenSensor, result: FileResult) -> None:
        """Give a known log its sensor, if it has another one, and bring its sessions to it."""
        notes = give_sensors(self._engine, {(log.identity, log.generation): sensor})
        if notes:
            new = [note for text in notes.values() if (note := f"{result.path}: {text}") not in result.warnings]
            result.warnings += new
            bring_to_names(self._engine, stop=self._stop)

    def _store_values(
        self,
        resume: Resume,
        stream: LogStream,
        result: FileResult,
        sensor: GivenSensor | None,
        *,
        had_end: bool,
    ) -> LoadedLog:
        """Store the values that are not stored yet, batch by batch, and what the file ends with."""
        checkpoint, self._copies = resume.checkpoint, resume.copies
        log, bytes_gap = (checkpoint.identity, checkpoint.generation), checkpoint.bytes_gap
        bytes_stored = checkpoint.byte_pos if checkpoint.stored_bytes is None else checkpoint.stored_bytes
        if not result.counters:
            result.state = KNOWN
        result.bytes_read, nul_before = checkpoint.byte_pos, checkpoint.bytes_nul - result.bytes_nul
        foreign_before = checkpoint.lines_foreign - result.lines_foreign
        is_checked = not stream.is_complete
        was_all_stored = not result.counters and checkpoint.stored_values is not None
        end: LogEnd | None = None
        removals = self._removals() if checkpoint.lookup is not None else 0
        with closing(self._batches(resume, stream)) as batches:
            for item in batches:
                if isinstance(item, LogEnd):
                    end = item
                    continue
                if not is_checked:
                    stream.check()
                    is_checked = True
                self._write(item, result, sensor, removals)
                was_all_stored = False
                bytes_stored, bytes_gap = item.log["byte_pos"], item.log["bytes_gap"]
                result.bytes_nul = item.log["bytes_nul"] - nul_before
                if item.wrapped is not None:
                    result.wrapper, result.lines_foreign = item.wrapped[0], item.wrapped[1] - foreign_before
                del item  # so that one batch is in memory while the next one is fetched, not two
                if self._stop():
                    raise ReadingStopped
        assert end is not None  # noqa: S101 - `_batches` ends with it
        self._record_end(end, result, was_all_stored=was_all_stored)
        is_settled = False
        if end.pending or had_end:
            is_settled = self._record_torn_end(log, end, stream, result)
        return LoadedLog(
            log,
            bytes_stored,
            end.pending_bytes,
            bytes_gap=bytes_gap,
            line=end.line,
            is_whole=end.error is None and not end.is_stale,
            is_stale=end.is_stale,
            is_settled=is_settled,
            place=self.place_of(stream.path),
        )

    def _batches(self, resume: Resume, stream: LogStream) -> Generator[BatchRows | LogEnd, None, None]:
        """Yield the rest of the log as batches; a long rest without lookups is parsed on another core."""
        checkpoint, reader = resume.checkpoint, resume.reader
        config = BatchConfig(
            self._ingest_id,
            self._fills_event_columns,
            self._settings.batch_size,
            self._settings.max_nesting,
            keeps_order=resume.is_copy,
        )
        while not self._should_use_other_core(stream, checkpoint):
            for item in prepare_batches(checkpoint, reader, stream, config):
                yield item
                if isinstance(item, LogEnd):
                    return
                if self._should_use_other_core(stream, checkpoint):
                    break  # the log is written faster than it is read
        self._uses_other_core = True
        try:
            yield from batches_from_process(stream, checkpoint, reader, config, self._settings)
        finally:
            self._uses_other_core = False

    def _should_use_other_core(self, stream: LogStream, checkpoint: Checkpoint) -> bool:
        if self._uses_other_core:
            return False  # for the log in which this one has its turn; two parser processes would take twice the memory
        return time.monotonic() >= self._in_process_until and is_worthwhile(stream, checkpoint)

    def _removals(self) -> int:
        with read_transaction(self._engine) as connection:
            return count_removals(connection)

    def _write(self, rows: BatchRows, result: FileResult, sensor: GivenSensor | None, removals: int) -> None:
        log = rows.log
        progress = {"path": result.path, "line": log["next_line"], "bytes": log["byte_pos"]}
        write_batch(
            self._engine,
            rows,
            progress,
            ingest_id=self._ingest_id,
            job=self._job,
            copies=self._copies,
            sensor=None if sensor is None else sensor.name,
            in_transaction=self._in_transaction,
            removals=removals,
        )
        self._elsewhere.update(rows.elsewhere)
        if any(rows.counters.values()):
            result.state = LOADED
        result.counters.update(rows.counters)
        result.bytes_read = log["byte_pos"]
        self._on_batch(result, rows.file_position)

    def _record_torn_end(self, log: Log, end: LogEnd, stream: LogStream, result: FileResult) -> bool:
        """Store the torn value at the end of a log that was rotated; return whether nothing more has to be done."""
        may_grow = not stream.is_finished and is_live_name(str(stream.path))
        if end.error is not None or end.is_stale or may_grow:
            return False
        file = File(self.place_of(stream.path), str(stream.path))
        changes = write_torn_end(
            self._engine,
            log,
            end.pending or b"",
            file,
            line=end.line,
            is_finished=stream.is_finished,
            ingest_id=self._ingest_id,
            job=self._job,
        )
        result.counters.update(changes)
        if changes:
            result.state = LOADED
        is_settled = bool(end.pending) and (stream.is_finished or is_end_explained(self._engine, file.place))
        if is_settled:
            result.bytes_pending = 0
        return is_settled

    @staticmethod
    def _record_end(end: LogEnd, result: FileResult, *, was_all_stored: bool) -> None:
        """Record how a log ended; `was_all_stored` says that earlier loads stored everything that can be read of it."""
        result.bytes_pending = end.pending_bytes
        if end.error and end.is_cut and was_all_stored:
            result.warnings.append(f"{end.error}. An earlier load stored all that it gives, so this one does not fail")
        elif end.error:
            result.state, result.error = FAILED, end.error


def is_finished(path: Path, changed_at: float, now: float) -> bool:
    """Return whether nothing will be appended to a plain log: it was rotated, is continued, and has not changed lately.

    Args:
        path: its path.
        changed_at: when it was changed last, Unix seconds.
        now: the time now, likewise.
    """
    return now - changed_at >= FINISHED_AFTER_S and not is_live_name(str(path)) and has_later_log(path)


def _warn_of_overlaps(elsewhere: Counter[str], result: FileResult) -> None:
    """Add a warning for each log with events of this one; those events were not stored again."""
    for source, count in sorted(elsewhere.items()):
        result.warnings.append(
            f"{result.path}: {count} of its events are stored already from {source}: the two logs overlap and begin "
            "differently; each event is stored once"
        )


def sum_counters(results: Iterable[FileResult]) -> Counter[str]:
    """Return the sums of the counters of files."""
    total: Counter[str] = Counter()
    for result in results:
        total.update(result.counters)
    return total


def count_values(result: FileResult) -> int:
    """Return how many values, events and dead letters, a file has given."""
    return result.counters[EVENTS] + result.counters[DEAD_LETTERS]
