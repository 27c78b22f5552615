"""v3's second unique index of raw_events: the same columns as the constraint beside it, and no use but its size."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, inspect, select, text

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.models import RawEvent

REDUNDANT_INDEX = "uq_raw_events_source_gen"
COLUMNS = ["source", "source_inode", "source_generation", "source_offset"]
SAMPLED_ROWS = 1000
ENTRY_BYTES = 14
"""What an entry takes beside its texts: lengths, numbers, and the row's id."""


@dataclass(frozen=True, slots=True)
class RedundantIndex:
    """The index, and about how large it is."""

    name: str
    size_bytes: int


def redundant_index(connection: Connection) -> RedundantIndex | None:
    """Return v3's redundant index; None if it is not there, or not redundant."""
    inspector = inspect(connection)
    table = RawEvent.__tablename__
    there = any(
        index["name"] == REDUNDANT_INDEX and index["column_names"] == COLUMNS for index in inspector.get_indexes(table)
    )
    kept = any(constraint["column_names"] == COLUMNS for constraint in inspector.get_unique_constraints(table))
    if not (there and kept):
        return None
    lengths = (
        select(func.length(RawEvent.source) + func.coalesce(func.length(RawEvent.source_inode), 0))
        .order_by(RawEvent.id.desc())
        .limit(SAMPLED_ROWS)
    )
    found = [int(length) for length in connection.execute(lengths).scalars()]
    entry_bytes = ENTRY_BYTES + (sum(found) / len(found) if found else 0)
    return RedundantIndex(
        REDUNDANT_INDEX, round(entry_bytes * dialect_of(connection).estimated_rows(connection, table))
    )


def drop_redundant_index(connection: Connection) -> int:
    """Drop the index and return how many bytes of the file are free for new rows by that."""
    dialect = dialect_of(connection)
    before = dialect.reusable_bytes(connection)
    connection.execute(text(f"DROP INDEX {REDUNDANT_INDEX}"))
    return dialect.reusable_bytes(connection) - before
