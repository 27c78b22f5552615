"""Locks on paths: who is refused, who is not, and what the row of `jobs` records."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, update

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.ingest.statements import LoadingStatements
from cowrieprocessor.db.jobs import (
    DONE,
    FAILED,
    PAUSED,
    RUNNING,
    STOPPED,
    WAITING,
    JobRecord,
    delete_job,
    jobs_of_kind,
    load_job,
    request_pause,
    save_job,
)
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import Job
from cowrieprocessor.errors import AlreadyFollowed, DatabaseLocked, JobTaken
from cowrieprocessor.jobs.runtime.job import HEARTBEAT_S
from cowrieprocessor.jobs.runtime.path_lock import lock_paths
from cowrieprocessor.jobs.runtime.process_identity import _started

_LOCKING = """
import sys
from pathlib import Path
from cowrieprocessor.db.engine import get_engine
from cowrieprocessor.errors import AlreadyFollowed
from cowrieprocessor.jobs.runtime.path_lock import lock_paths
print("ready", flush=True)
sys.stdin.readline()
try:
    with lock_paths(get_engine(sys.argv[1]), "follow", [Path(sys.argv[2])]):
        print("locked", flush=True)
        sys.stdin.readline()
except AlreadyFollowed as error:
    print("refused", flush=True)
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Engine]:
    """An SQLite database, for what is the same on all."""
    made = get_engine(tmp_path / "database.sqlite")
    apply_migrations(made)
    yield made
    dispose(made)


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def start_locking(url: str, path: Path) -> subprocess.Popen[str]:
    """Start a process that locks a path when it reads a line, and releases it at the next."""
    process = subprocess.Popen(
        [sys.executable, "-c", _LOCKING, url, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert "ready\n" == answer(process)
    return process


def send_line(process: subprocess.Popen[str]) -> None:
    """Write a line to a process."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> str:
    """Return the next line of a process."""
    assert process.stdout is not None
    return process.stdout.readline()


def end(process: subprocess.Popen[str]) -> None:
    """Wait for a process."""
    process.communicate()


def row(engine: Engine, name: str) -> JobRecord:
    """Return a job's row."""
    with read_transaction(engine) as connection:
        job = load_job(connection, name)
    assert job is not None
    return job


def change_row(engine: Engine, name: str, **cursor: Any) -> None:
    """Change the identity of the owner in the row."""
    with write_transaction(engine) as connection:
        job = load_job(connection, name)
        assert job is not None
        job.owner |= cursor
        save_job(connection, job)


def test_the_row_names_owner_and_paths(engine: Engine, tmp_path: Path) -> None:
    """While paths are locked the row has process, paths and time; afterwards it is done."""
    with lock_paths(engine, "follow", [tmp_path / "b.json", tmp_path / "a.json"]) as lock:
        job = row(engine, lock.name)
        assert (RUNNING, os.getpid()) == (job.state, job.owner["pid"])
        assert [str(tmp_path / "a.json"), str(tmp_path / "b.json")] == job.cursor["paths"]
        assert 19 == len(job.cursor["since"])
        assert job.finished_at is None
    job = row(engine, lock.name)

    assert (DONE, None) == (job.state, job.reason)
    assert job.finished_at is not None


@pytest.mark.parametrize(
    ("first", "second", "is_refused"),
    [
        ("logs/cowrie.json", "logs/cowrie.json", True),
        ("logs", "logs/cowrie.json", True),
        ("logs/cowrie.json", "logs", True),
        (".", "logs/not there yet", True),
        ("link/cowrie.json", "logs/cowrie.json", True),
        ("logs/../logs", "link", True),
        ("logs/cowrie.json", "logs/other.json", False),
        ("logs", "logs2", False),
        ("logs/cowrie.json", "logs/cowrie.json.1", False),
    ],
)
def test_the_same_files_are_refused(
    database: Engine, tmp_path: Path, first: str, second: str, is_refused: bool
) -> None:
    """The same path, also through a link, and one above or below are refused; others are not."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "logs")
    refusal = ""
    with lock_paths(database, "follow", [tmp_path / first]):
        try:
            with lock_paths(database, "follow", [Path("/nowhere/at/all"), tmp_path / second]):
                pass
        except AlreadyFollowed as error:
            refusal = str(error)

    assert is_refused == bool(refusal)
    if refusal:
        assert f"process {os.getpid()} on " in refusal
        assert str((tmp_path / second).resolve()) in refusal


def test_a_live_process_is_named_and_a_dead_one_is_ignored(engine: Engine, db_url: str, tmp_path: Path) -> None:
    """Of two processes the second is refused with the name of the first; a killed one blocks nobody."""
    first = start_locking(db_url, tmp_path)
    send_line(first)
    assert "locked\n" == answer(first)
    with pytest.raises(AlreadyFollowed, match=f"process {first.pid} on"), lock_paths(engine, "follow", [tmp_path]):
        pass
    first.kill()
    end(first)

    with lock_paths(engine, "follow", [tmp_path]) as lock:
        assert RUNNING == row(engine, lock.name).state


def test_one_of_several_concurrent_processes_wins(engine: Engine, db_url: str, tmp_path: Path) -> None:
    """Of three processes with overlapping paths at the same time, exactly one gets the lock."""
    paths = [tmp_path, tmp_path / "a.json", tmp_path / "a.json"]
    processes = [start_locking(db_url, path) for path in paths]
    for process in processes:
        send_line(process)
    answers = sorted(answer(process) for process in processes)
    for process in processes:
        end(process)

    assert ["locked\n", *["refused\n"] * 2] == answers


def test_threads_of_one_process_exclude_each_other(database: Engine, tmp_path: Path) -> None:
    """Two followers in the same process are refused like two processes."""
    refused: list[str] = []

    def try_it() -> None:
        try:
            with lock_paths(database, "follow", [tmp_path]):
                pass
        except AlreadyFollowed as error:
            refused.append(str(error))

    with lock_paths(database, "follow", [tmp_path]):
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()

    assert 1 == len(refused)


def test_other_kinds_and_other_machines(database: Engine, tmp_path: Path) -> None:
    """A scanned path may also be followed; the same path on another machine is another file."""
    with lock_paths(database, "follow", [tmp_path]) as lock:
        with lock_paths(database, "scan", [tmp_path]):
            pass
        change_row(database, lock.name, host="elsewhere")
        with lock_paths(database, "follow", [tmp_path / "a.json"]):
            pass
        change_row(database, lock.name, host=lock.record.owner["host"], machine="another machine of that name")
        with lock_paths(database, "follow", [tmp_path / "b.json"]):
            pass
        change_row(database, lock.name, machine=None)  # without a machine ID, or written by an older version
        with pytest.raises(AlreadyFollowed), lock_paths(database, "follow", [tmp_path / "c.json"]):
            pass
        change_row(database, lock.name, machine=lock.record.owner["machine"])


def test_counters_are_kept(engine: Engine, tmp_path: Path) -> None:
    """The counters that loaders add to the row survive every change of state."""

    def add() -> None:
        with write_transaction(engine) as connection:
            statements = LoadingStatements(connection)
            statements.add_job_counters(lock.name, {"events": 2}, None, "2026-01-02 03:04:05.000000")
            statements.close()

    for state in (WAITING, RUNNING):
        with lock_paths(engine, "follow", [tmp_path]) as lock:
            add()
            lock.heartbeat(state, "because", facts={"last_event_at": "then"})
            add()
            job = row(engine, lock.name)
            assert (state, "because", "then") == (job.state, job.reason, job.cursor["last_event_at"])
            assert os.getpid() == job.owner["pid"]

    assert {"events": 8} == row(engine, lock.name).counters


def put_row(engine: Engine, name: str, age: dt.timedelta, job: JobRecord, **holder: Any) -> None:
    """Write a row of a given age, perhaps of another owner."""
    job.name = name
    job.owner |= holder
    with write_transaction(engine) as connection:
        save_job(connection, job)
        connection.execute(update(Job).where(Job.name == name).values(updated_at=dt.datetime.now(dt.UTC) - age))


def test_rows_of_ended_processes_are_deleted(engine: Engine, tmp_path: Path) -> None:
    """A row of the same paths under another host name is merged with its counters; others are deleted after a month."""
    ours = tmp_path / "ours"
    hour, month = dt.timedelta(hours=1), dt.timedelta(days=31)
    with lock_paths(engine, "follow", [ours]) as lock:
        pass
    for name, age, state, paths, holder in (
        ("follow:container", hour, STOPPED, [str(ours)], {"host": "5f3c", "machine": None}),
        ("follow:other-pi", hour, STOPPED, [str(ours)], {"host": "pi-2", "machine": "another"}),
        ("follow:other-pi-old", month, STOPPED, [str(ours)], {"host": "pi-3", "machine": "another"}),
        ("follow:other-path", hour, DONE, [str(tmp_path / "a")], {}),
        ("follow:old-path", month, FAILED, [str(tmp_path / "b")], {}),
        ("follow:killed", month, RUNNING, [str(tmp_path / "c")], {"pid": 2**22 + 1}),
        ("follow:silent", hour, RUNNING, [str(ours)], {"host": "5f3d", "machine": None}),
        ("follow:alive", month, WAITING, [str(tmp_path / "d")], {"pid": 1, "started": _started(1)}),
        ("scan:old", month, DONE, [str(ours)], {}),
    ):
        job = row(engine, lock.name)
        job.state, job.counters = state, {"events": 1, name: 1}
        job.finished_at = None
        job.cursor["paths"] = paths
        put_row(engine, name, age, job, **holder)
    with lock_paths(engine, "follow", [ours]) as lock:
        counters = row(engine, lock.name).counters
    with read_transaction(engine) as connection:
        left = {job.name for kind in ("follow", "scan") for job in jobs_of_kind(connection, kind)}

    assert {"events": 1, "follow:container": 1} == counters
    assert {"alive", "other-pi", "other-path", "silent"} == {name[7:] for name in left - {lock.name, "scan:old"}}
    assert "scan:old" in left


def test_the_heartbeat_comes_each_minute(database: Engine, tmp_path: Path) -> None:
    """An unchanged state is not written again within a minute; after a minute it is."""
    clock = Clock()
    with lock_paths(database, "follow", [tmp_path], clock=clock) as lock:
        first = row(database, lock.name).updated_at
        lock.heartbeat(RUNNING)
        assert first == row(database, lock.name).updated_at
        clock.now += HEARTBEAT_S
        lock.heartbeat(RUNNING)
        assert first < row(database, lock.name).updated_at


def test_news_are_saved_every_few_seconds(database: Engine, tmp_path: Path) -> None:
    """Progress and facts are not written more often than every five seconds, a new state at once."""
    clock = Clock()
    with lock_paths(database, "follow", [tmp_path], clock=clock) as lock:
        for second in range(1, 11):
            clock.now = float(second)
            lock.progress(second, unit="events")
            lock.heartbeat(facts={"last_event_at": str(second)})
            now = row(database, lock.name)
            assert now.progress is None if second < 5 else (now.progress or {})["done"] == second // 5 * 5
        clock.now += 1.0
        lock.heartbeat(PAUSED, "by command")
        now = row(database, lock.name)

    assert (now.state, now.reason, (now.progress or {})["done"]) == (PAUSED, "by command", 10)


def test_a_pause_is_taken_over_with_the_row(engine: Engine, tmp_path: Path) -> None:
    """A container that was paused stays so when the next one, with another host name, takes over its row."""
    with lock_paths(engine, "follow", [tmp_path]) as lock:
        pass
    paused = row(engine, lock.name)
    paused.state = STOPPED
    with write_transaction(engine) as connection:
        delete_job(connection, lock.name)
    put_row(engine, "follow:container", dt.timedelta(hours=1), paused, host="5f3c", machine=None)
    with write_transaction(engine) as connection:
        request_pause(connection, "follow:container")
    with lock_paths(engine, "follow", [tmp_path]) as lock:
        reason = lock.paused_reason()

    assert reason is not None
    assert row(engine, lock.name).pause_requested


def test_the_end_is_recorded(database: Engine, tmp_path: Path) -> None:
    """The row says whether it was stopped, why it failed, and that an error was unexpected."""
    ends: list[tuple[BaseException | None, tuple[str, str | None]]] = [
        (None, (STOPPED, "asked to stop")),
        (DatabaseLocked("it is locked"), (FAILED, "it is locked")),
        (KeyboardInterrupt(), (STOPPED, "interrupted; the same command goes on from here")),
        (ValueError(), (FAILED, "it ended in an unexpected way; the same command goes on from here")),
    ]
    for error, expected in ends:
        with (
            suppress(DatabaseLocked, KeyboardInterrupt, ValueError),
            lock_paths(database, "follow", [tmp_path]) as lock,
        ):
            lock.ends_as = STOPPED, "asked to stop"
            if error is not None:
                raise error
        job = row(database, lock.name)
        assert expected == (job.state, job.reason)


def test_a_process_whose_row_was_taken_stops(database: Engine, tmp_path: Path) -> None:
    """A process whose row belongs to another one now stops, and leaves that row alone."""
    with ExitStack() as stack:
        lock = stack.enter_context(lock_paths(database, "follow", [tmp_path]))
        change_row(database, lock.name, run="another", pid=1)
        with pytest.raises(JobTaken, match="process 1 on"):
            lock.heartbeat(WAITING)
    job = row(database, lock.name)

    assert ("another", RUNNING) == (job.owner["run"], job.state)


def test_a_locked_database_does_not_delay_the_end(database: Engine, tmp_path: Path) -> None:
    """If the database is locked at the end, the process ends all the same, and is not considered alive."""
    with ExitStack() as stack:
        with lock_paths(database, "follow", [tmp_path]) as lock:
            connection = stack.enter_context(write_transaction(database))
            save_job(connection, JobRecord(lock.name, RUNNING, row(database, lock.name).cursor))
            began = time.monotonic()
            lock.heartbeat(WAITING, "locked", at_once=True)
        assert time.monotonic() - began < 5.0
    with lock_paths(database, "follow", [tmp_path]) as lock:
        assert RUNNING == row(database, lock.name).state


def test_a_path_that_is_not_text(engine: Engine, tmp_path: Path) -> None:
    """A path that is not UTF-8 is locked and refused like any other, and is printable in the message."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b[31m"))
    with lock_paths(engine, "follow", [path]):
        with pytest.raises(AlreadyFollowed) as refused, lock_paths(engine, "follow", [path / "below"]):
            pass
        assert str(refused.value).isprintable()


def test_jobs_of_a_kind(engine: Engine) -> None:
    """Only names that start with the kind and a colon are of that kind."""
    with write_transaction(engine) as connection:
        for name in ("follow", "follow:1", "follow:2", "follower:3", "scan:4", "load"):
            save_job(connection, JobRecord(name, RUNNING))
        assert ["follow:1", "follow:2"] == [job.name for job in jobs_of_kind(connection, "follow")]
        assert [] == jobs_of_kind(connection, "f%")


def test_times_are_utc(database: Engine, tmp_path: Path) -> None:
    """The time since when a path is locked is in UTC."""
    with lock_paths(database, "follow", [tmp_path]) as lock:
        since = dt.datetime.fromisoformat(row(database, lock.name).cursor["since"]).replace(tzinfo=dt.UTC)

    assert abs((dt.datetime.now(dt.UTC) - since).total_seconds()) < 3600 / 2
