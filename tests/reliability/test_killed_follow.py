"""`follow` and `load` killed at random points while logs grow and rotate: nothing is lost, nothing is there twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cowrieprocessor.db.engine import dispose, get_engine
from cowrieprocessor.db.migrations import apply_migrations
from tests.reliability.command_forks import CommandForks, Commands, Processes
from tests.reliability.killing_round import LOCK_TIMEOUT_S, START_S, KillingRound, Kills
from tests.rotation.sabotage import REQUIRED, skip_one_row, swallow_errors
from tests.torture import TORTURE, rounds

pytestmark = pytest.mark.torture

KILLS = int(os.environ.get("COWRIEPROC_KILLS", rounds(1000, 15)))
POSTGRES_KILLS = max(5, KILLS // 10)
KILLS_PER_ROUND = 100
WITHOUT_KILLS = (skip_one_row.__name__, swallow_errors.__name__)
"""What is wrong though nobody is killed."""

TRIES = 10
"""So many rounds are made with a mistake until it has to show."""
SEED = int(os.environ.get("COWRIEPROC_KILLS_SEED", "20261122"))


@pytest.fixture
def forks(tmp_path: Path) -> Iterator[CommandForks]:
    """What starts the program's commands."""
    with CommandForks(tmp_path / "said.txt") as made:
        yield made


@pytest.mark.timeout(60 + 3 * KILLS)
def test_sqlite_after_kills_equals_a_clean_load(forks: CommandForks, tmp_path: Path) -> None:
    """Killed at random points, again and again, then left in peace once: each event is there once, counters agree."""
    kills, seed = Kills(), SEED
    while kills.killed < KILLS:
        with a_round(forks, tmp_path / str(seed), seed) as round_:
            kills += round_.kill(min(KILLS_PER_ROUND, KILLS - kills.killed))
            code = round_.finish()
            wrong = round_.wrong()
        print(f"seed {seed}: {len(round_.honeypot.events)} events; so far {kills}")
        assert (0, []) == (code, wrong), f"COWRIEPROC_KILLS_SEED={seed}: {forks.said[-3000:]}"
        seed += 1

    assert kills.at_work > KILLS // 4, kills
    assert "Traceback" not in forks.said
    assert "locked" not in forks.said


@pytest.mark.parametrize("sabotage", [None, *(one.__name__ for one in REQUIRED)])
def test_mistakes_would_be_found(sabotage: str | None, forks: CommandForks, tmp_path: Path) -> None:
    """Negative control: a follower that makes a mistake is found out after kills and locks, an honest one is not."""
    found: list[str] = []
    for seed in range(TRIES if sabotage else 1):
        forks.sabotage = sabotage
        forks.settings = {"COWRIEPROC_LOCK_TIMEOUT_S": str(LOCK_TIMEOUT_S)}
        with a_round(forks, tmp_path / str(seed), seed, packs=False) as round_:
            round_.kill(0 if sabotage in WITHOUT_KILLS else 5)
            round_.lock_out(2, is_said=sabotage != swallow_errors.__name__)
            assert 0 == round_.finish(), forks.said[-3000:]
            found = round_.wrong_events() if sabotage else round_.wrong()
        if found:
            break

    assert bool(sabotage) == bool(found), found[:3]


@pytest.mark.postgres
@pytest.mark.timeout(60 + 3 * POSTGRES_KILLS)
def test_postgresql_after_kills_equals_a_clean_load(forks: CommandForks, postgres_url: str, tmp_path: Path) -> None:
    """On PostgreSQL, where the server outlives its clients, it is the same."""
    with a_round(forks, tmp_path / "round", SEED, url=postgres_url, packs=TORTURE) as round_:
        kills = round_.kill(POSTGRES_KILLS)
        code = round_.finish()
        wrong = round_.wrong()

    print(f"{len(round_.honeypot.events)} events; {kills}")
    assert (0, []) == (code, wrong), f"COWRIEPROC_KILLS_SEED={SEED}: {forks.said[-3000:]}"
    assert kills.at_work > 0
    assert "Traceback" not in forks.said


def test_the_command_as_users_start_it(tmp_path: Path) -> None:
    """The program itself, each time a new process that imports all anew, survives kills the same way."""
    with a_round(Processes(tmp_path / "said.txt"), tmp_path / "round", SEED, packs=False, start_s=1.5) as round_:
        kills = round_.kill(2)
        code = round_.finish()
        wrong = round_.wrong()

    assert (0, []) == (code, wrong)
    assert kills.killed == 2


@contextmanager
def a_round(
    commands: Commands, folder: Path, seed: int, *, url: str | None = None, packs: bool = True, start_s: float = START_S
) -> Iterator[KillingRound]:
    """Yield a honeypot with an empty database, SQLite where no URL is given."""
    (folder / "log").mkdir(parents=True)
    engine = get_engine(url or folder / "pots.sqlite")
    try:
        apply_migrations(engine)
        yield KillingRound(commands, engine, folder / "log", seed, packs=packs, start_s=start_s)
    finally:
        dispose(engine)
