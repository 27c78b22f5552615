"""One batch, one transaction: events, sessions, commands, files, dead letters, counters and the log's checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.ingest import log_files, sensor_names, wrapped_logs
from cowrieprocessor.db.ingest.event_locks import lock_events
from cowrieprocessor.db.ingest.log_damage import Log
from cowrieprocessor.db.ingest.overlapping_events import add_left_out
from cowrieprocessor.db.ingest.overlaps import SessionTimes, overlaps
from cowrieprocessor.db.ingest.removals import count_removals
from cowrieprocessor.db.ingest.statements import LoadingStatements
from cowrieprocessor.db.ingest.stored_events import SourceKey, times_stored
from cowrieprocessor.loader.damage_writer import store_damage
from cowrieprocessor.loader.joined_halves import date_beginning
from cowrieprocessor.loader.row_writer import write_rows
from cowrieprocessor.loader.rows.batch import BatchRows
from cowrieprocessor.loader.torn_letters import Loading
from cowrieprocessor.loader.torn_values import explain_ends

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
    removals: int = 0,
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
        removals: how many transactions had removed events before the batch was looked up.

    Raises:
        LogMoved: another loader moved the checkpoint, or events were removed since the lookup; nothing was written.
        LogOverlaps: an event may be stored from another log; nothing was written.
        DatabaseError: the database refused; nothing was written.
    """
    with write_transaction(engine) as connection:
        lock_events(connection, rows.sensor_days or _ANY_DAY)
        sensor_names.lock(connection)
        log = (rows.log["identity"], rows.log["generation"])
        _store_checkpoint(connection, rows)
        if rows.left_out and count_removals(connection) != removals:
            raise LogMoved  # what was left out of the batch may not be stored any more
        if _may_be_stored(connection, rows):
            raise LogOverlaps
        wrapped_logs.store(connection, log, rows.wrapped)
        add_left_out(connection, log, rows.left_out)
        if rows.stored_values is None:
            _give_sensor(connection, rows, sensor)
        _write_damage(connection, rows, copies, ingest_id)
        write_rows(connection, [rows])
        add_counters(connection, job, rows.counters, progress if job == JOB else None, rows.now)
        if in_transaction is not None:
            in_transaction(connection, rows)


def _give_sensor(connection: Connection, rows: BatchRows, sensor: str | None) -> None:
    """Give a new log its sensor; one that is read again after a removal keeps the one that it had."""
    log = (rows.log["identity"], rows.log["generation"])
    if sensor is None and rows.log["generation"]:
        sensor = sensor_names.given_before_reset(connection, log[0], rows.log["current_path"])
    if sensor is not None:
        sensor_names.give(connection, log, sensor)


def _write_damage(connection: Connection, rows: BatchRows, copies: Sequence[Log], ingest_id: str) -> None:
    """Store damaged places and their dead letters, and settle what is known of torn values."""
    loading = Loading(ingest_id, rows.now, not dialect_of(connection).computes_event_columns)
    changes = explain_ends(connection, rows)
    if rows.first_moment is not None:
        log = (rows.log["identity"], rows.log["generation"])
        changes += date_beginning(connection, log, rows.first_moment, loading)
    if rows.damage or copies or rows.order:
        changes += store_damage(connection, rows, copies, loading)
    counters = Counter(rows.counters)
    counters.update(changes)
    rows.counters = {name: count for name, count in counters.items() if count}


def write_new_logs(
    engine: Engine,
    batches: Sequence[BatchRows],
    progress: Mapping[str, object],
    *,
    ingest_id: str,
    sensors: Sequence[str | None],
) -> None:
    """Write several logs, of which nothing is stored, and their checkpoints in one transaction.

    Args:
        engine: the database.
        batches: each a whole log, without damage or wrapper; no two have an event in common, nor a file of a session.
            Their counters are adjusted to what was stored.
        progress: the position of the load.
        ingest_id: identifies the load.
        sensors: the name to give to each log.

    Raises:
        LogMoved: another loader has begun with one of them; nothing was written.
        LogOverlaps: an event may be stored from another log; nothing was written.
        DatabaseError: the database refused; nothing was written.
    """
    with write_transaction(engine) as connection:
        lock_events(connection, [*_ANY_DAY, *(sensor_day for rows in batches for sensor_day in rows.sensor_days)])
        sensor_names.lock(connection)
        for rows in batches:
            _store_checkpoint(connection, rows)
        ends = [end for rows in batches for end in (rows.first_event, rows.last_event)]
        if overlaps(connection, _NO_LOG, _merged_times(batches), ends):
            raise LogOverlaps
        counters: Counter[str] = Counter()
        for rows, sensor in zip(batches, sensors, strict=True):
            if sensor is not None:
                sensor_names.give(connection, (rows.log["identity"], rows.log["generation"]), sensor)
            _write_damage(connection, rows, (), ingest_id)
            counters.update(rows.counters)
        write_rows(connection, batches)
        add_counters(connection, JOB, counters, progress, batches[0].now)


_ANY_DAY = (("", ""),)
"""Locked by a batch that stores no event, so that none is removed while it is written."""

_NO_LOG = {"source": "", "source_inode": "", "source_generation": -1}
"""Excludes no row from the search for events of other logs."""


def _store_checkpoint(connection: Connection, rows: BatchRows) -> None:
    if not log_files.store(connection, rows.log, rows.stored_values, rows.stored_bytes, rows.more_bytes):
        raise LogMoved


def _merged_times(batches: Sequence[BatchRows]) -> list[SessionTimes]:
    """Return each session of several batches with the times of its first and last event in them."""
    times: dict[str, tuple[str | None, str | None]] = {}
    for rows in batches:
        for session_id, first, last, *_ in rows.sessions:
            known = times.get(session_id)
            if known is None:
                times[session_id] = first, last
            elif None in (first, *known):
                times[session_id] = None, None
            else:
                times[session_id] = min(first, known[0]), max(last, known[1])
    return [(session_id, *moments) for session_id, moments in times.items()]


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
