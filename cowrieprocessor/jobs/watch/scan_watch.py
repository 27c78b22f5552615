"""Watching folders of captured files: what comes into them is taken up soon, until somebody says stop.

The watcher says when something happened in a folder. Which files that were is read from the folder itself: those that
changed after the last look, by the kernel's own time of change, which a rename moves, too. A file is scanned when it
has not changed for two seconds, so that one that is still being copied is not taken for a wrong one. Every ten minutes
the whole folder is scanned: then what redirects left is due, and what no notice told of is found.
"""

from __future__ import annotations

import datetime as dt
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from sqlalchemy import Engine

from cowrieprocessor.analysis.captured_file import sha256_of_name
from cowrieprocessor.analysis.downloads_scan import ScanResult, scan_downloads
from cowrieprocessor.db.jobs import RUNNING, STOPPED
from cowrieprocessor.errors import DatabaseError, InputError
from cowrieprocessor.events import utc_text
from cowrieprocessor.jobs.runtime.backoff import Backoff
from cowrieprocessor.jobs.runtime.path_lock import PathLock, lock_paths_when_free, wait_out
from cowrieprocessor.jobs.watch.watcher import Watcher

KIND = "scan"
TOLD = ("new", "completed", "leftovers", "sizes_set", "artifacts", "bytes_read")
"""What of a scan is added up over all scans of a watch."""

LOCK_TIMEOUT_S = 10.0
"""How long a watch waits for another writer before it says so and looks whether it should stop."""

REST_PER_LOOK = 9.0
"""Looking at one folder takes one part of the time at most, resting so many."""


@dataclass(frozen=True, slots=True)
class Downloads:
    """A folder of captured files.

    Attributes:
        path: where it is.
        sensor: whose it is, if that is known.
    """

    path: Path
    sensor: str | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """When is looked, in seconds.

    Attributes:
        settled_s: a file is scanned when it has not changed for so long.
        whole_every_s: the whole folder is scanned so often.
        missing_s: a folder that cannot be read is tried again after so long.
    """

    settled_s: float = 2.0
    whole_every_s: float = 600.0
    missing_s: float = 10.0


@dataclass(slots=True)
class WatchResult:
    """What a watch did.

    Attributes:
        scans: how many scans stored something.
        counters: by folder, as it was named, the sums over all its scans.
        duration_s: from beginning to end.
    """

    scans: int = 0
    counters: dict[str, Counter[str]] = field(default_factory=dict)
    duration_s: float = 0.0


def watch_downloads(
    engine: Engine,
    folders: Sequence[Downloads],
    *,
    rehash: bool = False,
    poll_s: float | None = None,
    stop: Event,
    say: Callable[[str], None] = lambda _text: None,
    on_scan: Callable[[ScanResult], None] = lambda _result: None,
    timing: Timing | None = None,
) -> WatchResult:
    """Take up what lies in folders of captured files, and then whatever comes into them.

    Args:
        engine: the database; a new one is made ready. Its `lock_timeout_s` is how long a stop may take.
        folders: what to watch; a folder that is not there yet is waited for.
        rehash: read every file again in the first scan, also those that the database knows.
        poll_s: look every so many seconds instead of being told by the kernel.
        stop: once set, what was scanned is committed file by file or not at all, and it ends.
        say: told in one line what an operator has to know.
        on_scan: told about each scan.
        timing: when is looked.

    Raises:
        AlreadyFollowed: another process of this machine watches one of the folders; it is named.
        MigrationNeeded: a v3 database.
        JobTaken: another process watches them now, or the file of the database is another one.
        DatabaseError: one that does not pass by itself, or that met us before we began and is no lock.
    """
    began = time.monotonic()
    result = WatchResult()
    with ExitStack() as stack:
        held = lock_paths_when_free(stack, engine, KIND, [folder.path for folder in folders], stop=stop, say=say)
        if held is not None:
            watch = _Watch(engine, folders, rehash, held, stop, say, on_scan, timing or Timing(), result)
            watcher = Watcher(
                lambda: [folder.path for folder in folders], poll_s=poll_s, say=say, wanted=_may_be_captured
            )
            watch.run(stack.enter_context(watcher))
            held.ends_as = STOPPED, "asked to stop; the same command goes on from here"
    result.duration_s = time.monotonic() - began
    return result


