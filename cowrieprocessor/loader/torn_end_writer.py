"""Transactions on the torn value at the end of a log: it is stored, and what was joined to it is settled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dialects.sql_expressions import sql_of
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.ingest import log_files, sensor_names
from cowrieprocessor.db.ingest.event_locks import lock_all_events
from cowrieprocessor.db.ingest.log_damage import Log, torn_end
from cowrieprocessor.loader.false_joins import joined_end, undo_joins
from cowrieprocessor.loader.logs.damage import digest_of_bytes
from cowrieprocessor.loader.rows.batch import PAYLOAD_HASH, BatchRows
from cowrieprocessor.loader.rows.batching import now_text
from cowrieprocessor.loader.torn_values import Loading, needs_recording, record_end
from cowrieprocessor.loader.writer import LogMoved, add_counters


def write_torn_end(
    engine: Engine, log: Log, pending: bytes, *, path: str, line: int, is_finished: bool, ingest_id: str, job: str
) -> Counter[str]:
    """Store the torn value at the end of a log, and its dead letter if the log is finished.

    Args:
        engine: the database.
        log: the log.
        pending: the bytes after its cursor.
        path: the file in which it is now.
        line: 0-based number of the line on which they begin.
        is_finished: whether nothing will be appended to the log.
        ingest_id: identifies the load.
        job: the row of `jobs` whose counters are increased.

    Returns:
        What was stored and withdrawn, by counter.

    Raises:
        LogMoved: the log was removed meanwhile, or its cursor was reset; nothing was written.
        DatabaseError: the database refused; nothing was written.
    """
    with read_transaction(engine) as connection:
        if not needs_recording(connection, log, pending, path=path, is_finished=is_finished):
            return Counter()
    with _writing(engine, log, ingest_id) as (connection, loading):
        changes: Counter[str] = Counter()
        end = joined_end(connection, log)
        if end is not None and end.digest != digest_of_bytes(pending):
            changes += undo_joins(connection, end, (), loading)
        changes += record_end(connection, log, pending, path=path, line=line, is_finished=is_finished, loading=loading)
        add_counters(connection, job, changes, None, loading.now)
    return changes


def write_passed_end(engine: Engine, rows: BatchRows, *, ingest_id: str, job: str) -> Counter[str]:
    """Take back what was joined to the torn end of a log, if the log goes on with something else.

    Args:
        engine: the database.
        rows: the first batch after the torn end, which is yet to be written.
        ingest_id: identifies the load.
        job: the row of `jobs` whose counters are increased.

    Returns:
        What changed, by counter.

    Raises:
        LogMoved: the log was removed meanwhile, or its cursor was reset; nothing was written.
        DatabaseError: the database refused; nothing was written.
    """
    log = (rows.log["identity"], rows.log["generation"])
    with read_transaction(engine) as connection:
        end = joined_end(connection, log)
    if end is None or rows.log["byte_pos"] <= end.byte_start:
        return Counter()
    held = {row[PAYLOAD_HASH] for row in rows.events} | set(rows.left_out)
    with _writing(engine, log, ingest_id) as (connection, loading):
        end = joined_end(connection, log)
        changes = Counter[str]() if end is None else undo_joins(connection, end, held, loading)
        add_counters(connection, job, changes, None, loading.now)
    return changes


def is_end_explained(engine: Engine, log: Log) -> bool:
    """Return whether the torn value at the end of a log is part of an event that is stored."""
    with read_transaction(engine) as connection:
        end = torn_end(connection, log)
        return end is not None and end.is_explained


@contextmanager
def _writing(engine: Engine, log: Log, ingest_id: str) -> Generator[tuple[Connection, Loading], None, None]:
    """Yield a write transaction in which no other loader stores an event meanwhile; the log is known in it."""
    with write_transaction(engine) as connection:
        lock_all_events(connection)
        sensor_names.lock(connection)
        if not log_files.is_known(connection, log):
            raise LogMoved  # it was removed meanwhile, or has to be read again
        yield connection, Loading(ingest_id, now_text(), not sql_of(connection).computes_event_columns)
