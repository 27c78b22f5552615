"""The backfill: what a v3 database's events say about files, sessions and commands, put into the tables of v4.

Two jobs, one after the other: files with their hashes, then session attributes and commands. Each goes on where it
stopped, beside loaders that write; run again, it takes up what an old v3 loader has appended since.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.ingest import event_scan as stored
from cowrieprocessor.db.jobs import PAUSED, JobRecord, delete_job, load_job, save_job
from cowrieprocessor.db.migrations import require_current
from cowrieprocessor.db.upgrade.pre_release_files import import_pre_release_files
from cowrieprocessor.jobs.runtime.throttle import Throttle
from cowrieprocessor.jobs.upgrade.backfill_aggregates import FilesSlice, SessionsSlice
from cowrieprocessor.jobs.upgrade.backfill_run import ALL_TYPES, BackfillProgress, BackfillRun

BATCH_SIZE = 10_000
PAUSE_JOB = "backfill-pause"
PAUSED_BY_COMMAND = "paused by command; `db backfill --resume` lets it go on"
KINDS = (FilesSlice, SessionsSlice)


@dataclass(frozen=True, slots=True)
class BackfillResult:
    """What the backfill did, all its runs together.

    Attributes:
        files: the job that fills `files` and `file_hashes`.
        sessions: the job that fills `session_attributes` and `command_stats`.
    """

    files: JobRecord
    sessions: JobRecord


@dataclass(frozen=True, slots=True)
class BackfillPlan:
    """What a backfill would read, by job.

    Attributes:
        database_rows: the largest id of raw_events: about how many there are.
        rows: events that each job has yet to read.
    """

    database_rows: int
    rows: dict[str, int]


def backfill(
    engine: Engine,
    *,
    batch_size: int = BATCH_SIZE,
    throttle: float = 0.0,
    pause_file: Path | None = None,
    on_progress: Callable[[BackfillProgress], None] | None = None,
) -> BackfillResult:
    """Run both jobs to their end.

    Args:
        engine: a database at our version.
        batch_size: rows read at a time; what is written in one transaction is bounded by time instead.
        throttle: the share of time to rest, 0 to 0.99.
        pause_file: while this file is there, nothing is written.
        on_progress: told about every write and every wait.

    Raises:
        MigrationNeeded, SchemaVersionError: the database has to be migrated first.
        JobTaken: another process runs the backfill.
        DatabaseError: see `write_transaction`; what was committed is kept.
    """
    require_current(engine)
    import_pre_release_files(engine)
    done = [
        BackfillRun(
            engine,
            kind,
            Throttle(engine, PAUSE_JOB, paused_reason=PAUSED_BY_COMMAND, throttle=throttle, pause_file=pause_file),
            batch_size=batch_size,
            on_progress=on_progress,
        ).run()
        for kind in KINDS
    ]
    return BackfillResult(*done)


def plan(engine: Engine) -> BackfillPlan:
    """Return what a backfill would read; nothing is written."""
    require_current(engine)
    rows: dict[str, int] = {}
    with read_transaction(engine) as connection:
        target = stored.last_event_id(connection)
        for kind in KINDS:
            job = load_job(connection, kind.job)
            last: dict[str, Any] = {} if job is None else job.cursor.get("last") or {}
            if kind is SessionsSlice:
                rows[kind.job] = max(0, target - int(last.get(ALL_TYPES, 0)))
            else:
                rows[kind.job] = sum(
                    stored.count_events_of_type(connection, one, int(last.get(one, 0)), target)
                    for one in kind.event_types
                )
    return BackfillPlan(target, rows)


def pause(engine: Engine) -> None:
    """Have a backfill, running now or started later, write nothing until `resume`."""
    require_current(engine)
    with write_transaction(engine) as connection:
        save_job(connection, JobRecord(PAUSE_JOB, PAUSED, reason="asked for by `db backfill --pause`"))


def resume(engine: Engine) -> None:
    """Let a paused backfill go on."""
    require_current(engine)
    with write_transaction(engine) as connection:
        delete_job(connection, PAUSE_JOB)
