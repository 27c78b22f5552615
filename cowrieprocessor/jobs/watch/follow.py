"""Follows logs: stores new events as logs grow, until it is stopped.

The loader finds what is new, the watcher when to poll. This module adds a lock on the files, retries after transient
database errors, and messages to the operator.
"""

from __future__ import annotations

import datetime as dt
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from sqlalchemy import Engine

from cowrieprocessor.clock import pause
from cowrieprocessor.errors import DatabaseError, DatabaseLocked
from cowrieprocessor.events import utc_text
from cowrieprocessor.jobs.runtime.backoff import Backoff, BackoffTiming
from cowrieprocessor.jobs.watch.poller import POLL_S
from cowrieprocessor.jobs.watch.watch_job import REQUESTS_S, WatchJob, begin_watch
from cowrieprocessor.jobs.watch.watcher import Watcher
from cowrieprocessor.loader.delta import DeltaLoader, Gap, PollResult
from cowrieprocessor.loader.follow.timing import FollowTiming
from cowrieprocessor.loader.log_loading import FAILED, FileResult, LoadProgress
from cowrieprocessor.loader.reading.discovery import existing_logs
from cowrieprocessor.loader.rows.batch import DEAD_LETTERS, EVENTS
from cowrieprocessor.sanitize import inert
from cowrieprocessor.settings import Settings
from cowrieprocessor.wording import destroyed

KIND = "follow"
LOCK_TIMEOUT_S = 10.0
"""How long a follower waits for another writer before it reports that and checks whether it should stop."""

LONGEST_REST_S = 0.8
LONG_POLL_S = 1.0
MANY_EVENTS_PER_S = 10_000


@dataclass(frozen=True, slots=True)
class FollowJobTiming:
    """How long a follower waits.

    Attributes:
        archives_s: how long `once` waits for archives that are still being written, in seconds.
        backoff: the waits after transient database errors.
        loader: when the loader polls again, and how long changed files take to settle.
    """

    archives_s: float = 30.0
    backoff: BackoffTiming = field(default_factory=BackoffTiming)
    loader: FollowTiming = field(default_factory=FollowTiming)


@dataclass(slots=True)
class FollowResult:
    """What a follower did.

    Attributes:
        counters: sums over all polls.
        files: with `once`, files with stored events or errors.
        gaps: with `once`, the lost bytes by log.
        losses: number of times that bytes were lost.
        bytes_lost: number of lost bytes.
        polls: number of polls.
        stopped: whether it was asked to stop; False if it polled once as requested.
        duration_s: its run time.
    """

    counters: Counter[str] = field(default_factory=Counter)
    files: list[FileResult] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    losses: int = 0
    bytes_lost: int = 0
    polls: int = 0
    stopped: bool = False
    duration_s: float = 0.0

    @property
    def failed(self) -> list[FileResult]:
        """The files that could not be read to their end."""
        return [file for file in self.files if file.state == FAILED]


def follow(
    engine: Engine,
    paths: Sequence[Path],
    settings: Settings,
    *,
    once: bool = False,
    poll_s: float | None = None,
    stop: Event,
    notify: Callable[[str], None] = lambda _text: None,
    on_poll: Callable[[PollResult], None] = lambda _result: None,
    on_progress: Callable[[LoadProgress], None] | None = None,
    timing: FollowJobTiming | None = None,
) -> FollowResult:
    """Store the events of logs that are not stored yet, and then whatever is appended.

    Args:
        engine: the database; a new one is created with its schema. Its `lock_timeout_s` bounds how long a stop takes.
        paths: logs, each including the rotated ones next to it, and folders of logs; missing ones may appear later.
        settings: limits and batch size.
        once: poll once instead of following.
        poll_s: poll at this interval in seconds instead of using inotify.
        stop: once set, the current batch is committed and the follower ends; `jobs stop` sets it, too.
        notify: called with one line of text for the operator.
        on_poll: called after each poll.
        on_progress: called after each batch.
        timing: how long it waits.

    Raises:
        AlreadyFollowed: another process of this machine follows one of the paths; the message names it.
        MigrationNeeded: a v3 database.
        JobTaken: another process follows them now, or the database's file was replaced.
        DatabaseError: with `once` any; else a permanent one, or one other than a lock during the start.
    """
    began = time.monotonic()
    result = FollowResult()
    timing = timing or FollowJobTiming()
    with ExitStack() as stack:
        job = begin_watch(
            stack, engine, KIND, paths, stop=stop, notify=notify, keeps_waiting=not once, backoff=timing.backoff
        )
        if job is not None:
            shown = _Shown(job, result, on_progress)
            loader = stack.enter_context(
                DeltaLoader(
                    engine,
                    paths,
                    settings=settings,
                    job=job.name,
                    on_progress=shown.on_batch,
                    stop=job.is_interrupted,
                    timing=timing.loader,
                )
            )
            for note in _notes_on_missing(paths):
                notify(f"note: {note}")
            follower = _Follower(loader, job, stop, notify, on_poll, shown, timing, result)
            if once:
                follower.poll_once()
            else:
                links = Links(paths)
                watcher = Watcher(
                    lambda: [*loader.folders, *links.folders()],
                    poll_s=poll_s,
                    notify=notify,
                    is_wanted=lambda path: loader.is_wanted(path) or links.lead_to(path),
                )
                follower.run(stack.enter_context(watcher), links)
            follower.save_positions()
            job.ends_if_stopped()
        result.stopped = stop.is_set()
    result.duration_s = time.monotonic() - began
    return result


