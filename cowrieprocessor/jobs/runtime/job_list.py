"""The jobs of a database as other processes see them: whether a process is still there, and how far each job is."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.ingest.removals import JOB as REMOVALS
from cowrieprocessor.db.jobs import (
    ENDED,
    MIGRATION_JOB,
    NOT_STARTED,
    PAUSED,
    JobRecord,
    all_jobs,
    load_job,
    request_pause,
    request_stop,
)
from cowrieprocessor.db.migrations import require_current
from cowrieprocessor.errors import NotFound
from cowrieprocessor.jobs.runtime import job_file, process_identity
from cowrieprocessor.jobs.runtime.job_record import BEGAN
from cowrieprocessor.jobs.runtime.process_identity import Liveness

DIED, SILENT = "died", "silent"
"""What `jobs` cannot say itself: the process is gone without a last word; or it cannot be asked, and says nothing."""

POSITIONS = (MIGRATION_JOB, REMOVALS)
"""Rows of `jobs` that only hold a position: no process runs them."""


@dataclass(frozen=True, slots=True)
class ListedJob:
    """One job.

    Attributes:
        name: its name.
        state: running, waiting, paused, done, failed, stopped; died if its process is gone without a last word;
            silent if its process cannot be asked, on another machine or in a container, and has said nothing for five
            minutes.
        reason: why it waits, failed or stopped.
        request: what it was asked to do and has not done yet: pause or stop.
        process: the process that runs it or ran it last, for people; None if unknown.
        progress: `done`, `total`, `unit`, `per_s`, `eta_s` and `step` of the last report; None before the first.
        started_at: when it was started.
        updated_at: when it said something last.
        finished_at: when it ended; None while it runs.
    """

    name: str
    state: str
    reason: str | None
    request: str | None
    process: str | None
    progress: dict[str, Any] | None
    started_at: dt.datetime
    updated_at: dt.datetime
    finished_at: dt.datetime | None


def list_jobs(connection: Connection) -> list[ListedJob]:
    """Return all jobs, also those whose records are files beside the database, the most recently updated first."""
    return listed_jobs([*all_jobs(connection), *job_file.file_jobs(connection.engine)])


def listed_jobs(jobs: Sequence[JobRecord]) -> list[ListedJob]:
    """Return jobs as they are shown, the most recently updated first."""
    listed = [_listed(job) for job in jobs if job.name not in POSITIONS]
    return sorted(listed, key=lambda job: (-job.updated_at.timestamp(), job.name))


def _listed(job: JobRecord) -> ListedJob:
    state = shown_state(job)
    return ListedJob(
        name=job.name,
        state=state,
        reason=job.reason,
        request=_open_request(job, state),
        process=process_identity.describe(job.owner) if job.owner else None,
        progress=job.progress,
        started_at=job.started_at,
        updated_at=job.updated_at,
        finished_at=job.finished_at,
    )


def _open_request(job: JobRecord, state: str) -> str | None:
    """Return what a job was asked to do and has not done yet."""
    began = job.owner.get(BEGAN)
    is_running = state not in (*ENDED, DIED)
    if is_running and began and job.stop_requested_at and job.stop_requested_at > dt.datetime.fromisoformat(began):
        return "stop"
    return "pause" if job.pause_requested and state != PAUSED else None


def shown_state(job: JobRecord) -> str:
    """Return the state of a job, or what became of a process that did not say how it ended."""
    if job.state in ENDED or job.finished_at is not None:
        return job.state
    liveness = process_identity.liveness(job.owner) if job.owner else Liveness.UNKNOWN
    if liveness is Liveness.GONE:
        return DIED
    if liveness is Liveness.UNKNOWN and process_identity.is_silent(job.updated_at):
        return SILENT
    return job.state


def pause(engine: Engine, names: Sequence[str]) -> list[str]:
    """Ask jobs to pause, whether they run now or are started later, until `resume`; return their names.

    Raises:
        NotFound: there is no such job, or it cannot be asked.
    """
    _require_jobs(engine, names)
    for name in names:  # each in a transaction of its own: jobs lock their rows in an order of theirs
        _request_pause(engine, name, is_on=True)
    return list(names)


def resume(engine: Engine, names: Sequence[str]) -> list[str]:
    """Let jobs go on that were asked to pause; return the names of those that were.

    Raises:
        NotFound: there is no such job, or it cannot be asked.
    """
    _require_jobs(engine, names)
    return [name for name in names if _request_pause(engine, name, is_on=False)]


def _request_pause(engine: Engine, name: str, *, is_on: bool) -> bool:
    """Ask a job to pause or to go on; return whether that changes anything."""
    job = job_file.load(engine, name)
    if job is None:
        with write_transaction(engine) as connection:
            return request_pause(connection, name, is_on=is_on)

    def request(job: JobRecord) -> None:
        job.pause_requested = is_on

    return job_file.change(engine, name, request) and job.pause_requested != is_on


def stop(engine: Engine, names: Sequence[str]) -> list[str]:
    """Ask running jobs to stop after their batch; return the names of those that run.

    Raises:
        NotFound: there is no such job, or it cannot be asked.
    """
    jobs = _require_jobs(engine, names)
    running = [job.name for job in jobs if shown_state(job) not in (*ENDED, DIED)]
    for name in running:
        if not job_file.change(engine, name, _request_stop):
            with write_transaction(engine) as connection:
                request_stop(connection, name)
    return running


def _request_stop(job: JobRecord) -> None:
    job.stop_requested_at = dt.datetime.now(dt.UTC)


def _require_jobs(engine: Engine, names: Sequence[str]) -> list[JobRecord]:
    """Return jobs that can be asked.

    Raises:
        NotFound: there is none of this name, or it does not look for requests.
    """
    found = {name: job_file.load(engine, name) for name in names}
    if missing := [name for name, job in found.items() if job is None]:
        require_current(engine)
        with read_transaction(engine) as connection:
            found |= {name: load_job(connection, name) for name in missing}
    jobs = []
    for name, job in found.items():
        if job is None:
            raise NotFound(f"{name}: no such job; `cowrieprocessor jobs list` names those that were started here")
        if BEGAN not in job.owner and job.reason != NOT_STARTED and not job.pause_requested:
            raise NotFound(f"{name}: cannot be paused or stopped from here; stop its process")
        jobs.append(job)
    return jobs
