"""The bulk loader: stores everything in files and folders of logs, once."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from cowrieprocessor.db.engine import get_engine
from cowrieprocessor.db.migrations import prepare
from cowrieprocessor.errors import CowrieProcessorError, InputError, InputNotReadable
from cowrieprocessor.loader.load_result import LoadResult
from cowrieprocessor.loader.log_loading import (
    FAILED,
    KNOWN,
    LOADED,
    MAX_TRIES,
    PENDING,
    FileResult,
    LoadedLog,
    LoadProgress,
    LogLoading,
    count_values,
)
from cowrieprocessor.loader.reading.discovery import find_logs
from cowrieprocessor.loader.reading.log_list import LogList
from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.loader.reading.read_sizes import DEFAULT_SIZES, ReadSizes
from cowrieprocessor.loader.rows.batching import now_text
from cowrieprocessor.loader.rows.gc_tuning import rare_collections
from cowrieprocessor.loader.small_logs import WINDOW_LOGS, SmallLogs
from cowrieprocessor.loader.writer import JOB, LogMoved, set_load_state
from cowrieprocessor.sanitize import inert
from cowrieprocessor.settings import Settings, load_settings

__all__ = ["FAILED", "KNOWN", "LOADED", "PENDING", "BulkLoader", "FileResult", "LoadProgress", "LoadResult"]


FIRST_YIELD_S, MAX_YIELD_S = 0.005, 1.0
"""The pauses after another loader has moved a log's checkpoint, doubled each time: it does the same work."""


