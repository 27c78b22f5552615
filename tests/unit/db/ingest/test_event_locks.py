"""Loaders of the same sensor-days are serialized where a database allows concurrent writers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, text

from cowrieprocessor.db.engine import dispose, get_engine, write_transaction
from cowrieprocessor.db.ingest.event_locks import LOCK_COUNT, lock_all_events, lock_events
from cowrieprocessor.errors import DatabaseLocked
from cowrieprocessor.jobs.dead_letters.replay import replay
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.settings import Settings


@pytest.fixture
def impatient(db_url: str) -> Iterator[Engine]:
    """An engine with a lock timeout of almost zero."""
    made = get_engine(db_url, lock_timeout_s=0.05)
    yield made
    dispose(made)


def count_locks(connection: Connection) -> int:
    """Return the number of advisory locks held."""
    query = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted")
    return int(connection.execute(query).scalar_one())


@pytest.mark.postgres
@pytest.mark.parametrize("db_url", ["postgresql"], indirect=True)
def test_loaders_sharing_a_sensor_day_wait(engine: Engine, impatient: Engine) -> None:
    """Until the commit, a loader sharing a sensor-day waits; one with other sensors or days does not."""
    with write_transaction(engine) as connection:
        lock_events(connection, [["hp1", "2026-05-01"], ["hp1", "2026-05-02"]])
        with write_transaction(impatient) as other:
            lock_events(other, [["hp2", "2026-05-01"], ["hp1", "2026-05-03"], ["", ""]])
        with pytest.raises(DatabaseLocked), write_transaction(impatient) as other:
            lock_events(other, [["hp2", "2026-05-01"], ["hp1", "2026-05-02"]])
    with write_transaction(impatient) as other:
        lock_events(other, [["hp1", "2026-05-02"]])


@pytest.mark.postgres
@pytest.mark.parametrize("db_url", ["postgresql"], indirect=True)
def test_the_number_of_locks_is_bounded(engine: Engine) -> None:
    """Any number of sensor-days, whatever their names, takes at most LOCK_COUNT locks."""
    days = [[f"hp\ud800{number % 7}", f"{number:010}"] for number in range(5000)]
    with write_transaction(engine) as connection:
        lock_events(connection, days)
        several = count_locks(connection)
        lock_all_events(connection)
        assert (LOCK_COUNT, LOCK_COUNT) == (several, count_locks(connection))


@pytest.mark.postgres
@pytest.mark.parametrize("db_url", ["postgresql"], indirect=True)
def test_locks_in_any_order_never_deadlock(engine: Engine) -> None:
    """Loaders that list their sensors in different orders wait for each other without a deadlock."""
    names = [[f"hp{number}", "2026-05-01"] for number in range(30)]

    def load(order: list[list[str]]) -> int:
        for _ in range(20):
            with write_transaction(engine) as connection:
                lock_events(connection, order)
        return len(order)

    with ThreadPoolExecutor(3) as loaders:
        assert [30, 30, 20] == list(loaders.map(load, (names, names[::-1], names[5:25])))


@pytest.mark.parametrize("db_url", ["sqlite"], indirect=True)
def test_sqlite_needs_no_advisory_locks(engine: Engine) -> None:
    """On SQLite the write lock suffices."""
    with write_transaction(engine) as connection:
        lock_events(connection, [["hp1", "2026-05-01"]])
        lock_all_events(connection)


@pytest.mark.postgres
@pytest.mark.parametrize("db_url", ["postgresql"], indirect=True)
def test_a_replay_of_dead_letters_waits_for_loaders(engine: Engine, impatient: Engine, tmp_path: Path) -> None:
    """A replay does not store an event while a loader may be storing it from another log."""
    fields = {"eventid": "cowrie.x", "session": "5e55", "sensor": "hp1", "timestamp": "2026-05-01T00:00:00.000001Z"}
    path = tmp_path / "cowrie.json"
    path.write_text("".join(json.dumps(fields | {"message": "x" * size}) + "\n" for size in (10, 5000)))
    BulkLoader(engine, settings=Settings(max_value_bytes=1024)).load([path])

    with write_transaction(engine) as connection:
        lock_events(connection, [["hp1", "2026-05-01"]])
        with pytest.raises(DatabaseLocked):
            replay(impatient, Settings())
    replayed = replay(impatient, Settings())

    assert (1, 1) == (replayed.resolved, replayed.counters["events"])
