"""Files that one process holds: who is refused, who is not, and what the row of `jobs` says."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import threading
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
    RUNNING,
    STOPPED,
    WAITING,
    JobRecord,
    jobs_of_kind,
    load_job,
    save_job,
)
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import Job
from cowrieprocessor.errors import AlreadyFollowed, DatabaseLocked, JobTaken
from cowrieprocessor.jobs.runtime import path_lock as holding
from cowrieprocessor.jobs.runtime.path_lock import SAY_EVERY_S, lock_paths
from cowrieprocessor.jobs.runtime.process_identity import _started

_HOLDER = """
import sys
from pathlib import Path
from cowrieprocessor.db.engine import get_engine
from cowrieprocessor.errors import AlreadyFollowed
from cowrieprocessor.jobs.runtime.path_lock import lock_paths
print("ready", flush=True)
sys.stdin.readline()
try:
    with lock_paths(get_engine(sys.argv[1]), "follow", [Path(sys.argv[2])]):
        print("held", flush=True)
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


def start_holder(url: str, path: Path) -> subprocess.Popen[str]:
    """Start a process that will hold a path once it is given a line, and lets go at the next."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, url, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert "ready\n" == answer(process)
    return process


def go_on(process: subprocess.Popen[str]) -> None:
    """Give a process its line."""
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
    """Change what the row says about its holder."""
    with write_transaction(engine) as connection:
        job = load_job(connection, name)
        assert job is not None
        job.cursor["holder"] |= cursor
        save_job(connection, job)


def test_the_row_says_who_holds_what(engine: Engine, tmp_path: Path) -> None:
    """While files are held the row names process, paths and since when; afterwards it is done."""
    with lock_paths(engine, "follow", [tmp_path / "b.json", tmp_path / "a.json"]) as held:
        job = row(engine, held.name)
        assert (RUNNING, os.getpid()) == (job.state, job.cursor["holder"]["pid"])
        assert [str(tmp_path / "a.json"), str(tmp_path / "b.json")] == job.cursor["paths"]
        assert 19 == len(job.cursor["since"])
        assert job.finished_at is None
    job = row(engine, held.name)

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
    """The same path, one above or below, and the same by another name are refused; others are not."""
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


def test_a_process_that_lives_is_named_and_one_that_died_is_not_waited_for(
    engine: Engine, db_url: str, tmp_path: Path
) -> None:
    """Of two processes the second is refused and told about the first; a killed one keeps nobody out."""
    first = start_holder(db_url, tmp_path)
    go_on(first)
    assert "held\n" == answer(first)
    with pytest.raises(AlreadyFollowed, match=f"process {first.pid} on"), lock_paths(engine, "follow", [tmp_path]):
        pass
    first.kill()
    end(first)

    with lock_paths(engine, "follow", [tmp_path]) as held:
        assert RUNNING == row(engine, held.name).state


def test_of_processes_that_come_at_once_one_wins(engine: Engine, db_url: str, tmp_path: Path) -> None:
    """Three processes with overlapping paths at the same moment: exactly one holds them."""
    paths = [tmp_path, tmp_path / "a.json", tmp_path / "a.json"]
    processes = [start_holder(db_url, path) for path in paths]
    for process in processes:
        go_on(process)
    answers = sorted(answer(process) for process in processes)
    for process in processes:
        end(process)

    assert ["held\n", *["refused\n"] * 2] == answers


def test_threads_of_one_process_keep_each_other_out(database: Engine, tmp_path: Path) -> None:
    """Two followers in one process are two."""
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
    """What is scanned may be followed; the same path on another machine is another file."""
    with lock_paths(database, "follow", [tmp_path]) as held:
        with lock_paths(database, "scan", [tmp_path]):
            pass
        change_row(database, held.name, host="elsewhere")
        with lock_paths(database, "follow", [tmp_path / "a.json"]):
            pass
        change_row(database, held.name, host=held._holder["host"], machine="another machine of that name")
        with lock_paths(database, "follow", [tmp_path / "b.json"]):
            pass
        change_row(database, held.name, machine=None)  # it has no identity, or an older version, which did not say
        with pytest.raises(AlreadyFollowed), lock_paths(database, "follow", [tmp_path / "c.json"]):
            pass
        change_row(database, held.name, machine=held._holder["machine"])


def test_counters_are_kept(engine: Engine, tmp_path: Path) -> None:
    """What loaders add to the row's counters stays, whatever is said meanwhile and afterwards."""

    def add() -> None:
        with write_transaction(engine) as connection:
            statements = LoadingStatements(connection)
            statements.add_job_counters(held.name, {"events": 2}, None, "2026-01-02 03:04:05.000000")
            statements.close()

    for state in (WAITING, RUNNING):
        with lock_paths(engine, "follow", [tmp_path]) as held:
            add()
            held.say(state, "because", {"last_event_at": "then"})
            add()
            job = row(engine, held.name)
            assert (state, "because", "then") == (job.state, job.reason, job.cursor["last_event_at"])
            assert os.getpid() == job.cursor["holder"]["pid"]

    assert {"events": 8} == row(engine, held.name).counters


