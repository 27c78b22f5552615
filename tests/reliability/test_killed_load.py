"""`load` killed at random points, and loaders that meet: the next load ends with the same database."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import get_engine
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.loader.reading.read_sizes import ReadSizes
from cowrieprocessor.settings import Settings
from tests.logical_digest import Contents, difference, logical_contents
from tests.logs import count, events, write
from tests.torture import rounds

pytestmark = pytest.mark.torture

KILLS = 50
BATCH_SIZE = 20
BATCHES = 900 // BATCH_SIZE - 5

_LOADER = """
import sys
from cowrieprocessor.db.engine import get_engine
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.loader.reading.read_sizes import ReadSizes
from cowrieprocessor.settings import Settings
url, batch_size, in_process, *paths = sys.argv[1:]
sizes = ReadSizes() if in_process == "yes" else ReadSizes(other_core_bytes=0)
def tell(_):
    print("batch", flush=True)
settings = Settings(batch_size=int(batch_size))
loader = BulkLoader(get_engine(url), settings=settings, on_progress=tell, sizes=sizes)
print("ready", flush=True)
loader.load(paths)
print("done", flush=True)
"""


def start_loader(url: str, paths: list[Path], *, in_process: bool = True) -> subprocess.Popen[str]:
    """Start a load in a process of its own and return it when it is about to begin."""
    process = subprocess.Popen(
        [sys.executable, "-c", _LOADER, url, str(BATCH_SIZE), "yes" if in_process else "no", *map(str, paths)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill_after(process: subprocess.Popen[str], batches: int, pause_s: float) -> bool:
    """Kill a loader a moment after it has stored so many batches; return whether it was still at work."""
    assert process.stdout is not None
    for _ in range(batches):
        process.stdout.readline()
    time.sleep(pause_s)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.fixture
def logs(tmp_path: Path) -> list[Path]:
    """Two logs with sessions across them, files, damage and NUL runs."""
    lines = events(900)
    one, two = tmp_path / "cowrie.json.1", tmp_path / "cowrie.json"
    write(one, [*lines[:455], "not json", *lines[455:500]])
    two.write_bytes(b"\0" * 5000 + "".join(f"{line}\n" for line in [*lines[500:], '{"torn": "']).encode())
    return [one, two]


def undisturbed(logs: list[Path], folder: Path) -> Contents:
    """Return what a load without any trouble gives."""
    engine = get_engine(folder / "undisturbed.sqlite")
    BulkLoader(engine, settings=Settings(batch_size=BATCH_SIZE)).load(logs)
    contents = logical_contents(engine)
    engine.dispose()
    return contents


@pytest.mark.parametrize("in_process", [True, False], ids=["one process", "two processes"])
def test_sqlite_after_kills_equals_an_undisturbed_load(logs: list[Path], tmp_path: Path, in_process: bool) -> None:
    """Killed at random points, each time loaded again: events, counters, files, dead letters and cursors are equal."""
    expected = undisturbed(logs, tmp_path)
    random_ = random.Random(20261122)
    killed = 0
    for number in range(rounds(2 * KILLS, KILLS // 2)):
        path = tmp_path / f"{number}.sqlite"
        killed += kill_after(
            start_loader(str(path), logs, in_process=in_process), random_.randrange(BATCHES), random_.uniform(0, 0.02)
        )
        engine = get_engine(path)
        BulkLoader(engine, settings=Settings(batch_size=BATCH_SIZE)).load(logs)
        assert [] == difference(expected, logical_contents(engine))
        engine.dispose()
        path.unlink()

    assert killed > KILLS // 4


@pytest.mark.postgres
def test_postgresql_after_kills_equals_an_undisturbed_load(logs: list[Path], tmp_path: Path, postgres_url: str) -> None:
    """Killed again and again during one load into PostgreSQL, the last load ends with the same database."""
    expected = undisturbed(logs, tmp_path)
    engine = get_engine(postgres_url)
    apply_migrations(engine)
    random_ = random.Random(4711)
    killed = sum(
        kill_after(start_loader(postgres_url, logs), random_.randrange(4), random_.uniform(0, 0.02)) for _ in range(10)
    )

    BulkLoader(engine, settings=Settings(batch_size=BATCH_SIZE)).load(logs)

    assert killed > 0
    assert [] == difference(expected, logical_contents(engine))
    engine.dispose()


def test_two_loads_of_the_same_logs_at_once(engine: Engine, db_url: str, logs: list[Path], tmp_path: Path) -> None:
    """Loaders that run at the same time on the same logs store each event once."""
    expected = undisturbed(logs, tmp_path)
    loaders = [start_loader(db_url, paths) for paths in (logs, logs, logs[::-1])]
    ends = [(*loader.communicate(timeout=120), loader.returncode) for loader in loaders]

    assert [0, 0, 0] == [code for *_, code in ends], ends
    assert [] == difference(expected, logical_contents(engine))


def test_a_dead_parser_process_is_said_and_loses_nothing(tmp_path: Path) -> None:
    """If the process that parses is killed, the load says so and goes on by itself, each event once."""
    log = write(tmp_path / "cowrie.json", events(3000))
    killed: list[int] = []

    def kill_parser(_: object) -> None:
        if not killed:
            killed.append(parser_of_this_process())
            os.kill(killed[0], signal.SIGKILL)

    engine = get_engine(tmp_path / "x.sqlite")
    settings, sizes = Settings(batch_size=BATCH_SIZE), ReadSizes(other_core_bytes=0)
    loader = BulkLoader(engine, settings=settings, on_progress=kill_parser, sizes=sizes)
    (found,) = loader.load([log]).files

    assert 1 == len(killed)
    assert (1, None) == (len(found.warnings), found.error)
    assert "was killed, most likely because memory ran out; the load goes on without it" in found.warnings[0]
    assert (3000, 3000) == (found.counters["events"], count(engine, _raw_events()))
    assert [] == difference(undisturbed([log], tmp_path), logical_contents(engine))
    engine.dispose()


def parser_of_this_process() -> int:
    """Return the process that parses for this one; the tests have other children, such as PostgreSQL."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    parsers = [child for child in children if b"parser_process" in Path(f"/proc/{child}/cmdline").read_bytes()]
    assert len(parsers) == 1
    return int(parsers[0])


def _raw_events() -> type:
    from cowrieprocessor.db.models import RawEvent

    return RawEvent
