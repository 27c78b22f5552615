"""Bulk insertion into SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cowrieprocessor.db.dialects.bulk import BulkInsert


class SqliteBulkInsert(BulkInsert):
    """SQLite: one prepared statement, executed for each row without a round trip."""

    def insert(self, cursor: Any, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Insert with executemany."""
        if rows:
            marks = ", ".join("?" * len(columns))
            cursor.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)
