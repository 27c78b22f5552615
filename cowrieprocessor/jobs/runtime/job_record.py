"""The record of a job that this process runs: a row of `jobs`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import replace

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import read_transaction, second_engine, write_transaction
from cowrieprocessor.db.jobs import (
    DONE,
    ENDED,
    RUNNING,
    STOP,
    JobRecord,
    clear_request,
    load_job,
    save_job,
    shared_job,
)
from cowrieprocessor.errors import JobTaken
from cowrieprocessor.jobs.runtime import process_identity

AT_ONCE_S = 0.2
"""How long a record that is saved "at once" waits for the write lock."""

Change = Callable[[JobRecord], None]


def is_running(job: JobRecord) -> bool:
    """Return whether the process that runs a job may be there; see `process_identity.is_alive`."""
    return job.state not in ENDED and bool(job.owner) and process_identity.is_alive(job.owner, job.updated_at)


class JobRow:
    """The row of `jobs` of one job, as long as this process runs it.

    Args:
        engine: the database.
        name: the name of the job.
        exclusive: whether only one process at a time may run it; else several share the row.
    """

    def __init__(self, engine: Engine, name: str, *, exclusive: bool) -> None:
        self._engine = engine
        self._name = name
        self._exclusive = exclusive
        self._owner = process_identity.this_process()

    def begin(self) -> tuple[JobRecord, bool]:
        """Record that this process runs the job; return the record, and whether an earlier run did not end.

        Raises:
            JobTaken: another process runs it.
        """
        with write_transaction(self._engine) as connection:
            before = load_job(connection, self._name, for_update=True)
            if before is None:
                shared_job(connection, self._name, DONE)  # of two processes that begin at once, the second waits here
                before = load_job(connection, self._name)
            record, resumed = self._begun(before)
            save_job(connection, record)
            if clear_request(connection, self._name, STOP):  # it was asked of an earlier run
                record.request = None
        return record, resumed

    def lock(self, connection: Connection) -> JobRecord:
        """Return the row, locked until the transaction ends.

        Raises:
            JobTaken: another process runs the job now, or its row is gone.
        """
        stored = load_job(connection, self._name, for_update=True)
        if stored is None or (self._exclusive and not self._is_ours(stored)):
            owner = {} if stored is None else stored.owner
            raise JobTaken(
                f"{self._name}: {process_identity.describe(owner)} has taken it over, or the database was rolled "
                "back; nothing is lost"
            )
        return stored

    def save(
        self, change: Change, connection: Connection | None = None, *, at_once: bool = False, is_end: bool = False
    ) -> JobRecord:
        """Change the row, which is locked until the transaction ends; return it as it is now.

        Args:
            change: changes the fields of the stored record.
            connection: the transaction of a batch; by default one of its own.
            at_once: give up if the database is locked.
            is_end: the job ends; of several processes, the one that saved last says how.

        Raises:
            JobTaken: another process runs the job now.
            DatabaseError: see `write_transaction`.
        """
        if connection is not None:
            return self._save(connection, change, is_end=is_end)
        engine = second_engine(self._engine, lock_timeout_s=AT_ONCE_S) if at_once else self._engine
        try:
            with write_transaction(engine) as own:
                return self._save(own, change, is_end=is_end)
        finally:
            if at_once:
                engine.dispose()

    def request(self) -> str | None:
        """Return what another process wants: pause, stop, or nothing."""
        with read_transaction(self._engine) as connection:
            record = load_job(connection, self._name)
        return None if record is None else record.request

    def _save(self, connection: Connection, change: Change, *, is_end: bool) -> JobRecord:
        record = self.lock(connection)
        if not is_end or self._is_ours(record):
            change(record)
            record.owner = self._owner
            save_job(connection, record)
        if is_end:
            clear_request(connection, self._name, STOP)
        return record

    def _is_ours(self, record: JobRecord) -> bool:
        return bool(record.owner.get("run") == self._owner["run"])

    def _begun(self, before: JobRecord | None) -> tuple[JobRecord, bool]:
        """Return the record of a run that begins, and whether an earlier one did not end.

        Raises:
            JobTaken: another process runs it.
        """
        if before is None:
            return JobRecord(self._name, RUNNING, owner=self._owner), False
        if self._exclusive and is_running(before):
            raise JobTaken(
                f"{self._name}: {process_identity.describe(before.owner)} is running it; watch it with "
                "`cowrieprocessor jobs list`, or stop that process and repeat the command"
            )
        resumed = before.state != DONE
        started_at = before.started_at if resumed else dt.datetime.now(dt.UTC)
        begun = replace(before, state=RUNNING, owner=self._owner, started_at=started_at)
        begun.progress = begun.reason = begun.finished_at = None
        return begun, resumed
