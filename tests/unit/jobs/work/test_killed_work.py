"""`work --once` killed while it completes an upgraded database: the next one ends with the same database."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from benchmarks.make_v3_db import make_v3_db
from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.jobs import load_job
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.jobs.upgrade.backfill import KINDS, backfill
from tests.logical_digest import Contents, difference, logical_contents
from tests.reliability.command_forks import CommandForks
from tests.torture import rounds

pytestmark = pytest.mark.torture

KILLS = rounds(30, 3)
EVENTS = 4000
ONLY = {"COWRIEPROC_WORK": "enrichment=off"}


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A v3 file that has just been migrated."""
    path = tmp_path_factory.mktemp("made") / "v3.sqlite"
    make_v3_db(path, events=EVENTS, seed=5)
    engine = get_engine(path)
    apply_migrations(engine)
    dispose(engine)
    return path


def contents(path: Path) -> Contents:
    """Return what a database has but for the rows of the worker."""
    engine = get_engine(path)
    with write_transaction(engine) as connection:
        connection.exec_driver_sql("DELETE FROM jobs WHERE name LIKE 'work%'")
    found = logical_contents(engine)
    dispose(engine)
    return found


def states(path: Path) -> list[str | None]:
    """Return the states of the task's row and of the backfill's."""
    engine = get_engine(path, read_only=True)
    with read_transaction(engine) as connection:
        jobs = [load_job(connection, name) for name in ("work:derived-facts", *(kind.job for kind in KINDS))]
    dispose(engine)
    return [None if job is None else job.state for job in jobs]


def test_killed_work_ends_like_an_undisturbed_backfill(migrated: Path, tmp_path: Path) -> None:
    """Wherever it is killed, the next call repeats the task at once, and it goes on where it stopped."""
    undisturbed = Path(shutil.copy(migrated, tmp_path / "undisturbed.sqlite"))
    engine = get_engine(undisturbed)
    began = time.monotonic()
    backfill(engine)
    took_s = time.monotonic() - began
    dispose(engine)
    expected = contents(undisturbed)
    rng, in_the_middle = random.Random(9), 0
    for number in range(KILLS):
        path = Path(shutil.copy(migrated, tmp_path / f"{number}.sqlite"))
        with CommandForks(tmp_path / f"{number}.log", ONLY) as commands:
            worker = commands.start("work", "--once", "--db", path)
            deadline = time.monotonic() + 60
            while states(path)[0] is None and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(rng.uniform(0, took_s))
            commands.end(worker, signal.SIGKILL)
            in_the_middle += states(path)[0] == "running"
            assert commands.run("work", "--once", "--db", path) == 0, commands.said
        assert states(path) == ["done"] * (1 + len(KINDS)), commands.said
        assert difference(expected, contents(path)) == []
    assert in_the_middle