def put_row(engine: Engine, name: str, age: dt.timedelta, job: JobRecord, **holder: Any) -> None:
    """Write a row as it was so long ago, perhaps by somebody else."""
    job.name = name
    job.cursor["holder"] |= holder
    with write_transaction(engine) as connection:
        save_job(connection, job)
        connection.execute(update(Job).where(Job.name == name).values(updated_at=dt.datetime.now(dt.UTC) - age))


def test_rows_of_the_dead_are_cleared_away(engine: Engine, tmp_path: Path) -> None:
    """The row of one that ended under another name is taken over with its counters; others go after a month."""
    ours = tmp_path / "ours"
    hour, month = dt.timedelta(hours=1), dt.timedelta(days=31)
    with lock_paths(engine, "follow", [ours]) as held:
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
        job = row(engine, held.name)
        job.state, job.counters = state, {"events": 1, name: 1}
        job.cursor["paths"] = paths
        put_row(engine, name, age, job, **holder)
    with lock_paths(engine, "follow", [ours]) as held:
        counters = row(engine, held.name).counters
    with read_transaction(engine) as connection:
        left = {job.name for kind in ("follow", "scan") for job in jobs_of_kind(connection, kind)}

    assert {"events": 1, "follow:container": 1} == counters
    assert {"alive", "other-pi", "other-path", "silent"} == {name[7:] for name in left - {held.name, "scan:old"}}
    assert "scan:old" in left


def test_it_says_so_each_minute(database: Engine, tmp_path: Path) -> None:
    """Nothing new is written within a minute; after it the row is renewed."""
    clock = Clock()
    with lock_paths(database, "follow", [tmp_path], clock=clock) as held:
        first = row(database, held.name).updated_at
        held.say(RUNNING)
        assert first == row(database, held.name).updated_at
        clock.now += SAY_EVERY_S
        held.say(RUNNING)
        assert first < row(database, held.name).updated_at


def test_how_it_ended(database: Engine, tmp_path: Path) -> None:
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
            lock_paths(database, "follow", [tmp_path]) as held,
        ):
            held.ends_as = STOPPED, "asked to stop"
            if error is not None:
                raise error
        job = row(database, held.name)
        assert expected == (job.state, job.reason)


def test_who_lost_the_row_stops(database: Engine, tmp_path: Path) -> None:
    """A holder whose row another process has taken goes no further, and leaves that row alone."""
    with ExitStack() as stack:
        held = stack.enter_context(lock_paths(database, "follow", [tmp_path]))
        change_row(database, held.name, run="another", pid=1)
        with pytest.raises(JobTaken, match="process 1 on"):
            held.say(WAITING)
    job = row(database, held.name)

    assert ("another", RUNNING) == (job.cursor["holder"]["run"], job.state)


def test_a_last_word_that_nobody_hears(database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the database is locked at the end, the holder ends all the same, and is not taken to be alive."""
    monkeypatch.setattr(holding, "LAST_WORD_S", 0.05)
    with lock_paths(database, "follow", [tmp_path]) as held, write_transaction(database) as connection:
        save_job(connection, JobRecord(held.name, RUNNING, row(database, held.name).cursor))
        held.try_to_say(WAITING, "locked")
        held.give_up(STOPPED, None)
    with lock_paths(database, "follow", [tmp_path]) as held:
        assert RUNNING == row(database, held.name).state


def test_a_path_that_is_no_text(engine: Engine, tmp_path: Path) -> None:
    """A path that is not UTF-8 is held and refused like any other, and is printable in the refusal."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b[31m"))
    with lock_paths(engine, "follow", [path]):
        with pytest.raises(AlreadyFollowed) as refused, lock_paths(engine, "follow", [path / "below"]):
            pass
        assert str(refused.value).isprintable()


def test_jobs_of_a_kind(engine: Engine) -> None:
    """Only names that begin with the kind and a colon are of that kind."""
    with write_transaction(engine) as connection:
        for name in ("follow", "follow:1", "follow:2", "follower:3", "scan:4", "load"):
            save_job(connection, JobRecord(name, RUNNING))
        assert ["follow:1", "follow:2"] == [job.name for job in jobs_of_kind(connection, "follow")]
        assert [] == jobs_of_kind(connection, "f%")


def test_times_are_utc(database: Engine, tmp_path: Path) -> None:
    """Since when it is held is UTC."""
    with lock_paths(database, "follow", [tmp_path]) as held:
        since = dt.datetime.fromisoformat(row(database, held.name).cursor["since"]).replace(tzinfo=dt.UTC)

    assert abs((dt.datetime.now(dt.UTC) - since).total_seconds()) < 3600 / 2
