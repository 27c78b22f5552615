"""Following logs as they grow: whatever is new goes into the database, until somebody says stop.

The loader knows what is new and the watcher when to look; here is what lies between: one follower for the same files,
trouble with the database that passes, and what an operator is told.
"""

from __future__ import annotations

import datetime as dt
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from sqlalchemy import Engine

from cowrieprocessor.clock import pause
from cowrieprocessor.db.jobs import RUNNING, STOPPED
from cowrieprocessor.errors import DatabaseError, DatabaseLocked
from cowrieprocessor.events import utc_text
from cowrieprocessor.jobs.runtime.backoff import Backoff
from cowrieprocessor.jobs.runtime.path_lock import SAY_EVERY_S, PathLock, lock_paths_when_free, wait_out
from cowrieprocessor.jobs.watch.watcher import Watcher
from cowrieprocessor.loader.delta import DeltaLoader, Gap, PollResult
from cowrieprocessor.loader.log_loading import FAILED, FileResult, LoadProgress
from cowrieprocessor.loader.reading.discovery import logs_there
from cowrieprocessor.loader.rows.batch import EVENTS
from cowrieprocessor.sanitize import inert
from cowrieprocessor.settings import Settings

KIND = "follow"
LOCK_TIMEOUT_S = 10.0
"""How long a follower waits for another writer before it says so and looks whether it should stop."""

LONGEST_REST_S = 0.8
LONG_LOOK_S = 1.0
MANY_EVENTS_PER_S = 10_000

ARCHIVES_S = 30.0
"""How long `once` waits for archives that are still being written."""


@dataclass(slots=True)
class FollowResult:
    """What a follower did.

    Attributes:
        counters: the sums over all its looks.
        files: with `once`, those that something was stored of, or that could not be read.
        gaps: with `once`, what was lost, by log.
        losses: how often bytes were lost.
        bytes_lost: how many.
        looks: how often it looked.
        stopped: it was asked to stop; else it had looked once, as it was told.
        duration_s: from beginning to end.
    """

    counters: Counter[str] = field(default_factory=Counter)
    files: list[FileResult] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    losses: int = 0
    bytes_lost: int = 0
    looks: int = 0
    stopped: bool = False
    duration_s: float = 0.0

    @property
    def failed(self) -> list[FileResult]:
        """The files that could not be read to their end."""
        return [one for one in self.files if one.state == FAILED]


def follow(
    engine: Engine,
    paths: Sequence[Path],
    settings: Settings,
    *,
    once: bool = False,
    poll_s: float | None = None,
    stop: Event,
    say: Callable[[str], None] = lambda _text: None,
    on_look: Callable[[PollResult], None] = lambda _look: None,
    on_progress: Callable[[LoadProgress], None] | None = None,
) -> FollowResult:
    """Store what logs hold that is not stored yet, and then whatever is added to them.

    Args:
        engine: the database; a new one is made ready. Its `lock_timeout_s` is how long a stop may take.
        paths: logs, each with its rotated ones beside it, and folders of logs; what is not there yet is waited for.
        settings: limits and batch size.
        once: look once instead of going on.
        poll_s: look every so many seconds instead of being told by the kernel.
        stop: once set, the current batch is committed and it ends.
        say: told in one line what an operator has to know.
        on_look: told about each look.
        on_progress: told after each batch.

    Raises:
        AlreadyFollowed: another process of this machine follows one of the paths; it is named.
        MigrationNeeded: a v3 database.
        JobTaken: another process follows them now, or the file of the database is another one.
        DatabaseError: with `once` any; else one that does not pass by itself, or that met us before we began and is no
            lock.
    """
    began = time.monotonic()
    result = FollowResult()
    with ExitStack() as stack:
        held = lock_paths_when_free(stack, engine, KIND, paths, stop=stop, say=say, is_patient=not once)
        if held is not None:
            loader = stack.enter_context(
                DeltaLoader(
                    engine,
                    paths,
                    settings=settings,
                    job=held.name,
                    on_progress=_while_same(held, on_progress),
                    stop=stop.is_set,
                )
            )
            for path in (path for path in paths if not os.path.lexists(path) and not logs_there([path.absolute()])):
                say(f"note: {inert(str(path))}: nothing is there yet; check the path, if its honeypot has begun a log")
            follower = _Follower(loader, held, stop, say, on_look, result)
            if once:
                follower.look_once()
            else:
                links = Links(paths)
                watcher = Watcher(
                    lambda: [*loader.folders, *links.folders()],
                    poll_s=poll_s,
                    say=say,
                    wanted=lambda path: loader.is_wanted(path) or links.lead_to(path),
                )
                follower.run(stack.enter_context(watcher), links)
            follower.leave()
        if stop.is_set():
            result.stopped = True
            if held is not None:
                held.ends_as = STOPPED, "asked to stop; the same command goes on from here"
    result.duration_s = time.monotonic() - began
    return result


