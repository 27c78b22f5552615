"""Bulk insertion into PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cowrieprocessor.db.dialects.bulk import BulkInsert


class PostgresqlBulkInsert(BulkInsert):
    """PostgreSQL: one prepared statement, whose executions psycopg sends as a pipeline."""

    def insert(self, cursor: Any, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Insert with executemany."""
        if rows:
            marks = ", ".join(["%s"] * len(columns))
            cursor.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)
