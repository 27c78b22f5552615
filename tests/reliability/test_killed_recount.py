"""`db recount` killed at random points: the next one ends with the rows and numbers of an undisturbed one."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.make_v3_db import make_v3_db
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.jobs.upgrade.recount import recount
from tests.torture import rounds
from tests.unit.jobs.upgraded import opened, rows
from tests.v3_schema import SESSIONS

pytestmark = pytest.mark.torture

KILLS = rounds(100, 5)

_RECOUNT = """
import sys
from cowrieprocessor.db.engine import get_engine
from cowrieprocessor.jobs.upgrade import recount as job
engine = get_engine(sys.argv[1])
write = job._Recount._write
def told(*arguments):
    print("writes", flush=True)
    try:
        return write(*arguments)
    finally:
        print("wrote", flush=True)
job._Recount._write = told
job.recount(engine, page_sessions=3)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A v3 file at version 4 with many sessions whose counters are wrong."""
    path = tmp_path_factory.mktemp("made") / "v3.sqlite"
    make_v3_db(path, events=4000, seed=5)
    with opened(path) as engine:
        apply_migrations(engine)
    return path


def kill_one(path: Path, rng: random.Random) -> None:
    """Run a recount and kill it after a random number of writes."""
    process = subprocess.Popen(
        [sys.executable, "-c", _RECOUNT, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(rng.randint(1, 10)):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()


def state(path: Path) -> list[tuple[str, str, str]]:
    """Return state, numbers and place of the job."""
    return rows(path, "SELECT state, counters, cursor FROM jobs WHERE name = 'recount'")


def test_killed_recounts_end_like_an_undisturbed_one(made: Path, tmp_path: Path) -> None:
    """However often a recount is killed, the one that ends leaves the same counters, times, and job."""
    undisturbed, killed = (Path(shutil.copy(made, tmp_path / name)) for name in ("undisturbed", "killed"))
    with opened(undisturbed) as engine:
        recount(engine)
    rng = random.Random(4)
    kills = 0
    while kills < KILLS and not [True for job in state(killed) if job[0] == "done"]:
        kill_one(killed, rng)
        kills += 1
    if state(killed)[0][0] != "done":
        with opened(killed) as engine:
            recount(engine)
    assert kills > 1
    assert (rows(killed, SESSIONS), state(killed)) == (rows(undisturbed, SESSIONS), state(undisturbed))
