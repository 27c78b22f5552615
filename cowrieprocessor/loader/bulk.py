"""The bulk loader: all that files and folders of logs hold, once."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from cowrieprocessor.db import log_files as table
from cowrieprocessor.db.dialects.writing import writing_of
from cowrieprocessor.db.engine import get_engine, read_transaction
from cowrieprocessor.db.migrations import prepare
from cowrieprocessor.errors import CowrieProcessorError, InputError, InputNotReadable
from cowrieprocessor.loader.batch import DEAD_LETTERS, EVENTS, BatchRows
from cowrieprocessor.loader.compression import LogStream
from cowrieprocessor.loader.discovery import find_logs
from cowrieprocessor.loader.garbage import rare_collections
from cowrieprocessor.loader.log_cursor import LogCursor
from cowrieprocessor.loader.log_files import LogOpener, Resume
from cowrieprocessor.loader.parser_process import batches_from_process, is_worthwhile
from cowrieprocessor.loader.preparing import LogEnd, Recipe, now_text, prepare_batches
from cowrieprocessor.loader.writer import LogMoved, set_load_state, write_batch
from cowrieprocessor.sanitize import inert
from cowrieprocessor.settings import Settings, load_settings

LOADED, KNOWN, PENDING, FAILED = "loaded", "known", "pending", "failed"
_MAX_TRIES = 20


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


@dataclass(slots=True)
class LoadResult:
    """What became of a load: each file, and the sums.

    Attributes:
        ingest_id: identifies this load in `raw_events.ingest_id`.
        files: in the order in which they were loaded.
        duration_s: how long it took.
    """

    ingest_id: str
    files: list[FileResult] = field(default_factory=list)
    duration_s: float = 0.0

    @property
    def counters(self) -> Counter[str]:
        """The sums over all files."""
        total: Counter[str] = Counter()
        for one in self.files:
            total.update(one.counters)
        return total

    @property
    def failed(self) -> list[FileResult]:
        """The files that could not be read to their end."""
        return [one for one in self.files if one.state == FAILED]


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a load is. Sizes are of the files themselves, compressed or not."""

    path: str
    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int
    events: int


