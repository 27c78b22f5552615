"""One batch, one transaction: events, sessions, commands, files, dead letters, counters and the cursor together."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.ingest import log_files
from cowrieprocessor.db.ingest.event_locks import lock_events
from cowrieprocessor.db.ingest.overlaps import overlaps
from cowrieprocessor.db.ingest.statements import LoadingStatements
from cowrieprocessor.db.ingest.stored_events import SourceKey, times_stored
from cowrieprocessor.loader.rows.batch import BatchRows

JOB = "load"


class LogMoved(Exception):
    """Another loader has stored more of this log since we read its cursor; the batch was not written."""


class LogOverlaps(Exception):
    """Another log may have told of what this batch tells, and it was not written.

    Its events have to be looked up; or again, if one was stored from another log since they were.
    """


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
        lock_events(connection, rows.sensor_days)
        if not log_files.store(connection, rows.log, rows.stored_values, rows.stored_bytes, rows.more_bytes):
            raise LogMoved
        if _may_be_stored(connection, rows):
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


def _may_be_stored(connection: Connection, rows: BatchRows) -> bool:
    """Return whether some event of a batch may be stored from another log."""
    if rows.looked_up is None:
        return overlaps(connection, rows.log, rows.sessions, (rows.first_event, rows.last_event))
    # What was looked up was looked up in an older state of the database. Each time this finds something, another log
    # has stored one more of the events that this one waits to store: it comes to an end.
    log = SourceKey(rows.log["source"], rows.log["source_inode"], rows.log["source_generation"])
    now = times_stored(connection, log, rows.looked_up)
    return any(now[payload_hash] > count for _, _, payload_hash, count in rows.looked_up)


def set_load_state(engine: Engine, state: str, reason: str | None, now: str) -> None:
    """Say in `jobs` that loading runs, is done, or failed and why."""
    with write_transaction(engine) as connection:
        statements = LoadingStatements(connection)
        try:
            statements.set_job_state(JOB, state, reason, now)
        finally:
            statements.close()
