"""One batch, one transaction: events, sessions, commands, files, dead letters, counters and the log's checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.ingest import log_files, wrapped_logs
from cowrieprocessor.db.ingest.event_locks import lock_events
from cowrieprocessor.db.ingest.overlapping_events import add_left_out
from cowrieprocessor.db.ingest.overlaps import overlaps
from cowrieprocessor.db.ingest.statements import LoadingStatements
from cowrieprocessor.db.ingest.stored_events import SourceKey, times_stored
from cowrieprocessor.loader.rows.batch import BatchRows

JOB = "load"


class LogMoved(Exception):
    """Another loader has moved this log's checkpoint since it was read; the batch was not written."""


class LogOverlaps(Exception):
    """Events of this batch may be stored from another log; the batch was not written.

    Its events have to be looked up, or looked up again if another log has stored one of them since.
    """


def write_batch(
    engine: Engine,
    rows: BatchRows,
    progress: Mapping[str, object],
    *,
    job: str = JOB,
    in_transaction: Callable[[Connection, BatchRows], None] | None = None,
) -> None:
    """Write a batch and the log's new checkpoint in one transaction.

    Args:
        engine: the database.
        rows: the batch.
        progress: the position of the job; written for `JOB` only, other jobs record their own.
        job: the row of `jobs` whose counters are increased.
        in_transaction: called at the end of the same transaction.

    Raises:
        LogMoved: another loader moved the checkpoint; nothing was written.
        LogOverlaps: an event may be stored from another log; nothing was written.
        DatabaseError: the database refused; nothing was written.
    """
    with write_transaction(engine) as connection:
        lock_events(connection, rows.sensor_days)
        if not log_files.store(connection, rows.log, rows.stored_values, rows.stored_bytes, rows.more_bytes):
            raise LogMoved
        if _may_be_stored(connection, rows):
            raise LogOverlaps
        wrapped_logs.store(connection, (rows.log["identity"], rows.log["generation"]), rows.wrapped)
        add_left_out(connection, (rows.log["identity"], rows.log["generation"]), rows.left_out)
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
        if in_transaction is not None:
            in_transaction(connection, rows)


def _may_be_stored(connection: Connection, rows: BatchRows) -> bool:
    """Return whether any event of a batch may be stored from another log."""
    if rows.looked_up is None:
        return overlaps(connection, rows.log, rows.sessions, (rows.first_event, rows.last_event))
    # The lookup read an older state of the database. Each time this finds something, another log has stored one more of
    # the events that this log is about to store, so the retries end.
    log = SourceKey(rows.log["source"], rows.log["source_inode"], rows.log["source_generation"])
    stored = times_stored(connection, log, rows.looked_up)
    return any(stored[payload_hash] > count for _, _, payload_hash, count in rows.looked_up)


def set_load_state(engine: Engine, state: str, reason: str | None, now: str) -> None:
    """Record in `jobs` that loading is running, done, or stopped or failed with a reason."""
    with write_transaction(engine) as connection:
        statements = LoadingStatements(connection)
        try:
            statements.set_job_state(JOB, state, reason, now)
        finally:
            statements.close()
