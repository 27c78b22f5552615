"""Transactions on the torn value at the end of a log: it is stored, and what was joined to it is settled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.ingest import log_damage, log_files, sensor_names
from cowrieprocessor.db.ingest.event_locks import lock_all_events
from cowrieprocessor.db.ingest.log_damage import Log
from cowrieprocessor.loader.rows.batching import now_text
from cowrieprocessor.loader.torn_letters import Loading
from cowrieprocessor.loader.torn_values import File, is_same_end, needs_recording, record_end
from cowrieprocessor.loader.writer import LogMoved, add_counters


def write_torn_end(
    engine: Engine,
    log: Log,
    pending: bytes,
    file: File,
    *,
    line: int,
    is_finished: bool,
    ingest_id: str,
    job: str,
) -> Counter[str]:
    """Store the torn value at the end of a file, and its dead letter if the log is finished.

    What the file ended with before, and does not any more, is forgotten.

    Args:
        engine: the database.
        log: the log in the file.
        pending: the bytes after its cursor; none if the file ends with a whole value.
        file: the file.
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
        is_known = log_files.is_known(connection, log)
        if is_known and not needs_recording(connection, log, pending, file, is_finished=is_finished):
            return Counter()
    with _writing(engine, log, ingest_id) as (connection, loading):
        row = log_damage.log_of(connection, log)
        changes: Counter[str] = Counter()
        for end in log_damage.ends_in_file(connection, file.place):
            if end.identity == log[0] and not (pending and is_same_end(end, row, pending)):
                from cowrieprocessor.loader.false_joins import drop_end  # few loads need it

                changes += drop_end(connection, end, loading)
        if pending:
            changes += record_end(connection, log, pending, file, line=line, is_finished=is_finished, loading=loading)
        add_counters(connection, job, changes, None, loading.now)
    return changes


def is_end_explained(engine: Engine, place: str) -> bool:
    """Return whether the torn value at the end of a file is part of an event that is stored."""
    with read_transaction(engine) as connection:
        ends = log_damage.ends_in_file(connection, place)
        return bool(ends) and all(end.is_explained for end in ends)


@contextmanager
def _writing(engine: Engine, log: Log, ingest_id: str) -> Generator[tuple[Connection, Loading], None, None]:
    """Yield a write transaction in which no other loader stores an event meanwhile; the log is known in it."""
    with write_transaction(engine) as connection:
        lock_all_events(connection)
        sensor_names.lock(connection)
        if not log_files.is_known(connection, log):
            raise LogMoved  # it was removed meanwhile, or has to be read again
        yield connection, Loading(ingest_id, now_text(), not dialect_of(connection).computes_event_columns)
