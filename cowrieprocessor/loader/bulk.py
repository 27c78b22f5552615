"""The bulk loader: stores everything in files and folders of logs, once."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path

from sqlalchemy import Engine

from cowrieprocessor.db.migrations import prepare
from cowrieprocessor.errors import HoldsFiles, InputError, InputNotReadable
from cowrieprocessor.loader.load_result import LoadResult
from cowrieprocessor.loader.log_loading import (
    FAILED,
    FOREIGN,
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
from cowrieprocessor.loader.log_sensor import bring_to_names
from cowrieprocessor.loader.packed_logs import load_members
from cowrieprocessor.loader.reading.discovery import find_logs
from cowrieprocessor.loader.reading.log_list import LogList
from cowrieprocessor.loader.reading.log_names import is_live_name
from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.loader.reading.read_sizes import DEFAULT_SIZES, ReadSizes
from cowrieprocessor.loader.rows.gc_tuning import rare_collections
from cowrieprocessor.loader.small_logs import WINDOW_LOGS, SmallLogs
from cowrieprocessor.loader.torn_end_writer import is_end_explained
from cowrieprocessor.loader.writer import JOB, LogMoved
from cowrieprocessor.sanitize import inert
from cowrieprocessor.settings import Settings, load_sensors, load_settings
from cowrieprocessor.settings.sensor_paths import SensorPaths
from cowrieprocessor.wording import plural

__all__ = ["FAILED", "FOREIGN", "KNOWN", "LOADED", "PENDING", "BulkLoader", "FileResult", "LoadProgress", "LoadResult"]


NO_EVENT = "there is text in these files, but not one event of Cowrie; name the JSON log, usually cowrie.json"
"""Why a load that stored nothing and knew nothing is no success."""

FIRST_YIELD_S, MAX_YIELD_S = 0.005, 1.0
"""The pauses after another loader has moved a log's checkpoint, doubled each time: it does the same work."""


