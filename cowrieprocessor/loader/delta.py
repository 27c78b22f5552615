"""The delta loader: what is new in logs that are written, rotated, emptied and deleted while it looks on.

What of a log is stored is what `log_files` says; nothing here counts. What is kept beside it is only where each log
was seen last and how far it went: a look at a file with nothing new costs a stat, and bytes that disappear unread are
missed.
"""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType

from sqlalchemy import Connection, Engine

from cowrieprocessor.db import followed_files as table
from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.followed_files import SeenFile
from cowrieprocessor.db.migrations import prepare
from cowrieprocessor.errors import InputError, InputNotFound
from cowrieprocessor.loader.batch import BatchRows
from cowrieprocessor.loader.compression import LogStream
from cowrieprocessor.loader.discovery import is_followed, logs_there
from cowrieprocessor.loader.garbage import rare_collections
from cowrieprocessor.loader.held_logs import HeldLog, HeldLogs
from cowrieprocessor.loader.log_loading import (
    FAILED,
    MAX_TRIES,
    FileResult,
    LoadProgress,
    LogLoading,
    LogPlace,
    counted,
)
from cowrieprocessor.loader.losses import Gap, LossBook
from cowrieprocessor.loader.writer import LogMoved
from cowrieprocessor.sanitize import inert
from cowrieprocessor.settings import Settings, load_settings

__all__ = ["DeltaLoader", "Gap", "Look"]

ARCHIVE_SETTLES_S = 5.0
"""An archive that changed so recently is taken to be still written, and left for the next look."""

TIME_SETTLES_S = 2.0
"""Within this time of a change, a file that changes once more may keep its size and times: it is looked at again."""

FINE_TIME_SETTLES_S = 0.1
"""The same where the file system counts nanoseconds: the kernel's clock still ticks only each few milliseconds."""

GONE_AGAIN_S = 5.0


@dataclass(slots=True)
class Look:
    """What one look found.

    Attributes:
        files: those that gave something, and those that could not be read.
        gaps: losses that were not known before.
        deferred: archives that are still being written.
        again_in_s: look again by then though nothing may be notified; None where there is no need.
    """

    files: list[FileResult] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    deferred: int = 0
    again_in_s: float | None = None

    @property
    def counters(self) -> Counter[str]:
        """The sums over all files."""
        total: Counter[str] = Counter()
        for one in self.files:
            total.update(one.counters)
        return total

    def again(self, seconds: float) -> None:
        """Note that something is to be looked at again by then."""
        self.again_in_s = seconds if self.again_in_s is None else min(self.again_in_s, seconds)


class _StillWritten(Exception):
    """An archive changed a moment ago.

    Attributes:
        settles_in_s: when to look again.
    """

    def __init__(self, settles_in_s: float) -> None:
        super().__init__()
        self.settles_in_s = settles_in_s


@dataclass(slots=True)
class _State:
    """A file as it was found last.

    Attributes:
        seen: what the database is to know of it.
        is_racy: whether it changed so recently that its size and times may not tell the next change.
        error: why it could not be read.
    """

    seen: SeenFile
    is_racy: bool = False
    error: str | None = None


