"""The record of a job that this process runs: a row of `jobs`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import read_transaction, second_engine, write_transaction
from cowrieprocessor.db.jobs import (
    DONE,
    ENDED,
    RUNNING,
    JobRecord,
    load_job,
    save_job,
    shared_job,
)
from cowrieprocessor.errors import JobTaken
from cowrieprocessor.jobs.runtime import process_identity
from cowrieprocessor.jobs.runtime.database_file_guard import DatabaseFileGuard

AT_ONCE_S = 0.2
"""How long a record that is saved "at once" waits for the write lock."""

LAST_WORD_S = 1.0
"""The same for how a job ended; without that others see from the process itself that it is gone."""

BEGAN = "began"
"""Key in `owner`: when the run began; only jobs of this runtime have it, and can be asked for something."""

Change = Callable[[JobRecord], None]

Admit = Callable[[Connection], Change]
"""Refuses a job with an error, or returns what changes in its record; called first when a job begins."""


def is_running(job: JobRecord) -> bool:
    """Return whether the process that runs a job may be there; see `process_identity.is_alive`."""
    has_ended = job.state in ENDED or job.finished_at is not None
    return not has_ended and bool(job.owner) and process_identity.is_alive(job.owner, job.updated_at)


def taken(job: JobRecord) -> JobTaken:
    """Return the error for a job that another process runs."""
    return JobTaken(
        f"{job.name}: {process_identity.describe(job.owner)} is running it; watch it with "
        "`cowrieprocessor jobs list`, or stop that process and repeat the command"
    )


def requests_in(record: JobRecord, began_at: dt.datetime) -> tuple[bool, bool]:
    """Return whether a record says that a run shall pause, and that it shall stop."""
    stop_at = record.stop_requested_at
    return record.pause_requested, stop_at is not None and stop_at > began_at


class Record(Protocol):
    """Where the record of a job is kept: `JobRow`, or `JobFile` beside the database."""

    def begin(self) -> tuple[JobRecord, bool]:
        """See `JobRow.begin`."""

    def lock(self, connection: Connection) -> JobRecord:
        """See `JobRow.lock`."""

    def save(self, change: Change, connection: Connection | None = None, *, at_once: bool = False) -> JobRecord:
        """See `JobRow.save`."""

    def end(self, change: Change, *, at_once: bool) -> JobRecord:
        """See `JobRow.end`."""

    def release(self) -> None:
        """See `JobRow.release`."""

    def requests(self) -> tuple[bool, bool]:
        """See `JobRow.requests`."""

    def requests_in(self, record: JobRecord) -> tuple[bool, bool]:
        """See `JobRow.requests_in`."""


class JobRow:
    """The row of `jobs` of one job, as long as this process runs it.

    Args:
        engine: the database.
        name: the name of the job.
        exclusive: whether only one process at a time may run it; else several share the row.
        keeps_position: whether a run goes on from the position of one that came to its end, with its counters.
        admit: what else decides whether it may begin.
    """

    def __init__(
        self, engine: Engine, name: str, *, exclusive: bool, keeps_position: bool, admit: Admit | None = None
    ) -> None:
        self._engine = engine
        self._name = name
        self._exclusive = exclusive
        self._keeps_position = keeps_position
        self._admit = admit
        self._file = DatabaseFileGuard(engine)
        self._began_at = dt.datetime.now(dt.UTC)
        self._owner = process_identity.this_process() | {BEGAN: self._began_at.isoformat()}

    def begin(self) -> tuple[JobRecord, bool]:
        """Record that this process runs the job; return the record, and whether an earlier run did not end.

        Raises:
            JobTaken: another process runs it.
            DatabaseError: see `write_transaction`; what `admit` raises.
        """
        with write_transaction(self._engine) as connection:
            change = None if self._admit is None else self._admit(connection)
            before = shared_job(connection, self._name, DONE)  # of two processes that begin at once, the second waits
            if self._exclusive and is_running(before):
                raise taken(before)
            resumed = before.state != DONE and bool(before.owner)
            record = replace(before, state=RUNNING, owner=self._owner)
            record.progress = record.reason = record.finished_at = None
            if not resumed:
                record.started_at = self._began_at
            if before.state == DONE and not self._keeps_position:
                record.cursor, record.counters = {}, {}
            if change is not None:
                change(record)
            save_job(connection, record)
        process_identity.begin_run(self._owner)
        return record, resumed

    def lock(self, connection: Connection) -> JobRecord:
        """Return the row, locked until the transaction ends.

        Raises:
            JobTaken: another process runs the job now, or its row is gone.
        """
        stored = load_job(connection, self._name, for_update=True)
        if stored is None:
            raise JobTaken(f"{self._name}: its row in `jobs` is gone; repeat the command")
        if self._exclusive and not self._is_ours(stored):
            raise JobTaken(
                f"{self._name}: {process_identity.describe(stored.owner)} has taken it over; nothing is lost"
            )
        return stored

    def save(self, change: Change, connection: Connection | None = None, *, at_once: bool = False) -> JobRecord:
        """Change the row, which is locked until the transaction ends; return it as it is now.

        Args:
            change: changes the fields of the stored record.
            connection: the transaction of a batch; by default one of its own.
            at_once: give up if the database is locked.

        Raises:
            JobTaken: another process runs the job now, its row is gone, or the database's file was replaced.
            DatabaseError: see `write_transaction`.
        """
        if connection is not None:
            return self._save(connection, change)
        with self._transaction(AT_ONCE_S if at_once else None) as own:
            return self._save(own, change)

    def end(self, change: Change, *, at_once: bool) -> JobRecord:
        """Change the row a last time, unless it has ended already or another process that shares it saved last.

        Raises:
            JobTaken, DatabaseError: as for `save`.
        """
        with self._transaction(LAST_WORD_S if at_once else None) as connection:
            record = self.lock(connection)
            if self._is_ours(record) and record.state not in ENDED:
                change(record)
                save_job(connection, record)
            return record

    def release(self) -> None:
        """Let other threads of this process run the job."""
        process_identity.end_run(self._owner)

    def requests(self) -> tuple[bool, bool]:
        """Return whether another process wants the job to pause, and whether it wants this run to stop."""
        with read_transaction(self._engine) as connection:
            record = load_job(connection, self._name)
        return (False, False) if record is None else self.requests_in(record)

    def requests_in(self, record: JobRecord) -> tuple[bool, bool]:
        """Return the same from a record."""
        return requests_in(record, self._began_at)

    @contextmanager
    def _transaction(self, within_s: float | None) -> Iterator[Connection]:
        """Yield a write transaction, which waits for others no longer than `within_s`, or than the engine does."""
        self._file.require_same()  # connecting would create a new database in place of a deleted one
        engine = self._engine if within_s is None else second_engine(self._engine, lock_timeout_s=within_s)
        try:
            with write_transaction(engine) as connection:
                yield connection
        finally:
            if within_s is not None:
                engine.dispose()

    def _save(self, connection: Connection, change: Change) -> JobRecord:
        record = self.lock(connection)
        change(record)
        record.owner = self._owner
        save_job(connection, record)
        return record

    def _is_ours(self, record: JobRecord) -> bool:
        return bool(record.owner.get("run") == self._owner["run"])
