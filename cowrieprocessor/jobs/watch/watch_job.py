"""The job of a process that watches files: locked paths, transient database errors, and requests of other processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Event

from sqlalchemy import Engine

from cowrieprocessor.clock import pause
from cowrieprocessor.db.jobs import DONE, PAUSED, STOPPED, WAITING
from cowrieprocessor.db.migrations import prepare
from cowrieprocessor.errors import DatabaseError, DatabaseLocked, JobStopped
from cowrieprocessor.jobs.runtime.backoff import Backoff, BackoffTiming, is_transient
from cowrieprocessor.jobs.runtime.database_file_guard import DatabaseFileGuard
from cowrieprocessor.jobs.runtime.job import STOPPED_BY_SIGNAL, Job
from cowrieprocessor.jobs.runtime.path_lock import lock_paths

REQUESTS_S = 5.0
"""How often a watch that waits for changes looks for requests of other processes."""


class WatchJob:
    """The job of a watch. Made by `begin_watch`.

    A request to stop sets `stop`, so that the watch ends as at a signal.

    Args:
        engine: the database.
        job: the record of the watch.
        stop: what the watch ends at.
        notify: called with one line of text for the operator.
    """

    def __init__(self, engine: Engine, job: Job, stop: Event, notify: Callable[[str], None]) -> None:
        self._file = DatabaseFileGuard(engine)
        self._job = job
        self._stop = stop
        self._notify = notify
        self._is_interrupted = False

    @property
    def name(self) -> str:
        """The name of the job."""
        return self._job.name

    def require_same_database(self) -> None:
        """Check that the database file was neither deleted nor replaced; costs one `stat`.

        Raises:
            JobTaken: it was.
        """
        self._file.require_same()

    def progress(self, done: int, unit: str) -> None:
        """Report how far this run is; see `Job.progress`."""
        self._job.progress(done, unit=unit)

    def heartbeat(self, facts: Mapping[str, object] | None = None) -> None:
        """Save that the watch runs, and new facts, when it is time; see `Job.heartbeat`."""
        self.require_same_database()
        self._job.heartbeat(facts=facts)

    def is_interrupted(self) -> bool:
        """Return whether to commit and go no further: it was asked to pause or to stop.

        The database is asked once a second. What was interrupted stays so until `wait_while_paused`.
        """
        if not self._is_interrupted:
            self._is_interrupted = self._paused_reason() is not None or self._job.ends_as[0] == STOPPED
        return self._is_interrupted

    def wait_while_paused(self, wait: Callable[[], object]) -> bool:
        """Wait until the watch is resumed or stopped; return whether it was paused or interrupted.

        Args:
            wait: called again and again; returns after some seconds, or soon after a stop.

        Raises:
            JobTaken: the row belongs to another process or is gone, or the database's file was replaced.
            DatabaseError: the database fails.
        """
        was_interrupted, self._is_interrupted = self._is_interrupted, False
        was_paused = False
        while (reason := self._paused_reason()) is not None:
            self.require_same_database()
            self._job.heartbeat(PAUSED, reason)
            if not was_paused:
                self._notify(f"paused {reason}")
            was_paused = True
            wait()
        if was_paused and not self._stop.is_set():
            self.heartbeat()
            self._notify("goes on after the pause")
        return was_paused or was_interrupted

    def wait_out(self, error: DatabaseError, backoff: Backoff) -> None:
        """Wait before the next attempt after a transient error, and record that if possible.

        Raises:
            DatabaseError: the given error, if it is permanent.
        """
        if not is_transient(error):
            raise error
        if self._stop.is_set():
            return
        wait_s = backoff.failed(error)
        self._job.heartbeat(WAITING, str(error), at_once=True)
        pause(wait_s, self._stop)

    def ends_if_stopped(self) -> bool:
        """Return whether the watch was asked to stop; then its record ends as stopped."""
        if self._stop.is_set():
            self._note_stop(JobStopped(STOPPED_BY_SIGNAL))
        return self._stop.is_set()

    def _paused_reason(self) -> str | None:
        """Return why it is paused, or None; a request to stop sets `stop`."""
        try:
            return self._job.paused_reason()
        except JobStopped as stopped:
            self._note_stop(stopped)
            self._stop.set()
            return None

    def _note_stop(self, stopped: JobStopped) -> None:
        if self._job.ends_as[0] == DONE:
            self._job.ends_as = STOPPED, str(stopped)


def begin_watch(
    stack: ExitStack,
    engine: Engine,
    kind: str,
    paths: Sequence[Path],
    *,
    stop: Event,
    notify: Callable[[str], None],
    keeps_waiting: bool = True,
    backoff: BackoffTiming | None = None,
) -> WatchJob | None:
    """Prepare a database and lock paths for the lifetime of a stack; wait while another process writes.

    Args:
        stack: ends the job when it is closed.
        engine: the database; a new one is created.
        kind: see `lock_paths`.
        paths: see `lock_paths`.
        stop: ends the wait, and later the watch; a request of another process to stop sets it.
        notify: called with one line of text about what it waits for.
        keeps_waiting: whether to wait for longer than the engine's lock timeout.
        backoff: the waits between attempts.

    Returns:
        The job; None if `stop` was set before it began.

    Raises:
        DatabaseLocked: another process writes for longer than the engine waits, and `keeps_waiting` is False.
        AlreadyFollowed, MigrationNeeded, DatabaseError: see `lock_paths` and `prepare`.
    """
    waits = Backoff(notify, timing=backoff)
    while not stop.is_set():
        try:
            prepare(engine)
            job = stack.enter_context(lock_paths(engine, kind, paths, stop=stop))
        except DatabaseLocked as error:
            if not keeps_waiting and not stop.is_set():
                raise
            pause(waits.failed(error), stop)
        else:
            waits.succeeded()
            return WatchJob(engine, job, stop, notify)
    return None