class _Follower:
    """Looks, tells what came of it, and waits for the next time."""

    def __init__(
        self,
        loader: DeltaLoader,
        held: PathLock,
        stop: Event,
        say: Callable[[str], None],
        on_look: Callable[[PollResult], None],
        result: FollowResult,
    ) -> None:
        self._loader = loader
        self._held = held
        self._stop = stop
        self._say = say
        self._on_look = on_look
        self._patience = Backoff(say)
        self._said: dict[str, tuple[str, ...]] = {}
        self._last_event_at: str | None = None
        self._result = result

    def run(self, watcher: Watcher, links: Links) -> None:
        """Look until it is time to stop.

        Raises:
            JobTaken: another process follows the files now, or the file of the database is another one.
            DatabaseError: one that does not pass by itself.
        """
        changed: frozenset[Path] | None = None
        again_at: float | None = None
        while not self._stop.is_set():
            try:
                if changed is None or changed:
                    began = time.monotonic()
                    look = self.look(changed)
                    look_s = time.monotonic() - began
                    again_at = _sooner(None if changed is None else again_at, look.again_in_s)
                    if changed is None and not look.files:
                        watcher.found_nothing(look_s)
                    pause(_rest_s(look_s, look.counters[EVENTS]), self._stop)
                self._held.say(RUNNING, facts=self._facts())
            except DatabaseError as error:
                wait_out(error, self._held, self._patience, self._stop)
                changed = None
                continue
            self._patience.over()
            changed = links.as_named(watcher.wait(_left_s(again_at), self._stop))
            if again_at is not None and time.monotonic() >= again_at:
                changed = None

    def look_once(self) -> None:
        """Look at all logs, again when an archive was still being written; wait for others no longer than the engine.

        Raises:
            DatabaseError: the database does not serve; what was committed is kept.
        """
        until = time.monotonic() + ARCHIVES_S
        try:
            while True:
                look = self.look(None)
                self._result.files += look.files
                self._result.gaps += look.gaps
                is_done = look.is_whole and not look.deferred
                if is_done or self._stop.is_set() or time.monotonic() >= until:
                    break
                pause(look.again_in_s or 0.0, self._stop)
        except DatabaseLocked:
            if not self._stop.is_set():  # else the wait was ended, because it is to stop
                raise
            return
        if look.deferred:
            self._say(f"note: archives that are still being written are left for the next time: {look.deferred:,}")

    def look(self, changed: Collection[Path] | None) -> PollResult:
        """Look at all logs, or at those that changed, and tell what came of it.

        Raises:
            JobTaken: the file of the database is another one; nothing was stored.
            DatabaseError: the database does not serve.
        """
        self._held.require_same_database()
        look = self._loader.poll(changed)
        self._result.looks += 1
        self._result.counters.update(look.counters)
        if look.counters:
            self._last_event_at = utc_text(dt.datetime.now(dt.UTC))[:19]
        for one in look.files:
            self._tell(one)
        for gap in look.gaps:
            self._result.losses += 1
            self._result.bytes_lost += gap.bytes_lost
            self._say(
                f"lost: {gap.path}: {gap.bytes_lost:,} bytes were destroyed before they could be read; "
                "see docs/follow.md on how logs are rotated without loss"
            )
        self._on_look(look)
        return look

    def leave(self) -> None:
        """Write down where everything is, so that the next follower need not look at it."""
        try:
            self._held.require_same_database()
            self._loader.close()
        except DatabaseError as error:
            self._say(f"note: where each log stands could not be written down, so the next start takes longer: {error}")

    def _tell(self, one: FileResult) -> None:
        """Say what is wrong with a file, unless that was the last thing said about it."""
        words = (*(f"note: {warning}" for warning in one.warnings), *([f"error: {one.error}"] if one.error else ()))
        if words != self._said.get(one.path, ()):
            for word in words:
                self._say(word)
        if words:
            self._said[one.path] = words
        else:
            self._said.pop(one.path, None)

    def _facts(self) -> dict[str, object]:
        return {} if self._last_event_at is None else {"last_event_at": self._last_event_at}


class Links:
    """Logs that are named by a link: what is written to one is told where it lies, and not beside the link.

    Args:
        paths: what is followed, as it was named.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._links: dict[str, Path] = {}

    def folders(self) -> list[Path]:
        """Return where they lie now; links may be changed at any time."""
        self._links = {os.path.realpath(path): path.absolute() for path in self._paths if path.is_symlink()}
        return [Path(real).parent for real in self._links]

    def lead_to(self, path: str) -> bool:
        """Return whether a file is one of them, under the path that it has itself."""
        return path in self._links

    def as_named(self, changed: frozenset[Path] | None) -> frozenset[Path] | None:
        """Return what changed, also under the names by which it is followed."""
        if not changed:
            return changed
        return changed | {self._links[str(path)] for path in changed if str(path) in self._links}


def _while_same(held: PathLock, on_progress: Callable[[LoadProgress], None] | None) -> Callable[[LoadProgress], None]:
    """Return what is called after each batch: a long look ends, too, when the database's file is another one."""

    def on_batch(now: LoadProgress) -> None:
        held.require_same_database()
        if on_progress is not None:
            on_progress(now)

    return on_batch


def _rest_s(look_s: float, events: int) -> float:
    """Return how long to rest after a look, so that many busy logs take a third of a core and no log waits for long.

    A look that took long had much to store, and there will be more.
    """
    if look_s >= LONG_LOOK_S or events > MANY_EVENTS_PER_S * look_s:
        return 0.0
    return min(LONGEST_REST_S, 2 * look_s)


def _sooner(at: float | None, in_s: float | None) -> float | None:
    """Return the sooner of two moments, one of which is so many seconds from now."""
    moments = [moment for moment in (at, None if in_s is None else time.monotonic() + in_s) if moment is not None]
    return min(moments, default=None)


def _left_s(until: float | None) -> float:
    """Return how long to wait at most: until then, and no longer than we may be silent."""
    return SAY_EVERY_S if until is None else max(0.0, min(SAY_EVERY_S, until - time.monotonic()))