def _may_be_captured(path: str) -> bool:
    """Return whether a file is named as captured ones are."""
    return sha256_of_name(Path(path).name) is not None


class ScanStopped(Exception):
    """A scan was asked to stop between two files; those that were not written yet come again in the next one."""


class _Folder:
    """A folder, and when it is to be looked at; `*_at` is by the clock that only goes up.

    Attributes:
        whole_at: when the whole of it is scanned.
        look_at: when it is looked for files that changed; None while nothing is known to have.
        done_until: files that changed before are scanned, in seconds since 1970 by the kernel's clock.
        rested_at: not before.
        named: files of which was said what is wrong with them.
        trouble: why it could not be read, as it was said.
    """

    def __init__(self, downloads: Downloads) -> None:
        self.path = downloads.path
        self.sensor = downloads.sensor
        self.whole_at = 0.0
        self.look_at: float | None = None
        self.done_until = 0.0
        self.rested_at = 0.0
        self.named: set[str] = set()
        self.trouble: str | None = None

    def due_at(self) -> float:
        """Return when it is to be looked at next."""
        soonest = self.whole_at if self.look_at is None else min(self.whole_at, self.look_at)
        return max(soonest, self.rested_at)


class Sieve:
    """Tells the files to scan now from those that changed only just now, and those that are done.

    Args:
        since: files that changed before are done; None: every entry that did not just change is to be looked at.
        settled_s: how long a file must not have changed.
        clock: seconds since 1970.

    Attributes:
        until: files that changed then or later have to wait; seconds since 1970.
        has_fresh: there are such files.
    """

    def __init__(self, since: float | None, settled_s: float, clock: Callable[[], float] = time.time) -> None:
        self._since = since
        self._clock = clock
        self.until = clock() - settled_s
        self.has_fresh = False

    def __call__(self, entry: os.DirEntry[str]) -> bool:
        """Return whether this entry is to be scanned."""
        if sha256_of_name(entry.name) is None:
            return self._since is None
        try:
            changed_at = entry.stat(follow_symlinks=False).st_ctime
        except OSError:
            return self._since is None
        if self.until <= changed_at <= self._clock():
            self.has_fresh = True
            return False
        return self._since is None or self._since <= changed_at < self.until


