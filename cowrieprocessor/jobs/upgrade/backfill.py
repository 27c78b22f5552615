"""The backfill: fills v4's tables on files, sessions and commands from the events of a v3 database.

Four jobs run in sequence: files with their hashes, their URLs and names, then session attributes, commands and logins,
then the sensors of sessions. Each resumes where it stopped, and runs alongside loaders; run again, it processes what a
v3 loader has appended since. Of a database that v3 never wrote to, only the jobs run that its migration recorded: its
loaders have stored everything else. Where an earlier revision derived sessions by other rules, a recount follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.ingest.event_scan import count_events_of_type, last_event_id
from cowrieprocessor.db.ingest.log_files import has_rows_of_v3
from cowrieprocessor.db.jobs import (
    DONE,
    NOT_STARTED,
    RECOUNT_JOB,
    STOPPED,
    JobRecord,
    delete_job,
    load_job,
    recount_is_due,
    request_pause,
    save_job,
)
from cowrieprocessor.db.migrations import require_current
from cowrieprocessor.db.upgrade.pre_release_files import import_pre_release_files
from cowrieprocessor.jobs.runtime.job import run_job
from cowrieprocessor.jobs.runtime.progress import JobProgress
from cowrieprocessor.jobs.runtime.throttle import DEFAULT_LIMITS, ThrottleLimits
from cowrieprocessor.jobs.upgrade.backfill_aggregates import (
    FilesSlice,
    MentionsSlice,
    SensorsSlice,
    SessionsSlice,
    Slice,
)
from cowrieprocessor.jobs.upgrade.backfill_run import ALL_TYPES, SLICE_ROWS, BackfillRun
from cowrieprocessor.jobs.upgrade.recount import recount

BATCH_SIZE = 10_000
KINDS: tuple[type[Slice], ...] = (FilesSlice, MentionsSlice, SessionsSlice, SensorsSlice)


@dataclass(frozen=True, slots=True)
class BackfillResult:
    """All jobs as they ended, with the counters of all runs; one with nothing to do is done and has no counters.

    Attributes:
        files: the job that fills `files` and `file_hashes`.
        mentions: the job that fills `file_mentions`.
        sessions: the job that fills `session_attributes`, `command_stats` and `session_logins`.
        sensors: the job that fills `session_sensors`.
    """

    files: JobRecord
    mentions: JobRecord
    sessions: JobRecord
    sensors: JobRecord


@dataclass(frozen=True, slots=True)
class BackfillPlan:
    """Events that a backfill would read.

    Attributes:
        database_rows: the largest id of raw_events, about the number of its rows.
        rows: events left to read, by job.
    """

    database_rows: int
    rows: dict[str, int]


def backfill(
    engine: Engine,
    *,
    batch_size: int = BATCH_SIZE,
    throttle: float = 0.0,
    pause_file: Path | None = None,
    slice_rows: int = SLICE_ROWS,
    limits: ThrottleLimits = DEFAULT_LIMITS,
    stop: Event | None = None,
    on_progress: Callable[[JobProgress], None] | None = None,
) -> BackfillResult:
    """Run all jobs to completion.

    Args:
        engine: a database at the current schema version.
        batch_size: rows read at a time; write transactions are bounded by the time that they take.
        throttle: share of time to idle, 0 to 0.99.
        pause_file: nothing is written while this file exists.
        slice_rows: events by which a write transaction grows.
        limits: limits of its writes.
        stop: once set, the job that runs ends after its batch.
        on_progress: called after every write and on every wait.

    Raises:
        MigrationNeeded, SchemaVersionError: the database has to be migrated first.
        JobTaken: another process runs the backfill.
        JobStopped: it was asked to stop.
        DatabaseError: see `write_transaction`; committed work is kept.
    """
    require_current(engine)
    import_pre_release_files(engine)
    with read_transaction(engine) as connection:
        kinds = kinds_to_run(connection)
    done = []
    for kind in KINDS:
        if kind not in kinds:
            done.append(JobRecord(kind.job, DONE))
            continue
        with run_job(
            engine,
            kind.job,
            keeps_position=True,
            resume_command="db backfill --resume",
            stop=stop,
            share_of_rest=throttle,
            pause_file=pause_file,
            limits=limits,
            on_progress=on_progress,
        ) as job:
            BackfillRun(engine, kind, job, batch_size=batch_size, slice_rows=slice_rows).run()
        done.append(job.record)
    with read_transaction(engine) as connection:
        is_due = recount_is_due(connection)
    if is_due:
        recount(
            engine,
            stop=stop,
            on_progress=on_progress,
            share_of_rest=throttle,
            pause_file=pause_file,
            limits=limits,
        )
    return BackfillResult(*done)


def kinds_to_run(connection: Connection) -> list[type[Slice]]:
    """Return the jobs that may find something: all if v3 stored events, else those that are recorded."""
    if has_rows_of_v3(connection):
        return list(KINDS)
    return [kind for kind in KINDS if load_job(connection, kind.job) is not None]


def plan(engine: Engine) -> BackfillPlan:
    """Return the events that a backfill would read; writes nothing."""
    require_current(engine)
    rows = {kind.job: 0 for kind in KINDS}
    with read_transaction(engine) as connection:
        target = last_event_id(connection)
        for kind in kinds_to_run(connection):
            job = load_job(connection, kind.job)
            last: dict[str, Any] = {} if job is None else job.cursor.get("last") or {}
            if not kind.by_type:
                rows[kind.job] = max(0, target - int(last.get(ALL_TYPES, 0)))
            else:
                rows[kind.job] = sum(
                    count_events_of_type(connection, event_type, int(last.get(event_type, 0)), target)
                    for event_type in kind.event_types
                )
    return BackfillPlan(target, rows)


def pause(engine: Engine) -> list[str]:
    """Pause the backfill, whether running or started later, until `resume`; return its jobs: none if none has work."""
    require_current(engine)
    with read_transaction(engine) as connection:
        names = [kind.job for kind in kinds_to_run(connection)]
        if recount_is_due(connection):
            names.append(RECOUNT_JOB)
    for name in names:  # each in a transaction of its own: jobs lock their rows in an order of theirs
        with write_transaction(engine) as connection:
            if load_job(connection, name) is None:
                save_job(connection, JobRecord(name, STOPPED, reason=NOT_STARTED))
            request_pause(connection, name)
    return names


def resume(engine: Engine) -> None:
    """Resume a paused backfill."""
    require_current(engine)
    for name in (*(kind.job for kind in KINDS), RECOUNT_JOB):
        with write_transaction(engine) as connection:
            request_pause(connection, name, is_on=False)
            job = load_job(connection, name)
            if job is not None and job.reason == NOT_STARTED:
                delete_job(connection, name)
