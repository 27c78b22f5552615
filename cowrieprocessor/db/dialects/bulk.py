"""Insertion of many rows at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any


class BulkInsert(ABC):
    """How one kind of database takes in many rows of a table."""

    @abstractmethod
    def insert(self, cursor: Any, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Insert new rows, in their order; what merges into stored rows is a statement of `db/ingest` instead.

        Args:
            cursor: a cursor of the driver, in a write transaction.
            table: the name of the table.
            columns: the names of the columns.
            rows: values in the order of `columns`, as the driver takes them: texts, numbers, booleans and None; times
                as `YYYY-MM-DD HH:MM:SS.ffffff` in UTC. No rows are no error.
        """
