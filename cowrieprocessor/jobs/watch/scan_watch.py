"""Watches folders of captured files and stores new ones soon after they appear, until it is stopped.

The watcher reports that a folder changed. The changed files are found in the folder itself: those with a ctime after
the last scan, which a rename updates, too. A file is scanned when it has not changed for two seconds, so that one that
is still being copied is not reported as a mismatch. Every ten minutes the whole folder is scanned, which finds the
output of redirects, and files of which a notification was lost.
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
from cowrieprocessor.analysis.downloads_scan import ScanLimits, ScanResult, scan_downloads
from cowrieprocessor.clock import pause
from cowrieprocessor.errors import ConfigurationError, DatabaseError, InputError
from cowrieprocessor.events import utc_text
from cowrieprocessor.jobs.runtime.backoff import Backoff
from cowrieprocessor.jobs.watch.watch_job import REQUESTS_S, WatchJob, begin_watch
from cowrieprocessor.jobs.watch.watcher import Watcher

KIND = "scan"
TOTALS = ("new", "completed", "leftovers", "sizes_set", "artifacts", "bytes_read")
"""The counters of a scan that are summed over all scans of a watch."""

LOCK_TIMEOUT_S = 10.0
"""How long a watch waits for another writer before it reports that and checks whether it should stop."""

REST_PER_SCAN = 9.0
"""The ratio of the time between scans of one folder to the duration of a scan."""


@dataclass(frozen=True, slots=True)
class Downloads:
    """A folder of captured files.

    Attributes:
        path: the folder.
        sensor: its sensor, if known.
    """

    path: Path
    sensor: str | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """When folders are scanned, in seconds.

    Attributes:
        settled_s: a file is scanned when it has not changed for this time.
        whole_every_s: interval between scans of a whole folder.
        missing_s: time after which an unreadable folder is tried again.
    """

    settled_s: float = 2.0
    whole_every_s: float = 600.0
    missing_s: float = 10.0


@dataclass(slots=True)
class WatchResult:
    """What a watch did.

    Attributes:
        scans: number of scans that stored something.
        counters: sums over all scans, by folder as given.
        duration_s: its run time.
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
    notify: Callable[[str], None] = lambda _text: None,
    on_scan: Callable[[ScanResult], None] = lambda _result: None,
    timing: Timing | None = None,
    limits: ScanLimits | None = None,
) -> WatchResult:
    """Store the files in folders of captured files, and then whatever is added to them.

    Args:
        engine: the database; a new one is created with its schema. Its `lock_timeout_s` bounds how long a stop takes.
        folders: the folders; missing ones may appear later.
        rehash: read every file again in the first scan, including those in the database.
        poll_s: scan at this interval in seconds instead of using inotify.
        stop: once set, the watch ends between two files; files that are not committed yet come again next time.
            `jobs stop` sets it, too.
        notify: called with one line of text for the operator.
        on_scan: called after each scan.
        timing: when folders are scanned.
        limits: how much a scan reads and writes at once.

    Raises:
        ConfigurationError: there is no folder.
        AlreadyFollowed: another process of this machine watches one of the folders; the message names it.
        MigrationNeeded: a v3 database.
        JobTaken: another process watches them now, or the database's file was replaced.
        DatabaseError: a permanent one, or one other than a lock during the start.
    """
    if not folders:
        raise ConfigurationError("no folder to watch; name one")
    began = time.monotonic()
    result = WatchResult()
    with ExitStack() as stack:
        job = begin_watch(stack, engine, KIND, [folder.path for folder in folders], stop=stop, notify=notify)
        if job is not None:
            watch = _Watch(
                engine, folders, rehash, job, stop, notify, on_scan, timing or Timing(), limits or ScanLimits(), result
            )
            watcher = Watcher(
                lambda: [folder.path for folder in folders], poll_s=poll_s, notify=notify, is_wanted=_may_be_captured
            )
            watch.run(stack.enter_context(watcher))
            job.ends_if_stopped()
    result.duration_s = time.monotonic() - began
    return result


