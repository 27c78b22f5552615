"""The statements about logs: `log_files`, and what raw_events tells about logs that v3 loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, func, inspect, select

from cowrieprocessor.db.dialects.sql_expressions import sql_of
from cowrieprocessor.db.models import LogFile, RawEvent

COLUMNS = tuple(column.name for column in LogFile.__table__.columns if column.name != "updated_at")
_LOG = LogFile.__table__
_EVENT = RawEvent.__table__
# Asked of each log in which something is new, so that they are not built anew each time.
_GENERATIONS = f"SELECT {', '.join(COLUMNS)} FROM log_files WHERE identity = ? ORDER BY values_done DESC, generation"
_OLDEST_IS_OF_V3 = """
    SELECT e.id FROM raw_events e WHERE e.id = (SELECT min(id) FROM raw_events) AND NOT EXISTS (
        SELECT 1 FROM log_files l WHERE l.source = e.source AND l.source_inode = e.source_inode
        AND l.source_generation = e.source_generation)
"""
MAX_SOURCE_CHARS = 512


def generations(connection: Connection, identity: str) -> Sequence[Mapping[str, Any]]:
    """Return the logs with this first object, the longest first."""
    return [dict(zip(COLUMNS, row, strict=True)) for row in _query(connection, _GENERATIONS, (identity,))]


def has_rows_of_v3(connection: Connection) -> bool:
    """Return whether raw_events holds rows that belong to none of our logs: v3's, which came before all of ours."""
    return bool(_query(connection, _OLDEST_IS_OF_V3, ()))


def _query(connection: Connection, sql: str, values: Sequence[Any]) -> Sequence[Sequence[Any]]:
    """Return what the database says, on the driver's own cursor."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(sql_of(connection).statement(sql), values)
        return cursor.fetchall()
    finally:
        cursor.close()


def free_source(connection: Connection, path: str, inode: str) -> tuple[str, int]:
    """Return source and source_generation for a new log: a pair that no log and no event has with this inode.

    Where raw_events keeps v1's constraint that a source has each offset only once, a further log under one path
    gets a source of its own: the path with `#1`, `#2` and so on behind.
    """
    if _allows_one_log_per_source(connection):
        number = 0
        source = path
        while _is_taken(connection, source):
            number += 1
            source = f"{path[: MAX_SOURCE_CHARS - 8]}#{number}"
        return source, 0
    highest = -1
    for table in (_LOG, _EVENT):
        found = connection.execute(
            select(func.max(table.c.source_generation)).where(table.c.source == path, table.c.source_inode == inode)
        ).scalar()
        highest = max(highest, -1 if found is None else int(found))
    return path, highest + 1


def _is_taken(connection: Connection, source: str) -> bool:
    return any(
        connection.execute(select(table.c.source).where(table.c.source == source).limit(1)).first() is not None
        for table in (_LOG, _EVENT)
    )


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
    """Write a log's cursor and return whether nobody else moved it meanwhile.

    Args:
        connection: inside the transaction that writes the log's events.
        row: the columns of `log_files`.
        stored_values: `values_done` as it was read; None for a log that has no row yet.
        stored_bytes: `byte_pos` as it was read: a batch may only have moved that.
        more_bytes: columns that count on from what is there, and by how much: a replay of dead letters may have
            moved bytes between them since the cursor was read.
    """
    more = more_bytes or {}
    if stored_values is None:
        sql = f"INSERT INTO log_files ({', '.join(row)}) VALUES ({', '.join('?' * len(row))}) ON CONFLICT DO NOTHING"
        values = tuple(row.values())
    else:
        kept = {"identity", "generation"}
        if row["values_done"] == stored_values:
            kept.add("last_value_hash")  # no value came: what is there was written by whoever stored the last one
        changed = [name for name in row if name not in kept]
        changes = (f"{name} = {name} + ?" if name in more else f"{name} = ?" for name in changed)
        sql = (
            f"UPDATE log_files SET {', '.join(changes)} WHERE identity = ? AND generation = ? AND values_done = ?"
            " AND byte_pos = ?"
        )
        place = (row["identity"], row["generation"], stored_values, stored_bytes)
        values = (*(more.get(name, row[name]) for name in changed), *place)
    cursor = connection.connection.cursor()
    try:
        cursor.execute(sql_of(connection).statement(sql), values)
        return bool(cursor.rowcount == 1)
    finally:
        cursor.close()