class BulkLoader:
    """Loads logs into a database; loading them again changes nothing.

    Args:
        engine: the database; a new one is prepared.
        settings: limits and batch size; the configured ones by default.
        on_progress: called after each transaction.
        sizes: how much of a log is read at once.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        settings: Settings | None = None,
        on_progress: Callable[[LoadProgress], None] | None = None,
        sizes: ReadSizes = DEFAULT_SIZES,
    ) -> None:
        self._engine = engine
        self._settings = settings or load_settings()
        self._on_progress = on_progress
        self._sizes = sizes
        self._bytes_total = self._bytes_done = 0
        self._files_total = self._files_done = 0
        self._values_done = 0
        self._moved = False

    def load(self, paths: Iterable[str | Path]) -> LoadResult:
        """Load files, and the logs in folders; what is stored already is skipped.

        A file that cannot be read is reported in the result and does not stop the others.

        Raises:
            InputNotFound: a path does not exist, or a folder has no logs; nothing was loaded.
            MigrationNeeded: a v3 database.
            DatabaseError: the database refused; what was committed stays and is skipped next time.
        """
        named = [Path(path) for path in paths]
        unreadable: list[InputNotReadable] = []
        logs = find_logs(named, unreadable)
        result = LoadResult(uuid.uuid4().hex)
        started = time.monotonic()
        prepare(self._engine)
        self._reset_progress(logs)
        loading = LogLoading(self._engine, self._settings, result.ingest_id, job=JOB, on_batch=self._report)
        set_load_state(self._engine, "running", None, now_text())
        try:
            with rare_collections():
                self._load_all(logs, named, loading, result)
        except (CowrieProcessorError, SQLAlchemyError, KeyboardInterrupt) as error:
            self._record_stop(error)
            raise
        for folder_error in unreadable:
            result.add(FileResult("", FAILED, error=str(folder_error)))
        self._record_end(result)
        result.duration_s = time.monotonic() - started
        return result

    def _reset_progress(self, logs: LogList) -> None:
        self._bytes_total = sum(_size(path) for path in logs)
        self._files_total = len(logs)
        self._bytes_done = self._files_done = self._values_done = 0
        self._moved = False

    def _load_all(self, logs: LogList, named: list[Path], loading: LogLoading, result: LoadResult) -> None:
        """Load logs, and then those that were renamed meanwhile under their new names."""
        self._load_files(logs, frozenset(named), loading, result)
        if self._moved:
            self._load_files(find_logs(named, []).added_since(logs), frozenset(named), loading, result)

    def _record_end(self, result: LoadResult) -> None:
        """Record in `jobs` that the load is done, or how many files failed and the first reason."""
        failed = result.failed_total
        reason = f"{failed} of {result.files_total} files failed: {result.failed[0].error}" if failed else None
        set_load_state(self._engine, "failed" if failed else "done", reason, now_text())

    def _record_stop(self, error: BaseException) -> None:
        """Record in `jobs` why the load stopped, unless the database is locked."""
        engine = get_engine(self._engine.url.render_as_string(hide_password=False), lock_timeout_s=0.2)
        try:
            set_load_state(engine, "stopped", str(error) or type(error).__name__, now_text())
        except CowrieProcessorError:
            return  # the error that stopped the load says more than this one
        finally:
            engine.dispose()

    def _load_files(
        self, logs: Iterable[Path], named: frozenset[Path], loading: LogLoading, result: LoadResult
    ) -> None:
        """Load logs in their order, small ones together."""
        small_logs = SmallLogs(self._engine, self._settings, result.ingest_id, sizes=self._sizes)
        remaining = iter(logs)
        while window := list(islice(remaining, WINDOW_LOGS)):
            for outcome in small_logs.load(window):
                path, file = outcome.path, outcome.result
                if file is None:
                    file = FileResult(inert(str(path)))
                    self._load_file(path, loading, file)
                if file.state == FAILED and path not in named and not os.path.lexists(path):
                    self._moved = True  # it was found in a folder, and has been renamed or deleted since
                else:
                    result.add(file)
                self._record_done(path, file, is_reported=outcome.result is None)

    def _record_done(self, path: Path, file: FileResult, *, is_reported: bool) -> None:
        """Count a file for the progress, and report it unless that was done with its last transaction."""
        self._bytes_done += _size(path)
        self._files_done += 1
        self._values_done += count_values(file)
        if not is_reported:
            self._report(FileResult(file.path), 0)

    def _load_file(self, path: Path, loading: LogLoading, result: FileResult) -> None:
        rewritten, yield_s = 0, FIRST_YIELD_S
        try:
            while rewritten < MAX_TRIES:
                try:
                    with self._open(path) as stream:
                        loaded = loading.load(stream, result)
                except LogMoved:
                    # Another loader is storing this log, too: let it, then resume at its checkpoint. That moves each
                    # time, so this comes to an end.
                    time.sleep(yield_s)
                    yield_s = min(MAX_YIELD_S, 2 * yield_s)
                    continue
                if not loaded.is_stale:
                    if loaded.is_whole and (note := _pending_note(loaded, result)):
                        result.warnings.append(note)
                    return
                rewritten += 1
            result.state = FAILED
            result.error = f"{result.path}: another program keeps rewriting this log; load it again later"
        except InputError as error:
            result.state, result.error = FAILED, str(error)

    def _open(self, path: Path) -> LogStream:
        limits = self._settings
        return LogStream(path, max_ratio=limits.max_ratio, grace_bytes=limits.max_ratio_grace_bytes, sizes=self._sizes)

    def _report(self, result: FileResult, file_position: int) -> None:
        if self._on_progress is not None:
            self._on_progress(
                LoadProgress(
                    path=result.path,
                    files_done=self._files_done,
                    files_total=self._files_total,
                    bytes_done=self._bytes_done + file_position,
                    bytes_total=self._bytes_total,
                    events=self._values_done + count_values(result),
                )
            )


def _pending_note(loaded: LoadedLog, result: FileResult) -> str | None:
    """Return a note about bytes that are not stored yet, if there are any."""
    if loaded.log is None:
        return _no_event_note(result)
    if not loaded.bytes_pending:
        return None
    return (
        f"{result.path}:{loaded.line + 1}: the last {loaded.bytes_pending} bytes are an unfinished value and wait for "
        "the rest; if the file is finished, end it with a newline and load it again"
    )


def _no_event_note(result: FileResult) -> str:
    if not result.bytes_pending:
        return f"{result.path} is empty"
    return (
        f"{result.path}: no complete JSON object in {result.bytes_pending} bytes, nothing of it is stored; if it is a "
        "Cowrie log, check that it is the JSON one (cowrie.json) and that its last line ends with a newline"
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
