"""The backfill killed at random points, and two at once: the next one ends with the same database."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.jobs.upgrade.backfill import backfill
from tests import v3_schema
from tests.logical_digest import Contents, difference, logical_contents
from tests.logs import events
from tests.torture import rounds

pytestmark = pytest.mark.torture

KILLS = rounds(100, 12)
EVENTS = 1500
TABLES = (
    "files",
    "file_hashes",
    "file_mentions",
    "session_attributes",
    "command_stats",
    "dead_letter_events",
    "raw_events",
)

_BACKFILL = """
import sys
from cowrieprocessor.db.engine import get_engine
from cowrieprocessor.jobs.runtime.throttle import ThrottleLimits
from cowrieprocessor.jobs.upgrade.backfill import backfill
print("ready", flush=True)
backfill(
    get_engine(sys.argv[1]),
    batch_size=60,
    slice_rows=10,
    limits=ThrottleLimits(write_s=0.0),
    on_progress=lambda _: print("written", flush=True),
)
print("done", flush=True)
"""


def payloads() -> list[dict[str, object]]:
    """Return events of v3, some of which cannot be taken up."""
    found = [json.loads(line) for line in events(EVENTS)]
    for number in range(2, EVENTS, 130):
        found[number]["shasum"] = "not a hash"
    return found


def migrated(path: Path) -> Path:
    """Make a v3 file and migrate it."""
    v3_schema.create(path, payloads=payloads())
    engine = get_engine(path)
    apply_migrations(engine)
    dispose(engine)
    return path


def finished(path: Path) -> Contents:
    """Run a backfill to its end and return what is there."""
    engine = get_engine(path)
    backfill(engine)
    contents = logical_contents(engine, tables=TABLES)
    dispose(engine)
    return contents


def start(path: Path) -> subprocess.Popen[str]:
    """Start a backfill in a process of its own and return it when it is about to begin."""
    process = subprocess.Popen(
        [sys.executable, "-c", _BACKFILL, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_after_kills_equals_an_undisturbed_backfill(tmp_path: Path) -> None:
    """Killed at random points of one backfill, again and again: every row, counter and dead letter is there once."""
    expected = finished(migrated(tmp_path / "undisturbed.sqlite"))
    random_ = random.Random(20261122)
    killed = finished_early = 0
    path = migrated(tmp_path / "0.sqlite")
    for number in range(KILLS):
        process = start(path)
        assert process.stdout is not None
        for _ in range(random_.randrange(12)):
            process.stdout.readline()
        time.sleep(random_.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        if _is_done(path):
            finished_early += 1
            assert difference(expected, finished(path)) == []
            path = migrated(tmp_path / f"{number + 1}.sqlite")

    assert difference(expected, finished(path)) == []
    assert killed > KILLS // 2


def test_two_at_once(tmp_path: Path) -> None:
    """Of two that start together one does the work and the other is refused or finds nothing to do."""
    path = migrated(tmp_path / "v3.sqlite")
    expected = finished(migrated(tmp_path / "undisturbed.sqlite"))
    both = [start(path), start(path)]
    errors = [process.communicate()[1] for process in both]

    assert 0 in [process.returncode for process in both]
    assert all("JobTaken" in error for error in errors if error)
    assert difference(expected, finished(path)) == []


def test_a_backfill_without_its_cursor_in_the_transaction_would_be_found_out(tmp_path: Path) -> None:
    """Negative control: a cursor set back by a few rows doubles commands, and the comparison says so."""
    expected = finished(migrated(tmp_path / "undisturbed.sqlite"))
    path = migrated(tmp_path / "v3.sqlite")
    finished(path)
    engine = get_engine(path)
    with write_transaction(engine) as connection:
        connection.exec_driver_sql(
            "UPDATE jobs SET cursor = json_set(cursor, '$.last.\"\"', 1000) WHERE name = 'backfill-sessions'"
        )
    dispose(engine)

    assert [one for one in difference(expected, finished(path)) if "command_stats" in one]


def _is_done(path: Path) -> bool:
    engine = get_engine(path)
    with read_transaction(engine) as connection:
        state = connection.exec_driver_sql("SELECT state FROM jobs WHERE name = 'backfill-sessions'").scalar()
    dispose(engine)
    return state == "done"
