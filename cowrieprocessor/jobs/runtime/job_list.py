"""The jobs of a database as other processes see them: whether a process is still there, and how far each job is."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.jobs import (
    ENDED,
    PAUSE,
    STOP,
    JobRecord,
    all_jobs,
    clear_request,
    load_job,
    set_request,
)
from cowrieprocessor.db.migrations import require_current
from cowrieprocessor.errors import NotFound
from cowrieprocessor.jobs.runtime import process_identity
from cowrieprocessor.jobs.runtime.process_identity import Liveness

DIED, SILENT = "died", "silent"
"""What `jobs` cannot say itself: the process is gone without a last word; or it cannot be asked, and says nothing."""

INTERNAL = ("migrate", "removals", "enrich-policy")
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
    """Return all jobs, the most recently updated first."""
    listed = [listed_job(job) for job in all_jobs(connection) if job.name not in INTERNAL]
    return sorted(listed, key=lambda job: (-job.updated_at.timestamp(), job.name))


def listed_job(job: JobRecord) -> ListedJob:
    """Return a job as it is shown."""
    return ListedJob(
        name=job.name,
        state=shown_state(job),
        reason=job.reason,
        request=job.request,
        process=process_identity.describe(job.owner) if job.owner else None,
        progress=job.progress,
        started_at=job.started_at,
        updated_at=job.updated_at,
        finished_at=job.finished_at,
    )


def shown_state(job: JobRecord) -> str:
    """Return the state of a job, or what became of a process that did not say how it ended."""
    if job.state in ENDED or not job.owner:
        return job.state
    liveness = process_identity.liveness(job.owner)
    if liveness is Liveness.GONE:
        return DIED
    if liveness is Liveness.UNKNOWN and process_identity.is_silent(job.updated_at):
        return SILENT
    return job.state


def pause(engine: Engine, names: Sequence[str]) -> list[str]:
    """Ask jobs to pause, whether they run now or are started later, until `resume`; return their names.

    Raises:
        NotFound: there is no such job.
    """
    return _ask(engine, names, PAUSE)


def stop(engine: Engine, names: Sequence[str]) -> list[str]:
    """Ask running jobs to stop after their batch; return the names of those that run.

    Raises:
        NotFound: there is no such job.
    """
    require_current(engine)
    with read_transaction(engine) as connection:
        states = {name: shown_state(_known(connection, name)) for name in names}
    return _ask(engine, [name for name, state in states.items() if state not in (*ENDED, DIED)], STOP)


def resume(engine: Engine, names: Sequence[str]) -> list[str]:
    """Let jobs go on that were asked to pause; return the names of those that were.

    Raises:
        NotFound: there is no such job.
    """
    require_current(engine)
    with write_transaction(engine) as connection:
        for name in names:
            _known(connection, name)
        return [name for name in names if clear_request(connection, name, PAUSE)]


def _ask(engine: Engine, names: Sequence[str], request: str) -> list[str]:
    require_current(engine)
    with write_transaction(engine) as connection:
        for name in names:
            _known(connection, name)
            set_request(connection, name, request)
    return list(names)


def _known(connection: Connection, name: str) -> JobRecord:
    job = load_job(connection, name)
    if job is None:
        raise NotFound(f"{name}: no such job; `cowrieprocessor jobs list` names those that were started here")
    return job
