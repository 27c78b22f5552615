"""v3's second unique index on raw_events: same columns as the unique constraint, so it only takes space."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, inspect, select, text

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.models import RawEvent

REDUNDANT_INDEX = "uq_raw_events_source_gen"
COLUMNS = ["source", "source_inode", "source_generation", "source_offset"]
SAMPLED_ROWS = 1000
ENTRY_BYTES = 14
"""Size of an index entry without its texts: lengths, numbers and the row id."""


@dataclass(frozen=True, slots=True)
class RedundantIndex:
    """The index and its estimated size."""

    name: str
    size_bytes: int


def redundant_index(connection: Connection) -> RedundantIndex | None:
    """Return v3's redundant index, None if it is missing or not redundant."""
    inspector = inspect(connection)
    table = RawEvent.__tablename__
    indexes = inspector.get_indexes(table)
    exists = any(index["name"] == REDUNDANT_INDEX and index["column_names"] == COLUMNS for index in indexes)
    has_constraint = any(
        constraint["column_names"] == COLUMNS for constraint in inspector.get_unique_constraints(table)
    )
    if not (exists and has_constraint):
        return None
    lengths = (
        select(func.length(RawEvent.source) + func.coalesce(func.length(RawEvent.source_inode), 0))
        .order_by(RawEvent.id.desc())
        .limit(SAMPLED_ROWS)
    )
    sampled = [int(length) for length in connection.execute(lengths).scalars()]
    entry_bytes = ENTRY_BYTES + (sum(sampled) / len(sampled) if sampled else 0)
    return RedundantIndex(
        REDUNDANT_INDEX, round(entry_bytes * dialect_of(connection).estimated_rows(connection, table))
    )


def drop_redundant_index(connection: Connection) -> int:
    """Drop the index and return the bytes of the database file that this frees for new rows."""
    dialect = dialect_of(connection)
    before = dialect.reusable_bytes(connection)
    connection.execute(text(f"DROP INDEX {REDUNDANT_INDEX}"))
    return dialect.reusable_bytes(connection) - before
