"""NULs before a log are counted as NULs: nothing is called lost that no poll saw."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.models import LogFile, RawEvent
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.loader.delta import DeltaLoader
from cowrieprocessor.loader.follow.gap_detector import Gap
from cowrieprocessor.loader.follow.timing import FollowTiming
from tests.logs import count, events

SOON = 0.05
AT_ONCE = FollowTiming(
    archive_settles_s=SOON, coarse_time_settles_s=SOON, fine_time_settles_s=SOON, listing_settles_s=SOON
)
TORN = b'{"eventid": "torn'
UNSEEN_BYTES = 5_000


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log with ten events and the beginning of another one."""
    path = tmp_path / "cowrie.json"
    path.write_bytes(lines(0) + TORN)
    return path


def lines(start: int) -> bytes:
    """Return ten lines of a log."""
    return "".join(f"{line}\n" for line in events(10, start=start)).encode()


def all_gaps(loader: DeltaLoader) -> list[Gap]:
    """Poll until nothing is undecided any more; return the losses."""
    gaps = []
    while (polled := loader.poll()).is_undecided:
        gaps += polled.gaps
        time.sleep(polled.again_in_s or 0.0)
    return [*gaps, *polled.gaps, *loader.poll().gaps]


def truncate_and_go_on(path: Path, offset: int) -> int:
    """Truncate a log whose writer goes on at its own offset, with NULs before it; return that offset."""
    with path.open("r+b") as file:
        file.truncate(0)
        file.seek(offset)
        file.write(lines(10))
    return offset


def nuls_and_gap(engine: Engine) -> tuple[int, int]:
    """Return the NUL bytes and the lost bytes of all logs."""
    with read_transaction(engine) as connection:
        rows = connection.execute(select(LogFile.bytes_nul, LogFile.bytes_gap)).all()
    return sum(row.bytes_nul for row in rows), sum(row.bytes_gap for row in rows)


@pytest.mark.parametrize("polls_the_empty_file", [False, True])
def test_only_what_a_poll_saw_is_lost(engine: Engine, tmp_path: Path, log: Path, polls_the_empty_file: bool) -> None:
    """Of a truncated log the bytes that a poll saw are lost, not those that only the NULs of the next log stand for."""
    size, gaps = log.stat().st_size, []
    with DeltaLoader(engine, [tmp_path], timing=AT_ONCE) as loader:
        loader.poll()
        if polls_the_empty_file:
            os.truncate(log, 0)
            gaps += all_gaps(loader)
        offset = truncate_and_go_on(log, size + UNSEEN_BYTES)
        gaps += all_gaps(loader)

    assert [(str(log), len(TORN))] == [(gap.path, gap.bytes_lost) for gap in gaps]
    assert (offset, len(TORN)) == nuls_and_gap(engine)
    assert 20 == count(engine, RawEvent)


def test_nothing_is_lost_of_a_log_that_nobody_followed(engine: Engine, tmp_path: Path, log: Path) -> None:
    """NULs at the beginning of a log that was never followed are counted, and are no loss."""
    offset = truncate_and_go_on(log, log.stat().st_size)
    BulkLoader(engine).load([log])
    with DeltaLoader(engine, [tmp_path], timing=AT_ONCE) as loader:
        gaps = all_gaps(loader)

    assert [] == gaps
    assert (offset, 0) == nuls_and_gap(engine)
