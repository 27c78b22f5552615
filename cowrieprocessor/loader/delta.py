"""The delta loader: what is new in logs that are written, rotated, emptied and deleted while it looks on.

What of a log is stored is what `log_files` says; nothing here counts. What is kept beside it is only where each log
was seen last and how far it went: a look at a file with nothing new costs a stat, and bytes that disappear unread are
missed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType

from sqlalchemy import Engine

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.ingest import followed_files as table
from cowrieprocessor.db.ingest.followed_files import SeenFile
from cowrieprocessor.db.migrations import prepare
from cowrieprocessor.errors import InputError, InputNotFound
from cowrieprocessor.loader.follow.file_state import FileState, content_key, is_same, settles_in_s, signature_of
from cowrieprocessor.loader.follow.gap_detector import Gap, GapDetector
from cowrieprocessor.loader.follow.open_logs import OpenLogs
from cowrieprocessor.loader.follow.poll_result import PollResult
from cowrieprocessor.loader.follow.tail_reader import Outcome, StillWritten, TailReader, file_id_of
from cowrieprocessor.loader.log_loading import FAILED, FileResult, LoadProgress, counted
from cowrieprocessor.loader.reading.discovery import FollowedLogs, FoundLogs, is_followed, is_live_name, is_packed_name
from cowrieprocessor.loader.reading.log_stream import LogStream, ReadingStopped
from cowrieprocessor.loader.rows.gc_tuning import rare_collections
from cowrieprocessor.sanitize import inert
from cowrieprocessor.settings import Settings, load_sensors, load_settings

__all__ = ["DeltaLoader", "Gap", "PollResult"]

GONE_AGAIN_S = 5.0
OTHERS_AGAIN_S = 1.0
GLANCE_EVERY_S = 0.5
"""While much is read of one log, it is looked so often whether others have grown."""


class DeltaLoader:
    """Follows logs: each look stores what is new in them, each event exactly once.

    Args:
        engine: where to; a new database is made ready at the first look.
        paths: files, each with its rotated ones beside it, and folders; they may appear later. By default the logs of
            every configured sensor.
        settings: limits and batch size; the configured ones by default.
        job: the row of `jobs` that counts what is stored.
        on_progress: called after each transaction.
        stop: asked after each transaction whether to end.
    """

    def __init__(
        self,
        engine: Engine,
        paths: Iterable[str | Path] | None = None,
        *,
        settings: Settings | None = None,
        job: str = "follow",
        on_progress: Callable[[LoadProgress], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._engine = engine
        if paths is None:
            paths = [sensor.logpath for sensor in load_sensors()]
        self._paths = tuple(dict.fromkeys(Path(os.path.abspath(path)) for path in paths))  # noqa: PTH100 - keeps links
        self._logs = FollowedLogs(self._paths)
        self._there: FoundLogs | None = None
        self._is_at_rest = False
        self._settings = settings or load_settings()
        self._job = job
        self._on_progress = on_progress
        self._stop = stop
        self._host = table.followed_host(engine)
        self._now: dict[str, FileState] = {}
        self._others: dict[tuple[str, int, int], SeenFile] = {}
        self._by_content: dict[tuple[str, int, int], FileState] = {}
        self._places: dict[str, str] = {}
        self._open: dict[str, Callable[[], LogStream]] = {}
        self._held = OpenLogs()
        self._book = GapDetector(engine, self._open_seen)
        self._reading: TailReader | None = None
        self._folders: tuple[Path, ...] = ()
        self._unreadable: frozenset[str] = frozenset()
        self._files_total = 0
        self._found = PollResult()
        self._current: set[str] = set()
        self._glance_at = 0.0

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
            if self._reading is not None:
                self._book.write_down(self._known_now(self._now))
        finally:
            self._held.close()

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders in which something may happen, as far as they are there."""
        if not self._folders:
            self._folders = tuple(self._logs.scan().folders)
        return self._folders

    def is_wanted(self, path: str) -> bool:
        """Return whether a file would be read if it were there, going by its name."""
        return self._logs.is_wanted(path)

    def look(self, changed: Collection[Path] | None = None) -> PollResult:
        """Look at every log once, or at those that changed, and store what is new.

        A file that cannot be read is reported once, and again when it has changed; it stops no other. While much is
        read of one, the others are glanced at.

        Args:
            changed: the files to look at; where one is not known or has gone, all are looked at.

        Raises:
            MigrationNeeded: a v3 database.
            DatabaseError: the database refused; what was committed stays, the loader can be used again.
        """
        found = self._found = PollResult()
        self._start()
        with rare_collections():
            if changed is None or not self._look_at_some(changed):
                self._look_at_all()
        return found

    def _start(self) -> TailReader:
        """Make the database ready and read what is known, the first time."""
        if self._reading is None:
            prepare(self._engine)
            with read_transaction(self._engine) as connection:
                followed = [inert(str(path)) for path in self._paths]
                known = [
                    seen for seen in table.seen_files(connection) if any(is_followed(seen.path, p) for p in followed)
                ]
            ours = {seen.file_key: seen for seen in known if seen.host == self._host}
            self._others = {content_key(seen): seen for seen in known if seen.host != self._host and seen.log}
            self._book.begin(ours)
            self._now = {place: FileState(Outcome(seen)) for place, seen in ours.items()}
            self._reading = TailReader(
                self._engine,
                self._settings,
                job=self._job,
                book=self._book,
                held=self._held,
                on_batch=self._after_batch,
                stop=self._stop,
            )
        return self._reading

    def _look_at_some(self, changed: Collection[Path]) -> bool:
        """Look at files that changed; return False where one is new, gone or overwritten, and that is not enough."""
        looked_at: dict[str, FileState] = {}
        for path in changed:
            name = os.path.abspath(path)  # noqa: PTH100 - keeps links
            if not self.is_wanted(name):
                continue
            place = self._place(name)
            state = self._now.get(place)
            self._logs.invalidate()
            try:
                status = path.stat()
            except OSError:
                return False
            if state is None or (state.seen.device, state.seen.inode) != file_id_of(status):
                return False
            self._look_at(place, name, status)
            looked_at[place] = self._now[place]
            if self._stop():
                return True
        now = self._known_now(looked_at)
        if self._book.misses(now):
            return False
        self._book.note(now)
        return True

    def _look_at_all(self) -> None:
        """Look at all; where something is missing once more, for it may have moved while others were looked at."""
        found = self._found
        if self._is_at_rest and self._logs.scan() is self._there:
            return
        self._is_at_rest = False
        gone, is_whole = self._pass_over_all()
        if not self._stop() and not (is_whole and not self._book.is_missing(self._known_now(self._now))):
            gone, is_whole = self._pass_over_all()
        if gone:
            found.again(GONE_AGAIN_S)
        if not is_whole:
            found.is_whole = False
            found.again(0.0)
        is_decided = is_whole and not found.deferred and not self._unreadable
        found.gaps += self._book.settle(self._known_now(self._now), gone, is_decided=is_decided)
        self._is_at_rest = is_decided and not self._held.gone and not found.files and found.again_in_s is None

    def _pass_over_all(self) -> tuple[list[SeenFile], bool]:
        """Look at every log that is there; return what is held open without a path, and whether nothing went away."""
        there = self._there = self._logs.scan()
        self._folders = tuple(there.folders)
        self._files_total = len(there.logs)
        self._say_unreadable([str(error) for error in there.unreadable])
        present = {self._place(path): (path, status) for path, status in there.logs}
        self._places = {path: place for place, (path, _) in present.items()}
        opening = self._start().open
        self._open = {place: partial(opening, path) for place, (path, _) in present.items()}
        self._by_content = {content_key(state.seen): state for state in self._now.values()}
        files = {place: (one.st_dev, one.st_ino) for place, (_, one) in present.items()}
        self._held.let_go_of_named({file for place, file in files.items() if self._was_read(place, file)})
        self._read_gone(files)
        is_whole = True
        for place, (path, status) in present.items():
            if is_live_name(path) and self._held.wants(place, status):
                self._start().hold(place, Path(path))  # before much is read of others
        for place in self._in_order(present):
            if self._stop():
                return self._gone(), False
            is_whole = self._look_at(place, *present[place]) and is_whole
        for place in self._now.keys() - present.keys():
            del self._now[place]
        return self._gone(), is_whole and not self._stop()

    def _was_read(self, file_key: str, file: tuple[int, int]) -> bool:
        """Return whether the file that is at a place now was read there to its end, at least once."""
        state = self._now.get(file_key)
        if state is None or state.error is not None or state.seen.signature == (0, 0, 0):
            return False
        return (state.seen.device, state.seen.inode) == (str(file[0]), str(file[1]))

    def _in_order(self, present: dict[str, tuple[str, os.stat_result]]) -> list[str]:
        """Return the places: live logs first, so that they are held open before much is read of older ones."""
        inodes = {state.seen.inode for state in self._now.values()}

        def rank(file_key: str) -> int:
            path, status = present[file_key]
            if is_live_name(path):
                return 0
            return 1 if file_key in self._now or str(status.st_ino) in inodes else 2

        return sorted(present, key=rank)

    def _look_at(self, file_key: str, path: str, status: os.stat_result) -> bool:
        """Look at one file; return False if it went away or was replaced meanwhile, or somebody asked to stop."""
        state = self._now.get(file_key)
        if state is None or (state.seen.inode != str(status.st_ino)):
            state = self._same_elsewhere(file_key, path, status) or state
        if state is not None and not state.is_racy and is_same(state.seen, status):
            may_grow = not is_packed_name(path) and self._held.wants(file_key, status)
            return not may_grow or self._start().hold(file_key, Path(path))
        if file_key in self._current:
            return True
        result = FileResult(inert(path))
        before = state.outcome if state else None
        looked_at = time.time()
        self._current.add(file_key)
        try:
            outcome = self._start().read(file_key, Path(path), result, before=before)
        except InputNotFound:
            return False
        except ReadingStopped:
            self._found.tell(result)
            return False
        except StillWritten as archive:
            self._found.deferred += 1
            self._found.again(archive.settles_in_s)
            return True
        except InputError as error:
            result.state, result.error = FAILED, str(error)
            seen = (
                before.seen if before and before.seen.inode == str(status.st_ino) else self._new(file_key, path, status)
            )
            outcome = Outcome(replace(seen, signature=signature_of(status)))
        finally:
            self._current.discard(file_key)
        self._take_note(file_key, outcome, result, state, looked_at)
        # Where another file has the name by now, what became of the one that was meant is found by looking again.
        return not _was_replaced(outcome.seen, path, status)

    def _take_note(
        self, file_key: str, outcome: Outcome, result: FileResult, state: FileState | None, looked_at: float
    ) -> None:
        """Keep what was seen of a file, and tell what became of it."""
        settles_s = settles_in_s(outcome.seen.signature, looked_at)
        if settles_s is not None:
            self._found.again(settles_s)
        if outcome.seen.signature == (0, 0, 0):
            self._found.again(OTHERS_AGAIN_S)
        self._now[file_key] = FileState(outcome, settles_s is not None, result.error)
        if state is not None and state.error == result.error and not result.counters:
            result.error = None  # it was said
        self._found.tell(result)

    def _same_elsewhere(self, file_key: str, path: str, status: os.stat_result) -> FileState | None:
        """Return what is known of a file that only has another name, or that another host name has looked at."""
        key = (str(status.st_ino), status.st_size, status.st_mtime_ns)
        known = self._by_content.get(key)
        foreign = self._others.get(key)
        if known is not None and known.seen.log and not known.is_racy and known.error is None:
            seen = known.seen
        elif foreign is not None and foreign.path == inert(path):
            seen = foreign
            self._book.drop(foreign)
        else:
            return None
        seen = replace(self._new(file_key, path, status), log=seen.log, bytes_seen=seen.bytes_seen, head_digest=None)
        self._now[file_key] = FileState(Outcome(replace(seen, signature=signature_of(status))))
        return self._now[file_key]

    def _open_seen(self, seen: SeenFile) -> LogStream:
        """Open what was seen, as it is now.

        Raises:
            InputError: it is not there any more, or cannot be read.
        """
        if seen.file_key not in self._open:
            raise InputNotFound(f"{seen.path}: not there any more; nothing to do")
        return self._open[seen.file_key]()

    def _read_gone(self, there: dict[str, tuple[int, int]]) -> None:
        """Read on in logs that have no path any more."""
        for held, size in self._held.moved(there):
            result = FileResult(inert(str(held.path)))
            try:
                held.seen = self._start().read_held(held, result)
                self._book.remember(held.seen)
            except ReadingStopped:
                self._found.tell(result)
                return
            except InputError as error:
                result.state, result.error = FAILED, str(error)
            self._held.was_read(held, size)
            self._found.tell(result)

    def _gone(self) -> list[SeenFile]:
        """Return what there is of logs that are held open without a path; let go of those that a copy has replaced."""
        gone = []
        for held in self._held.gone:
            if held.seen is None:
                continue
            successor = self._now.get(held.file_key)
            if (
                successor
                and held.seen.log
                and successor.seen.log == held.seen.log
                and successor.seen.bytes_seen >= held.seen.bytes_seen
            ):
                self._held.let_go(held)
                continue
            seen = held.seen.displaced()
            self._open[seen.file_key] = partial(self._start().open_held, held)
            gone.append(seen)
        return gone

    def _after_batch(self, result: FileResult, file_position: int, size: int) -> None:
        """Report, and glance at the other live logs when it is time: this one may have gigabytes to come."""
        if self._on_progress is not None:
            self._on_progress(LoadProgress(result.path, 0, self._files_total, file_position, size, counted(result)))
        if len(self._current) != 1 or time.monotonic() < self._glance_at:
            return
        began = time.monotonic()
        for path, place in list(self._places.items()):
            if place in self._current or not self._held.is_held(place):
                continue
            try:
                status = Path(path).stat()
            except OSError:
                continue  # it has moved: it is held open, and found when all is looked at
            self._look_at(place, path, status)
        self._glance_at = time.monotonic() + max(GLANCE_EVERY_S, 3 * (time.monotonic() - began))

    def _place(self, path: str) -> str:
        return self._places.get(path) or table.file_key_of(self._host, Path(path))

    def _new(self, file_key: str, path: str, status: os.stat_result) -> SeenFile:
        return SeenFile(file_key, inert(path), *file_id_of(status), host=self._host)

    @staticmethod
    def _known_now(states: dict[str, FileState]) -> dict[str, SeenFile]:
        return {place: state.known() for place, state in states.items()}

    def _say_unreadable(self, errors: list[str]) -> None:
        """Report folders that cannot be looked into, once."""
        new = [error for error in errors if error not in self._unreadable]
        self._found.files += [FileResult("", FAILED, error=error) for error in new]
        self._unreadable = frozenset(errors)


def _was_replaced(seen: SeenFile, path: str, status: os.stat_result) -> bool:
    """Return whether a file that was opened is not the one that was listed, but the one that has the name now.

    There are file systems that give a file one number by its name, and another one once it is open; and what is known
    of a file that cannot be read may be from before its device got another number.
    """
    if (seen.device, seen.inode) == file_id_of(status):
        return False
    try:
        now = Path(path).stat()
    except OSError:
        return True
    return file_id_of(now) != file_id_of(status)
