"""One batch, one transaction: events, sessions, commands, files, dead letters, counters and the log's checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.ingest import log_files
from cowrieprocessor.db.ingest.event_locks import lock_events
from cowrieprocessor.db.ingest.overlapping_events import add_left_out
from cowrieprocessor.db.ingest.overlaps import SessionTimes, overlaps
from cowrieprocessor.db.ingest.removals import count_removals
from cowrieprocessor.db.ingest.statements import LoadingStatements
from cowrieprocessor.db.ingest.stored_events import SourceKey, times_stored
from cowrieprocessor.loader.rows.batch import BatchRows, Rows

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
    removals: int = 0,
) -> None:
    """Write a batch and the log's new checkpoint in one transaction.

    Args:
        engine: the database.
        rows: the batch.
        progress: the position of the job; written for `JOB` only, other jobs record their own.
        job: the row of `jobs` whose counters are increased.
        in_transaction: called at the end of the same transaction.
        removals: how many transactions had removed events before the batch was looked up.

    Raises:
        LogMoved: another loader moved the checkpoint, or events were removed since the lookup; nothing was written.
        LogOverlaps: an event may be stored from another log; nothing was written.
        DatabaseError: the database refused; nothing was written.
    """
    with write_transaction(engine) as connection:
        lock_events(connection, rows.sensor_days or _ANY_DAY)
        _store_checkpoint(connection, rows)
        if rows.left_out and count_removals(connection) != removals:
            raise LogMoved  # what was left out of the batch may not be stored any more
        if _may_be_stored(connection, rows):
            raise LogOverlaps
        add_left_out(connection, (rows.log["identity"], rows.log["generation"]), rows.left_out)
        _write_rows(connection, [rows], progress, job)
        if in_transaction is not None:
            in_transaction(connection, rows)


def write_new_logs(engine: Engine, batches: Sequence[BatchRows], progress: Mapping[str, object]) -> None:
    """Write several logs, of which nothing is stored, and their checkpoints in one transaction.

    Args:
        engine: the database.
        batches: each a whole log; no two have an event in common, nor a file of a session.
        progress: the position of the load.

    Raises:
        LogMoved: another loader has begun with one of them; nothing was written.
        LogOverlaps: an event may be stored from another log; nothing was written.
        DatabaseError: the database refused; nothing was written.
    """
    with write_transaction(engine) as connection:
        lock_events(connection, (sensor_day for rows in batches for sensor_day in rows.sensor_days))
        for rows in batches:
            _store_checkpoint(connection, rows)
        ends = [end for rows in batches for end in (rows.first_event, rows.last_event)]
        if overlaps(connection, _NO_LOG, _merged_times(batches), ends):
            raise LogOverlaps
        _write_rows(connection, batches, progress, JOB)


_ANY_DAY = (("", ""),)
"""Locked by a batch that stores no event, so that none is removed while it is written."""

_NO_LOG = {"source": "", "source_inode": "", "source_generation": -1}
"""Excludes no row from the search for events of other logs."""


def _store_checkpoint(connection: Connection, rows: BatchRows) -> None:
    if not log_files.store(connection, rows.log, rows.stored_values, rows.stored_bytes, rows.more_bytes):
        raise LogMoved


def _write_rows(connection: Connection, batches: Sequence[BatchRows], progress: Mapping[str, object], job: str) -> None:
    """Write the rows of batches, sorted like those of every loader, so that no two wait for each other."""
    now = batches[0].now
    counters: Counter[str] = Counter()
    for rows in batches:
        counters.update(rows.counters)
    statements = LoadingStatements(connection)
    try:
        statements.insert_raw_events(_joined([rows.events for rows in batches]))
        statements.merge_sessions(_joined([rows.sessions for rows in batches], 1))
        statements.merge_attributes(_joined([rows.attributes for rows in batches], 1))
        statements.merge_commands(_joined([rows.commands for rows in batches], 2))
        statements.merge_hashes(_merged_hashes([rows.hashes for rows in batches]))
        statements.merge_files(_joined([rows.files for rows in batches], 2), now)
        statements.insert_dead_letters(_joined([rows.dead_letters for rows in batches]))
        statements.add_job_counters(job, counters, progress if job == JOB else None, now)
    finally:
        statements.close()


def _joined(parts: Sequence[Rows], key_columns: int = 0) -> Rows:
    """Return the rows of several batches, sorted by their first columns; those of one batch are sorted already."""
    if len(parts) == 1:
        return parts[0]
    rows = [row for part in parts for row in part]
    return sorted(rows, key=lambda row: row[:key_columns]) if key_columns else rows


def _merged_hashes(parts: Sequence[Rows]) -> Rows:
    """Return the hashes of several batches, each once: the first row of a hash decides whether it was seen before."""
    if len(parts) == 1:
        return parts[0]
    merged: dict[str, list[Any]] = {}
    for sha256, first_seen, last_seen, *more in _joined(parts, 1):
        known = merged.get(sha256)
        if known is not None:
            first_seen, last_seen = min(first_seen, known[1]), max(last_seen, known[2])
        merged[sha256] = [sha256, first_seen, last_seen, *more]
    return list(merged.values())


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


def set_load_state(engine: Engine, state: str, reason: str | None, now: str) -> None:
    """Record in `jobs` that loading is running, done, or stopped or failed with a reason."""
    with write_transaction(engine) as connection:
        statements = LoadingStatements(connection)
        try:
            statements.set_job_state(JOB, state, reason, now)
        finally:
            statements.close()