def _notes_on_missing(paths: Sequence[Path]) -> Iterator[str]:
    """Yield a note on each path where there is no log nor a rotated one of it, and on each folder without logs."""
    for path in paths:
        is_folder = os.path.isdir(path)  # noqa: PTH112 - is_dir() raises where a right is missing
        if (os.path.lexists(path) and not is_folder) or existing_logs([path.absolute()]):
            continue
        if not is_folder:
            yield f"{inert(str(path))}: nothing is there yet; check the path, if its honeypot has begun a log"
        elif os.access(path, os.R_OK | os.X_OK):
            yield f"{inert(str(path))}: no logs in this folder yet; check the path, if its honeypot has begun a log"


class _Shown:
    """Shows what was stored: to the caller after each batch, in the job now and then.

    Args:
        job: the job.
        result: what all finished polls did.
        on_progress: called after each batch.
    """

    def __init__(self, job: WatchJob, result: FollowResult, on_progress: Callable[[LoadProgress], None] | None) -> None:
        self._job = job
        self._result = result
        self._on_progress = on_progress
        self._by_path: dict[str, int] = {}
        self._done = 0

    def on_batch(self, now: LoadProgress) -> None:
        """Show a batch.

        Raises:
            JobTaken: the database's file was replaced, which so ends long polls, too.
        """
        self._job.require_same_database()
        self._by_path[now.path] = now.events
        self._show()
        if self._on_progress is not None:
            self._on_progress(now)

    def poll_finished(self) -> None:
        """Show what a poll stored."""
        self._by_path.clear()
        self._show()

    def _show(self) -> None:
        counters = self._result.counters
        done = counters[EVENTS] + counters[DEAD_LETTERS] + sum(self._by_path.values())
        if done != self._done:
            self._done = done
            self._job.progress(done, "events")


