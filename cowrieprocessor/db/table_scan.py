"""Full table scans while other connections write.

SQLite cannot truncate its log past an open reader, so there a long scan consists of many short transactions; on
PostgreSQL it is one transaction that sees one snapshot.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dialects.sql_expressions import sql_of
from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.errors import ConfigurationError

Row = tuple[Any, ...]

PAGE_ROWS = 20_000
PAGE_S = 0.3
PAGE_CHARS = 4 << 20
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
    """Scans the tables of a database while other connections write to it."""

    ids_rise_with_commits: ClassVar[bool]
    """Whether a row that is committed later has a larger id."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[Connection]:
        """Return a connection that sees one snapshot of the database, for short use."""

    @abstractmethod
    def walk(self, query: ScanQuery) -> Iterator[list[Row]]:
        """Yield all rows in order, in pages; on SQLite no transaction is open while the caller handles a page."""

    @abstractmethod
    def moment(self, column: str) -> str:
        """Return the SQL for a datetime column as text `YYYY-MM-DD HH:MM:SS.ffffff`, in UTC."""

    @abstractmethod
    def differs(self, left: str, right: str) -> str:
        """Return the SQL that tests whether two expressions differ; NULL equals NULL."""

    @abstractmethod
    def binary(self, text: str) -> str:
        """Return a text expression that compares by its UTF-8 bytes."""

    def json_text(self, connection: Connection, column: str) -> str:
        """Return the SQL for the text of a JSON column."""
        return sql_of(connection).json_text(column)

    def rows(self, connection: Connection, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """Return all rows of a small query with `?` as placeholders."""
        with closing(connection.connection.cursor()) as cursor:
            cursor.execute(sql_of(connection).statement(sql), tuple(values))
            return [tuple(row) for row in cursor.fetchall()]


class SqliteTableScan(TableScan):
    """SQLite: one short transaction per page, which starts after the last key of the previous page."""

    ids_rise_with_commits = True

    def snapshot(self) -> AbstractContextManager[Connection]:
        """Return a separate read transaction."""
        return read_transaction(self.engine)

    def walk(self, query: ScanQuery) -> Iterator[list[Row]]:
        """Yield pages, each read within about PAGE_S in its own transaction."""
        after = query.after
        while True:
            page, is_last = self._page(query, after)
            if page:
                yield page
                after = page[-1][: len(query.keys)]
            if is_last:
                return

    def _page(self, query: ScanQuery, after: Row | None) -> tuple[list[Row], bool]:
        page: list[Row] = []
        chars = 0
        keys = ", ".join(query.keys)
        later = "" if after is None else f" AND ({keys}) > ({', '.join('?' * len(query.keys))})"
        sql = f"{query.select} WHERE {query.where}{later} ORDER BY {keys} LIMIT {PAGE_ROWS}"
        with read_transaction(self.engine) as connection, closing(connection.connection.cursor()) as cursor:
            ends_at = time.monotonic() + PAGE_S
            cursor.execute(sql, (*query.values, *(after or ())))
            while rows := cursor.fetchmany(FETCHED_ROWS):
                page += rows
                if query.payload is not None:
                    chars += sum(len(row[query.payload] or "") for row in rows)
                if chars > PAGE_CHARS or time.monotonic() > ends_at:
                    return page, False
        return page, len(page) < PAGE_ROWS

    def moment(self, column: str) -> str:
        """Return the column, with the decimals that SQLite's CURRENT_TIMESTAMP omits."""
        return f"CASE length({column}) WHEN 19 THEN {column} || '.000000' ELSE {column} END"

    def differs(self, left: str, right: str) -> str:
        """Return SQLite's IS NOT."""
        return f"({left}) IS NOT ({right})"

    def binary(self, text: str) -> str:
        """Return the expression itself: BINARY is SQLite's default collation."""
        return text


class PostgresqlTableScan(TableScan):
    """PostgreSQL: one transaction that sees one snapshot, read through server-side cursors."""

    ids_rise_with_commits = False

    def __init__(self, engine: Engine, connection: Connection) -> None:
        super().__init__(engine)
        self._connection = connection
        self._walks = 0

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Yield the connection of the scan."""
        yield self._connection

    def walk(self, query: ScanQuery) -> Iterator[list[Row]]:
        """Yield pages from a server-side cursor."""
        collation = ' COLLATE "C"' if query.text_keys else ""
        later = "" if query.after is None else f" AND ({', '.join(query.keys)}) > ({', '.join('?' * len(query.keys))})"
        order = ", ".join(f"{key}{collation}" for key in query.keys)
        sql = sql_of(self._connection).statement(
            f"{query.select} WHERE {query.where}{later} ORDER BY {order}",
        )
        self._walks += 1
        raw: Any = self._connection.connection.driver_connection
        with raw.cursor(name=f"walk{self._walks}") as cursor:
            cursor.execute(sql, (*query.values, *(query.after or ())))
            while rows := cursor.fetchmany(FETCHED_ROWS if query.payload is not None else 100 * FETCHED_ROWS):
                yield [tuple(row) for row in rows]

    def moment(self, column: str) -> str:
        """Return the column formatted with to_char."""
        return f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"

    def differs(self, left: str, right: str) -> str:
        """Return IS DISTINCT FROM."""
        return f"({left}) IS DISTINCT FROM ({right})"

    def binary(self, text: str) -> str:
        """Return the expression with the byte-wise collation."""
        return f'({text}) COLLATE "C"'


@contextmanager
def table_scan_of(engine: Engine) -> Iterator[TableScan]:
    """Yield the table scan for a database.

    Raises:
        ConfigurationError: the database is neither SQLite nor PostgreSQL.
    """
    if engine.dialect.name == "sqlite":
        yield SqliteTableScan(engine)
    elif engine.dialect.name == "postgresql":
        with read_transaction(engine) as connection:
            yield PostgresqlTableScan(engine, connection)
    else:
        raise ConfigurationError(f"{engine.dialect.name}: not supported; give an SQLite file or a postgresql:// URL")
