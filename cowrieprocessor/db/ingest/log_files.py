"""Statements on logs: `log_files`, and the rows of raw_events that v3 loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, func, inspect, select

from cowrieprocessor.db.chunks import chunks
from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.models import LogFile, RawEvent

COLUMNS = tuple(column.name for column in LogFile.__table__.columns if column.name != "updated_at")
_LOG = LogFile.__table__
_EVENT = RawEvent.__table__
# Plain text, because these run for every log with new data.
_LOGS = (
    f"SELECT {', '.join(COLUMNS)}, wrapper, lines_foreign, bytes_foreign FROM log_files"
    " LEFT JOIN wrapped_logs USING (identity, generation)"
)
_LONGEST_FIRST = "ORDER BY values_done DESC, generation"
_LOG_COLUMNS = (*COLUMNS, "wrapper", "lines_foreign", "bytes_foreign")
_OLDEST_ROW_IS_V3 = """
    SELECT e.id FROM raw_events e WHERE e.id = (SELECT min(id) FROM raw_events) AND NOT EXISTS (
        SELECT 1 FROM log_files l WHERE l.source = e.source AND l.source_inode = e.source_inode
        AND l.source_generation = e.source_generation)
"""
_HAS_NO_ROWS_OF_V3 = "has no rows of version 3"
"""Key in `Connection.info`, which lasts as long as the connection to the database."""

MAX_SOURCE_CHARS = 512


def generations(connection: Connection, identity: str) -> Sequence[Mapping[str, Any]]:
    """Return the logs whose first object has this identity, the longest first, with the columns of `wrapped_logs`."""
    return [_log(row) for row in _query(connection, f"{_LOGS} WHERE identity = ? {_LONGEST_FIRST}", (identity,))]


def generations_of(connection: Connection, identities: Sequence[str]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the logs of several identities, by identity; see `generations`."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for part in chunks(identities):
        where = f"WHERE identity IN ({', '.join('?' * len(part))})"
        for row in map(_log, _query(connection, f"{_LOGS} {where} {_LONGEST_FIRST}", part)):
            found.setdefault(row["identity"], []).append(row)
    return found


def _log(row: Sequence[Any]) -> Mapping[str, Any]:
    return dict(zip(_LOG_COLUMNS, (*row[:-2], row[-2] or 0, row[-1] or 0), strict=True))


def is_known(connection: Connection, log: tuple[str, int]) -> bool:
    """Return whether there is a log with this identity and generation whose cursor was not reset."""
    return bool(
        _query(connection, "SELECT 1 FROM log_files WHERE identity = ? AND generation = ? AND values_done >= 0", log)
    )


def has_rows_of_v3(connection: Connection) -> bool:
    """Return whether raw_events has rows of v3, which belong to no log of `log_files` and precede all of v4's.

    They only ever go: once there are none, this connection does not ask again.
    """
    if connection.info.get(_HAS_NO_ROWS_OF_V3):
        return False
    has_rows = bool(_query(connection, _OLDEST_ROW_IS_V3, ()))
    connection.info[_HAS_NO_ROWS_OF_V3] = not has_rows
    return has_rows


def _query(connection: Connection, sql: str, values: Sequence[Any]) -> Sequence[Sequence[Any]]:
    """Run a query on the driver's own cursor and return its rows."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(dialect_of(connection).sql.statement(sql), values)
        return cursor.fetchall()
    finally:
        cursor.close()


def free_source(connection: Connection, path: str, inode: str) -> tuple[str, int]:
    """Return an unused (source, source_generation) for a new log: no log and no event has the pair with this inode.

    Where raw_events still has v1's unique constraint on (source, source_offset), a further log under the same path
    gets a source of its own: the path with the suffix `#1`, `#2` and so on.
    """
    if not taken_sources(connection, [path]):
        return path, 0
    if _allows_one_log_per_source(connection):
        number = 0
        source = path
        while taken_sources(connection, [source]):
            number += 1
            source = f"{path[: MAX_SOURCE_CHARS - 8]}#{number}"
        return source, 0
    highest = -1
    for table in (_LOG, _EVENT):
        largest = connection.execute(
            select(func.max(table.c.source_generation)).where(table.c.source == path, table.c.source_inode == inode)
        ).scalar()
        highest = max(highest, -1 if largest is None else int(largest))
    return path, highest + 1


def taken_sources(connection: Connection, sources: Sequence[str]) -> set[str]:
    """Return which of these sources a log or an event has."""
    taken: set[str] = set()
    for part in chunks(sources):
        values = ", ".join(["(?)"] * len(part))
        for table in ("log_files", "raw_events"):
            # A sub-query for each source, because a log may have millions of rows.
            sql = (
                f"SELECT s.column1 FROM (VALUES {values}) AS s"
                f" WHERE EXISTS (SELECT 1 FROM {table} t WHERE t.source = s.column1)"
            )
            taken.update(row[0] for row in _query(connection, sql, part))
    return taken


def _allows_one_log_per_source(connection: Connection) -> bool:
    return any(
        constraint["column_names"] == ["source", "source_offset"]
        for constraint in inspect(connection).get_unique_constraints("raw_events")
    )


def store(
    connection: Connection,
    row: Mapping[str, Any],
    stored_values: int | None,
    stored_bytes: int | None = None,
    more_bytes: Mapping[str, int] | None = None,
) -> bool:
    """Write a log's checkpoint unless another process moved it meanwhile.

    Args:
        connection: in the transaction that writes the log's events.
        row: the columns of `log_files`.
        stored_values: `values_done` when the checkpoint was read; None for a log without a row.
        stored_bytes: `byte_pos` when the checkpoint was read; a batch may change only that.
        more_bytes: increments, by column, for columns that are added to: a replay of dead letters may have moved
            bytes between these columns since the checkpoint was read.

    Returns:
        Whether the checkpoint was written.
    """
    more = more_bytes or {}
    if stored_values is None:
        sql = f"INSERT INTO log_files ({', '.join(row)}) VALUES ({', '.join('?' * len(row))}) ON CONFLICT DO NOTHING"
        values = tuple(row.values())
    else:
        kept = {"identity", "generation"}
        if row["values_done"] == stored_values:
            kept.add("last_value_hash")  # no new value: the stored hash is that of the last one
        changed = [name for name in row if name not in kept]
        changes = (f"{name} = {name} + ?" if name in more else f"{name} = ?" for name in changed)
        sql = (
            f"UPDATE log_files SET {', '.join(changes)} WHERE identity = ? AND generation = ? AND values_done = ?"
            " AND byte_pos = ?"
        )
        expected = (row["identity"], row["generation"], stored_values, stored_bytes)
        values = (*(more.get(name, row[name]) for name in changed), *expected)
    cursor = connection.connection.cursor()
    try:
        cursor.execute(dialect_of(connection).sql.statement(sql), values)
        return bool(cursor.rowcount == 1)
    finally:
        cursor.close()