class _Follower:
    """Polls, reports the result, and waits for the next change."""

    def __init__(
        self,
        loader: DeltaLoader,
        job: WatchJob,
        stop: Event,
        notify: Callable[[str], None],
        on_poll: Callable[[PollResult], None],
        shown: _Shown,
        timing: FollowJobTiming,
        result: FollowResult,
    ) -> None:
        self._loader = loader
        self._job = job
        self._stop = stop
        self._notify = notify
        self._on_poll = on_poll
        self._shown = shown
        self._timing = timing
        self._backoff = Backoff(notify, timing=timing.backoff)
        self._reported: dict[str, tuple[str, ...]] = {}
        self._last_event_at: str | None = None
        self._result = result

    def run(self, watcher: Watcher, links: Links) -> None:
        """Poll until `stop` is set.

        Raises:
            JobTaken: another process follows the files now, or the database's file was replaced.
            DatabaseError: a permanent one.
        """
        changed: frozenset[Path] | None = None
        again_at: float | None = None
        while not self._stop.is_set():
            try:
                if self._hold_while_paused(watcher):
                    changed = None
                    continue
                if changed is None or changed:
                    began = time.monotonic()
                    result = self.poll(changed)
                    poll_s = time.monotonic() - began
                    again_at = _earlier(None if changed is None else again_at, result.again_in_s)
                    if changed is None and not result.files:
                        watcher.record_idle_scan(poll_s)
                    pause(_rest_s(poll_s, result.counters[EVENTS]), self._stop)
                self._job.heartbeat(self._facts())
            except DatabaseError as error:
                self._job.wait_out(error, self._backoff)
                changed = None
                continue
            self._backoff.succeeded()
            changed = links.as_named(watcher.wait(_timeout_s(again_at), self._stop))
            if again_at is not None and time.monotonic() >= again_at:
                changed = None

    def poll_once(self) -> None:
        """Poll all logs, again while a file is still being written; wait for locks no longer than the engine does.

        Raises:
            DatabaseError: the database fails; what was committed is kept.
        """
        until = time.monotonic() + self._timing.archives_s
        try:
            while True:
                if self._hold_while_paused(None):
                    until = time.monotonic() + self._timing.archives_s
                result = self.poll(None)
                self._result.files += result.files
                self._result.gaps += result.gaps
                is_done = result.is_whole and not result.deferred and not result.is_undecided
                if self._job.is_interrupted() and not self._stop.is_set():
                    continue
                if is_done or self._stop.is_set() or time.monotonic() >= until:
                    break
                pause(result.again_in_s or 0.0, self._stop)
        except DatabaseLocked:
            if not self._stop.is_set():  # else `stop` ended the wait for the lock
                raise
            return
        if result.deferred:
            self._notify(f"note: archives that are still being written are left for the next time: {result.deferred:,}")

    def poll(self, changed: Collection[Path] | None) -> PollResult:
        """Poll all logs, or those that changed, and report the result.

        Raises:
            JobTaken: the database's file was replaced; nothing was stored.
            DatabaseError: the database fails.
        """
        self._job.require_same_database()
        result = self._loader.poll(changed)
        self._result.polls += 1
        self._result.counters.update(result.counters)
        self._shown.poll_finished()
        if result.counters:
            self._last_event_at = utc_text(dt.datetime.now(dt.UTC))[:19]
        for file in result.files:
            self._report(file)
        for gap in result.gaps:
            self._result.losses += 1
            self._result.bytes_lost += gap.bytes_lost
            self._notify(
                f"lost: {gap.path}: {destroyed(gap.bytes_lost)}; "
                "see docs/follow.md on how logs are rotated without loss"
            )
        self._on_poll(result)
        return result

    def save_positions(self) -> None:
        """Store the position reached in each log, so that the next follower starts faster."""
        try:
            self._job.require_same_database()
            self._loader.close()
        except DatabaseError as error:
            self._notify(
                f"note: where each log stands could not be written down, so the next start takes longer: {error}"
            )

    def _hold_while_paused(self, watcher: Watcher | None) -> bool:
        """Store nothing while the job is paused, and keep the logs open; return whether it was paused.

        Raises:
            JobTaken, DatabaseError: see `WatchJob.wait_while_paused`.
        """
        changed: frozenset[Path] | None = None

        def wait() -> None:
            nonlocal changed
            if changed is None:
                self._loader.hold()
            if watcher is not None:
                changed = watcher.wait(REQUESTS_S, self._stop)
            else:
                pause(POLL_S, self._stop)

        return self._job.wait_while_paused(wait)

    def _report(self, file: FileResult) -> None:
        """Report the warnings and the error of a file, unless they are the same as last time."""
        messages = (
            *(f"note: {warning}" for warning in file.warnings),
            *([f"error: {file.error}"] if file.error else ()),
        )
        if messages != self._reported.get(file.path, ()):
            for text in messages:
                self._notify(text)
        if messages:
            self._reported[file.path] = messages
        else:
            self._reported.pop(file.path, None)

    def _facts(self) -> dict[str, object]:
        return {} if self._last_event_at is None else {"last_event_at": self._last_event_at}


class Links:
    """Followed logs that are links: a write to one is reported in the folder of its target, not of the link.

    Args:
        paths: the followed paths, as given.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._links: dict[str, Path] = {}

    def folders(self) -> list[Path]:
        """Return the folders of the current targets; links may change at any time."""
        self._links = {os.path.realpath(path): path.absolute() for path in self._paths if path.is_symlink()}
        return [Path(real).parent for real in self._links]

    def lead_to(self, path: str) -> bool:
        """Return whether a path is the target of one of the links."""
        return path in self._links

    def as_named(self, changed: frozenset[Path] | None) -> frozenset[Path] | None:
        """Return the changed paths, with those of the links to them."""
        if not changed:
            return changed
        return changed | {self._links[str(path)] for path in changed if str(path) in self._links}


def _rest_s(poll_s: float, events: int) -> float:
    """Return the rest after a poll, chosen so that many busy logs take a third of a core and no log waits for long.

    There is none after a poll that took long or stored much, because more is to be expected.
    """
    if poll_s >= LONG_POLL_S or events > MANY_EVENTS_PER_S * poll_s:
        return 0.0
    return min(LONGEST_REST_S, 2 * poll_s)


def _earlier(at: float | None, in_s: float | None) -> float | None:
    """Return the earlier of two times, the second of which is given in seconds from now."""
    times = [moment for moment in (at, None if in_s is None else time.monotonic() + in_s) if moment is not None]
    return min(times, default=None)


def _timeout_s(until: float | None) -> float:
    """Return the time until a moment, at most until requests are looked for."""
    return REQUESTS_S if until is None else max(0.0, min(REQUESTS_S, until - time.monotonic()))
