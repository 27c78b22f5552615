"""One log from an open file into the database: what every loader does with a log, and says about it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dialects.sql_expressions import sql_of
from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.loader.logs.checkpoint import Checkpoint
from cowrieprocessor.loader.logs.duplicate_lookup import PATIENCE
from cowrieprocessor.loader.logs.identity import LogIdentifier, Resume, Search
from cowrieprocessor.loader.reading.log_stream import LogStream, ReadingStopped
from cowrieprocessor.loader.rows.batch import DEAD_LETTERS, EVENTS, BatchRows
from cowrieprocessor.loader.rows.batching import BatchConfig, LogEnd, prepare_batches
from cowrieprocessor.loader.rows.parser_process import ParserProcessDied, batches_from_process, is_worthwhile
from cowrieprocessor.loader.writer import LogOverlaps, write_batch
from cowrieprocessor.settings import Settings

ALONE_S = 3600.0
"""So long this process parses by itself after the one that parses for it has died: another would hardly fare better."""

LOADED, KNOWN, PENDING, FAILED = "loaded", "known", "pending", "failed"
MAX_TRIES = 20
"""How often a log is looked at anew because another loader moved its cursor, or the file changed while it was read."""


@dataclass(slots=True)
class FileResult:
    """What became of one file.

    Attributes:
        path: as it was named, inert.
        state: loaded; known (nothing new in it); pending (no complete event yet); failed. An archive that was cut
            short is failed when it gave something new, known from then on.
        counters: events, dead_letters and reasons, of this load.
        bytes_read: decompressed bytes of the log that are stored now.
        bytes_pending: bytes at its end that wait for the rest of their value.
        bytes_nul: NUL bytes passed over by this load.
        warnings: what the operator should know.
        error: why it failed, with the remedy.
    """

    path: str
    state: str = PENDING
    counters: Counter[str] = field(default_factory=Counter)
    bytes_read: int = 0
    bytes_pending: int = 0
    bytes_nul: int = 0
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
class LogPlace:
    """Which log an open file holds, and how far it is stored now.

    Attributes:
        log: identity and generation; None while there is no complete object in it.
        bytes_stored: the log is stored up to here, in decompressed bytes as `log_files` counts them.
        bytes_pending: bytes behind that, which wait for the rest of their value or could not be read; of a file without
            a log, those of torn lines and of an object that is not complete.
        searched: of a file without a log, how far it was searched.
        bytes_gap: bytes behind what is stored, which the log once had and which were not there any more.
        line: 0-based number of the line on which the pending bytes begin.
        is_whole: whether the file was read to its end, as it was then, without an error.
        is_stale: whether the file was overwritten while it was read; what was read before is stored.
    """

    log: tuple[str, int] | None
    bytes_stored: int = 0
    bytes_pending: int = 0
    bytes_gap: int = 0
    searched: Search | None = None
    line: int = 0
    is_whole: bool = True
    is_stale: bool = False


class LogLoading:
    """Loads logs one after the other, each from where it is stored up to.

    Args:
        engine: a database at our version.
        settings: limits and batch size.
        ingest_id: of the load, for `raw_events.ingest_id`.
        job: the row of `jobs` that counts.
        on_batch: called after each transaction with what became of the file so far, and bytes read of the file.
        beside: called inside each transaction that stores a batch, before its end.
        stop: asked after each transaction, and before each piece that is read, whether to end.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        ingest_id: str,
        *,
        job: str,
        on_batch: Callable[[FileResult, int], None] = lambda _file, _position: None,
        beside: Callable[[Connection, BatchRows], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._ingest_id = ingest_id
        self._job = job
        self._on_batch = on_batch
        self._beside = beside
        self._stop = stop
        self._elsewhere: Counter[str] = Counter()
        self._alone_until = time.monotonic()
        self._uses_other_core = False
        with read_transaction(engine) as connection:
            self._fills_event_columns = not sql_of(connection).computes_event_columns

    def load(
        self,
        stream: LogStream,
        found: FileResult,
        *,
        likely: tuple[str, int] | None = None,
        searched: Search | None = None,
    ) -> LogPlace:
        """Store what is new in an open file, batch by batch, and say so in `found`.

        Args:
            stream: the file.
            found: takes what became of it.
            likely: the log that it held a moment ago, if it has only grown; see `LogOpener.resume`.
            searched: if it has only grown, how far it was searched for an object a moment ago.

        Raises:
            LogMoved: another loader moved the log's cursor; what was stored before stays. Open it again.
            InputError: the file cannot be read, or its archive is damaged.
            ReadingStopped: `stop` said so; what was stored before stays.
            DatabaseError: the database refused; what was stored before stays.
        """
        stream.stop, before = self._stop, stream.stop
        elsewhere = self._elsewhere  # of a log that is being loaded, while a look is taken at this one
        try:
            return self._load(stream, found, likely, searched)
        finally:
            stream.stop, self._elsewhere = before, elsewhere

    def _load(
        self, stream: LogStream, found: FileResult, likely: tuple[str, int] | None, searched: Search | None
    ) -> LogPlace:
        patience = 0
        self._elsewhere = Counter()
        while True:
            opener = LogIdentifier(stream, self._settings, partial(read_transaction, self._engine), patience=patience)
            resume = opener.resume(likely, searched=searched)
            if stream.is_stale:
                return LogPlace(None, is_whole=False, is_stale=True)
            if resume is None:
                found.bytes_pending = stream.position
                return LogPlace(None, bytes_pending=opener.unfinished_bytes, searched=opener.searched)
            place = None
            try:
                place = self._copy_values(resume, stream, found)
            except LogOverlaps:
                # Longer each time: where two logs overlap here and there, it is soon looked up to the end.
                patience = 2 * patience or PATIENCE
            except ParserProcessDied as died:
                if self._stop():
                    raise ReadingStopped from died  # whoever asked may have asked both processes
                # What was committed stays; from there this process goes on by itself.
                self._alone_until = time.monotonic() + ALONE_S
                found.warnings.append(str(died))
            if place is not None:
                _say_overlaps(self._elsewhere, found)
                return place
            stream.rewind()

    def _copy_values(self, resume: Resume, stream: LogStream, found: FileResult) -> LogPlace:
        """Store the values that are not stored yet, batch by batch."""
        cursor = resume.cursor
        log, bytes_gap = (cursor.identity, cursor.generation), cursor.bytes_gap
        bytes_stored = cursor.byte_pos if cursor.stored_bytes is None else cursor.stored_bytes
        if not found.counters:
            found.state = KNOWN
        found.bytes_read, nul_before = cursor.byte_pos, cursor.bytes_nul - found.bytes_nul
        is_checked = not stream.is_complete
        is_old = not found.counters and cursor.stored_values is not None
        end: LogEnd | None = None
        with closing(self._batches(resume, stream)) as batches:
            for item in batches:
                if isinstance(item, LogEnd):
                    end = item
                    continue
                if not is_checked:
                    stream.check()
                    is_checked = True
                self._write(item, found)
                is_old = False
                bytes_stored, bytes_gap = item.log["byte_pos"], item.log["bytes_gap"]
                found.bytes_nul = item.log["bytes_nul"] - nul_before
                del item  # so that one batch is in memory while the next one is fetched, not two
                if self._stop():
                    raise ReadingStopped
        assert end is not None  # noqa: S101 - what is prepared ends with it
        self._end(end, found, is_old=is_old)
        whole = end.error is None and not end.is_stale
        return LogPlace(
            log,
            bytes_stored,
            end.pending_bytes,
            bytes_gap=bytes_gap,
            line=end.line,
            is_whole=whole,
            is_stale=end.is_stale,
        )

    def _batches(self, resume: Resume, stream: LogStream) -> Generator[BatchRows | LogEnd, None, None]:
        """Yield the rest of the log; what need not be looked up is parsed by another core, if it is worthwhile."""
        cursor, reader = resume.cursor, resume.reader
        recipe = BatchConfig(
            self._ingest_id, self._fills_event_columns, self._settings.batch_size, self._settings.max_nesting
        )
        while not self._is_for_another_core(stream, cursor):
            for item in prepare_batches(cursor, reader, stream, recipe):
                yield item
                if isinstance(item, LogEnd):
                    return
                if self._is_for_another_core(stream, cursor):
                    break  # it is written to more quickly than we read
        self._uses_other_core = True
        try:
            yield from batches_from_process(stream, cursor, reader, recipe, self._settings)
        finally:
            self._uses_other_core = False

    def _is_for_another_core(self, stream: LogStream, cursor: Checkpoint) -> bool:
        if self._uses_other_core:
            return False  # of another log, while a look is taken at this one: two would take the memory of two
        return time.monotonic() >= self._alone_until and is_worthwhile(stream, cursor)

    def _write(self, rows: BatchRows, found: FileResult) -> None:
        log = rows.log
        progress = {"path": found.path, "line": log["next_line"], "bytes": log["byte_pos"]}
        write_batch(self._engine, rows, progress, job=self._job, beside=self._beside)
        self._elsewhere.update(rows.elsewhere)
        if rows.counters:
            found.state = LOADED
        found.counters.update(rows.counters)
        found.bytes_read = log["byte_pos"]
        self._on_batch(found, rows.file_position)

    @staticmethod
    def _end(end: LogEnd, found: FileResult, *, is_old: bool) -> None:
        """Take in how a log ended; `is_old` says that an earlier load stored all that this one could read."""
        found.bytes_pending = end.pending_bytes
        if end.error and end.is_cut and is_old:
            found.warnings.append(f"{end.error}. An earlier load stored all that it gives, so this one does not fail")
        elif end.error:
            found.state, found.error = FAILED, end.error


def _say_overlaps(elsewhere: Counter[str], found: FileResult) -> None:
    """Say which other logs hold events of this one; they were not stored again."""
    for source, count in sorted(elsewhere.items()):
        found.warnings.append(
            f"{found.path}: {count} of its events are stored already from {source}: the two logs overlap and begin "
            "differently; each event is stored once"
        )


def counters_of(files: Iterable[FileResult]) -> Counter[str]:
    """Return the sums over files."""
    total: Counter[str] = Counter()
    for one in files:
        total.update(one.counters)
    return total


def counted(found: FileResult) -> int:
    """Return how many values a file has given."""
    return found.counters[EVENTS] + found.counters[DEAD_LETTERS]
