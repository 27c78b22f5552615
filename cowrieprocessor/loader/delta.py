"""The delta loader: stores what is new in logs that are written, rotated, truncated and deleted meanwhile.

How far a log is stored is recorded in `log_files`; nothing is counted here. The loader only keeps where each log was
seen last and how far it went: polling a file with nothing new costs one stat, and bytes that disappear unread are
detected.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from sqlalchemy import Engine

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.ingest import followed_files as table
from cowrieprocessor.db.ingest.followed_files import SeenFile
from cowrieprocessor.db.ingest.log_damage import logs_with_open_end
from cowrieprocessor.db.migrations import prepare
from cowrieprocessor.errors import InputError, InputNotFound
from cowrieprocessor.loader.follow.file_state import FileState, is_same, settles_in_s, was_replaced
from cowrieprocessor.loader.follow.gap_detector import Gap, GapDetector
from cowrieprocessor.loader.follow.known_files import KnownFiles
from cowrieprocessor.loader.follow.open_logs import OpenLog, OpenLogs
from cowrieprocessor.loader.follow.poll_result import PollResult
from cowrieprocessor.loader.follow.sensor_naming import SensorNaming
from cowrieprocessor.loader.follow.tail_reader import Outcome, StillWritten, TailReader, file_id_of
from cowrieprocessor.loader.follow.timing import FollowTiming
from cowrieprocessor.loader.log_loading import FAILED, FileResult, LoadProgress, count_values
from cowrieprocessor.loader.reading.discovery import FollowedLogs, FoundLogs
from cowrieprocessor.loader.reading.log_names import is_live_name, is_packed_name
from cowrieprocessor.loader.reading.log_stream import LogStream, ReadingStopped
from cowrieprocessor.loader.reading.read_sizes import DEFAULT_SIZES, ReadSizes
from cowrieprocessor.loader.rows.gc_tuning import rare_collections
from cowrieprocessor.sanitize import inert
from cowrieprocessor.settings import Settings, configured_logs, load_sensors, load_settings
from cowrieprocessor.settings.paths import is_followed
from cowrieprocessor.settings.sensor_paths import SensorPaths

__all__ = ["DeltaLoader", "Gap", "PollResult"]


class _ListedFile(NamedTuple):
    """A log that is present: its path, and its status when it was listed."""

    path: str
    status: os.stat_result


class DeltaLoader:
    """Follows logs: each poll stores what is new in them, each event exactly once.

    Args:
        engine: the database; a new one is prepared at the first poll.
        paths: files, each with the files rotated from it, and folders; they may appear later. By default the logs of
            every configured sensor.
        settings: limits and batch size; the configured ones by default.
        sensors: which sensor a log is given, by its path; the configured ones by default.
        job: the row of `jobs` whose counters are increased.
        on_progress: called after each transaction.
        stop: called after each transaction; polling ends once it returns True.
        timing: when to poll again, and when files and folders have settled.
        sizes: how much of a log is read at once.
        clock: Unix seconds; a rotated log that has not changed for an hour is finished.

    Raises:
        ConfigurationError: neither `paths` nor a configured sensor names a log.
    """

    def __init__(
        self,
        engine: Engine,
        paths: Iterable[str | Path] | None = None,
        *,
        settings: Settings | None = None,
        sensors: SensorPaths | None = None,
        job: str = "follow",
        on_progress: Callable[[LoadProgress], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
        timing: FollowTiming | None = None,
        sizes: ReadSizes = DEFAULT_SIZES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._clock = clock
        named = configured_logs() if paths is None else paths
        self._paths = tuple(dict.fromkeys(Path(os.path.abspath(path)) for path in named))  # noqa: PTH100 - keeps links
        self._timing = timing or FollowTiming()
        self._logs = FollowedLogs(
            self._paths,
            listing_settles_s=self._timing.listing_settles_s,
            packed_settles_s=self._timing.packed_settles_s,
        )
        self._listed: FoundLogs | None = None
        self._is_idle = False
        self._settings = settings or load_settings()
        self._sensors = SensorPaths(load_sensors()) if sensors is None else sensors
        self._job = job
        self._on_progress = on_progress
        self._stop = stop
        self._sizes = sizes
        self._host = table.followed_host(engine)
        self._gap_detector = GapDetector(engine, self._open_seen, settles_s=self._timing.archive_settles_s)
        self._files = KnownFiles(self._host, self._gap_detector)
        self._open_logs = OpenLogs()
        self._tail_reader: TailReader | None = None
        self._naming: SensorNaming | None = None
        self._keys_by_path: dict[str, str] = {}
        self._openers: dict[str, Callable[[], LogStream]] = {}
        self._folders: tuple[Path, ...] = ()
        self._unreadable: frozenset[str] = frozenset()
        self._files_total = 0
        self._result = PollResult()
        self._being_read: set[str] = set()
        self._interleave_at = 0.0

    def __enter__(self) -> DeltaLoader:
        """Return the loader itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the logs that are kept open."""
        self._open_logs.close()

    def close(self) -> None:
        """Store what was seen, and close the logs that are kept open.

        Raises:
            DatabaseError: the database refused; nothing is lost, the next loader has to read more.
        """
        try:
            if self._tail_reader is not None:
                self._gap_detector.save(self._files.to_store())
        finally:
            self._open_logs.close()

    @property
    def folders(self) -> tuple[Path, ...]:
        """The existing folders in which logs may appear or change."""
        if not self._folders:
            self._folders = tuple(self._logs.scan().folders)
        return self._folders

    def is_wanted(self, path: str) -> bool:
        """Return whether a file would be read if it existed, judging by its name."""
        return self._logs.is_wanted(path)

    def poll(self, changed: Collection[Path] | None = None) -> PollResult:
        """Poll every log once, or those that changed, and store what is new.

        A file that cannot be read is reported once, and again when it has changed; it does not stop the others. While
        much is read of one log, the other live logs have their turn in between.

        Args:
            changed: the files to poll; if one of them is new, gone or overwritten, all are polled.

        Raises:
            MigrationNeeded: a v3 database.
            DatabaseError: the database refused; what was committed stays, the loader can be used again.
        """
        result = self._result = PollResult()
        self._reader()
        if self._naming is not None:
            for note in self._naming.run(self._host):
                result.add(note)
        with rare_collections():
            if changed is None or not self._poll_changed(changed):
                self._poll_all()
        return result

    def hold(self) -> None:
        """Keep the logs open that are there, and read nothing: those that go away are read by the next poll.

        Raises:
            MigrationNeeded: a v3 database.
            DatabaseError: the database refused.
        """
        reader = self._reader()
        listed = self._logs.scan()
        self._folders = tuple(listed.folders)
        for path, status in listed.logs:
            file_key = self._file_key(path)
            if not is_packed_name(path) and self._open_logs.should_hold(file_key, status):
                reader.keep_open(file_key, Path(path))

    def _reader(self) -> TailReader:
        """Return the reader; the first time prepare the database, and restore what is known of the files."""
        if self._tail_reader is None:
            prepare(self._engine)
            states = self._stored_states()
            self._files.restore(states)
            self._naming = SensorNaming(self._engine, self._sensors, states, self._stop)
            with read_transaction(self._engine) as connection:
                self._files.expect_end(logs_with_open_end(connection))
            self._tail_reader = TailReader(
                self._engine,
                self._settings,
                job=self._job,
                sensors=self._sensors,
                gap_detector=self._gap_detector,
                open_logs=self._open_logs,
                archive_settles_s=self._timing.archive_settles_s,
                on_batch=self._after_batch,
                stop=self._stop,
                sizes=self._sizes,
                clock=self._clock,
            )
        return self._tail_reader

    def _stored_states(self) -> list[SeenFile]:
        """Return what the database has of the followed files, on all hosts."""
        followed = [inert(str(path)) for path in self._paths]
        with read_transaction(self._engine) as connection:
            stored = table.seen_files(connection)
        return [seen for seen in stored if any(is_followed(seen.path, path) for path in followed)]

    def _poll_changed(self, changed: Collection[Path]) -> bool:
        """Poll files that changed; return False if one is new, gone or overwritten, so that all have to be polled."""
        polled: dict[str, FileState] = {}
        for path in changed:
            name = os.path.abspath(path)  # noqa: PTH100 - keeps links
            if not self.is_wanted(name):
                continue
            file_key = self._file_key(name)
            state = self._files.get(file_key)
            self._logs.invalidate()
            try:
                status = path.stat()
            except OSError:
                return False
            if state is None or (state.seen.device, state.seen.inode) != file_id_of(status):
                return False
            self._poll_file(file_key, name, status)
            polled[file_key] = self._files.get(file_key) or state
            if self._stop():
                return True
        seen = {file_key: state.to_store() for file_key, state in polled.items()}
        if self._gap_detector.needs_full_poll(seen):
            return False
        self._gap_detector.save_growth(seen)
        return True

    def _poll_all(self) -> None:
        """Poll all logs; a second time if something is missing, for it may have moved while others were read."""
        if self._is_idle and self._logs.scan() is self._listed and not self._poll_when_finished():
            return
        self._is_idle = False
        unnamed, is_whole = self._scan_all()
        if not self._stop() and (not is_whole or self._gap_detector.is_missing(self._files.to_store())):
            unnamed, is_whole = self._scan_all()
        self._settle(unnamed, is_whole=is_whole)

    def _settle(self, unnamed: list[SeenFile], *, is_whole: bool) -> None:
        """Detect gaps after a scan, and decide when to poll again and whether all logs are idle."""
        result = self._result
        if unnamed:
            result.poll_again_in(self._timing.unnamed_poll_s)
        if not is_whole:
            result.is_whole = False
            result.poll_again_in(0.0)
        is_decided = is_whole and not result.deferred and not self._unreadable
        result.gaps += self._gap_detector.settle(
            self._files.to_store(), unnamed, changed_at=self._files.changed_at(), is_decided=is_decided
        )
        if self._gap_detector.undecided_s is not None:
            result.is_undecided = True
            result.poll_again_in(self._gap_detector.undecided_s)
        is_unchanged = not result.files and result.again_in_s is None
        self._is_idle = is_decided and not self._open_logs.unnamed and is_unchanged
        self._poll_when_finished()

    def _poll_when_finished(self) -> bool:
        """Return whether a rotated log with a torn end is finished by now, else ask for a poll when it is."""
        finished_at = self._files.next_finished_at()
        if finished_at is None:
            return False
        self._result.poll_again_in(max(0.0, finished_at - self._clock()))
        return finished_at <= self._clock()

    def _scan_all(self) -> tuple[list[SeenFile], bool]:
        """Poll every log that is present; return the open logs without a path, and whether nothing went away."""
        present = self._list_present()
        file_ids = {file_key: (status.st_dev, status.st_ino) for file_key, (_, status) in present.items()}
        self._open_logs.release_renamed({file for key, file in file_ids.items() if self._files.was_read(key, file)})
        self._read_unnamed(file_ids)
        for file_key, (path, status) in present.items():
            if is_live_name(path):
                self._keep_open(file_key, path, status)  # before much is read of others
        is_whole = True
        for file_key in self._files.reading_order(present):
            if self._stop():
                return self._unnamed(), False
            is_whole = self._poll_file(file_key, *present[file_key]) and is_whole
        self._files.retain(present)
        return self._unnamed(), is_whole and not self._stop()

    def _list_present(self) -> dict[str, _ListedFile]:
        """List the logs that are present by file key, and make them available by path and by content."""
        listed = self._listed = self._logs.scan()
        self._folders = tuple(listed.folders)
        self._files_total = len(listed.logs)
        self._report_unreadable([str(error) for error in listed.unreadable])
        present = {self._file_key(path): _ListedFile(path, status) for path, status in listed.logs}
        self._keys_by_path = {file.path: file_key for file_key, file in present.items()}
        open_path = self._reader().open
        self._openers = {file_key: partial(open_path, file.path) for file_key, file in present.items()}
        self._files.index_contents()
        return present

    def _poll_file(self, file_key: str, path: str, status: os.stat_result) -> bool:
        """Poll one file; return False if it went away or was replaced meanwhile, or the loader was asked to stop."""
        state = self._files.find(file_key, path, status)
        is_due = state is not None and state.is_due(self._clock())
        if state is not None and not state.is_racy and not is_due and is_same(state.seen, status):
            return is_packed_name(path) or self._keep_open(file_key, path, status)
        if file_key in self._being_read:
            return True
        return self._read_file(file_key, path, status, state)

    def _keep_open(self, file_key: str, path: str, status: os.stat_result) -> bool:
        """Keep a file open that may still be written to; return False if it went away."""
        return not self._open_logs.should_open(file_key, status) or self._reader().keep_open(file_key, Path(path))

    def _read_file(self, file_key: str, path: str, status: os.stat_result, state: FileState | None) -> bool:
        """Store what is new in a file; return False as `_poll_file` does."""
        result = FileResult(inert(path))
        polled_at = time.time()
        self._being_read.add(file_key)
        try:
            outcome = self._reader().read(file_key, Path(path), result, before=state.outcome if state else None)
        except InputNotFound:
            return False
        except ReadingStopped:
            self._result.add(result)
            return False
        except StillWritten as archive:
            self._result.deferred += 1
            self._result.poll_again_in(archive.settles_in_s)
            return True
        except InputError as error:
            result.state, result.error = FAILED, str(error)
            outcome = Outcome(self._files.unread(file_key, path, status, state))
        finally:
            self._being_read.discard(file_key)
        self._record_outcome(file_key, outcome, result, state, polled_at)
        # If another file has taken the path meanwhile, polling again finds what became of the one that was listed.
        return not was_replaced(outcome.seen, path, status)

    def _record_outcome(
        self, file_key: str, outcome: Outcome, result: FileResult, state: FileState | None, polled_at: float
    ) -> None:
        """Keep what was seen of a file, and report the result."""
        settles_s = settles_in_s(outcome.seen.signature, polled_at, self._timing)
        if settles_s is not None:
            self._result.poll_again_in(settles_s)
        if outcome.seen.signature == (0, 0, 0):
            self._result.poll_again_in(self._timing.contended_poll_s)
        self._files.put(file_key, FileState(outcome, settles_s is not None, result.error))
        if state is not None and state.error == result.error and not result.counters:
            result.error = None  # it was reported before
        if state is not None and outcome.foreign is not None and state.outcome.foreign == outcome.foreign:
            result.warnings.clear()  # likewise
        self._result.add(result)

    def _open_seen(self, seen: SeenFile) -> LogStream:
        """Open a file that was seen, as it is now.

        Raises:
            InputError: it is not there any more, or cannot be read.
        """
        if seen.file_key not in self._openers:
            raise InputNotFound(f"{seen.path}: not there any more; nothing to do")
        return self._openers[seen.file_key]()

    def _read_unnamed(self, file_ids: dict[str, tuple[int, int]]) -> None:
        """Read what was added to open logs without a path; `file_ids` are device and inode of what is present."""
        for log, size in self._open_logs.find_grown(file_ids):
            result = FileResult(inert(str(log.path)))
            try:
                log.seen = self._reader().read_open(log, result)
                self._gap_detector.remember(log.seen)
            except ReadingStopped:
                self._result.add(result)
                return
            except InputError as error:
                result.state, result.error = FAILED, str(error)
            self._open_logs.record_read(log, size)
            self._result.add(result)

    def _unnamed(self) -> list[SeenFile]:
        """Return what was seen of open logs without a path; close those whose path a copy has taken."""
        unnamed = []
        for log in self._open_logs.unnamed:
            if log.seen is None:
                continue
            if self._is_copied(log, log.seen):
                self._open_logs.release(log)
                continue
            seen = log.seen.displaced()
            self._openers[seen.file_key] = partial(self._reader().reopen, log)
            unnamed.append(seen)
        return unnamed

    def _is_copied(self, log: OpenLog, seen: SeenFile) -> bool:
        """Return whether the file that has taken the path of an open log has the same log, as far or further."""
        successor = self._files.get(log.file_key)
        if successor is None or seen.log is None or successor.seen.log != seen.log:
            return False
        return successor.seen.bytes_seen >= seen.bytes_seen

    def _after_batch(self, result: FileResult, file_position: int, size: int) -> None:
        """Report progress, and give the other live logs a turn when it is due."""
        if self._on_progress is not None:
            progress = LoadProgress(result.path, 0, self._files_total, file_position, size, count_values(result))
            self._on_progress(progress)
        if len(self._being_read) == 1 and time.monotonic() >= self._interleave_at:
            self._interleave()

    def _interleave(self) -> None:
        """Poll the other live logs: the one that is being read may have gigabytes to come."""
        began = time.monotonic()
        for path, file_key in list(self._keys_by_path.items()):
            if file_key in self._being_read or not self._open_logs.is_open(file_key):
                continue
            try:
                status = Path(path).stat()
            except OSError:
                continue  # it has moved: it is open, and found when all logs are polled
            self._poll_file(file_key, path, status)
        elapsed_s = time.monotonic() - began
        self._interleave_at = time.monotonic() + max(self._timing.interleave_every_s, 3 * elapsed_s)

    def _file_key(self, path: str) -> str:
        return self._keys_by_path.get(path) or table.file_key_of(self._host, Path(path))

    def _report_unreadable(self, errors: list[str]) -> None:
        """Report folders that cannot be read, each once."""
        new = [error for error in errors if error not in self._unreadable]
        self._result.files += [FileResult("", FAILED, error=error) for error in new]
        self._unreadable = frozenset(errors)
