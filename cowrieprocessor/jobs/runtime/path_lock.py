"""Locks on paths: on one machine, only one process at a time works on the same files.

A row of `jobs` records the owner of each set of paths. The lock of a process that was killed blocks nobody.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from sqlalchemy import Connection, Engine

from cowrieprocessor.clock import pause
from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.engine import read_transaction, second_engine, write_transaction
from cowrieprocessor.db.jobs import (
    DONE,
    ENDED,
    FAILED,
    INTERRUPTED,
    RUNNING,
    STOPPED,
    UNEXPECTED,
    WAITING,
    JobRecord,
    add_counters,
    delete_job,
    jobs_of_kind,
    load_job,
    save_job,
)
from cowrieprocessor.db.migrations import prepare
from cowrieprocessor.errors import AlreadyFollowed, DatabaseError, DatabaseLocked, JobTaken
from cowrieprocessor.events import utc_text
from cowrieprocessor.jobs.runtime import process_identity
from cowrieprocessor.jobs.runtime.backoff import Backoff, BackoffTiming, is_transient
from cowrieprocessor.jobs.runtime.database_file_guard import DatabaseFileGuard
from cowrieprocessor.sanitize import inert, restore

HEARTBEAT_S = 60.0
"""How often a process with nothing new to record updates its row."""

FORGOTTEN_AFTER = dt.timedelta(days=30)
"""The row of a process that ended, or died, this long ago is deleted."""

LAST_WORD_S = 1.0
"""How long a process waits for the database to record its end; without that it is recognized as dead."""


class PathLock:
    """Paths locked by this process, and the row of `jobs` that records it. Made by `lock_paths`.

    Attributes:
        name: the row's name: its kind, and a fingerprint of machine and paths.
        ends_as: state and reason that the row gets when the lock is released without an error.
    """

    def __init__(
        self,
        engine: Engine,
        kind: str,
        paths: Iterable[Path],
        clock: Callable[[], float],
        last_word_s: float = LAST_WORD_S,
    ) -> None:
        self._engine = engine
        self._kind = kind
        self._paths = tuple(sorted({os.path.realpath(path) for path in paths}))
        self._clock = clock
        self._last_word_s = last_word_s
        self._identity = process_identity.this_process()
        self._state: tuple[str, str | None] = (RUNNING, None)
        self._recorded_at = clock()
        self._file = DatabaseFileGuard(engine)
        machine = (os.fsencode(self._identity[name] or "") for name in ("host", "machine"))
        names = b"\0".join([*machine, *map(os.fsencode, self._paths)])
        self.name = f"{kind}:{hashlib.sha256(names).hexdigest()[:12]}"
        self.ends_as: tuple[str, str | None] = (DONE, None)

    def acquire(self) -> None:
        """Lock the paths; the row's counters continue from their previous values.

        Raises:
            AlreadyFollowed: a live process has locked one of the paths, or a folder above or below one.
            DatabaseError: see `write_transaction`.
        """
        with write_transaction(self._engine) as connection:
            dialect_of(self._engine).lock_migrations(connection)  # of two concurrent processes, the second waits
            others = jobs_of_kind(connection, self._kind)
            for other in others:
                self._refuse_if_locked_by(other)
            before = load_job(connection, self.name, for_update=True)
            cursor = {
                "paths": [inert(path) for path in self._paths],
                "since": utc_text(dt.datetime.now(dt.UTC))[:19],
            }
            counters = {} if before is None else before.counters
            for other in others:
                if other.name != self.name and not self._is_active(other):
                    self._clean_up(connection, other, counters)
            save_job(connection, JobRecord(self.name, RUNNING, cursor, counters, owner=self._identity))
        process_identity.begin_run(self._identity)

    def require_same_database(self) -> None:
        """Check that the database file was neither deleted nor replaced; costs one `stat`.

        Raises:
            JobTaken: it was.
        """
        self._file.require_same()

    def record(
        self, state: str = RUNNING, reason: str | None = None, facts: Mapping[str, object] | None = None
    ) -> None:
        """Write state and reason to the row, if they changed or were written a minute ago; counters stay unchanged.

        Args:
            state: running or waiting.
            reason: why it waits.
            facts: added to the row's cursor; plain JSON.

        Raises:
            JobTaken: the row belongs to another process or is gone, or the database's file was replaced.
            DatabaseError: see `write_transaction`; the next call tries again.
        """
        self.require_same_database()
        if not self._is_due(state, reason):
            return
        self._write(self._engine, state, reason, facts or {}, None)
        self._state, self._recorded_at = (state, reason), self._clock()

    def try_to_record(self, state: str, reason: str | None = None) -> None:
        """Do what `record` does while the database may be failing: give up if it does not respond at once."""
        if not self._is_due(state, reason):
            return
        self._state, self._recorded_at = (state, reason), self._clock()
        self._write_at_once(state, reason, None)

    def release(self, state: str, reason: str | None) -> None:
        """Unlock the paths, and record how the job ended if the database responds at once."""
        process_identity.end_run(self._identity)
        self._write_at_once(state, reason, dt.datetime.now(dt.UTC))

    def _is_due(self, state: str, reason: str | None) -> bool:
        return self._state != (state, reason) or self._clock() - self._recorded_at >= HEARTBEAT_S

    def _refuse_if_locked_by(self, other: JobRecord) -> None:
        """Check that no other process of this machine works on any of the paths.

        Raises:
            AlreadyFollowed: one does.
        """
        owner = other.owner
        if not self._is_active(other) or not process_identity.is_same_machine(owner, self._identity):
            return
        shared = self._shared_paths(other)
        if shared is None:
            return
        ours, theirs = map(inert, shared)
        paths = ours if ours == theirs else f"{ours} overlaps with {theirs}, which"
        raise AlreadyFollowed(
            f"{paths} is held by {process_identity.describe(owner)} since {other.cursor.get('since')} UTC "
            f"({other.name} in `db status`); stop that process, or leave this path out"
        )

    def _shared_paths(self, other: JobRecord) -> tuple[str, str] | None:
        """Return one of our paths and an overlapping one of another row, or None."""
        theirs = _paths_of(other)
        return next(((path, their) for path in self._paths for their in theirs if _overlap(path, their)), None)

    def _is_active(self, other: JobRecord) -> bool:
        """Return whether the owner of a row may still be running."""
        if other.state in ENDED:
            return False
        return process_identity.is_alive(other.owner, other.updated_at)

    def _clean_up(self, connection: Connection, other: JobRecord, counters: dict[str, Any]) -> None:
        """Delete the row of an ended job with exactly our paths, adding its counters, or one that ended long ago.

        So a container, which has a new host name each time, keeps its counters and leaves no rows behind.
        """
        is_other_machine = process_identity.are_different_machines(other.owner, self._identity)
        is_ours = _paths_of(other) == self._paths and not is_other_machine
        if is_ours and other.state in ENDED:
            add_counters(counters, other.counters)
            delete_job(connection, other.name)
        elif dt.datetime.now(dt.UTC) - other.updated_at > FORGOTTEN_AFTER:
            delete_job(connection, other.name)

    def _write_at_once(self, state: str, reason: str | None, ended: dt.datetime | None) -> None:
        engine = second_engine(self._engine, lock_timeout_s=self._last_word_s)
        try:
            self.require_same_database()  # connecting would create a new database in place of a deleted one
            self._write(engine, state, reason, {}, ended)
        except DatabaseError:
            return  # others see from the process itself whether it is alive
        finally:
            engine.dispose()

    def _write(
        self, engine: Engine, state: str, reason: str | None, facts: Mapping[str, object], ended: dt.datetime | None
    ) -> None:
        with write_transaction(engine) as connection:
            job = self._own_job(connection)
            job.state, job.reason, job.finished_at = state, reason, ended
            job.cursor |= facts
            save_job(connection, job)

    def _own_job(self, connection: Connection) -> JobRecord:
        """Return our row.

        Raises:
            JobTaken: it belongs to another process, or is gone.
        """
        job = load_job(connection, self.name, for_update=True)
        owner = {} if job is None else job.owner
        if job is None or owner.get("run") != self._identity["run"]:
            raise JobTaken(
                f"{self.name}: {process_identity.describe(owner)} has taken it over, or the database is another one "
                "now; nothing is lost"
            )
        return job


@contextmanager
def lock_paths(
    engine: Engine,
    kind: str,
    paths: Sequence[Path],
    *,
    clock: Callable[[], float] = time.monotonic,
    last_word_s: float = LAST_WORD_S,
) -> Iterator[PathLock]:
    """Lock paths while the block runs; afterwards the row of `jobs` records how it ended.

    Args:
        engine: a database at the current version.
        kind: what is done with the paths, such as `follow`; different kinds do not exclude each other.
        paths: files and folders, existing or not; links are resolved.
        clock: monotonic time in seconds.
        last_word_s: how long to wait for the database when recording a state "at once".

    Raises:
        AlreadyFollowed: another process of this machine has locked one of them, or a folder above or below; the
            message names it.
        DatabaseError: see `write_transaction`.
    """
    lock = PathLock(engine, kind, paths, clock, last_word_s)
    lock.acquire()
    end: tuple[str, str | None] = (FAILED, UNEXPECTED)
    try:
        yield lock
        end = lock.ends_as
    except DatabaseError as error:
        end = FAILED, str(error)
        raise
    except KeyboardInterrupt:
        end = STOPPED, INTERRUPTED
        raise
    finally:
        lock.release(*end)


def refuse_if_locked(engine: Engine, kind: str, paths: Sequence[Path]) -> None:
    """Check that no process of this machine has locked one of some paths.

    Raises:
        AlreadyFollowed: one has; the message names it.
    """
    lock = PathLock(engine, kind, paths, time.monotonic)
    with read_transaction(engine) as connection:
        for other in jobs_of_kind(connection, kind):
            lock._refuse_if_locked_by(other)


def wait_out(error: DatabaseError, lock: PathLock, backoff: Backoff, stop: Event) -> None:
    """Wait before the next attempt after a transient error, and record that in the lock's row if possible.

    Args:
        error: the error of the database.
        lock: the lock on the paths.
        backoff: computes the wait.
        stop: ends the wait.

    Raises:
        DatabaseError: the given error, if it is permanent.
    """
    if not is_transient(error):
        raise error
    if stop.is_set():
        return
    wait_s = backoff.failed(error)
    lock.try_to_record(WAITING, str(error))
    pause(wait_s, stop)


def lock_paths_when_free(
    stack: ExitStack,
    engine: Engine,
    kind: str,
    paths: Sequence[Path],
    *,
    stop: Event,
    notify: Callable[[str], None],
    keeps_waiting: bool = True,
    backoff: BackoffTiming | None = None,
) -> PathLock | None:
    """Prepare a database and lock paths for the lifetime of a stack; wait while another process writes.

    Args:
        stack: releases the lock when it is closed.
        engine: the database; a new one is created.
        kind: see `lock_paths`.
        paths: see `lock_paths`.
        stop: ends the wait.
        notify: called with one line of text about what it waits for.
        keeps_waiting: whether to wait for longer than the engine's lock timeout.
        backoff: the waits between attempts.

    Returns:
        The lock; None if `stop` was set before it was acquired.

    Raises:
        DatabaseLocked: another process writes for longer than the engine waits, and `keeps_waiting` is False.
        AlreadyFollowed, MigrationNeeded, DatabaseError: see `lock_paths` and `prepare`.
    """
    waits = Backoff(notify, timing=backoff)
    while not stop.is_set():
        try:
            prepare(engine)
            lock = stack.enter_context(lock_paths(engine, kind, paths))
        except DatabaseLocked as error:
            if not keeps_waiting and not stop.is_set():
                raise
            pause(waits.failed(error), stop)
        else:
            waits.succeeded()
            return lock
    return None


def _paths_of(job: JobRecord) -> tuple[str, ...]:
    return tuple(map(restore, job.cursor.get("paths") or ()))


def _overlap(first: str, second: str) -> bool:
    """Return whether two real paths are the same, or one contains the other."""
    return Path(first).is_relative_to(second) or Path(second).is_relative_to(first)
