"""Full table scans while other connections write.

SQLite cannot truncate its log past an open reader, so there a long scan consists of many short transactions; on
PostgreSQL it is one transaction that sees one snapshot.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Any, ClassVar

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dialects.sql import SqlExpressions

Row = tuple[Any, ...]

FETCHED_ROWS = 16
"""Rows of one fetch if they have a payload, which can be 2 MiB long."""


@dataclass(frozen=True, slots=True)
class ScanQuery:
    """A query that is scanned from first to last row, in the order of its keys.

    Attributes:
        select: the query without its WHERE.
        keys: the expressions that the query selects first; together unique.
        where: the condition.
        values: the parameters of `select` and `where`, in this order.
        after: start after the row with these keys.
        text_keys: whether the keys are texts, which are ordered by their bytes.
        payload: the index of a column that can be large; fewer rows are fetched at a time then.
    """

    select: str
    keys: tuple[str, ...]
    where: str = "TRUE"
    values: Row = ()
    after: Row | None = None
    text_keys: bool = True
    payload: int | None = None


class TableScan(ABC):
    """Scans the tables of a database while other connections write to it.

    Attributes:
        engine: the database.
        sql: its SQL expressions.
    """

    ids_rise_with_commits: ClassVar[bool]
    """Whether a row that is committed later has a larger id."""

    def __init__(self, engine: Engine, sql: SqlExpressions) -> None:
        self.engine = engine
        self.sql = sql

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[Connection]:
        """Return a connection that sees one snapshot of the database, for short use."""

    @abstractmethod
    def walk(self, query: ScanQuery) -> Iterator[list[Row]]:
        """Yield all rows in order, in pages; on SQLite no transaction is open while the caller handles a page."""

    def rows(self, connection: Connection, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """Return all rows of a small query with `?` as placeholders."""
        with closing(connection.connection.cursor()) as cursor:
            cursor.execute(self.sql.statement(sql), tuple(values))
            return [tuple(row) for row in cursor.fetchall()]
