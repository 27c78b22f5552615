"""Files that one process works on for as long as it runs: a second one on this machine is told who has them.

Who holds which paths stands in a row of `jobs`, one for each set of paths. A holder that was killed keeps nobody out.
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
from cowrieprocessor.db.engine import get_engine, write_transaction
from cowrieprocessor.db.jobs import (
    DONE,
    FAILED,
    RUNNING,
    STOPPED,
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
from cowrieprocessor.jobs.runtime import process_identity as holder
from cowrieprocessor.jobs.runtime.backoff import Backoff, passes
from cowrieprocessor.jobs.runtime.database_file_guard import DatabaseFileGuard
from cowrieprocessor.sanitize import inert, restore

SAY_EVERY_S = 60.0
"""How often a holder that has nothing new to say says that it is there."""

FORGOTTEN_AFTER = dt.timedelta(days=30)
"""A holder that ended, or died, so long ago is no longer told of in `db status`."""

LAST_WORD_S = 1.0
"""How long a holder that ends waits for the database to say so: a dead one is seen to be dead without it."""

ENDED = (DONE, FAILED, STOPPED)

_HELD: set[str] = set()
"""The runs of this process."""


class PathLock:
    """Paths that this process holds, and the row of `jobs` that says so. Made by `lock_paths`.

    Attributes:
        name: the row's name: its kind, and a fingerprint of machine and paths.
        ends_as: state and reason that are written when it is given up without an error.
    """

    def __init__(self, engine: Engine, kind: str, paths: Iterable[Path], clock: Callable[[], float]) -> None:
        self._engine = engine
        self._kind = kind
        self._paths = tuple(sorted({os.path.realpath(path) for path in paths}))
        self._clock = clock
        self._holder = holder.this_process()
        self._state: tuple[str, str | None] = (RUNNING, None)
        self._said_at = clock()
        self._file = DatabaseFileGuard(engine)
        place = (os.fsencode(self._holder[name] or "") for name in ("host", "machine"))
        names = b"\0".join([*place, *map(os.fsencode, self._paths)])
        self.name = f"{kind}:{hashlib.sha256(names).hexdigest()[:12]}"
        self.ends_as: tuple[str, str | None] = (DONE, None)

    def take(self) -> None:
        """Take the paths, and count on from what the row counted before.

        Raises:
            AlreadyFollowed: a process that is alive has one of them, or one above or below.
            DatabaseError: see `write_transaction`.
        """
        with write_transaction(self._engine) as connection:
            dialect_of(self._engine).lock_migrations(connection)  # of two that come at once the second waits here
            others = jobs_of_kind(connection, self._kind)
            for other in others:
                self._refuse_if_held(other)
            before = load_job(connection, self.name, for_update=True)
            cursor = {
                "holder": self._holder,
                "paths": [inert(path) for path in self._paths],
                "since": utc_text(dt.datetime.now(dt.UTC))[:19],
            }
            counters = {} if before is None else before.counters
            for other in others:
                if other.name != self.name and not self._is_at_work(other):
                    self._clear_away(connection, other, counters)
            save_job(connection, JobRecord(self.name, RUNNING, cursor, counters))
        _HELD.add(self._holder["run"])

    def require_same_database(self) -> None:
        """Refuse to go on where the file of the database was deleted or replaced; that costs one stat.

        Raises:
            JobTaken: it was.
        """
        self._file.require_same()

    def say(self, state: str = RUNNING, reason: str | None = None, facts: Mapping[str, object] | None = None) -> None:
        """Write how it goes into the row, if that changed or was said a minute ago; counters stay as they are.

        Args:
            state: running or waiting.
            reason: why it waits.
            facts: put into the row's cursor; plain JSON.

        Raises:
            JobTaken: the row is another process's now, or gone, or the database's file is another one.
            DatabaseError: see `write_transaction`; it is said at the next call.
        """
        self.require_same_database()
        if self._state == (state, reason) and self._clock() - self._said_at < SAY_EVERY_S:
            return
        self._write(self._engine, state, reason, facts or {}, None)
        self._state, self._said_at = (state, reason), self._clock()

    def try_to_say(self, state: str, reason: str | None = None) -> None:
        """Do what `say` does where the database may be out of order: nothing, if it does not listen at once."""
        if self._state == (state, reason) and self._clock() - self._said_at < SAY_EVERY_S:
            return
        self._state, self._said_at = (state, reason), self._clock()
        self._write_at_once(state, reason, None)

    def give_up(self, state: str, reason: str | None) -> None:
        """Let others have the paths, and say how it ended, if the database listens at once."""
        _HELD.discard(self._holder["run"])
        self._write_at_once(state, reason, dt.datetime.now(dt.UTC))

    def _refuse_if_held(self, other: JobRecord) -> None:
        """Refuse if another process of this machine is at work on any of the paths.

        Raises:
            AlreadyFollowed: it is.
        """
        its_holder = other.cursor.get("holder") or {}
        if not self._is_at_work(other) or not holder.is_same_machine(its_holder, self._holder):
            return
        theirs = [restore(path) for path in other.cursor.get("paths") or ()]
        shared = next(((our, their) for our in self._paths for their in theirs if _overlap(our, their)), None)
        if shared is None:
            return
        our, their = (inert(path) for path in shared)
        place = our if our == their else f"{our} overlaps with {their}, which"
        raise AlreadyFollowed(
            f"{place} is held by {holder.describe(its_holder)} since {other.cursor.get('since')} UTC "
            f"({other.name} in `db status`); stop that process, or leave this path out"
        )

    def _is_at_work(self, other: JobRecord) -> bool:
        """Return whether the holder that another row tells of may still work."""
        if other.state in ENDED:
            return False
        its_holder = other.cursor.get("holder") or {}
        return its_holder.get("run") in _HELD or holder.is_alive(its_holder, other.updated_at)

    def _clear_away(self, connection: Connection, other: JobRecord, counters: dict[str, Any]) -> None:
        """Remove the row of one that ended and held the very same paths here, or of one that died long ago.

        So a container, which has a new name each time, goes on counting and leaves no rows behind.
        """
        its_holder = other.cursor.get("holder") or {}
        theirs = tuple(map(restore, other.cursor.get("paths") or ()))
        is_ours = theirs == self._paths and not holder.are_different_machines(its_holder, self._holder)
        if is_ours and other.state in ENDED:
            add_counters(counters, other.counters)
            delete_job(connection, other.name)
        elif dt.datetime.now(dt.UTC) - other.updated_at > FORGOTTEN_AFTER:
            delete_job(connection, other.name)

    def _write_at_once(self, state: str, reason: str | None, ended: dt.datetime | None) -> None:
        url = self._engine.url.render_as_string(hide_password=False)
        engine = get_engine(url, lock_timeout_s=LAST_WORD_S)
        try:
            self.require_same_database()  # opening it would make a new one where it was deleted
            self._write(engine, state, reason, {}, ended)
        except DatabaseError:
            return  # whoever looks sees by the process itself whether it is alive
        finally:
            engine.dispose()

    def _write(
        self, engine: Engine, state: str, reason: str | None, facts: Mapping[str, object], ended: dt.datetime | None
    ) -> None:
        with write_transaction(engine) as connection:
            job = self._ours(connection)
            job.state, job.reason, job.finished_at = state, reason, ended
            job.cursor |= facts
            save_job(connection, job)

    def _ours(self, connection: Connection) -> JobRecord:
        job = load_job(connection, self.name, for_update=True)
        other: dict[str, Any] = {} if job is None else job.cursor.get("holder") or {}
        if job is None or other.get("run") != self._holder["run"]:
            raise JobTaken(
                f"{self.name}: {holder.describe(other)} has taken it over, or the database is another one now; "
                "nothing is lost"
            )
        return job


@contextmanager
def lock_paths(
    engine: Engine, kind: str, paths: Sequence[Path], *, clock: Callable[[], float] = time.monotonic
) -> Iterator[PathLock]:
    """Hold paths while the block runs; the row of `jobs` says afterwards how it ended.

    Args:
        engine: a database at our version.
        kind: what is done with the paths, such as `follow`; kinds do not keep each other out.
        paths: files and folders, there or not; the same by another name are the same.
        clock: seconds that only go up.

    Raises:
        AlreadyFollowed: another process of this machine has one of them, or one above or below; it is named.
        DatabaseError: see `write_transaction`.
    """
    held = PathLock(engine, kind, paths, clock)
    held.take()
    word: tuple[str, str | None] = (FAILED, "it ended in an unexpected way; the same command goes on from here")
    try:
        yield held
        word = held.ends_as
    except DatabaseError as error:
        word = FAILED, str(error)
        raise
    except KeyboardInterrupt:
        word = STOPPED, "interrupted; the same command goes on from here"
        raise
    finally:
        held.give_up(*word)


def wait_out(error: DatabaseError, held: PathLock, patience: Backoff, stop: Event) -> None:
    """Wait until a database may serve again, and say so in the holder's row if that can be written.

    Args:
        error: what it said.
        held: what holds the paths.
        patience: how long it has been waited for.
        stop: once set, nothing is waited for.

    Raises:
        DatabaseError: the one that was given, if it does not pass by itself.
    """
    if not passes(error):
        raise error
    if stop.is_set():
        return
    wait_s = patience.met(error)
    held.try_to_say(WAITING, str(error))
    pause(wait_s, stop)


def lock_paths_when_free(
    stack: ExitStack,
    engine: Engine,
    kind: str,
    paths: Sequence[Path],
    *,
    stop: Event,
    say: Callable[[str], None],
    is_patient: bool = True,
) -> PathLock | None:
    """Make a database ready and hold paths for as long as a stack lasts; wait while another process writes.

    Args:
        stack: what lets go of them.
        engine: the database; a new one is made.
        kind: see `lock_paths`.
        paths: see `lock_paths`.
        stop: once set, nothing is waited for.
        say: told in one line what is waited for.
        is_patient: wait for longer than the engine does.

    Returns:
        What holds the paths; None if it is to stop before that was possible.

    Raises:
        DatabaseLocked: another process writes, for longer than the engine waits, and that is all the patience there is.
        AlreadyFollowed, MigrationNeeded, DatabaseError: see `lock_paths` and `prepare`.
    """
    patience = Backoff(say)
    while not stop.is_set():
        try:
            prepare(engine)
            held = stack.enter_context(lock_paths(engine, kind, paths))
        except DatabaseLocked as error:
            if not is_patient and not stop.is_set():
                raise
            pause(patience.met(error), stop)
        else:
            patience.over()
            return held
    return None


def _overlap(one: str, other: str) -> bool:
    """Return whether two real paths are the same, or one lies in the other."""
    return Path(one).is_relative_to(other) or Path(other).is_relative_to(one)
