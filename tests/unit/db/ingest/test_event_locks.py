"""Who stores the same events takes turns, where a database lets several write at once."""

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
    """An engine that waits for next to nothing."""
    made = get_engine(db_url, lock_timeout_s=0.05)
    yield made
    dispose(made)


def held(connection: Connection) -> int:
    """Return how many turns are held."""
    query = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted")
    return int(connection.execute(query).scalar_one())


@pytest.mark.postgres
@pytest.mark.parametrize("db_url", ["postgresql"], indirect=True)
def test_who_shares_a_sensor_and_a_day_waits(engine: Engine, impatient: Engine) -> None:
    """Another loader with one sensor on one day waits, one with another sensor or day does not, until the commit."""
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
    """However many sensors and days a batch has, whatever they are called, there are so many locks at most."""
    days = [[f"hp\ud800{number % 7}", f"{number:010}"] for number in range(5000)]
    with write_transaction(engine) as connection:
        lock_events(connection, days)
        several = held(connection)
        lock_all_events(connection)
        assert (LOCK_COUNT, LOCK_COUNT) == (several, held(connection))


@pytest.mark.postgres
@pytest.mark.parametrize("db_url", ["postgresql"], indirect=True)
def test_turns_in_any_order_never_block_each_other(engine: Engine) -> None:
    """Loaders that name their sensors in different orders wait, and none is refused."""
    names = [[f"hp{number}", "2026-05-01"] for number in range(30)]

    def load(order: list[list[str]]) -> int:
        for _ in range(20):
            with write_transaction(engine) as connection:
                lock_events(connection, order)
        return len(order)

    with ThreadPoolExecutor(3) as loaders:
        assert [30, 30, 20] == list(loaders.map(load, (names, names[::-1], names[5:25])))


@pytest.mark.parametrize("db_url", ["sqlite"], indirect=True)
def test_where_one_writes_at_a_time_there_is_nothing_to_wait_for(engine: Engine) -> None:
    """SQLite's write lock is the turn."""
    with write_transaction(engine) as connection:
        lock_events(connection, [["hp1", "2026-05-01"]])
        lock_all_events(connection)


@pytest.mark.postgres
@pytest.mark.parametrize("db_url", ["postgresql"], indirect=True)
def test_a_replay_of_dead_letters_waits_for_loaders(engine: Engine, impatient: Engine, tmp_path: Path) -> None:
    """An event that a loader may just be storing from another log is not stored from a dead letter meanwhile."""
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