class BulkLoader:
    """Loads logs into a database; again is a no-op.

    Args:
        engine: where to; a new database is made ready.
        settings: limits and batch size; the configured ones by default.
        on_progress: called after each transaction.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        settings: Settings | None = None,
        on_progress: Callable[[LoadProgress], None] | None = None,
    ) -> None:
        self._engine = engine
        self._settings = settings or load_settings()
        self._on_progress = on_progress
        self._fills_event_columns = False
        self._total_bytes = 0
        self._bytes_before = 0
        self._file_count = 0

    def load(self, paths: Iterable[str | Path]) -> LoadResult:
        """Load files, and the logs in folders; what is stored already is passed over.

        A file that cannot be read is reported in the result and does not stop the others.

        Raises:
            InputNotFound: a path does not exist, or a folder holds no logs; nothing was loaded.
            MigrationNeeded: a v3 database.
            DatabaseError: the database refused; what was committed stays and is passed over next time.
        """
        unreadable: list[InputNotReadable] = []
        logs = find_logs((Path(path) for path in paths), unreadable)
        result = LoadResult(uuid.uuid4().hex)
        started = time.monotonic()
        prepare(self._engine)
        self._total_bytes = sum(_size(path) for path in logs)
        self._bytes_before = 0
        self._file_count = len(logs)
        with read_transaction(self._engine) as connection:
            self._fills_event_columns = not writing_of(connection).computes_event_columns
        set_load_state(self._engine, "running", None, now_text())
        try:
            with rare_collections():
                for path in logs:
                    result.files.append(FileResult(inert(str(path))))
                    self._load_file(path, result)
                    self._bytes_before += _size(path)
        except (CowrieProcessorError, SQLAlchemyError, KeyboardInterrupt) as error:
            self._leave_word(error)
            raise
        result.files += [FileResult("", FAILED, error=str(error)) for error in unreadable]
        failed = result.failed
        reason = f"{len(failed)} of {len(result.files)} files failed: {failed[0].error}" if failed else None
        set_load_state(self._engine, "failed" if failed else "done", reason, now_text())
        result.duration_s = time.monotonic() - started
        return result

    def _leave_word(self, error: BaseException) -> None:
        """Say in `jobs` why the load stopped, if the database listens at once."""
        engine = get_engine(self._engine.url.render_as_string(hide_password=False), lock_timeout_s=0.2)
        try:
            set_load_state(engine, "stopped", str(error) or type(error).__name__, now_text())
        except CowrieProcessorError:
            return  # the error that stopped us says more than this one
        finally:
            engine.dispose()

    def _load_file(self, path: Path, result: LoadResult) -> None:
        found = result.files[-1]
        try:
            for _ in range(_MAX_TRIES):
                try:
                    self._load_log(path, result, found)
                except LogMoved:
                    continue  # another loader has it too: look again how far it is
                else:
                    return
            found.state = FAILED
            found.error = f"{found.path}: other loaders keep loading the same log; let them finish, then load it again"
        except InputError as error:
            found.state, found.error = FAILED, str(error)

    def _load_log(self, path: Path, result: LoadResult, found: FileResult) -> None:
        with self._open(path) as stream:
            resume = LogOpener(stream, self._settings, partial(read_transaction, self._engine)).resume()
            if resume is None:
                found.bytes_pending = stream.position
                found.warnings.append(_no_event_yet(found))
                return
            self._copy_values(resume, stream, result, found)

    def _open(self, path: Path) -> LogStream:
        return LogStream(path, max_ratio=self._settings.max_ratio, grace_bytes=self._settings.max_ratio_grace_bytes)

    def _copy_values(self, resume: Resume, stream: LogStream, result: LoadResult, found: FileResult) -> None:
        """Store the values that are not stored yet, batch by batch."""
        cursor = resume.cursor
        if not found.counters:
            found.state = KNOWN
        found.bytes_read, nul_before = cursor.byte_pos, cursor.bytes_nul
        is_new = cursor.stored_values is None and not resume.is_copy
        is_checked = not stream.is_complete
        has_stored = False
        ends: list[list[Any] | None] = [None, None]
        for item in self._batches(resume, stream, result):
            if isinstance(item, LogEnd):
                self._end(item, found, is_old=not (has_stored or found.counters) and cursor.stored_values is not None)
                continue
            if not is_checked:
                stream.check()
                is_checked = True
            self._write(item, result, found)
            has_stored = True
            found.bytes_nul = item.log["bytes_nul"] - nul_before
            ends = [ends[0] or item.first_event, item.last_event or ends[1]]
            del item  # so that one batch is in memory while the next one is fetched, not two
        if is_new:
            self._warn_of_overlap(cursor, ends, found)

    def _batches(self, resume: Resume, stream: LogStream, result: LoadResult) -> Iterator[BatchRows | LogEnd]:
        """Yield the rest of the log; what need not be looked up is parsed by another core, if it is worthwhile."""
        cursor, reader = resume.cursor, resume.reader
        recipe = Recipe(
            result.ingest_id, self._fills_event_columns, self._settings.batch_size, self._settings.max_nesting
        )
        if cursor.stored_events is not None:
            item: BatchRows | LogEnd | None = None
            for item in prepare_batches(cursor, reader, stream, recipe):
                yield item
            if isinstance(item, LogEnd):
                return
        if is_worthwhile(stream, cursor):
            yield from batches_from_process(stream, cursor, reader, recipe, self._settings)
        else:
            yield from prepare_batches(cursor, reader, stream, recipe)

    def _write(self, rows: BatchRows, result: LoadResult, found: FileResult) -> None:
        log = rows.log
        write_batch(self._engine, rows, {"path": found.path, "line": log["next_line"], "bytes": log["byte_pos"]})
        if rows.counters:
            found.state = LOADED
        found.counters.update(rows.counters)
        found.bytes_read = log["byte_pos"]
        self._report(rows.file_position, result)

    @staticmethod
    def _end(end: LogEnd, found: FileResult, *, is_old: bool) -> None:
        """Take in how a log ended; `is_old` says that an earlier load stored all that this one could read."""
        found.bytes_pending = end.pending_bytes
        if end.error and end.is_cut and is_old:
            found.warnings.append(f"{end.error}. An earlier load stored all that it gives, so this one does not fail")
        elif end.error:
            found.state, found.error = FAILED, end.error
        elif end.pending_bytes:
            found.warnings.append(_waits(found, end.line))

    def _warn_of_overlap(self, cursor: LogCursor, ends: list[list[Any] | None], found: FileResult) -> None:
        """Say so if the first or last event of a new log is stored from another log, too."""
        with read_transaction(self._engine) as connection:
            for which, event in zip(("first", "last"), ends, strict=True):
                if event is None or not event[1] or not event[3]:
                    continue
                if other := table.stored_elsewhere(connection, cursor.columns(""), event[1:]):
                    found.warnings.append(
                        f"{found.path}: its {which} event (line {event[0] + 1}) is also in {other[0]} "
                        f"(line {other[1] + 1}): the two logs overlap and begin differently, "
                        "so the events of the overlap are stored twice"
                    )
                    return

    def _report(self, file_position: int, result: LoadResult) -> None:
        if self._on_progress is not None:
            self._on_progress(
                LoadProgress(
                    path=result.files[-1].path,
                    files_done=len(result.files) - 1,
                    files_total=self._file_count,
                    bytes_done=self._bytes_before + file_position,
                    bytes_total=self._total_bytes,
                    events=result.counters[EVENTS] + result.counters[DEAD_LETTERS],
                )
            )


def _no_event_yet(found: FileResult) -> str:
    if not found.bytes_pending:
        return f"{found.path} is empty"
    return (
        f"{found.path}: no complete JSON object in {found.bytes_pending} bytes, nothing of it is stored; if it is a "
        "Cowrie log, check that it is the JSON one (cowrie.json) and that its last line ends with a newline"
    )


def _waits(found: FileResult, line: int) -> str:
    return (
        f"{found.path}:{line + 1}: the last {found.bytes_pending} bytes are an unfinished value and wait for the rest; "
        "if the file is finished, end it with a newline and load it again"
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
