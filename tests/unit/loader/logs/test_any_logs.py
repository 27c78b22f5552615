"""Whatever the logs, their order, their growth and the loader: the database says the same of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.any_logs import LogSet, Way
from tests.loading import contents, database, stored
from tests.logical_digest import difference
from tests.torture import rounds

WAYS = 2


def one_way(logs: LogSet, folder: Path, engine: Engine, seed: int) -> dict[str, list[str]]:
    """Load a set in one way; return what the database says."""
    folder.mkdir()
    way = Way(logs.logs, folder, seed)
    way.run(engine)
    assert stored(engine) == logs.expected(), way.story
    return contents(engine)


def check(seed: int, folder: Path, urls: list[str | Path]) -> None:
    """Load a set in as many ways as there are databases, and compare them."""
    first = None
    for number, url in enumerate(urls):
        with database(url) as engine:
            found = one_way(LogSet(seed), folder / f"{seed}-{number}", engine, seed * 1000 + number)
        first = first or found
        assert difference(first, found) == [], seed


@pytest.mark.torture
@pytest.mark.timeout(7200)
def test_any_logs_in_any_way(tmp_path: Path) -> None:
    """Each event is stored as often as in the log that has most of it; facts and dead letters are the same."""
    for seed in range(rounds(10_000, 50)):
        check(seed, tmp_path, [tmp_path / f"{seed}-{number}.sqlite" for number in range(WAYS)])


@pytest.mark.postgres
@pytest.mark.torture
@pytest.mark.parametrize("seed", range(rounds(200, 4)))
def test_any_logs_on_postgresql(postgres_url: str, tmp_path: Path, seed: int) -> None:
    """PostgreSQL says what SQLite says."""
    check(seed, tmp_path, [tmp_path / f"{seed}.sqlite", postgres_url])
