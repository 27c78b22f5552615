"""One batch, one transaction: events, sessions, commands, files, dead letters, counters and the log's checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dialects.sql_expressions import sql_of
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.ingest import log_files, sensor_names, wrapped_logs
from cowrieprocessor.db.ingest.event_locks import lock_all_events, lock_events
from cowrieprocessor.db.ingest.log_damage import Log, torn_end
from cowrieprocessor.db.ingest.overlapping_events import add_left_out
from cowrieprocessor.db.ingest.overlaps import overlaps
from cowrieprocessor.db.ingest.statements import LoadingStatements
from cowrieprocessor.db.ingest.stored_events import SourceKey, times_stored
from cowrieprocessor.loader.damage_writer import store_damage
from cowrieprocessor.loader.row_writer import write_rows
from cowrieprocessor.loader.rows.batch import BatchRows
from cowrieprocessor.loader.rows.batching import now_text
from cowrieprocessor.loader.torn_values import Loading, drop_passed_end, explain_ends, needs_recording, record_end

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
    ingest_id: str,
    job: str = JOB,
    copies: Sequence[Log] = (),
    sensor: str | None = None,
    in_transaction: Callable[[Connection, BatchRows], None] | None = None,
) -> None:
    """Write a batch and the log's new checkpoint in one transaction; adjust the batch's counters to what was stored.

    Args:
        engine: the database.
        rows: the batch.
        progress: the position of the job; written for `JOB` only, other jobs record their own.
        ingest_id: identifies the load.
        job: the row of `jobs` whose counters are increased.
        copies: damaged copies of the log with the same byte positions.
        sensor: the name to give to the log if this is its first batch; see `loader.log_sensor` for a known log.
        in_transaction: called at the end of the same transaction.

    Raises:
        LogMoved: another loader moved the checkpoint; nothing was written.
        LogOverlaps: an event may be stored from another log; nothing was written.
        DatabaseError: the database refused; nothing was written.
    """
    with write_transaction(engine) as connection:
        lock_events(connection, rows.sensor_days)
        sensor_names.lock(connection)
        log = (rows.log["identity"], rows.log["generation"])
        if not log_files.store(connection, rows.log, rows.stored_values, rows.stored_bytes, rows.more_bytes):
            raise LogMoved
        if _may_be_stored(connection, rows):
            raise LogOverlaps
        wrapped_logs.store(connection, log, rows.wrapped)
        add_left_out(connection, log, rows.left_out)
        if sensor is not None and rows.stored_values is None:
            sensor_names.give(connection, log, sensor)
        _write_damage(connection, rows, copies, ingest_id)
        write_rows(connection, rows)
        add_counters(connection, job, rows.counters, progress if job == JOB else None, rows.now)
        if in_transaction is not None:
            in_transaction(connection, rows)


def _write_damage(connection: Connection, rows: BatchRows, copies: Sequence[Log], ingest_id: str) -> None:
    """Store damaged places and their dead letters, and settle what is known of torn values."""
    loading = Loading(ingest_id, rows.now, not sql_of(connection).computes_event_columns)
    changes = drop_passed_end(connection, rows, loading) + explain_ends(connection, rows)
    if rows.damage or copies or rows.order:
        changes += store_damage(connection, rows, copies, loading)
    counters = Counter(rows.counters)
    counters.update(changes)
    rows.counters = {name: count for name, count in counters.items() if count}


def write_torn_end(
    engine: Engine, log: Log, pending: bytes, *, line: int, is_finished: bool, ingest_id: str, job: str
) -> Counter[str]:
    """Store the torn value at the end of a log, and its dead letter if the log is finished.

    Args:
        engine: the database.
        log: the log.
        pending: the bytes after its cursor.
        line: 0-based number of the line on which they begin.
        is_finished: whether nothing will be appended to the log.
        ingest_id: identifies the load.
        job: the row of `jobs` whose counters are increased.

    Returns:
        What was stored and withdrawn, by counter.
    """
    with read_transaction(engine) as connection:
        if not needs_recording(connection, log, pending, is_finished=is_finished):
            return Counter()
    with write_transaction(engine) as connection:
        lock_all_events(connection)  # an event that explains it may be stored meanwhile
        now = now_text()
        loading = Loading(ingest_id, now, not sql_of(connection).computes_event_columns)
        changes = record_end(connection, log, pending, line=line, is_finished=is_finished, loading=loading)
        add_counters(connection, job, changes, None, now)
    return changes


def is_end_explained(engine: Engine, log: Log) -> bool:
    """Return whether the torn value at the end of a log is part of an event that is stored."""
    with read_transaction(engine) as connection:
        end = torn_end(connection, log)
        return end is not None and end.is_explained


def _may_be_stored(connection: Connection, rows: BatchRows) -> bool:
    """Return whether any event of a batch may be stored from another log."""
    if rows.looked_up is None:
        return overlaps(connection, rows.log, rows.sessions, (rows.first_event, rows.last_event))
    # The lookup read an older state of the database. Each time this finds something, another log has stored one more of
    # the events that this log is about to store, so the retries end.
    log = SourceKey(rows.log["source"], rows.log["source_inode"], rows.log["source_generation"])
    stored = times_stored(connection, log, rows.looked_up)
    return any(stored[payload_hash] > count for _, _, payload_hash, count in rows.looked_up)


def add_counters(
    connection: Connection, job: str, counters: Mapping[str, int], progress: Mapping[str, object] | None, now: str
) -> None:
    """Add to the counters of a job, and record its position if given."""
    statements = LoadingStatements(connection)
    try:
        statements.add_job_counters(job, counters, progress, now)
    finally:
        statements.close()


def set_load_state(engine: Engine, state: str, reason: str | None, now: str) -> None:
    """Record in `jobs` that loading is running, done, or stopped or failed with a reason."""
    with write_transaction(engine) as connection:
        statements = LoadingStatements(connection)
        try:
            statements.set_job_state(JOB, state, reason, now)
        finally:
            statements.close()