class DeltaLoader:
    """Follows logs: each look stores what is new in them, each event exactly once.

    Args:
        engine: where to; a new database is made ready at the first look.
        paths: files, each with its rotated ones beside it, and folders. What is not there yet may come.
        settings: limits and batch size; the configured ones by default.
        job: the row of `jobs` that counts what is stored.
        on_progress: called after each transaction.
        stop: asked after each transaction whether to end.
    """

    def __init__(
        self,
        engine: Engine,
        paths: Iterable[str | Path],
        *,
        settings: Settings | None = None,
        job: str = "follow",
        on_progress: Callable[[LoadProgress], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._engine = engine
        self._paths = tuple(dict.fromkeys(Path(os.path.abspath(path)) for path in paths))  # noqa: PTH100 - keeps links
        self._settings = settings or load_settings()
        self._job = job
        self._on_progress = on_progress
        self._stop = stop
        self._host = table.followed_host(engine)
        self._loading: LogLoading | None = None
        self._now: dict[str, _State] = {}
        self._book = LossBook(engine, self._open_seen)
        self._places: dict[str, Callable[[], LogStream]] = {}
        self._held = HeldLogs()
        self._reading: tuple[SeenFile, int] | None = None
        self._folders: tuple[Path, ...] = ()
        self._unreadable: frozenset[str] = frozenset()
        self._files_total = 0

    def __enter__(self) -> DeltaLoader:
        """Return the loader itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of what is held open."""
        self._held.close()

    def close(self) -> None:
        """Write down what was seen, and let go of what is held open.

        Raises:
            DatabaseError: the database refused; nothing is lost, the next loader has to look at more.
        """
        try:
            if self._loading is not None:
                self._book.write_down(self._seen_now())
        finally:
            self._held.close()

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders in which something may happen, as far as they are there."""
        if not self._folders:
            self._folders = tuple(logs_there(self._paths).folders)
        return self._folders

    def look(self, changed: Collection[Path] | None = None) -> Look:
        """Look at every log once, or at those that changed, and store what is new.

        A file that cannot be read is reported once, and again when it has changed; it stops no other.

        Args:
            changed: the files to look at; where one is not known or has gone, all are looked at.

        Raises:
            MigrationNeeded: a v3 database.
            DatabaseError: the database refused; what was committed stays, the loader can be used again.
        """
        found = Look()
        self._start()
        with rare_collections():
            if changed is None or not self._look_at_some(changed, found):
                self._look_at_all(found)
        return found

    def _start(self) -> LogLoading:
        """Make the database ready and read what is known, the first time."""
        if self._loading is None:
            prepare(self._engine)
            with read_transaction(self._engine) as connection:
                known = table.seen_files(connection)
            ours = {
                place: seen
                for place, seen in known.items()
                if any(is_followed(seen.path, inert(str(path))) for path in self._paths)
            }
            self._book.begin(ours)
            self._now = {place: _State(seen) for place, seen in ours.items()}
            self._loading = LogLoading(
                self._engine,
                self._settings,
                uuid.uuid4().hex,
                job=self._job,
                on_batch=self._report,
                beside=self._keep_extent,
                stop=self._stop,
            )
        return self._loading

    def _look_at_some(self, changed: Collection[Path], found: Look) -> bool:
        """Look at files that changed; return False where one is new, gone or overwritten, and that is not enough."""
        for path in changed:
            place = table.place_of(self._host, path)
            state = self._now.get(place)
            try:
                status = path.stat()
            except OSError:
                return False
            if state is None or (state.seen.device, state.seen.inode) != _file_id(status):
                return False
            self._look_at(place, path, status, found)
            if self._stop():
                return True
        now = self._seen_now()
        if self._book.misses(now):
            return False
        self._book.note(now)
        return True

    def _look_at_all(self, found: Look) -> None:
        """Look at all; where something is missing once more, for it may have moved while others were looked at."""
        gone, is_whole = self._pass_over_all(found)
        if is_whole and self._book.is_missing(self._seen_now()):
            gone, is_whole = self._pass_over_all(found)
        if gone:
            found.again(GONE_AGAIN_S)
        if not is_whole:
            found.again(0.0)
        is_decided = is_whole and not found.deferred and not self._unreadable
        found.gaps += self._book.settle(self._seen_now(), gone, is_decided=is_decided)

    def _pass_over_all(self, found: Look) -> tuple[list[SeenFile], bool]:
        """Look at every log that is there; return what is held open without a path, and whether nothing went away."""
        there = logs_there(self._paths)
        self._folders = tuple(there.folders)
        self._files_total = len(there.logs)
        self._say_unreadable([str(error) for error in there.unreadable], found)
        present = {table.place_of(self._host, path): (path, status) for path, status in there.logs}
        self._read_gone({place: (one.st_dev, one.st_ino) for place, (_, one) in present.items()}, found)
        self._places = {place: partial(self._open, path) for place, (path, _) in present.items()}
        is_whole = True
        for place, (path, status) in present.items():
            if self._stop():
                return self._gone(), False
            is_whole = self._look_at(place, path, status, found) and is_whole
        for place in self._now.keys() - present.keys():
            del self._now[place]
        return self._gone(), is_whole

    def _seen_now(self) -> dict[str, SeenFile]:
        """Return what the database is to know: where its signature is, the next process need not look at a file."""
        return {
            place: replace(state.seen, signature=(0, 0, 0)) if state.error or state.is_racy else state.seen
            for place, state in self._now.items()
        }

    def _gone(self) -> list[SeenFile]:
        """Return what there is of logs that are held open without a path."""
        gone = []
        for held in self._held.gone:
            if held.seen is not None:
                seen = held.seen.displaced()
                self._places[seen.place] = partial(self._open_held, held)
                gone.append(seen)
        return gone

    def _open_seen(self, seen: SeenFile) -> LogStream:
        return self._places[seen.place]()

    def _read_gone(self, there: dict[str, tuple[int, int]], found: Look) -> None:
        """Read on in logs that have no path any more."""
        for held, size in self._held.moved(there):
            result = FileResult(inert(str(held.path)))
            try:
                held.seen = self._load(partial(self._open_held, held), held.place, result)
                self._book.remember(held.seen)
            except InputError as error:
                result.state, result.error = FAILED, str(error)
            self._held.was_read(held, size)
            self._tell(result, found)

    def _look_at(self, place: str, path: Path, status: os.stat_result, found: Look) -> bool:
        """Look at one file; return False if it went away meanwhile."""
        state = self._now.get(place)
        if state is not None and not state.is_racy and _is_same(state.seen, status):
            return not self._held.wants(place, status) or self._hold(place, path)
        result = FileResult(inert(str(path)))
        try:
            seen = self._load(partial(self._open_settled, path), place, result, before=state.seen if state else None)
        except InputNotFound:
            return False
        except _StillWritten as archive:
            found.deferred += 1
            found.again(archive.settles_in_s)
            return True
        except InputError as error:
            result.state, result.error = FAILED, str(error)
            before = state.seen if state is not None and state.seen.inode == str(status.st_ino) else None
            seen = before or SeenFile(place, str(result.path), *_file_id(status))
            seen = replace(seen, signature=_signature(status))
        settles_s = _settles_s(seen.signature)
        is_racy = abs(time.time() - max(seen.signature[1:]) / 1e9) < settles_s
        if is_racy:
            found.again(settles_s)
        self._now[place] = _State(seen, is_racy, result.error)
        if state is not None and state.error == result.error and not result.counters:
            result.error = None  # it was said
        self._tell(result, found)
        return True

    def _hold(self, place: str, path: Path) -> bool:
        """Hold a file open in which an earlier process has read all; return False if it went away."""
        try:
            with self._open(path) as stream:
                self._held.hold(place, stream)
        except InputNotFound:
            return False
        except InputError:
            return True  # whoever has to read it will say so
        return True

    def _load(
        self, open_stream: Callable[[], LogStream], place: str, result: FileResult, *, before: SeenFile | None = None
    ) -> SeenFile:
        """Store what is new in a file, and return what was seen of it.

        Raises:
            InputError: it cannot be read.
        """
        loading = self._start()
        for _ in range(MAX_TRIES):
            with open_stream() as stream:
                seen = SeenFile(place, result.path, *_file_id(stream.status))
                self._reading = (seen, 0 if stream.is_complete else stream.size)
                try:
                    at = loading.load(stream, result, likely=_likely_log(before, stream))
                except LogMoved:
                    continue  # another loader has it too: look again how far it is
                seen = _seen(seen, stream, at, is_done=at.is_whole or result.error is not None)
                if at.is_stale:
                    self._book.remember(seen)
                    continue
                self._held.hold(place, stream)
                self._book.was_read(at.log)
                return seen
        return replace(seen, signature=(0, 0, 0))  # others are at it: next time

    def _open(self, path: Path) -> LogStream:
        return LogStream(path, max_ratio=self._settings.max_ratio, grace_bytes=self._settings.max_ratio_grace_bytes)

    def _open_settled(self, path: Path) -> LogStream:
        """Open a file; an archive only when it has not changed for a while.

        Raises:
            _StillWritten: it has.
        """
        stream = self._open(path)
        age_s = time.time() - max(stream.status.st_mtime, stream.status.st_ctime)
        if stream.is_complete and 0 <= age_s < ARCHIVE_SETTLES_S:
            stream.close()
            raise _StillWritten(ARCHIVE_SETTLES_S - age_s)
        return stream

    def _open_held(self, held: HeldLog) -> LogStream:
        return LogStream(held.path, descriptor=held.opened())

    def _keep_extent(self, connection: Connection, rows: BatchRows) -> None:
        """Note with a batch how much of the log is still to be read, in case it is destroyed before that."""
        if self._reading is None:
            return
        seen, size = self._reading
        if size > rows.log["byte_pos"]:
            log = (rows.log["identity"], rows.log["generation"])
            table.keep_extent(connection, replace(seen, log=log, bytes_seen=size))

    def _tell(self, result: FileResult, found: Look) -> None:
        if result.counters or result.error or result.warnings:
            found.files.append(result)

    def _say_unreadable(self, errors: list[str], found: Look) -> None:
        """Report folders that cannot be looked into, once."""
        found.files += [FileResult("", FAILED, error=error) for error in errors if error not in self._unreadable]
        self._unreadable = frozenset(errors)

    def _report(self, result: FileResult, file_position: int) -> None:
        if self._on_progress is not None:
            size = self._reading[1] if self._reading else 0
            self._on_progress(
                LoadProgress(
                    result.path, 0, self._files_total, file_position, max(size, file_position), counted(result)
                )
            )


def _likely_log(before: SeenFile | None, stream: LogStream) -> tuple[str, int] | None:
    """Return the log that a file held when it was looked at before, if it looks as if it had only grown."""
    if before is None or stream.is_complete or before.signature[0] > stream.size:
        return None
    return before.log if (before.device, before.inode) == _file_id(stream.status) else None


def _file_id(status: os.stat_result) -> tuple[str, str]:
    return str(status.st_dev), str(status.st_ino)


def _signature(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _settles_s(signature: tuple[int, int, int]) -> float:
    """Return within what time a file may change twice at what looks like one moment; some systems count seconds."""
    return TIME_SETTLES_S if any(moment % 1_000_000 == 0 for moment in signature[1:]) else FINE_TIME_SETTLES_S


def _is_same(seen: SeenFile, status: os.stat_result) -> bool:
    return seen.signature == _signature(status) and (seen.device, seen.inode) == _file_id(status)


def _seen(seen: SeenFile, stream: LogStream, at: LogPlace, *, is_done: bool) -> SeenFile:
    """Return what was seen of a file that was read as far as `at`."""
    bytes_seen = at.bytes_stored + at.bytes_pending
    if at.log is None:
        bytes_seen = at.bytes_pending - at.bytes_nul
        seen = replace(seen, head_digest=stream.content_digest())
    return replace(
        seen,
        signature=_signature(stream.status) if is_done else (0, 0, 0),
        log=at.log,
        bytes_seen=bytes_seen,
        bytes_pending=at.bytes_pending,
    )
