"""What makes a database smaller or its queries quicker, and can be done again at any time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.engine import describe, dispose, read_transaction, write_transaction
from cowrieprocessor.db.files.database_copy import read_only_engine
from cowrieprocessor.db.migrations import require_current
from cowrieprocessor.db.upgrade.redundant_index import drop_redundant_index, redundant_index

READ_BYTES_PER_S = 200_000_000
"""How fast the pages of an index are read from an SSD, roughly."""


@dataclass(frozen=True, slots=True)
class OptimizePlan:
    """What there is to do.

    Attributes:
        database: its name.
        redundant_index: the index that can be dropped; None if there is none.
        index_bytes: about how large it is.
        writers_wait_s: about how long loaders wait while it is dropped.
    """

    database: str
    redundant_index: str | None
    index_bytes: int
    writers_wait_s: float


@dataclass(frozen=True, slots=True)
class OptimizeResult:
    """What was done.

    Attributes:
        database: its name.
        dropped_index: the index that was dropped; None if there was none.
        freed_bytes: room in the file that new rows use now; the file itself stays as large.
        analyzed: whether the statistics that queries are planned by are new.
    """

    database: str
    dropped_index: str | None
    freed_bytes: int
    analyzed: bool


def plan_optimize(engine: Engine) -> OptimizePlan:
    """Return what there is to do; nothing is changed, and no file made beside the database.

    Raises:
        SchemaVersionError: the database is not at our version.
        DatabaseError: it is not there, or cannot be read.
    """
    looking = read_only_engine(engine)
    try:
        require_current(looking)
        with read_transaction(looking) as connection:
            index = redundant_index(connection)
    finally:
        dispose(looking)
    size_bytes = index.size_bytes if index is not None else 0
    return OptimizePlan(
        database=describe(engine),
        redundant_index=index.name if index is not None else None,
        index_bytes=size_bytes,
        writers_wait_s=size_bytes / READ_BYTES_PER_S,
    )


def optimize(engine: Engine, *, on_step: Callable[[str], None] | None = None) -> OptimizeResult:
    """Drop v3's redundant index and look at a sample of each table; again, it finds less to do.

    Loaders go on; they wait while the index is dropped, in one transaction, and for a moment after it.

    Args:
        engine: a database at our version.
        on_step: called with what begins, in words.

    Raises:
        SchemaVersionError: the database is not at our version.
        DatabaseError: see `write_transaction`.
    """
    say = on_step or _say_nothing
    require_current(engine)
    dropped: str | None = None
    freed_bytes = 0
    with write_transaction(engine) as connection:
        index = redundant_index(connection)
        if index is not None:
            say(f"dropping the index {index.name}")
            freed_bytes, dropped = drop_redundant_index(connection), index.name
    say("looking at a sample of each table")
    with write_transaction(engine) as connection:
        dialect_of(connection).refresh_statistics(connection)
    return OptimizeResult(describe(engine), dropped, freed_bytes, analyzed=True)


def _say_nothing(_step: str) -> None:
    """Report to nobody."""
