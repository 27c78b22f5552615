"""Threads and processes that share a key share its ledger."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy import Engine

from cowrieprocessor.clock import SystemClock
from cowrieprocessor.db.engine import dispose, get_engine, read_transaction
from cowrieprocessor.enrichment.providers.base import Limits
from cowrieprocessor.enrichment.quota.ledger import Granted, Ledger
from tests.stand_ins.clock import ManualClock
from tests.unit.enrichment.quota.reserving import PER_MINUTE
from tests.unit.enrichment.sending import most_in_any

PROJECT = Path(__file__).parents[4]
WINDOW = dt.timedelta(seconds=60 * 4 / PER_MINUTE)


def test_threads_at_once(engine: Engine, db_url: str) -> None:
    """Of many threads that create a ledger at once as many get a request as the burst allows, and all are counted.

    Each has its own connections, as a process would.
    """
    clock = ManualClock()
    barrier = threading.Barrier(8)
    engines = [get_engine(db_url) for _ in range(8)]

    def reserve(own: Engine) -> list[bool]:
        ledger = Ledger(own, "virustotal", "a" * 16, Limits(4, 6, 15_500), Limits(), clock)
        barrier.wait()
        return [isinstance(ledger.reserve(), Granted) for _ in range(3)]

    with ThreadPoolExecutor(8) as pool:
        try:
            first = [answer for answers in pool.map(reserve, engines) for answer in answers]
            clock.advance(minutes=2)
            second = [answer for answers in pool.map(reserve, engines) for answer in answers]
        finally:
            for opened in engines:
                dispose(opened)
    assert (4, 2) == (sum(first), sum(second))
    assert 6 == used(engine, clock.now())


def used(engine: Engine, now: dt.datetime) -> int:
    """Return how many requests the ledger counted on a day."""
    with read_transaction(engine) as connection:
        ledger = Ledger(engine, "virustotal", "a" * 16, Limits(), Limits(), ManualClock(now))
        return ledger.state(connection).used_day


def counted(engine: Engine, times: Sequence[dt.datetime]) -> int:
    """Return how many requests the ledger counted on the days of these times and today."""
    days = {moment.date(): moment for moment in [*times, SystemClock().now()]}
    return sum(used(engine, moment) for moment in days.values())


def start(db_url: str, requests: int) -> subprocess.Popen[str]:
    """Start a process that reserves."""
    command = [sys.executable, "-m", "tests.unit.enrichment.quota.reserving", db_url, str(requests)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT)


def times_of(process: subprocess.Popen[str]) -> list[dt.datetime]:
    """Return the times that a process was granted until its end; a last line that was cut off does not count."""
    assert process.stdout is not None
    with process.stdout as output:
        lines = list(output)
    process.wait(timeout=60)
    return [dt.datetime.fromisoformat(line.strip()) for line in lines if line.endswith("\n")]


def test_processes_at_once(engine: Engine, db_url: str) -> None:
    """Three processes together keep one rate limit, and the ledger counts what they were granted."""
    processes = [start(db_url, 15) for _ in range(3)]
    times = [moment for process in processes for moment in times_of(process)]
    assert [0, 0, 0] == [process.returncode for process in processes]
    assert 45 == len(times) == counted(engine, times)
    assert most_in_any(times, WINDOW) <= 4


def test_processes_that_are_killed(engine: Engine, db_url: str) -> None:
    """Whenever processes are killed, the ledger has never counted fewer requests than were granted."""
    times: list[dt.datetime] = []
    for requests_before_kill in (1, 4, 7):
        killed, other = start(db_url, 10_000), start(db_url, 4)
        assert killed.stdout is not None
        lines = [killed.stdout.readline() for _ in range(requests_before_kill)]
        killed.kill()
        times += [dt.datetime.fromisoformat(line.strip()) for line in lines]
        times += [*times_of(killed), *times_of(other)]
    # For each killed process one request may be counted that it had no time to send.
    assert len(times) <= counted(engine, times) <= len(times) + 3
    assert most_in_any(times, WINDOW) <= 4
