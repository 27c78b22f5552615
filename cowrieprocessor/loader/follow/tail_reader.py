"""Reads a followed file from its log's checkpoint to its end, and returns what was seen of the file."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.ingest import followed_files as table
from cowrieprocessor.db.ingest.followed_files import SeenFile
from cowrieprocessor.errors import HoldsFiles, InputError, InputNotFound
from cowrieprocessor.loader.follow.gap_detector import GapDetector
from cowrieprocessor.loader.follow.open_logs import OpenLog, OpenLogs
from cowrieprocessor.loader.log_loading import (
    FAILED,
    FINISHED_AFTER_S,
    FOREIGN,
    KNOWN,
    LOADED,
    MAX_TRIES,
    FileResult,
    LoadedLog,
    LogLoading,
)
from cowrieprocessor.loader.logs.identity import Search
from cowrieprocessor.loader.packed_logs import load_members
from cowrieprocessor.loader.reading.log_names import is_live_name
from cowrieprocessor.loader.reading.log_stream import LogStream, digest_of
from cowrieprocessor.loader.reading.read_sizes import ReadSizes
from cowrieprocessor.loader.rows.batch import BatchRows
from cowrieprocessor.loader.writer import LogMoved
from cowrieprocessor.settings import Settings
from cowrieprocessor.settings.sensor_paths import SensorPaths


class StillWritten(Exception):
    """An archive changed so recently that it may still be being written.

    Attributes:
        settles_in_s: when to poll it again.
    """

    def __init__(self, settles_in_s: float) -> None:
        super().__init__()
        self.settles_in_s = settles_in_s


@dataclass(frozen=True, slots=True)
class Outcome:
    """What reading a file gave.

    Attributes:
        seen: what was seen of the file.
        searched: how far a file without an object was searched.
        head: digest of the file's beginning, see `LogStream.head_digest`.
        finished_at: when to look whether it is finished, Unix seconds; None unless it was rotated with a torn end.
    """

    seen: SeenFile
    searched: Search | None = None
    head: str | None = None
    finished_at: float | None = None

    @property
    def foreign(self) -> str | None:
        """What the file seems to be, if it is of another program."""
        return None if self.searched is None else self.searched.foreign


class TailReader:
    """Reads followed files, one at a time.

    Args:
        engine: a database at the current version.
        settings: limits and batch size.
        job: the row of `jobs` whose counters are increased.
        sensors: which sensor a log is given, by its path.
        gap_detector: is notified of logs that were overwritten while they were read.
        open_logs: keeps files open that may still be written to.
        archive_settles_s: archives that changed within this time are not read yet.
        on_batch: called after each transaction with the file's result, how far it was read, and its size in bytes.
        stop: called after each transaction; reading ends once it returns True.
        sizes: how much of a log is read at once.
        clock: Unix seconds.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        *,
        job: str,
        sensors: SensorPaths,
        gap_detector: GapDetector,
        open_logs: OpenLogs,
        archive_settles_s: float,
        on_batch: Callable[[FileResult, int, int], None],
        stop: Callable[[], bool],
        sizes: ReadSizes,
        clock: Callable[[], float],
    ) -> None:
        self._host = table.followed_host(engine)
        self._settings = settings
        self._gap_detector = gap_detector
        self._open_logs = open_logs
        self._archive_settles_s = archive_settles_s
        self._on_batch = on_batch
        self._sizes = sizes
        self._clock = clock
        self._current: tuple[SeenFile, int] | None = None
        self._loading = LogLoading(
            engine,
            settings,
            uuid.uuid4().hex,
            job=job,
            sensors=sensors,
            on_batch=self._report,
            in_transaction=self._keep_extent,
            stop=stop,
            clock=clock,
        )

    def read(self, file_key: str, path: Path, result: FileResult, *, before: Outcome | None) -> Outcome:
        """Store what is new in a file; an archive only when it has not changed for a while.

        Args:
            file_key: the key of its path.
            path: its path.
            result: receives counters, state, warnings and error of the file.
            before: the outcome of the last read under this key, if any.

        Raises:
            StillWritten: it is an archive that has just changed.
            InputError: it cannot be read.
            DatabaseError: the database refused.
        """
        return self._read(lambda: self._open_settled(path), file_key, result, before, keep_open=True)

    def read_open(self, log: OpenLog, result: FileResult) -> SeenFile:
        """Store what is new in a log that is kept open and has no path any more.

        Raises:
            InputError: it cannot be read.
            DatabaseError: the database refused.
        """
        return self._read(lambda: self.reopen(log), log.file_key, result, None, keep_open=False).seen

    def keep_open(self, file_key: str, path: Path) -> bool:
        """Keep a file open in which there is nothing new; return False if it went away."""
        try:
            with self.open(path) as stream:
                self._open_logs.keep_open(file_key, stream)
        except InputNotFound:
            return False
        except InputError:
            return True  # it is reported when the file has to be read
        return True

    def open(self, path: Path | str) -> LogStream:
        """Open a file by its path."""
        limits = self._settings
        return LogStream(
            Path(path), max_ratio=limits.max_ratio, grace_bytes=limits.max_ratio_grace_bytes, sizes=self._sizes
        )

    def reopen(self, log: OpenLog) -> LogStream:
        """Open a log that is kept open once more, from its beginning."""
        return LogStream(log.path, descriptor=log.duplicate_descriptor(), sizes=self._sizes)

    def _read(
        self,
        open_stream: Callable[[], LogStream],
        file_key: str,
        result: FileResult,
        before: Outcome | None,
        *,
        keep_open: bool,
    ) -> Outcome:
        """Read a file until no other process changes it or its checkpoint meanwhile, MAX_TRIES times at most."""
        interrupted = self._current  # this file may only have its turn while another one is read
        try:
            for _ in range(MAX_TRIES):
                with open_stream() as stream:
                    seen, outcome = self._read_once(stream, file_key, result, before)
                    if outcome is None:
                        continue
                    if keep_open:
                        self._open_logs.keep_open(file_key, stream)
                    self._gap_detector.note_read(outcome.seen.log)
                    return outcome
            seen = before.seen if before is not None else seen
            return Outcome(replace(seen, signature=(0, 0, 0)))  # so that the next poll reads it again
        finally:
            self._current = interrupted

    def _read_once(
        self, stream: LogStream, file_key: str, result: FileResult, before: Outcome | None
    ) -> tuple[SeenFile, Outcome | None]:
        """Store what is new; return what was seen, and no outcome if the file or its checkpoint changed meanwhile."""
        seen = SeenFile(file_key, result.path, *file_id_of(stream.status), host=self._host)
        self._current = (seen, 0 if stream.is_complete else stream.size)
        expected, searched = _resume_hints(before, stream)
        if before is not None and self._was_overwritten(before.seen, stream):
            self._gap_detector.remember(before.seen)
        try:
            loaded = self._loading.load(stream, result, expected=expected, searched=searched)
        except LogMoved:
            return seen, None  # another loader is storing this log, too: resume at its checkpoint
        except HoldsFiles as archive:
            loaded = self._load_members(stream, archive, result)
        if loaded.searched is not None and loaded.searched.foreign is not None:
            result.state = FOREIGN
            result.warnings.append(f"{result.path}: not a log of Cowrie: {loaded.searched.foreign}; passed over")
        seen = _seen(seen, stream, loaded, is_done=loaded.is_whole or result.error is not None)
        if loaded.is_stale:
            self._gap_detector.remember(seen)
            return seen, None
        return seen, Outcome(seen, loaded.searched, stream.head_digest, _finished_at(stream, loaded, self._clock()))

    def _load_members(self, stream: LogStream, archive: HoldsFiles, result: FileResult) -> LoadedLog:
        """Store what is new in the logs of an archive, and report them as one file."""
        members: list[FileResult] = []

        def finish(loaded: LoadedLog, member: FileResult) -> None:
            if loaded.searched is not None and loaded.searched.foreign is not None:
                member.warnings.append(f"{member.path}: not a log of Cowrie: {loaded.searched.foreign}; passed over")

        try:
            load_members(stream, archive, self._loading, finish, members)
        finally:
            for member in members:
                result.counters.update(member.counters)
                result.warnings += member.warnings
                result.error = result.error or member.error
            result.state = FAILED if result.error else LOADED if result.counters else KNOWN
        return LoadedLog(None)

    @staticmethod
    def _was_overwritten(before: SeenFile, stream: LogStream) -> bool:
        """Return whether a file without an object begins differently now; where there was one, its log reveals it."""
        if before.log or not before.head_digest or (before.device, before.inode) != file_id_of(stream.status):
            return False
        head = stream.read_exactly(int(before.head_digest.partition(":")[2]))
        stream.rewind()
        return digest_of(head) != before.head_digest

    def _open_settled(self, path: Path) -> LogStream:
        stream = self.open(path)
        age_s = time.time() - max(stream.status.st_mtime, stream.status.st_ctime)
        if stream.is_complete and 0 <= age_s < self._archive_settles_s:
            stream.close()
            raise StillWritten(self._archive_settles_s - age_s)
        return stream

    def _keep_extent(self, connection: Connection, rows: BatchRows) -> None:
        """Store with a batch how much of the log is still to be read, in case it is destroyed before that."""
        if self._current is None:
            return
        seen, size = self._current
        if size > rows.log["byte_pos"]:
            log = (rows.log["identity"], rows.log["generation"])
            table.keep_extent(connection, replace(seen, log=log, bytes_seen=size))

    def _report(self, result: FileResult, file_position: int) -> None:
        size = self._current[1] if self._current else 0
        self._on_batch(result, file_position, max(size, file_position))


