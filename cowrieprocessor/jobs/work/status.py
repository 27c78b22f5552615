"""What `work status` tells: the worker, and each task."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import Engine

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.jobs import ENDED, JobRecord, load_job
from cowrieprocessor.jobs.runtime.job_list import DIED, listed_jobs
from cowrieprocessor.jobs.runtime.job_record import BEGAN
from cowrieprocessor.jobs.work.catalogue import Catalogue
from cowrieprocessor.jobs.work.states import TaskState, task_states
from cowrieprocessor.jobs.work.task_row import WORK_JOB
from cowrieprocessor.settings import Settings


@dataclass(frozen=True, slots=True)
class Worker:
    """The process that runs tasks, or ran them last.

    Attributes:
        is_running: whether it is there.
        state: running; done (after `--once`), stopped, failed; died, silent: see `ListedJob`.
        process: the process, for people; None if unknown.
        since: when it began, or was heard of last.
        reason: why it stopped or failed; None otherwise.
        request: what it was asked to do and has not done yet: pause or stop; None otherwise.
    """

    is_running: bool
    state: str
    process: str | None
    since: dt.datetime
    reason: str | None
    request: str | None


@dataclass(frozen=True, slots=True)
class WorkStatus:
    """The worker, None if none has run on this database, and the tasks by name."""

    worker: Worker | None
    tasks: list[TaskState]


def work_status(engine: Engine, catalogue: Catalogue, settings: Settings, now: dt.datetime) -> WorkStatus:
    """Return the state of the worker and of each task; nothing is changed.

    Raises:
        ConfigurationError: the settings name a task that is not installed.
        DatabaseError: the database cannot be read.
    """
    with read_transaction(engine) as connection:
        row = load_job(connection, WORK_JOB)
    return WorkStatus(None if row is None else _worker(row), task_states(engine, catalogue, settings, now))


def _worker(row: JobRecord) -> Worker:
    (job,) = listed_jobs([row])
    is_running = job.state not in (*ENDED, DIED)
    since = dt.datetime.fromisoformat(row.owner[BEGAN]) if is_running else job.updated_at
    return Worker(is_running, job.state, job.process, since, job.reason, job.request)
