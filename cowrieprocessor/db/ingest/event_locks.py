"""Advisory locks that serialize loaders writing the same sensor-days.

Where a database allows concurrent writers, two loaders of overlapping logs could both check whether an event is stored
before either commits. Identical events share their sensor and day, so a writer locks each sensor-day that it stores
until its transaction ends. Loaders of different sensors or days do not wait for each other, except when two
sensor-days happen to map to the same lock.

The locks are taken first in a transaction, before any row lock, and in a fixed order, so that waiting for them cannot
deadlock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from zlib import crc32

from sqlalchemy import Connection

from cowrieprocessor.db.dialects import dialect_of

LOCK_COUNT = 256
"""Number of locks; a server holds a few thousand at a time. Source: PostgreSQL docs, max_locks_per_transaction."""


def lock_events(connection: Connection, sensor_days: Iterable[Sequence[str]]) -> None:
    """Lock sensor-days until the transaction ends; wait for other loaders that hold one of them.

    Args:
        connection: in a write transaction, before any other statement.
        sensor_days: (sensor, day) of each event to store.
    """
    _acquire(connection, {_lock_number(sensor, day) for sensor, day in sensor_days})


def lock_all_events(connection: Connection) -> None:
    """Lock all sensor-days until the transaction ends; wait for every other loader.

    Args:
        connection: in a write transaction, before any other statement.
    """
    _acquire(connection, range(LOCK_COUNT))


def _lock_number(sensor: str, day: str) -> int:
    return crc32(f"{sensor}\0{day}".encode(errors="surrogatepass")) % LOCK_COUNT


def _acquire(connection: Connection, numbers: Iterable[int]) -> None:
    sql = dialect_of(connection).sql
    locks = sql.numbered_locks()
    ordered = sorted(numbers)
    if locks is None or not ordered:
        return
    cursor = connection.connection.cursor()
    try:
        cursor.execute(sql.statement(locks), [ordered])
    finally:
        cursor.close()
