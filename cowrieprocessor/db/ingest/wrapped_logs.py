"""Statements on `wrapped_logs`: the wrapper that a log is in, and what was passed over in it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from cowrieprocessor.db.dialects import dialect_of

_STORE = (
    "INSERT INTO wrapped_logs (identity, generation, wrapper, lines_foreign, bytes_foreign) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (identity, generation) DO UPDATE SET wrapper = excluded.wrapper,"
    " lines_foreign = excluded.lines_foreign, bytes_foreign = excluded.bytes_foreign"
)
_DELETE = "DELETE FROM wrapped_logs WHERE identity = ? AND generation = ?"


def store(connection: Connection, log: tuple[str, int], row: list[Any] | None) -> None:
    """Write what is known of the wrapper of a log.

    Args:
        connection: inside the transaction that moves the log's checkpoint.
        log: its identity and generation.
        row: wrapper, lines_foreign and bytes_foreign; without a wrapper the log is read as Cowrie wrote it from now on.
            None changes nothing.
    """
    if row is None:
        return
    sql, values = (_STORE, (*log, *row)) if row[0] is not None else (_DELETE, log)
    cursor = connection.connection.cursor()
    try:
        cursor.execute(dialect_of(connection).sql.statement(sql), values)
    finally:
        cursor.close()