class _Watch:
    """Scans what is due, tells what came of it, and waits for the next time."""

    def __init__(
        self,
        engine: Engine,
        folders: Sequence[Downloads],
        rehash: bool,
        held: PathLock,
        stop: Event,
        say: Callable[[str], None],
        on_scan: Callable[[ScanResult], None],
        timing: Timing,
        result: WatchResult,
    ) -> None:
        self._engine = engine
        self._folders = [_Folder(folder) for folder in folders]
        self._rehash = {folder.path for folder in folders} if rehash else set()
        self._held = held
        self._stop = stop
        self._say = say
        self._on_scan = on_scan
        self._timing = timing
        self._patience = Backoff(say)
        self._scans = 0
        self._last_scan_at: str | None = None
        self.result = result

    def run(self, watcher: Watcher) -> None:
        """Scan until it is time to stop."""
        while not self._stop.is_set():
            began, scans_before = time.monotonic(), self._scans
            try:
                due = [folder for folder in self._folders if folder.due_at() <= began]
                if due:
                    self._held.require_same_database()
                for folder in due:
                    self._visit(folder)
                self._held.say(RUNNING, facts=self._facts())
            except ScanStopped:
                return
            except DatabaseError as error:
                wait_out(error, self._held, self._patience, self._stop)
                continue
            self._patience.over()
            if due and self._scans == scans_before:
                watcher.found_nothing(time.monotonic() - began)
            due_at = min(folder.due_at() for folder in self._folders)
            left_s = min(due_at - time.monotonic(), self._timing.missing_s)
            self._note(watcher.wait(max(0.0, left_s), self._stop))

    def _note(self, changed: frozenset[Path] | None) -> None:
        """Take note of what the watcher told."""
        now = time.monotonic()
        for folder in self._folders:
            if changed is None or any(path.parent == folder.path and sha256_of_name(path.name) for path in changed):
                folder.look_at = now if folder.look_at is None else folder.look_at
                if folder.trouble is not None:
                    folder.whole_at = now

    def _visit(self, folder: _Folder) -> None:
        """Scan a folder whole, or what changed in it."""
        began = time.monotonic()
        is_whole = folder.whole_at <= began
        try:
            sieve = self._scan_all(folder) if is_whole else self._scan_changed(folder)
        except InputError as error:
            self._tell_trouble(folder, str(error))
            folder.whole_at, folder.look_at = time.monotonic() + self._timing.missing_s, None
            return
        now = time.monotonic()
        folder.trouble = None
        folder.done_until = sieve.until
        folder.look_at = now + self._timing.settled_s if sieve.has_fresh else None
        folder.rested_at = now + min(self._timing.whole_every_s, REST_PER_LOOK * (now - began))
        if is_whole:
            folder.whole_at = now + self._timing.whole_every_s
            self._rehash.discard(folder.path)

    def _scan_all(self, folder: _Folder) -> Sieve:
        sieve = Sieve(None, self._timing.settled_s)
        result = self._scan(folder, sieve)
        folder.named &= {*result.mismatched, *result.unreadable}
        return sieve

    def _scan_changed(self, folder: _Folder) -> Sieve:
        """Scan what changed since the last look, if anything did that may be a captured file."""
        sieve = Sieve(folder.done_until, self._timing.settled_s)
        try:
            with os.scandir(folder.path) as entries:
                is_due = sum(map(sieve, entries)) > 0
        except OSError:
            return self._scan_all(folder)  # it says what is the matter
        if is_due:
            self._scan(folder, sieve)
        return sieve

    def _scan(self, folder: _Folder, sieve: Sieve) -> ScanResult:
        result = scan_downloads(
            self._engine,
            folder.path,
            sensor=folder.sensor,
            rehash=folder.path in self._rehash,
            is_wanted=sieve,
            on_progress=self._stop_if_asked,
        )
        self._scans += 1
        counters = self.result.counters.setdefault(result.directory, Counter())
        counters.update({name: count for name in TOLD if (count := getattr(result, name))})
        self.result.scans += has_news(result)
        self._last_scan_at = utc_text(dt.datetime.now(dt.UTC))[:19]
        sieve.has_fresh |= result.left_alone["changing"] > 0
        self._tell(folder, result)
        self._on_scan(result)
        return result

    def _facts(self) -> dict[str, object]:
        return {} if self._last_scan_at is None else {"last_scan_at": self._last_scan_at}

    def _stop_if_asked(self, _result: ScanResult, _entries: int) -> None:
        if self._stop.is_set():
            raise ScanStopped("asked to stop; the next scan takes up the rest")

    def _tell(self, folder: _Folder, result: ScanResult) -> None:
        """Say which files have something wrong with them, each once."""
        for names, what in (
            (result.mismatched, "its content is not what its name says; it is not stored"),
            (result.unreadable, "it could not be read"),
        ):
            for name in names:
                if name not in folder.named:
                    self._say(f"warning: {result.directory}/{name}: {what}")
        folder.named.update(result.mismatched, result.unreadable)

    def _tell_trouble(self, folder: _Folder, trouble: str) -> None:
        if folder.trouble != trouble:
            self._say(f"waiting: {trouble}. It is tried again by itself")
        folder.trouble = trouble


def has_news(result: ScanResult) -> bool:
    """Return whether a scan stored something that the database did not have."""
    return bool(result.new or result.completed or result.sizes_set or result.artifacts)