class BulkLoader:
    """Loads logs into a database; loading them again changes nothing.

    Args:
        engine: the database; a new one is prepared.
        settings: limits and batch size; the configured ones by default.
        sensors: which sensor a log is given, by its path; the configured ones by default.
        on_progress: called after each transaction.
        sizes: how much of a log is read at once.
        clock: Unix seconds; see `LogLoading`.
        recorded: entered while logs are loaded, with the result that is being filled; see `jobs.loading.load`.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        settings: Settings | None = None,
        sensors: SensorPaths | None = None,
        on_progress: Callable[[LoadProgress], None] | None = None,
        sizes: ReadSizes = DEFAULT_SIZES,
        clock: Callable[[], float] = time.time,
        recorded: Callable[[LoadResult], AbstractContextManager[object]] = lambda _result: nullcontext(),
    ) -> None:
        self._engine = engine
        self._recorded = recorded
        self._clock = clock
        self._settings = settings or load_settings()
        self._sensors = SensorPaths(load_sensors()) if sensors is None else sensors
        self._on_progress = on_progress
        self._sizes = sizes
        self._bytes_total = self._bytes_done = 0
        self._files_total = self._files_done = 0
        self._values_done = 0
        self._moved = False
        self._unfinished: dict[int, tuple[LoadedLog, FileResult]] = {}

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
        with self._recorded(result):
            loading = LogLoading(
                self._engine,
                self._settings,
                result.ingest_id,
                job=JOB,
                sensors=self._sensors,
                on_batch=self._report,
                clock=self._clock,
            )
            bring_to_names(self._engine)  # what a killed program left
            with rare_collections():
                self._load_all(logs, named, loading, result)
            self._note_unfinished()
            for folder_error in unreadable:
                result.add(FileResult("", FAILED, error=str(folder_error)))
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

    def _add_notes(self, loaded: LoadedLog, result: FileResult, *, is_named: bool) -> None:
        """Add what the operator should know of a log; one that was named and is of another program is an error."""
        if loaded.searched is not None and loaded.searched.foreign is not None:
            what = f"{result.path}: not a log of Cowrie: {loaded.searched.foreign}"
            if is_named:
                result.state, result.error = FAILED, f"{what}; nothing of it is stored; name Cowrie's own JSON log"
            else:
                result.state = FOREIGN
                result.warnings.append(f"{what}; passed over")
            return
        if result.wrapper and result.counters:
            passed = (
                f"; {plural(result.lines_foreign, 'line')} of other programs in it passed over"
                if result.lines_foreign
                else ""
            )
            result.warnings.append(f"{result.path}: unwrapped ({result.wrapper}){passed}")
        if loaded.is_whole and (loaded.log is None or (loaded.bytes_pending and not loaded.is_settled)):
            self._unfinished[id(result)] = loaded, result

    def _note_unfinished(self) -> None:
        """Add a note for each file that ends within a value, unless another file of this load had the rest."""
        for loaded, file in self._unfinished.values():
            if loaded.log is not None and is_end_explained(self._engine, loaded.place):
                file.bytes_pending = 0
            else:
                file.warnings.append(_pending_note(loaded, file))
        self._unfinished.clear()

    def _load_files(
        self, logs: Iterable[Path], named: frozenset[Path], loading: LogLoading, result: LoadResult
    ) -> None:
        """Load logs in their order, small ones together."""
        small_logs = SmallLogs(self._engine, self._settings, result.ingest_id, sensors=self._sensors, sizes=self._sizes)
        remaining = iter(logs)
        while window := list(islice(remaining, WINDOW_LOGS)):
            for outcome in small_logs.load(window):
                path, files = outcome.path, [outcome.result] if outcome.result else []
                if outcome.result is None:
                    files = self._load_alone(path, loading, is_named=path in named)
                for file in files:
                    if not result.add(file, may_have_note=id(file) in self._unfinished):
                        self._unfinished.pop(id(file), None)
                self._record_done(path, files, is_reported=outcome.result is None)

    def _load_alone(self, path: Path, loading: LogLoading, *, is_named: bool) -> list[FileResult]:
        """Load a file, and return its result, or those of the logs in it; none if it has moved."""
        file = FileResult(inert(str(path)))
        members = self._load_file(path, loading, file, is_named=is_named)
        if file.state == FAILED and not is_named and not os.path.lexists(path):
            self._moved = True  # it was found in a folder, and has been renamed or deleted since
            return members
        return [*members, *([file] if file.error or not members else [])]

    def _record_done(self, path: Path, files: Sequence[FileResult], *, is_reported: bool) -> None:
        """Count a file for the progress, and report it unless that was done with its last transaction."""
        self._bytes_done += _size(path)
        self._files_done += 1
        self._values_done += sum(map(count_values, files))
        if not is_reported:
            self._report(FileResult(inert(str(path))), 0)

    def _load_file(self, path: Path, loading: LogLoading, result: FileResult, *, is_named: bool) -> list[FileResult]:
        """Load a file, and return the results of the logs in it if it is an archive of files."""
        members: list[FileResult] = []
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
                except HoldsFiles as archive:
                    with self._open(path) as stream:
                        load_members(stream, archive, loading, partial(self._add_notes, is_named=False), members)
                    return members
                if not loaded.is_stale:
                    self._add_notes(loaded, result, is_named=is_named)
                    return members
                rewritten += 1
            result.state = FAILED
            result.error = f"{result.path}: another program keeps rewriting this log; load it again later"
        except InputError as error:
            result.state, result.error = FAILED, str(error)
        return members

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


def _pending_note(loaded: LoadedLog, result: FileResult) -> str:
    """Return a note about bytes that are not stored yet."""
    if loaded.log is None:
        return _no_event_note(result)
    remedy = "if the file is finished, end it with a newline and load it again"
    if not is_live_name(result.path):
        remedy = "a load an hour after the last change of the file keeps them as a dead letter, if none came"
    return (
        f"{result.path}:{loaded.line + 1}: an unfinished value of {plural(loaded.bytes_pending, 'byte')} at the end "
        f"waits for the rest; {remedy}"
    )


def _no_event_note(result: FileResult) -> str:
    if not result.bytes_pending:
        return f"{result.path} is empty"
    return (
        f"{result.path}: no complete JSON object in {plural(result.bytes_pending, 'byte')}, nothing of it is stored; "
        "if it is a Cowrie log, check that it is the JSON one (cowrie.json) and that its last line ends with a newline"
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
