"""The bulk loader: all that files and folders of logs hold, once."""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from cowrieprocessor.db.engine import get_engine
from cowrieprocessor.db.migrations import prepare
from cowrieprocessor.errors import CowrieProcessorError, InputError, InputNotReadable
from cowrieprocessor.loader.log_loading import (
    FAILED,
    KNOWN,
    LOADED,
    MAX_TRIES,
    PENDING,
    FileResult,
    LoadProgress,
    LogLoading,
    LogPlace,
    counted,
    counters_of,
)
from cowrieprocessor.loader.reading.discovery import find_logs
from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.loader.rows.batching import now_text
from cowrieprocessor.loader.rows.gc_tuning import rare_collections
from cowrieprocessor.loader.writer import JOB, LogMoved, set_load_state
from cowrieprocessor.sanitize import inert
from cowrieprocessor.settings import Settings, load_settings

__all__ = ["FAILED", "KNOWN", "LOADED", "PENDING", "BulkLoader", "FileResult", "LoadProgress", "LoadResult"]


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
        return counters_of(self.files)

    @property
    def failed(self) -> list[FileResult]:
        """The files that could not be read to their end."""
        return [one for one in self.files if one.state == FAILED]


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
        self._total_bytes = self._bytes_before = 0
        self._file_count = self._files_done = 0
        self._values_before = 0
        self._moved = False

    def load(self, paths: Iterable[str | Path]) -> LoadResult:
        """Load files, and the logs in folders; what is stored already is passed over.

        A file that cannot be read is reported in the result and does not stop the others.

        Raises:
            InputNotFound: a path does not exist, or a folder holds no logs; nothing was loaded.
            MigrationNeeded: a v3 database.
            DatabaseError: the database refused; what was committed stays and is passed over next time.
        """
        named = [Path(path) for path in paths]
        unreadable: list[InputNotReadable] = []
        logs = find_logs(named, unreadable)
        result = LoadResult(uuid.uuid4().hex)
        started = time.monotonic()
        prepare(self._engine)
        self._total_bytes = sum(_size(path) for path in logs)
        self._file_count = len(logs)
        self._bytes_before = self._files_done = self._values_before = 0
        self._moved = False
        loading = LogLoading(self._engine, self._settings, result.ingest_id, job=JOB, on_batch=self._report)
        set_load_state(self._engine, "running", None, now_text())
        try:
            with rare_collections():
                self._load_files(logs, frozenset(named), loading, result)
                if self._moved and (others := [path for path in find_logs(named, []) if path not in set(logs)]):
                    self._load_files(others, frozenset(named), loading, result)  # they were renamed meanwhile
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

    def _load_files(self, logs: list[Path], named: frozenset[Path], loading: LogLoading, result: LoadResult) -> None:
        for path in logs:
            found = FileResult(inert(str(path)))
            result.files.append(found)
            self._load_file(path, loading, found)
            if found.state == FAILED and path not in named and not os.path.lexists(path):
                self._moved = True  # its folder was named; what is in it now has another name, or is gone
                result.files.pop()
            self._bytes_before += _size(path)
            self._files_done += 1
            self._values_before += counted(found)

    def _load_file(self, path: Path, loading: LogLoading, found: FileResult) -> None:
        try:
            for _ in range(MAX_TRIES):
                try:
                    with self._open(path) as stream:
                        place = loading.load(stream, found)
                except LogMoved:
                    continue  # another loader has it too: look again how far it is
                if not place.is_stale:
                    if place.is_whole and (note := _what_waits(place, found)):
                        found.warnings.append(note)
                    return
            found.state = FAILED
            found.error = f"{found.path}: other programs keep loading or rewriting this log; load it again later"
        except InputError as error:
            found.state, found.error = FAILED, str(error)

    def _open(self, path: Path) -> LogStream:
        return LogStream(path, max_ratio=self._settings.max_ratio, grace_bytes=self._settings.max_ratio_grace_bytes)

    def _report(self, found: FileResult, file_position: int) -> None:
        if self._on_progress is not None:
            self._on_progress(
                LoadProgress(
                    path=found.path,
                    files_done=self._files_done,
                    files_total=self._file_count,
                    bytes_done=self._bytes_before + file_position,
                    bytes_total=self._total_bytes,
                    events=self._values_before + counted(found),
                )
            )


def _what_waits(place: LogPlace, found: FileResult) -> str | None:
    """Return a note about bytes that are not stored yet, if there are any."""
    if place.log is None:
        return _no_event_yet(found)
    if not place.bytes_pending:
        return None
    return (
        f"{found.path}:{place.line + 1}: the last {place.bytes_pending} bytes are an unfinished value and wait for the "
        "rest; if the file is finished, end it with a newline and load it again"
    )


def _no_event_yet(found: FileResult) -> str:
    if not found.bytes_pending:
        return f"{found.path} is empty"
    return (
        f"{found.path}: no complete JSON object in {found.bytes_pending} bytes, nothing of it is stored; if it is a "
        "Cowrie log, check that it is the JSON one (cowrie.json) and that its last line ends with a newline"
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
