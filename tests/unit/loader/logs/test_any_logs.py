"""Whatever the logs, their order, their growth and the loader: the database says the same of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.any_logs import LogSet, Way
from tests.loading import contents, database, stored
from tests.logical_digest import difference
from tests.torture import rounds

WAYS = 2


def check(seed: int, folder: Path, urls: Sequence[str | Path]) -> None:
    """Load a set in as many ways as there are databases, and compare them."""
    first = None
    for number, url in enumerate(urls):
        logs = LogSet(seed)
        way = Way(logs.logs, folder / f"{seed}-{number}", seed * 1000 + number)
        with database(url) as engine:
            way.run(engine)
            assert stored(engine) == logs.expected(), way.story
            found = contents(engine)
        if logs.is_damaged:
            # Which of its dead letters a better copy proves wrong depends on how much of that was read at once.
            del found["dead letters"]
        first = first or found
        assert difference(first, found) == [], (seed, way.story)


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
