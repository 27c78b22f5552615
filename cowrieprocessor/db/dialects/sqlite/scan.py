"""Table scans of SQLite: many short transactions, because its log cannot be truncated past an open reader."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dialects.base import Dialect
from cowrieprocessor.db.dialects.scan import FETCHED_ROWS, Row, ScanQuery, TableScan

PAGE_ROWS = 20_000
PAGE_S = 0.3
PAGE_CHARS = 4 << 20


class SqliteTableScan(TableScan):
    """SQLite: one short transaction per page, which starts after the last key of the previous page."""

    ids_rise_with_commits = True

    def __init__(self, engine: Engine, dialect: Dialect) -> None:
        super().__init__(engine, dialect.sql)
        self._dialect = dialect

    def snapshot(self) -> AbstractContextManager[Connection]:
        """Return a separate read transaction."""
        return self._dialect.read_transaction(self.engine)

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
        with self.snapshot() as connection, closing(connection.connection.cursor()) as cursor:
            ends_at = time.monotonic() + PAGE_S
            cursor.execute(sql, (*query.values, *(after or ())))
            while rows := cursor.fetchmany(FETCHED_ROWS):
                page += rows
                if query.payload is not None:
                    chars += sum(len(row[query.payload] or "") for row in rows)
                if chars > PAGE_CHARS or time.monotonic() > ends_at:
                    return page, False
        return page, len(page) < PAGE_ROWS
