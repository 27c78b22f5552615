"""`dead-letters replay` killed at random points, and beside loaders: each event once, and nothing refused."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import dispose, get_engine
from cowrieprocessor.db.models import RawEvent
from cowrieprocessor.jobs.dead_letters.replay import replay
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.settings import Settings
from tests.command_line import PROGRAM
from tests.logical_digest import TABLES, Contents, difference, logical_contents
from tests.logs import count, events, write
from tests.torture import rounds

SMALL, LARGE = Settings(max_value_bytes=2_000, batch_size=20), Settings(max_value_bytes=10_000, batch_size=20)
KILLS = rounds(300, 3)
COMPARED = tuple(name for name in TABLES if name not in ("jobs", "dead_letter_events"))

_REPLAY = """
import sys
from cowrieprocessor.db.engine import get_engine
from cowrieprocessor.jobs.dead_letters import replay as job
from cowrieprocessor.settings import Settings
print("ready", flush=True)
job.replay(
    get_engine(sys.argv[1]),
    Settings(max_value_bytes=10_000),
    on_progress=lambda _: print("some", flush=True),
    limits=job.ReplayLimits(letters_at_once=7),
)
"""


def lines(number: int = 150, start: int = 0, session: str = "5e55") -> list[str]:
    """Return log lines of which two of three are larger than the small limit."""
    large = {"pad": "x" * 3_000}
    made = events(number, start=start, session=session)
    return [line if n % 3 == 0 else json.dumps(json.loads(line) | large) for n, line in enumerate(made)]


def from_the_start(folder: Path, logs: list[Path]) -> Contents:
    """Return what a load with the larger limit gives."""
    engine = get_engine(folder / "expected.sqlite")
    BulkLoader(engine, settings=LARGE).load(logs)
    found = logical_contents(engine, tables=COMPARED)
    dispose(engine)
    return found


def start_replay(url: str) -> subprocess.Popen[str]:
    """Start a replay in a process of its own and return it when it is about to begin."""
    process = subprocess.Popen(
        [sys.executable, "-c", _REPLAY, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.torture
def test_after_kills_each_event_is_stored_once(engine: Engine, db_url: str, tmp_path: Path) -> None:
    """Killed at random points again and again, the last replay ends as an undisturbed one would have."""
    log = write(tmp_path / "cowrie.json", lines())
    BulkLoader(engine, settings=SMALL).load([log])
    random_ = random.Random(20261122)
    killed = 0
    for _ in range(KILLS):
        process = start_replay(db_url)
        assert process.stdout is not None
        for _ in range(random_.randrange(4)):
            process.stdout.readline()
        time.sleep(random_.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL

    replay(engine, LARGE)

    assert killed > 0
    assert [] == difference(from_the_start(tmp_path, [log]), logical_contents(engine, tables=COMPARED))


def test_beside_a_loader(engine: Engine, db_url: str, tmp_path: Path) -> None:
    """While other logs are loaded into the same database, two replays go on; nobody is refused, all is there once."""
    first = write(tmp_path / "first.json", lines())
    others = [
        write(tmp_path / f"other{number}.json", lines(80, 1_000 * number, f"0{number}77")) for number in range(1, 3)
    ]
    BulkLoader(engine, settings=SMALL).load([first])
    load = subprocess.Popen(
        [*PROGRAM, "load", *map(str, others), "--db", db_url, "--batch-size", "10"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    replays = [start_replay(db_url) for _ in range(2)]
    ends = [(*one.communicate(timeout=120), one.returncode) for one in (load, *replays)]

    assert [0, 0, 0] == [code for *_, code in ends], ends
    assert [] == difference(from_the_start(tmp_path, [first, *others]), logical_contents(engine, tables=COMPARED))


def test_a_replay_of_a_log_that_is_being_loaded(engine: Engine, tmp_path: Path) -> None:
    """Between the batches of a load its dead letters are replayed: each event and each byte is accounted for once."""
    log = write(tmp_path / "cowrie.json", lines())

    def meanwhile(_: object) -> None:
        replay(engine, LARGE)

    BulkLoader(engine, settings=SMALL, on_progress=meanwhile).load([log])
    replay(engine, LARGE)

    assert [] == difference(from_the_start(tmp_path, [log]), logical_contents(engine, tables=COMPARED))


def test_sigterm_ends_it_cleanly(tmp_path: Path) -> None:
    """Asked to end, it ends with 130 and a word, and the next one completes it."""
    path = tmp_path / "x.sqlite"
    log = write(tmp_path / "cowrie.json", lines(300))
    engine = get_engine(path)
    BulkLoader(engine, settings=SMALL).load([log])
    process = subprocess.Popen(
        [*PROGRAM, "dead-letters", "replay", "--db", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COWRIEPROC_MAX_VALUE_BYTES": "10000"},
    )
    until = time.monotonic() + 60
    while count(engine, RawEvent) == 100 and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)

    assert process.returncode in (0, 130), said
    assert "Traceback" not in said
    replay(engine, LARGE)
    assert [] == difference(from_the_start(tmp_path, [log]), logical_contents(engine, tables=COMPARED))
    dispose(engine)