def _may_be_captured(path: str) -> bool:
    """Return whether a file has the name of a captured file."""
    return sha256_of_name(Path(path).name) is not None


class ScanStopped(Exception):
    """A scan was asked to stop between two files; the next scan finds the files that were not written."""


class _Folder:
    """A folder and its schedule; all `*_at` are monotonic times.

    Attributes:
        full_scan_at: when the whole folder is scanned.
        scan_at: when it is scanned for changed files; None while no change is known.
        done_until: files with an earlier ctime are scanned; seconds since 1970 by the kernel's clock.
        rested_at: not to be scanned earlier.
        reported: files whose problem was reported.
        error: why it could not be read, as reported.
    """

    def __init__(self, downloads: Downloads) -> None:
        self.path = downloads.path
        self.sensor = downloads.sensor
        self.full_scan_at = 0.0
        self.scan_at: float | None = None
        self.done_until = 0.0
        self.rested_at = 0.0
        self.reported: set[str] = set()
        self.error: str | None = None

    def due_at(self) -> float:
        """Return when the folder is to be scanned next."""
        soonest = self.full_scan_at if self.scan_at is None else min(self.full_scan_at, self.scan_at)
        return max(soonest, self.rested_at)


class Sieve:
    """Selects the files to scan now, excluding those that just changed and those that are done.

    Args:
        since: files with an earlier ctime are done; None selects every entry that did not just change.
        settled_s: how long a file must be unchanged, in seconds.
        clock: seconds since 1970.

    Attributes:
        until: files with this ctime or a later one have to wait; seconds since 1970.
        has_fresh: whether there are such files.
    """

    def __init__(self, since: float | None, settled_s: float, clock: Callable[[], float] = time.time) -> None:
        self._since = since
        self._clock = clock
        self.until = clock() - settled_s
        self.has_fresh = False

    def __call__(self, entry: os.DirEntry[str]) -> bool:
        """Return whether to scan this entry."""
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
    """Scans the folders that are due, reports the results, and waits for the next change."""

    def __init__(
        self,
        engine: Engine,
        folders: Sequence[Downloads],
        rehash: bool,
        job: WatchJob,
        stop: Event,
        notify: Callable[[str], None],
        on_scan: Callable[[ScanResult], None],
        timing: Timing,
        limits: ScanLimits,
        result: WatchResult,
    ) -> None:
        self._engine = engine
        self._folders = [_Folder(folder) for folder in folders]
        self._rehash = {folder.path for folder in folders} if rehash else set()
        self._job = job
        self._stop = stop
        self._notify = notify
        self._on_scan = on_scan
        self._timing = timing
        self._limits = limits
        self._backoff = Backoff(notify)
        self._scans = 0
        self._files = self._shown_files = 0
        self._last_scan_at: str | None = None
        self.result = result

    def run(self, watcher: Watcher) -> None:
        """Scan until `stop` is set."""
        while not self._stop.is_set():
            began, scans_before = time.monotonic(), self._scans
            try:
                if self._job.wait_while_paused(lambda: self._schedule(watcher.wait(REQUESTS_S, self._stop))):
                    continue
                has_visited = self._visit_due(began)
                self._job.heartbeat(self._facts())
            except ScanStopped:
                return
            except DatabaseError as error:
                self._job.wait_out(error, self._backoff)
                continue
            self._backoff.succeeded()
            if has_visited and self._scans == scans_before:
                watcher.record_idle_scan(time.monotonic() - began)
            self._schedule(watcher.wait(self._timeout_s(), self._stop))

    def _visit_due(self, now: float) -> bool:
        """Scan the folders that are due; return whether there were any."""
        due = [folder for folder in self._folders if folder.due_at() <= now]
        if due:
            self._job.require_same_database()
        for folder in due:
            self._visit(folder)
        return bool(due)

    def _timeout_s(self) -> float:
        """Return the time until a folder is due, at most until a missing one is tried again or requests looked for."""
        due_at = min(folder.due_at() for folder in self._folders)
        return max(0.0, min(due_at - time.monotonic(), self._timing.missing_s, REQUESTS_S))

    def _schedule(self, changed: frozenset[Path] | None) -> None:
        """Schedule scans of the folders in which files changed; None stands for all folders."""
        now = time.monotonic()
        for folder in self._folders:
            if changed is None or any(path.parent == folder.path and sha256_of_name(path.name) for path in changed):
                folder.scan_at = now if folder.scan_at is None else folder.scan_at
                if folder.error is not None:
                    folder.full_scan_at = now

    def _visit(self, folder: _Folder) -> None:
        """Scan a whole folder, or the files that changed in it."""
        began = time.monotonic()
        is_full_scan = folder.full_scan_at <= began
        try:
            sieve = self._scan_all(folder) if is_full_scan else self._scan_changed(folder)
        except InputError as error:
            self._report_error(folder, str(error))
            folder.full_scan_at, folder.scan_at = time.monotonic() + self._timing.missing_s, None
            return
        now = time.monotonic()
        folder.error = None
        folder.done_until = sieve.until
        folder.scan_at = now + self._timing.settled_s if sieve.has_fresh else None
        folder.rested_at = now + min(self._timing.whole_every_s, REST_PER_SCAN * (now - began))
        if is_full_scan:
            folder.full_scan_at = now + self._timing.whole_every_s
            self._rehash.discard(folder.path)

    def _scan_all(self, folder: _Folder) -> Sieve:
        sieve = Sieve(None, self._timing.settled_s)
        result = self._scan(folder, sieve)
        folder.reported &= {*result.mismatched, *result.unreadable}
        return sieve

    def _scan_changed(self, folder: _Folder) -> Sieve:
        """Scan the files that changed since the last scan, if any of them may be a captured file."""
        sieve = Sieve(folder.done_until, self._timing.settled_s)
        try:
            with os.scandir(folder.path) as entries:
                is_due = sum(map(sieve, entries)) > 0
        except OSError:
            return self._scan_all(folder)  # which raises the error with its message
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
            on_progress=self._on_file,
            limits=self._limits,
        )
        self._scans += 1
        self._files += result.new + result.completed
        self._show(self._files)
        counters = self.result.counters.setdefault(result.directory, Counter())
        counters.update({name: count for name in TOTALS if (count := getattr(result, name))})
        self.result.scans += has_news(result)
        self._last_scan_at = utc_text(dt.datetime.now(dt.UTC))[:19]
        sieve.has_fresh |= result.left_alone["changing"] > 0
        self._report(folder, result)
        self._on_scan(result)
        return result

    def _facts(self) -> dict[str, object]:
        return {} if self._last_scan_at is None else {"last_scan_at": self._last_scan_at}

    def _on_file(self, result: ScanResult, _entries: int) -> None:
        """Report progress, and wait while the job is paused.

        Raises:
            ScanStopped: the watch shall end.
        """
        if self._job.is_interrupted():
            self._job.wait_while_paused(lambda: pause(REQUESTS_S, self._stop))
            if self._stop.is_set():
                raise ScanStopped("asked to stop; the next scan stores the rest")
        self._show(self._files + result.new + result.completed)

    def _show(self, files: int) -> None:
        if files != self._shown_files:
            self._shown_files = files
            self._job.progress(files, "files")

    def _report(self, folder: _Folder, result: ScanResult) -> None:
        """Report files with a problem, each once."""
        for names, problem in (
            (result.mismatched, "its content is not what its name says; it is not stored"),
            (result.unreadable, "it could not be read"),
        ):
            for name in names:
                if name not in folder.reported:
                    self._notify(f"warning: {result.directory}/{name}: {problem}")
        folder.reported.update(result.mismatched, result.unreadable)

    def _report_error(self, folder: _Folder, error: str) -> None:
        if folder.error != error:
            self._notify(f"waiting: {error}. It is retried until it works")
        folder.error = error


def has_news(result: ScanResult) -> bool:
    """Return whether a scan stored anything new."""
    return bool(result.new or result.completed or result.sizes_set or result.artifacts)
