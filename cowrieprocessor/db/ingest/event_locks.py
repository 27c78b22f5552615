"""Who stores the same events takes turns: then each sees what the other has stored, and asks before it stores.

Where a database lets several write at once, two loaders of logs that overlap could both ask whether an event is stored
before either commits. Equal events have the same sensor and the same day, so whoever writes holds a lock for each of
these until its transaction ends. Loaders of different sensors or days do not wait for each other, but for the rare
chance that theirs share a number.

The locks come first in a transaction, before any row is locked: nobody who waits here holds what another needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from zlib import crc32

from sqlalchemy import Connection

from cowrieprocessor.db.dialects.sql_expressions import sql_of

LOCK_COUNT = 256
"""How many locks there are; a server has room for some thousands at a time. Source: PostgreSQL's documentation,
max_locks_per_transaction."""


def lock_events(connection: Connection, sensor_days: Iterable[Sequence[str]]) -> None:
    """Wait until nobody else is storing events of the same sensors and days, and keep others from it until the end.

    Args:
        connection: inside a write transaction, before anything else.
        sensor_days: (sensor, day) of what is to be stored.
    """
    _acquire(connection, {_lock_number(sensor, day) for sensor, day in sensor_days})


def lock_all_events(connection: Connection) -> None:
    """Wait until nobody else is storing any events, and keep others from it until the end of the transaction.

    Args:
        connection: inside a write transaction, before anything else.
    """
    _acquire(connection, range(LOCK_COUNT))


def _lock_number(sensor: str, day: str) -> int:
    return crc32(f"{sensor}\0{day}".encode(errors="surrogatepass")) % LOCK_COUNT


def _acquire(connection: Connection, numbers: Iterable[int]) -> None:
    sql = sql_of(connection)
    locks = sql.numbered_locks()
    in_order = sorted(numbers)
    if locks is None or not in_order:
        return
    cursor = connection.connection.cursor()
    try:
        cursor.execute(sql.statement(locks), [in_order])
    finally:
        cursor.close()
