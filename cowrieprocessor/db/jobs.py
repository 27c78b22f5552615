"""The rows of `jobs`: the progress, counters and state of every long job."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, text, update

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.models import Job
from cowrieprocessor.errors import CowrieProcessorError

RUNNING, WAITING, PAUSED, DONE, FAILED, STOPPED = "running", "waiting", "paused", "done", "failed", "stopped"

ENDED = (DONE, FAILED, STOPPED)
"""The states of jobs that no process runs."""

NOT_STARTED = "not started yet"
"""The reason of a row that was made to pause a job before its first run."""

GOES_ON = "the same command goes on from here"
BEGINS_ANEW = "nothing of it is kept, the same command begins anew"
INTERRUPTED = f"interrupted; {GOES_ON}"
UNEXPECTED = f"it ended in an unexpected way; {GOES_ON}"
"""Reasons of jobs that have ended before their end."""

MIGRATION_JOB = "migrate"
"""The row that records the state of the v3 tables at the time of the migration."""

RECOUNT_JOB = "recount"
"""The row of the recount. A revision that changes what is derived from events notes itself in its cursor."""

REVISION = "revision"
"""Key in the cursor of `RECOUNT_JOB`: the revision that every session has yet to be brought to."""

_INSERT = text(
    "INSERT INTO jobs (name, state, started_at, updated_at) VALUES (:name, :state, :now, :now)"
    " ON CONFLICT (name) DO NOTHING"
).bindparams(bindparam("now", type_=Job.__table__.c.started_at.type))


@dataclass(slots=True)
class JobRecord:
    """One job. Times are aware, in UTC.

    Attributes:
        name: the unique name of the job.
        state: running, waiting (see reason), paused, done, failed, or stopped (interrupted, can be resumed).
        cursor: the position at which it resumes; plain JSON.
        counters: its counters, by reason.
        started_at: when it was started.
        updated_at: when the row was last written.
        finished_at: when it ended; None while it runs.
        reason: why it waits, failed or stopped; None while it runs or when it is done.
        owner: the process that runs it, or ran it last, as plain JSON; empty if none is known.
        progress: how far it is: the fields of `JobProgress`; None before the first report.
        pause_requested: whether it shall pause; `save_job` does not write it.
        stop_requested_at: when it was last asked to stop: a run that began before ends; `save_job` does not write it.
    """

    name: str
    state: str
    cursor: dict[str, Any] = field(default_factory=dict)
    counters: dict[str, Any] = field(default_factory=dict)
    started_at: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    updated_at: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    finished_at: dt.datetime | None = None
    reason: str | None = None
    owner: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] | None = None
    pause_requested: bool = False
    stop_requested_at: dt.datetime | None = None


def end_reason(error: BaseException | None) -> str:
    """Return why a job has ended, in words for people: never the name of a class."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return str(error) if isinstance(error, CowrieProcessorError | OSError) else UNEXPECTED


def load_job(connection: Connection, name: str, *, for_update: bool = False) -> JobRecord | None:
    """Return the row of a job, or None; `for_update` locks the row until the transaction ends."""
    query = select(*Job.__table__.columns).where(Job.name == name)
    row = connection.execute(query.with_for_update() if for_update else query).mappings().one_or_none()
    return None if row is None else _record(row)


def recount_is_due(connection: Connection) -> bool:
    """Return whether sessions that an earlier revision derived have not all been recounted yet."""
    job = load_job(connection, RECOUNT_JOB)
    return job is not None and job.state != DONE and REVISION in job.cursor


def twins_are_marked(connection: Connection) -> bool:
    """Return whether a recount of every session has ended: it marks the events that version 3 stored twice."""
    job = load_job(connection, RECOUNT_JOB)
    return job is not None and job.state == DONE


def jobs_of_kind(connection: Connection, kind: str) -> list[JobRecord]:
    """Return the jobs whose names start with `kind:`, ordered by name."""
    query = select(*Job.__table__.columns).where(Job.name.startswith(f"{kind}:", autoescape=True)).order_by(Job.name)
    return [_record(row) for row in connection.execute(query).mappings()]


def shared_job(connection: Connection, name: str, state: str) -> JobRecord:
    """Return the locked row of a job that several processes work on at once; it is created if it does not exist.

    Args:
        connection: a connection in a write transaction.
        name: the name of the job.
        state: the state of a new row.
    """
    now = dt.datetime.now(dt.UTC)
    connection.execute(_INSERT, {"name": name, "state": state, "now": now})
    job = load_job(connection, name, for_update=True)
    if job is None:
        raise LookupError(f"the row of the job {name} disappeared right after it was created")
    return job


def save_job(connection: Connection, job: JobRecord) -> None:
    """Write the columns of a job's row but those of requests; `updated_at` is set to the current time."""
    job.updated_at = dt.datetime.now(dt.UTC)
    values = {
        "state": job.state,
        "cursor": job.cursor,
        "counters": job.counters,
        "started_at": job.started_at,
        "updated_at": job.updated_at,
        "finished_at": job.finished_at,
        "reason": job.reason,
        "owner": job.owner,
        "progress": job.progress,
    }
    result = connection.execute(update(Job).where(Job.name == job.name).values(values))
    if not result.rowcount:
        connection.execute(insert(Job).values(name=job.name, **values))


def request_pause(connection: Connection, name: str, *, is_on: bool = True) -> bool:
    """Ask a job to pause, or with `is_on` False to go on; return whether that changes anything."""
    is_other = Job.name == name, Job.pause_requested != is_on
    return bool(connection.execute(update(Job).where(*is_other).values(pause_requested=is_on)).rowcount)


def request_stop(connection: Connection, name: str) -> None:
    """Ask the present runs of a job to stop."""
    connection.execute(update(Job).where(Job.name == name).values(stop_requested_at=dt.datetime.now(dt.UTC)))


def all_jobs(connection: Connection) -> list[JobRecord]:
    """Return all jobs, ordered by name, also of a database of an earlier revision, which has fewer columns."""
    there = dialect_of(connection).column_names(connection, Job.__tablename__)
    columns = [column for column in Job.__table__.columns if column.name in there]
    return [_record(row) for row in connection.execute(select(*columns).order_by(Job.name)).mappings()]


def delete_job(connection: Connection, name: str) -> None:
    """Delete the row of a job, if it exists."""
    connection.execute(delete(Job).where(Job.name == name))


def _record(row: Mapping[Any, Any]) -> JobRecord:
    documents = {name: dict(row.get(name) or {}) for name in ("cursor", "counters", "owner")}
    return JobRecord(**{**row, **documents})


def add_counters(counters: dict[str, Any], more: Mapping[str, int]) -> None:
    """Add the counts in `more` to `counters`, in place."""
    for reason, count in more.items():
        counters[reason] = counters.get(reason, 0) + count
