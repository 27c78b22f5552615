"""How each database is read from end to end beside its writers.

SQLite's log cannot be emptied behind a reader, so there a long reading is many short transactions; on PostgreSQL it is
one transaction that sees one state.
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
"""Few, because a payload can be 2 MiB long."""


@dataclass(frozen=True, slots=True)
class ScanQuery:
    """A query whose rows are wanted from first to last, in the order of their keys.

    Attributes:
        select: the query without its WHERE.
        keys: expressions that the query selects first; together unique.
        where: what else has to hold.
        values: the values of `where`, and of the query before it.
        after: go on behind the row with these keys.
        text_keys: whether the keys are texts, which come in the order of their bytes.
        payload: the number of a column that can be large; few rows are held at a time then.
    """

    select: str
    keys: tuple[str, ...]
    where: str = "TRUE"
    values: Row = ()
    after: Row | None = None
    text_keys: bool = True
    payload: int | None = None


class TableScan(ABC):
    """Reads one database while others write to it."""

    ids_rise_with_commits: ClassVar[bool]
    """Whether a row that is committed later has the larger id."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[Connection]:
        """Return a connection that sees one state of the database; it is to be held for a moment."""

    @abstractmethod
    def walk(self, query: ScanQuery) -> Iterator[list[Row]]:
        """Yield all rows in order, some at a time; no transaction is held while the caller works on SQLite."""

    @abstractmethod
    def moment(self, column: str) -> str:
        """Return a moment as the text `YYYY-MM-DD HH:MM:SS.ffffff`, in UTC."""

    @abstractmethod
    def differs(self, one: str, other: str) -> str:
        """Return the test whether two expressions differ, NULL being equal to NULL."""

    def json_text(self, connection: Connection, column: str) -> str:
        """Return the text of a JSON column."""
        return sql_of(connection).json_text(column)

    def rows(self, connection: Connection, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """Return the rows of a query written with `?`, of which there are few."""
        with closing(connection.connection.cursor()) as cursor:
            cursor.execute(sql_of(connection).statement(sql), tuple(values))
            return [tuple(row) for row in cursor.fetchall()]


class SqliteTableScan(TableScan):
    """SQLite: short transactions, each page going on behind the last key of the one before."""

    ids_rise_with_commits = True

    def snapshot(self) -> AbstractContextManager[Connection]:
        """Return a transaction of its own."""
        return read_transaction(self.engine)

    def walk(self, query: ScanQuery) -> Iterator[list[Row]]:
        """Yield pages of a third of a second at most, each read in a transaction of its own."""
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
        behind = "" if after is None else f" AND ({keys}) > ({', '.join('?' * len(query.keys))})"
        sql = f"{query.select} WHERE {query.where}{behind} ORDER BY {keys} LIMIT {PAGE_ROWS}"
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
        """Return the column, with the decimals that SQLite's own CURRENT_TIMESTAMP leaves out."""
        return f"CASE length({column}) WHEN 19 THEN {column} || '.000000' ELSE {column} END"

    def differs(self, one: str, other: str) -> str:
        """Return SQLite's IS NOT."""
        return f"({one}) IS NOT ({other})"


class PostgresqlTableScan(TableScan):
    """PostgreSQL: one transaction that sees one state, read through cursors of the server."""

    ids_rise_with_commits = False

    def __init__(self, engine: Engine, connection: Connection) -> None:
        super().__init__(engine)
        self._connection = connection
        self._walks = 0

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Yield the one connection."""
        yield self._connection

    def walk(self, query: ScanQuery) -> Iterator[list[Row]]:
        """Yield rows from a cursor of the server."""
        collation = ' COLLATE "C"' if query.text_keys else ""
        behind = "" if query.after is None else f" AND ({', '.join(query.keys)}) > ({', '.join('?' * len(query.keys))})"
        order = ", ".join(f"{key}{collation}" for key in query.keys)
        sql = sql_of(self._connection).statement(
            f"{query.select} WHERE {query.where}{behind} ORDER BY {order}",
        )
        self._walks += 1
        raw: Any = self._connection.connection.driver_connection
        with raw.cursor(name=f"walk{self._walks}") as cursor:
            cursor.execute(sql, (*query.values, *(query.after or ())))
            while rows := cursor.fetchmany(FETCHED_ROWS if query.payload is not None else 100 * FETCHED_ROWS):
                yield [tuple(row) for row in rows]

    def moment(self, column: str) -> str:
        """Return the moment through to_char."""
        return f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"

    def differs(self, one: str, other: str) -> str:
        """Return IS DISTINCT FROM."""
        return f"({one}) IS DISTINCT FROM ({other})"


@contextmanager
def table_scan_of(engine: Engine) -> Iterator[TableScan]:
    """Yield what reads a database from end to end.

    Raises:
        ConfigurationError: it is neither SQLite nor PostgreSQL.
    """
    if engine.dialect.name == "sqlite":
        yield SqliteTableScan(engine)
    elif engine.dialect.name == "postgresql":
        with read_transaction(engine) as connection:
            yield PostgresqlTableScan(engine, connection)
    else:
        raise ConfigurationError(f"{engine.dialect.name}: not supported; give an SQLite file or a postgresql:// URL")