def file_id_of(status: os.stat_result) -> tuple[str, str]:
    """Return device and inode of a file, as the database has them."""
    return str(status.st_dev), str(status.st_ino)


def _resume_hints(before: Outcome | None, stream: LogStream) -> tuple[tuple[str, int] | None, Search | None]:
    """Return which log is expected in a file and how far it was searched, if it has only grown since the last read."""
    if before is None or not _has_grown(before, stream):
        return None, None
    return before.seen.log, before.searched


def _has_grown(before: Outcome, stream: LogStream) -> bool:
    """Return whether a file seems to have only grown since it was read before."""
    if stream.is_complete or before.seen.signature[0] > stream.size or before.head is None:
        return False
    return (before.seen.device, before.seen.inode) == file_id_of(stream.status) and stream.begins_like(before.head)


def _finished_at(stream: LogStream, loaded: LoadedLog, now: float) -> float | None:
    """Return when to look whether a rotated log with a torn end is finished; None if there is nothing to wait for."""
    is_waiting = loaded.log is not None and loaded.bytes_pending and not loaded.is_settled
    if not is_waiting or is_live_name(str(stream.path)):
        return None
    finished_at = stream.status.st_mtime + FINISHED_AFTER_S
    return finished_at if finished_at > now else now + FINISHED_AFTER_S  # no log continues it yet


def _seen(seen: SeenFile, stream: LogStream, loaded: LoadedLog, *, is_done: bool) -> SeenFile:
    """Return what was seen of a file after loading it."""
    status = stream.status
    if loaded.log is None and loaded.bytes_pending:
        seen = replace(seen, head_digest=stream.content_digest())
    return replace(
        seen,
        signature=(status.st_size, status.st_mtime_ns, status.st_ctime_ns) if is_done else (0, 0, 0),
        log=loaded.log,
        bytes_seen=loaded.bytes_stored + loaded.bytes_pending,
        bytes_pending=loaded.bytes_pending,
    )
