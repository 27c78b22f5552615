"""Locks on paths: on one machine, only one process at a time works on the same files.

The lock is the record of a job whose name and cursor say which paths it works on. One that was killed blocks nobody.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.jobs import ENDED, JobRecord, add_counters, delete_job, jobs_of_kind, request_pause
from cowrieprocessor.errors import AlreadyFollowed
from cowrieprocessor.events import utc_text
from cowrieprocessor.jobs.runtime import process_identity
from cowrieprocessor.jobs.runtime.job import Job, run_job
from cowrieprocessor.jobs.runtime.job_record import Change, is_running
from cowrieprocessor.sanitize import inert, restore

FORGOTTEN_AFTER = dt.timedelta(days=30)
"""The row of a process that ended, or died, this long ago is deleted."""


class PathClaim:
    """What a job on some paths needs before it may begin: nobody else of this machine works on any of them.

    Args:
        kind: what is done with the paths, such as `follow`; different kinds do not exclude each other.
        paths: files and folders, existing or not; links are resolved.

    Attributes:
        name: the name of the job: its kind, and a fingerprint of machine and paths.
    """

    def __init__(self, kind: str, paths: Iterable[Path]) -> None:
        self._kind = kind
        self._paths = tuple(sorted({os.path.realpath(path) for path in paths}))
        self._identity = process_identity.this_process()
        machine = (os.fsencode(self._identity[name] or "") for name in ("host", "machine"))
        names = b"\0".join([*machine, *map(os.fsencode, self._paths)])
        self.name = f"{kind}:{hashlib.sha256(names).hexdigest()[:12]}"

    def admit(self, connection: Connection) -> Change:
        """Return what changes in the record of the job when it begins; see `run_job`. Rows of ended jobs are deleted.

        Raises:
            AlreadyFollowed: a live process has locked one of the paths, or a folder above or below one.
        """
        dialect_of(connection).lock_migrations(connection)  # of two concurrent processes, the second waits
        others = jobs_of_kind(connection, self._kind)
        for other in others:
            self.refuse_if_locked_by(other)
        merged = [other for other in others if other.name != self.name and self._clean_up(connection, other)]

        def begin(record: JobRecord) -> None:
            record.started_at = dt.datetime.now(dt.UTC)
            record.cursor = {
                "paths": [inert(path) for path in self._paths],
                "since": utc_text(record.started_at)[:19],
            }
            for other in merged:
                add_counters(record.counters, other.counters)
            if any(other.pause_requested for other in merged):
                request_pause(connection, self.name)
                record.pause_requested = True

        return begin

    def refuse_if_locked_by(self, other: JobRecord) -> None:
        """Check that no other process of this machine works on any of the paths.

        Raises:
            AlreadyFollowed: one does.
        """
        owner = other.owner
        if not is_running(other) or not process_identity.is_same_machine(owner, self._identity):
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

    def _clean_up(self, connection: Connection, other: JobRecord) -> bool:
        """Delete the row of a job that ended; return whether ours takes over what it counted: it has exactly our paths.

        So a container, which has a new host name each time, keeps its counters and leaves no rows behind. Other rows
        are deleted when they are old.
        """
        if is_running(other):
            return False
        is_other_machine = process_identity.are_different_machines(other.owner, self._identity)
        if other.state in ENDED and _paths_of(other) == self._paths and not is_other_machine:
            delete_job(connection, other.name)
            return True
        if dt.datetime.now(dt.UTC) - other.updated_at > FORGOTTEN_AFTER and not other.pause_requested:
            delete_job(connection, other.name)
        return False


@contextmanager
def lock_paths(
    engine: Engine,
    kind: str,
    paths: Sequence[Path],
    *,
    stop: Event | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Job]:
    """Lock paths while the block runs: a job whose counters go on from those of the last one of the same paths.

    Args:
        engine: a database at the current version.
        kind: what is done with the paths, such as `follow`; different kinds do not exclude each other.
        paths: files and folders, existing or not; links are resolved.
        stop: once set, the job shall end.
        clock: monotonic time in seconds.

    Raises:
        AlreadyFollowed: another process of this machine has locked one of them, or a folder above or below; the
            message names it.
        DatabaseError: see `run_job`.
    """
    claim = PathClaim(kind, paths)
    with run_job(
        engine, claim.name, keeps_position=True, stop=stop, admit=claim.admit, ends_at_once=True, clock=clock
    ) as job:
        yield job


def refuse_if_locked(engine: Engine, kind: str, paths: Sequence[Path]) -> None:
    """Check that no process of this machine has locked one of some paths.

    Raises:
        AlreadyFollowed: one has; the message names it.
    """
    claim = PathClaim(kind, paths)
    with read_transaction(engine) as connection:
        for other in jobs_of_kind(connection, kind):
            claim.refuse_if_locked_by(other)


def _paths_of(job: JobRecord) -> tuple[str, ...]:
    return tuple(map(restore, job.cursor.get("paths") or ()))


def _overlap(first: str, second: str) -> bool:
    """Return whether two real paths are the same, or one contains the other."""
    return Path(first).is_relative_to(second) or Path(second).is_relative_to(first)
