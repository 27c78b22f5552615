"""The record of a job as a file beside the database, where the database cannot hold it.

Version 3 has no table for it, a database that is only read must not change, and one that is being replaced would take
it along. The file is `NAME.job-JOB`, JSON, readable by its owner only; without a file, as on a server or in a folder
that may not be written to, the job has no record and runs all the same.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.jobs import DONE, ENDED, RUNNING, JobRecord
from cowrieprocessor.jobs.runtime import process_identity
from cowrieprocessor.jobs.runtime.job_record import BEGAN, Change, is_running, requests_in, taken

PRIVATE = 0o600
_TIMES = ("started_at", "updated_at", "finished_at", "stop_requested_at")


class JobFile:
    """The file of one job, as long as this process runs it; it stands in for `JobRow`.

    Args:
        engine: the database.
        name: the name of the job.
        exclusive: whether only one process at a time may run it; else several share the file.
    """

    def __init__(self, engine: Engine, name: str, *, exclusive: bool = True) -> None:
        self._name = name
        self._exclusive = exclusive
        self._path = path_of(engine, name)
        self._began_at = dt.datetime.now(dt.UTC)
        self._owner = process_identity.this_process() | {BEGAN: self._began_at.isoformat()}
        self._record = JobRecord(name, RUNNING, owner=self._owner)

    def begin(self) -> tuple[JobRecord, bool]:
        """Record that this process runs the job; return the record, and whether an earlier run did not end.

        Raises:
            JobTaken: another process runs it.
        """
        resumed = False
        with _opened(self._path, create=True) as file:
            before = _read(file, self._name)
            if before is not None:
                if self._exclusive and is_running(before):
                    raise taken(before)
                resumed = before.state != DONE
                self._record = replace(self._record, pause_requested=before.pause_requested)
            _write(file, self._record)
        process_identity.begin_run(self._owner)
        return self._record, resumed

    def lock(self, connection: Connection) -> JobRecord:
        """Return the record: nothing in the database goes with it."""
        return self._record

    def save(self, change: Change, connection: Connection | None = None, *, at_once: bool = False) -> JobRecord:
        """Change the record and return it.

        Raises:
            JobTaken: another process runs the job now.
        """
        with _opened(self._path) as file:
            stored = _read(file, self._name)
            if stored is not None:
                if self._exclusive and stored.owner.get("run") != self._owner["run"]:
                    raise taken(stored)
                self._record.pause_requested = stored.pause_requested
                self._record.stop_requested_at = stored.stop_requested_at
            change(self._record)
            self._record.updated_at = dt.datetime.now(dt.UTC)
            if stored is not None:
                _write(file, self._record)
        return self._record

    def end(self, change: Change, *, at_once: bool) -> JobRecord:
        """Change the record a last time, unless it has ended already."""
        return self._record if self._record.state in ENDED else self.save(change)

    def release(self) -> None:
        """Let other threads of this process run the job."""
        process_identity.end_run(self._owner)

    def requests(self) -> tuple[bool, bool]:
        """Return whether another process wants the job to pause, and whether it wants this run to stop."""
        with _opened(self._path) as file:
            stored = _read(file, self._name)
        return (False, False) if stored is None else self.requests_in(stored)

    def requests_in(self, record: JobRecord) -> tuple[bool, bool]:
        """Return the same from a record."""
        return requests_in(record, self._began_at)


def path_of(engine: Engine, name: str) -> Path | None:
    """Return the path of a job's file; None for a database that is not a file."""
    files = dialect_of(engine).files
    database = None if files is None else files.path_of(engine.url)
    return None if database is None else database.with_name(f"{database.name}.job-{name}")


def file_jobs(engine: Engine) -> list[JobRecord]:
    """Return the jobs whose records are files beside a database."""
    prefix = path_of(engine, "")
    if prefix is None:
        return []
    try:
        names = sorted(entry.name for entry in os.scandir(prefix.parent) if entry.name.startswith(prefix.name))
    except OSError:
        return []
    found = (load(engine, name.removeprefix(prefix.name)) for name in names)
    return [job for job in found if job is not None]


def load(engine: Engine, name: str) -> JobRecord | None:
    """Return a job whose record is a file beside a database; None if there is none that can be read."""
    with _opened(path_of(engine, name)) as file:
        return _read(file, name)


def change(engine: Engine, name: str, request: Change) -> bool:
    """Change what is wanted of a job whose record is a file; return whether there is one that may be written to."""
    with _opened(path_of(engine, name)) as file:
        job = _read(file, name)
        if job is None:
            return False
        request(job)
        return _write(file, job)


@contextmanager
def _opened(path: Path | None, *, create: bool = False) -> Iterator[int | None]:
    """Yield the descriptor of a locked file, for reading only where writing is forbidden; None if there is none."""
    descriptor = None if path is None else _open(path, create=create)
    if descriptor is None:
        yield None
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _open(path: Path, *, create: bool) -> int | None:
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    for access in (os.O_RDWR | (os.O_CREAT if create else 0), os.O_RDONLY):
        try:
            return os.open(path, flags | access, PRIVATE)
        except OSError:
            continue
    return None


def _read(file: int | None, name: str) -> JobRecord | None:
    if file is None:
        return None
    try:
        document = json.loads(os.pread(file, 1 << 20, 0))
        document |= {key: dt.datetime.fromisoformat(document[key]) for key in _TIMES if document.get(key)}
        known = {field.name for field in fields(JobRecord)}
        return JobRecord(**{key: value for key, value in document.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None  # a process was killed while it wrote, or another program made the file


def _write(file: int | None, record: JobRecord) -> bool:
    if file is None:
        return False
    document: dict[str, Any] = asdict(record)
    document |= {key: document[key].isoformat() for key in _TIMES if document[key]}
    data = json.dumps(document, sort_keys=True).encode()
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, data, 0)
    except OSError:
        return False  # the job matters more than its record
    return True
