"""Optimization of a database: frees space and refreshes statistics; repeatable at any time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

from sqlalchemy import Engine

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.engine import describe, dispose, read_transaction, write_transaction
from cowrieprocessor.db.files.database_copy import read_only_engine
from cowrieprocessor.db.migrations import require_current
from cowrieprocessor.db.upgrade.redundant_index import REDUNDANT_INDEX, drop_redundant_index, redundant_index
from cowrieprocessor.jobs.runtime.job import run_job
from cowrieprocessor.jobs.runtime.progress import JobProgress

JOB = "optimize"

READ_BYTES_PER_S = 200_000_000
"""Rough rate at which the pages of an index are read from an SSD."""


@dataclass(frozen=True, slots=True)
class OptimizePlan:
    """What an optimization will do.

    Attributes:
        database: its name.
        redundant_index: the index that can be dropped; None if there is none.
        index_bytes: its estimated size.
        writers_wait_s: estimated seconds that loaders wait while it is dropped.
    """

    database: str
    redundant_index: str | None
    index_bytes: int
    writers_wait_s: float


@dataclass(frozen=True, slots=True)
class OptimizeResult:
    """Result of an optimization.

    Attributes:
        database: its name.
        dropped_index: the index that was dropped; None if there was none.
        freed_bytes: space in the file that new rows will use; the file keeps its size.
        analyzed: whether the query planner's statistics were refreshed.
    """

    database: str
    dropped_index: str | None
    freed_bytes: int
    analyzed: bool


def plan_optimize(engine: Engine) -> OptimizePlan:
    """Return what an optimization would do; nothing is changed, and no file is created next to the database.

    Raises:
        SchemaVersionError: the database is not at the current version.
        DatabaseError: it does not exist or cannot be read.
    """
    reader = read_only_engine(engine)
    try:
        require_current(reader)
        with read_transaction(reader) as connection:
            index = redundant_index(connection)
    finally:
        dispose(reader)
    size_bytes = index.size_bytes if index is not None else 0
    return OptimizePlan(
        database=describe(engine),
        redundant_index=index.name if index is not None else None,
        index_bytes=size_bytes,
        writers_wait_s=size_bytes / READ_BYTES_PER_S,
    )


def optimize(
    engine: Engine, *, stop: Event | None = None, on_progress: Callable[[JobProgress], None] | None = None
) -> OptimizeResult:
    """Drop v3's redundant index and refresh the query planner's statistics.

    Loaders keep running; they wait while the index is dropped, in one transaction, and for a moment after it.

    Args:
        engine: a database at the current version.
        stop: once set, the optimization ends after its step.
        on_progress: called as each step begins.

    Raises:
        JobTaken: another process optimizes this database.
        JobStopped: it was asked to stop.
        SchemaVersionError: the database is not at the current version.
        DatabaseError: see `write_transaction`.
    """
    require_current(engine)
    dropped: str | None = None
    freed_bytes = 0
    with run_job(engine, JOB, stop=stop, on_progress=on_progress) as job:
        job.wait()
        with read_transaction(engine) as connection:
            has_index = redundant_index(connection) is not None
        if has_index:
            job.progress(0, 2, "steps", step=f"dropping the index {REDUNDANT_INDEX}")
            with write_transaction(engine) as connection:
                if redundant_index(connection) is not None:
                    freed_bytes, dropped = drop_redundant_index(connection), REDUNDANT_INDEX
            job.wait()
        job.progress(1, 2, "steps", step="analyzing a sample of each table")
        with write_transaction(engine) as connection:
            dialect_of(connection).refresh_statistics(connection)
        job.progress(2, 2, "steps")
    return OptimizeResult(describe(engine), dropped, freed_bytes, analyzed=True)
