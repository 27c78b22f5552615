"""Table scans of PostgreSQL: one transaction that sees one snapshot, however long the scan takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dialects.scan import FETCHED_ROWS, Row, ScanQuery, TableScan
from cowrieprocessor.db.dialects.sql import SqlExpressions


class PostgresqlTableScan(TableScan):
    """PostgreSQL: one transaction that sees one snapshot, read through server-side cursors."""

    ids_rise_with_commits = False

    def __init__(self, engine: Engine, sql: SqlExpressions, connection: Connection) -> None:
        super().__init__(engine, sql)
        self._connection = connection
        self._walks = 0

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Yield the connection of the scan."""
        yield self._connection

    def walk(self, query: ScanQuery) -> Iterator[list[Row]]:
        """Yield pages from a server-side cursor."""
        later = "" if query.after is None else f" AND ({', '.join(query.keys)}) > ({', '.join('?' * len(query.keys))})"
        order = ", ".join(self.sql.binary(key) if query.text_keys else key for key in query.keys)
        sql = self.sql.statement(f"{query.select} WHERE {query.where}{later} ORDER BY {order}")
        self._walks += 1
        raw: Any = self._connection.connection.driver_connection
        with raw.cursor(name=f"walk{self._walks}") as cursor:
            cursor.execute(sql, (*query.values, *(query.after or ())))
            while rows := cursor.fetchmany(FETCHED_ROWS if query.payload is not None else 100 * FETCHED_ROWS):
                yield [tuple(row) for row in rows]
