"""One batch, one transaction: events, sessions, commands, files, dead letters, counters and the cursor together."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, Engine

from cowrieprocessor.db import log_files
from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.loading import LoadingStatements
from cowrieprocessor.db.overlaps import overlaps
from cowrieprocessor.loader.batch import BatchRows

JOB = "load"


class LogMoved(Exception):
    """Another loader has stored more of this log since we read its cursor; the batch was not written."""


class LogOverlaps(Exception):
    """Another log may have told of what this batch tells; it was not written, its events have to be looked up."""


def write_batch(
    engine: Engine,
    rows: BatchRows,
    progress: Mapping[str, object],
    *,
    job: str = JOB,
    beside: Callable[[Connection, BatchRows], None] | None = None,
) -> None:
    """Write a batch and the log's new cursor in one transaction.

    Args:
        engine: the database.
        rows: the batch.
        progress: where the job stands; of one that says so itself nothing is written but its counters.
        job: the row of `jobs` that counts.
        beside: called in the same transaction, at its end.

    Raises:
        LogMoved: another loader moved the cursor; nothing was written.
        LogOverlaps: some event may be stored from another log; nothing was written.
        DatabaseError: the database refused; nothing was written.
    """
    with write_transaction(engine) as connection:
        if not log_files.store(connection, rows.log, rows.stored_values, rows.more_bytes):
            raise LogMoved
        if not rows.was_looked_up and overlaps(
            connection, rows.log, rows.sessions, (rows.first_event, rows.last_event)
        ):
            raise LogOverlaps
        statements = LoadingStatements(connection)
        try:
            statements.insert_raw_events(rows.events)
            statements.merge_sessions(rows.sessions)
            statements.merge_attributes(rows.attributes)
            statements.merge_commands(rows.commands)
            statements.merge_hashes(rows.hashes)
            statements.merge_files(rows.files, rows.now)
            statements.insert_dead_letters(rows.dead_letters)
            statements.add_job_counters(job, rows.counters, progress if job == JOB else None, rows.now)
        finally:
            statements.close()
        if beside is not None:
            beside(connection, rows)


def set_load_state(engine: Engine, state: str, reason: str | None, now: str) -> None:
    """Say in `jobs` that loading runs, is done, or failed and why."""
    with write_transaction(engine) as connection:
        statements = LoadingStatements(connection)
        try:
            statements.set_job_state(JOB, state, reason, now)
        finally:
            statements.close()
