"""A backfill locks rows in the loaders' order, over all that one transaction writes: neither can deadlock."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.ingest.event_scan import StoredEvent
from cowrieprocessor.jobs.runtime.job import run_job
from cowrieprocessor.jobs.runtime.throttle import ThrottleLimits
from cowrieprocessor.jobs.upgrade.backfill import KINDS
from cowrieprocessor.jobs.upgrade.backfill_aggregates import (
    FilesSlice,
    MentionsSlice,
    SensorsSlice,
    SessionsSlice,
    Slice,
)
from cowrieprocessor.jobs.upgrade.backfill_run import BackfillRun
from cowrieprocessor.loader.bulk import BulkLoader
from tests.logs import events

AMPLE = ThrottleLimits(write_s=60.0, shared_write_s=60.0)
"""Every slice that was read fits into one transaction."""

LOCKED = {
    "backfill-files": "file_hashes WHERE sha256",
    "backfill-mentions": "file_mentions WHERE session_id",
    "backfill-sessions": "session_attributes WHERE session_id",
    "backfill-sensors": "session_sensors WHERE session_id",
}


def log_of(path: Path, sessions: Sequence[str]) -> Path:
    """Write a log with a connection, a login and a file of each session; its hash is the session's letter."""
    lines = []
    for number, session in enumerate(sessions):
        at = {"session": session, "timestamp": f"2026-11-21T10:{number:02}:00Z", "sensor": "hp1"}
        lines += [
            {"eventid": "cowrie.session.connect", "src_ip": "203.0.113.1", "protocol": "ssh", **at},
            {"eventid": "cowrie.login.success", "username": "root", "password": "x", **at},
            {"eventid": "cowrie.command.input", "input": "id", **at},
            {"eventid": "cowrie.session.file_download", "shasum": session * 64, "url": "http://203.0.113.1/x", **at},
        ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run_one(engine: Engine, kind: type[Slice], slice_rows: int, limits: ThrottleLimits) -> list[int]:
    """Run one job of the backfill; return how many events were done at each report."""
    done = [0]
    with run_job(engine, kind.job, limits=limits, on_progress=lambda now: done.append(now.done)) as job:
        BackfillRun(engine, kind, job, batch_size=10_000, slice_rows=slice_rows).run()
    return done


def wait_for_a_lock(engine: Engine) -> None:
    """Wait until a transaction of this database waits for a row lock."""
    waits = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    ends_at = time.monotonic() + 20
    while time.monotonic() < ends_at:
        with read_transaction(engine) as connection:
            if connection.scalar(waits):
                return
        time.sleep(0.01)
    raise TimeoutError("the backfill does not wait")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.job)
def test_a_loader_and_a_backfill_do_not_deadlock(engine: Engine, tmp_path: Path, kind: type[Slice]) -> None:
    """While a loader holds the first row by key, the backfill holds none that follows it, whatever it read first."""
    if engine.dialect.name != "postgresql":
        pytest.skip("SQLite has one writer at a time")
    BulkLoader(engine).load([log_of(tmp_path / "cowrie.json", ["d", "c", "b", "a"])])
    with write_transaction(engine) as connection:
        connection.execute(text("DELETE FROM log_files"))  # as if version 3 had stored the events
    length = 64 if kind.job == "backfill-files" else 1
    lock = text(f"SELECT 1 FROM {LOCKED[kind.job]} = :key FOR UPDATE")
    failed: list[BaseException] = []

    def run() -> None:
        try:
            run_one(engine, kind, 1, AMPLE)
        except BaseException as error:  # noqa: BLE001 - any failure is told by the test
            failed.append(error)

    backfill = threading.Thread(target=run)
    with write_transaction(engine) as connection:
        assert connection.execute(lock, {"key": "a" * length}).all()
        backfill.start()
        wait_for_a_lock(engine)
        connection.execute(text("SET LOCAL lock_timeout = '5s'"))
        for letter in "bcd":
            assert connection.execute(lock, {"key": letter * length}).all()
    backfill.join(30)

    assert failed == []


def everything_in(slice_: Slice) -> list[Any]:
    """Return what a slice writes and counts."""
    counts = [slice_.values, slice_.last_id, dict(slice_.counters), slice_.dead_letters]
    if isinstance(slice_, FilesSlice | MentionsSlice):
        files = slice_.files
        return [*counts, files.hash_rows("now"), files.file_rows(), files.mention_rows(), dict(files.counters)]
    if isinstance(slice_, SessionsSlice):
        sessions = slice_.sessions
        rows = [sessions.attribute_rows(), sessions.command_rows(), sessions.login_rows(), sessions.sensor_rows()]
        return [*counts, *rows, sessions.sessions]
    assert isinstance(slice_, SensorsSlice)
    return [*counts, slice_.sessions, slice_.sources]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.job)
def test_merged_slices_equal_one_slice(kind: type[Slice]) -> None:
    """However events are cut into slices, the merged slices have the rows, sorted, and the counters of one."""
    chosen = random.Random(kind.job)
    lines = [*events(400), "{", json.dumps({"eventid": "cowrie.session.file_download", "shasum": "x", "session": "s"})]
    chosen.shuffle(lines)
    stored = [StoredEvent(number, "log", "1", 0, number, "i", line, None) for number, line in enumerate(lines, 1)]
    own_logs = [stored[0].source_key]
    whole = kind("now")
    parts = [kind("now")]
    for row in stored:
        if chosen.random() < 0.05:
            parts.append(kind("now"))
        whole.add(row, own_logs, len(stored))
        parts[-1].add(row, own_logs, len(stored))
    merged = parts[0]
    for part in parts[1:]:
        merged.merge(part)

    assert len(parts) > 10
    assert everything_in(merged) == everything_in(whole)
    assert merged.rows == whole.rows > 0


def test_a_transaction_grows_with_the_speed_of_the_last_one(engine: Engine, tmp_path: Path) -> None:
    """The first transaction writes one slice, later ones what fits into their time; without time, one slice each."""
    BulkLoader(engine).load([log_of(tmp_path / "cowrie.json", "abcdefgh")])
    written: dict[float, list[int]] = {}
    for seconds in (0.0, 60.0):
        with write_transaction(engine) as connection:
            connection.execute(text("DELETE FROM jobs WHERE name = 'backfill-mentions'"))
        done = run_one(engine, MentionsSlice, 2, ThrottleLimits(write_s=seconds, shared_write_s=seconds))
        written[seconds] = [after - before for before, after in itertools.pairwise(done) if after > before]

    assert written == {0.0: [2, 2, 2, 2], 60.0: [2, 6]}
