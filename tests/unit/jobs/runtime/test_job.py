"""The runtime of long jobs: ownership, checkpoints, requests of other processes, and how a job ends."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from sqlalchemy import Engine, insert

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.jobs import (
    DONE,
    FAILED,
    RUNNING,
    STOPPED,
    JobRecord,
    load_job,
    request_pause,
    request_stop,
    save_job,
)
from cowrieprocessor.db.models import FileHash
from cowrieprocessor.errors import ConfigurationError, DatabaseFull, JobStopped, JobTaken, NotFound
from cowrieprocessor.jobs.runtime import job_list, process_identity
from cowrieprocessor.jobs.runtime.job import Job, run_job
from cowrieprocessor.jobs.runtime.job_list import DIED, SILENT, list_jobs, shown_state
from cowrieprocessor.jobs.runtime.job_record import JobRow
from cowrieprocessor.jobs.runtime.progress import JobProgress
from tests.command_line import run
from tests.documents import PROJECT, blocks
from tests.enrichment_scene import NOW

FILES = 450
COUNTED = {"2026": FILES}


def row(engine: Engine, name: str = "job") -> JobRecord:
    """Return the row of a job."""
    with read_transaction(engine) as connection:
        job = load_job(connection, name)
    assert job is not None
    return job


def batch(engine: Engine, job: Job, last: int, **more: Any) -> None:
    """Commit a batch that says how far it is."""
    job.wait()
    with job.throttle.transaction() as turn:
        job.checkpoint(turn.connection, cursor={"last": last}, **more)
    job.progress(last, 9, "things")


def run_with(engine: Engine, work: Callable[[Job], object], **options: Any) -> None:
    """Run a job that does some work."""
    with run_job(engine, "job", **options) as job:
        work(job)


def test_a_job_has_a_row_from_its_start_to_its_end(engine: Engine) -> None:
    """The row says who runs it, how far it is, and that it is done; what was saved last is there for the next run."""
    seen: list[JobProgress] = []
    with run_job(engine, "job", on_progress=seen.append) as job:
        begun = row(engine)
        batch(engine, job, 1, counters={"rows": 10})
        batch(engine, job, 2, counters={"rows": 20})
        running = row(engine)
    ended = row(engine)

    assert (begun.state, begun.owner["pid"], job.resumed, job.cursor) == (RUNNING, os.getpid(), False, {"last": 2})
    assert (running.cursor, running.counters, running.finished_at) == ({"last": 2}, {"rows": 20}, None)
    assert (ended.state, ended.reason, ended.finished_at is not None) == (DONE, None, True)
    assert (job.record.state, ended.cursor) == (DONE, {"last": 2})
    assert ended.progress is not None
    assert (ended.progress["done"], ended.progress["total"], ended.progress["unit"]) == (2, 9, "things")
    assert [(now.done, now.total, now.state) for now in seen] == [(1, 9, "running"), (2, 9, "running")]


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (KeyboardInterrupt(), STOPPED, "interrupted; the same command goes on from here"),
        (DatabaseFull("the disk is full; make room"), FAILED, "the disk is full; make room"),
        (ConfigurationError("no"), FAILED, "no"),
        (ZeroDivisionError(), FAILED, "it ended in an unexpected way; the same command goes on from here"),
    ],
)
def test_an_error_is_how_it_ended(engine: Engine, error: BaseException, state: str, reason: str) -> None:
    """The error goes on to the caller; the row has its words, and the position that was committed."""

    def work(job: Job) -> None:
        batch(engine, job, 1)
        raise error

    with pytest.raises(type(error)):
        run_with(engine, work)
    ended = row(engine)
    with run_job(engine, "job") as again:
        resumed = again.resumed, again.cursor

    assert (ended.state, ended.reason, ended.finished_at, ended.cursor) == (state, reason, None, {"last": 1})
    assert resumed == (True, {"last": 1})


def test_a_batch_that_is_rolled_back_leaves_the_position(engine: Engine) -> None:
    """A checkpoint is as much part of the batch as its rows: what is rolled back was never done."""

    def work(job: Job) -> None:
        batch(engine, job, 1)
        with write_transaction(engine) as connection:
            job.checkpoint(connection, cursor={"last": 2})
            raise DatabaseFull("full")

    with pytest.raises(DatabaseFull):
        run_with(engine, work)
    assert row(engine).cursor == {"last": 1}


def test_a_second_process_is_refused_until_the_first_is_gone(engine: Engine) -> None:
    """One that runs is named; one that died is replaced, and its position is gone on from."""
    living = process_identity.this_process() | {"pid": 1, "started": process_identity._started(1)}
    with write_transaction(engine) as connection:
        save_job(connection, JobRecord("job", RUNNING, {"last": 7}, owner=living))
    with pytest.raises(JobTaken, match=r"process 1 on .* is running it; watch it with"):
        run_with(engine, lambda job: job)
    with write_transaction(engine) as connection:
        save_job(connection, JobRecord("job", RUNNING, {"last": 7}, owner=living | {"started": "0"}))
    with run_job(engine, "job") as job:
        assert (job.resumed, job.cursor) == (True, {"last": 7})


def test_what_was_taken_over_writes_nothing_more(engine: Engine) -> None:
    """A batch of a job that another process runs by now is rolled back, and the row stays the other's."""
    other = process_identity.this_process() | {"pid": 1, "started": process_identity._started(1)}

    def work(job: Job) -> None:
        batch(engine, job, 1)
        with write_transaction(engine) as connection:
            save_job(connection, JobRecord("job", RUNNING, {"last": 5}, owner=other))
        batch(engine, job, 2)

    with pytest.raises(JobTaken, match="has taken it over"):
        run_with(engine, work)
    assert (row(engine).cursor, row(engine).state, row(engine).owner["pid"]) == ({"last": 5}, RUNNING, 1)


def test_a_shared_job_adds_up(engine: Engine) -> None:
    """Several processes add to the counters of one row; of two, the one that saved last says how it ended."""
    with run_job(engine, "job", exclusive=False) as first:
        batch(engine, first, 1, add={"rows": 1})
        with run_job(engine, "job", exclusive=False) as second:
            batch(engine, second, 2, add={"rows": 10})
            batch(engine, first, 3, add={"rows": 100})
        assert row(engine).state == RUNNING
    assert (row(engine).state, row(engine).counters) == (DONE, {"rows": 111})


def test_an_event_stops_it(engine: Engine) -> None:
    """A stop that this process was asked for ends it before the next batch."""
    stop = Event()

    def work(job: Job) -> None:
        batch(engine, job, 1)
        stop.set()
        assert job.stop_requested
        batch(engine, job, 2)

    with pytest.raises(JobStopped, match="asked to stop"):
        run_with(engine, work, stop=stop)
    assert (row(engine).state, row(engine).cursor) == (STOPPED, {"last": 1})


def test_a_pause_holds_from_the_start(engine: Engine) -> None:
    """A job that was paused before it was started does nothing until it is resumed; a stop ends the pause."""
    with run_job(engine, "job") as job:
        batch(engine, job, 1)
    with write_transaction(engine) as connection:
        request_pause(connection, "job")
    stop, seen = Event(), []

    def watch(now: JobProgress) -> None:
        seen.append((now.state, now.reason))
        stop.set()

    with pytest.raises(JobStopped):
        run_with(engine, lambda job: batch(engine, job, 2), stop=stop, on_progress=watch)
    assert seen[0] == ("paused", "by command; `cowrieprocessor jobs resume job` lets it go on")
    assert (row(engine).cursor, row(engine).pause_requested) == ({}, True)


def test_a_run_that_ends_before_its_first_batch_hides_nothing(engine: Engine) -> None:
    """After a run that ended, the next begins afresh, however far the one between them came."""
    with run_job(engine, "job") as job:
        batch(engine, job, 9, counters={"rows": 90})
    with pytest.raises(KeyboardInterrupt):
        run_with(engine, interrupted)
    with run_job(engine, "job") as job:
        assert (job.resumed, job.cursor, job.counters) == (True, {}, {})
        batch(engine, job, 1, counters={"rows": 10})
    with run_job(engine, "job", keeps_position=True) as job:
        assert (job.resumed, job.cursor, job.counters) == (False, {"last": 1}, {"rows": 10})


def interrupted(_job: Job) -> None:
    """Be interrupted."""
    raise KeyboardInterrupt


def test_requests_do_not_replace_each_other(engine: Engine) -> None:
    """A stop leaves the pause as it is; it ends each run that had begun, those that share a row, too, and no other."""
    stopped: list[int] = []

    def work(first: Job) -> None:
        with run_job(engine, "job", exclusive=False, clock=ticks()) as second:
            with write_transaction(engine) as connection:
                request_pause(connection, "job")
                request_stop(connection, "job")
            stopped.append(second.stop_requested)
        stopped.append(first.stop_requested)
        first.wait()

    with pytest.raises(JobStopped, match="by command"):
        run_with(engine, work, exclusive=False, clock=ticks())
    with write_transaction(engine) as connection:
        paused = row(engine).pause_requested
        request_pause(connection, "job", is_on=False)
    with run_job(engine, "job", exclusive=False, clock=ticks()) as later:
        later.wait()

    assert (stopped, paused) == ([True, True], True)


def ticks() -> Callable[[], float]:
    """Return a clock on which some seconds pass with every look."""
    return map(float, itertools.count(0, 5)).__next__


def test_an_interrupt_after_the_end_changes_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the moment after the last commit does not make a job that is done a stopped one."""
    end = JobRow.end

    def interrupt_after(row_: JobRow, change: Any, *, at_once: bool) -> JobRecord:
        ended = end(row_, change, at_once=at_once)
        if not at_once:
            raise KeyboardInterrupt
        return ended

    monkeypatch.setattr(JobRow, "end", interrupt_after)
    with pytest.raises(KeyboardInterrupt):
        run_with(engine, lambda job: batch(engine, job, 1))
    assert (row(engine).state, row(engine).reason) == (DONE, None)


def test_this_process_runs_a_job_once(engine: Engine) -> None:
    """Another thread of the same process is refused as another process is, and sees that it runs."""

    def work(_job: Job) -> None:
        assert shown_state(row(engine)) == RUNNING
        run_with(engine, lambda job: job)

    with pytest.raises(JobTaken, match="is running it"):
        run_with(engine, work)
    with run_job(engine, "job"):
        pass


def test_jobs_that_do_not_look_are_not_asked(engine: Engine) -> None:
    """A row that no job of this runtime wrote is refused: nobody would ever do what it was asked."""
    with write_transaction(engine) as connection:
        save_job(connection, JobRecord("load", RUNNING))
    for ask in (job_list.pause, job_list.resume, job_list.stop):
        with pytest.raises(NotFound, match="load: cannot be paused or stopped from here"):
            ask(engine, ["load"])


def test_progress_without_a_batch_is_saved_now_and_then(engine: Engine) -> None:
    """A job that reads for long says how far it is every few seconds; a lock of others does not hold it up."""
    now = [0.0]
    with run_job(engine, "job", clock=lambda: now[0]) as job:
        job.progress(1, 9, "rows", step="reading")
        before = row(engine).progress
        now[0] = 10.0
        with write_transaction(engine):
            job.progress(2, 9, "rows", step="reading")  # on SQLite it cannot be saved now
        now[0] = 20.0
        job.progress(3, 9, "rows", step="reading")
        after = row(engine).progress

    assert before is None
    assert after is not None
    assert (after["done"], after["step"], after["per_s"], after["eta_s"]) == (3, "reading", 0.1, 40)


def test_what_became_of_a_process(engine: Engine) -> None:
    """One that is gone has died; one that cannot be asked is silent after five minutes."""
    ours, now = process_identity.this_process(), NOW
    dead, elsewhere = ours | {"pid": 1, "started": "0"}, ours | {"host": "another"}
    long_ago = now.replace(year=2020)
    jobs = {
        "died": JobRecord("died", RUNNING, owner=dead),
        "silent": JobRecord("silent", RUNNING, owner=elsewhere, updated_at=long_ago),
        "running": JobRecord("running", RUNNING, owner=elsewhere),
        "done": JobRecord("done", DONE, owner=dead),
    }
    assert [shown_state(job) for job in jobs.values()] == [DIED, SILENT, RUNNING, DONE]
    with write_transaction(engine) as connection:
        for job in jobs.values():
            save_job(connection, job)
    with read_transaction(engine) as connection:
        listed = {job.name: job for job in list_jobs(connection)}
    assert listed["died"].process == process_identity.describe(dead)


# --- the example of the page, and other processes ---


@pytest.fixture(scope="module")
def count_years() -> Iterator[Callable[..., dict[str, int]]]:
    """The job of the page, as a module of its own."""
    page = (PROJECT / "docs" / "write_a_job.md").read_text(encoding="utf-8")
    (source,) = [block.text for block in blocks(page) if block.language == "python"]
    module = types.ModuleType("page_example")
    exec(compile(source, "docs/write_a_job.md", "exec"), module.__dict__)  # noqa: S102
    return module.__dict__["count_years"]


@pytest.fixture
def filled(engine: Engine) -> Engine:
    """A database with files."""
    moment = NOW.replace(year=2026)
    rows = [{"sha256": f"{number:064x}", "first_seen": moment, "last_seen": moment} for number in range(FILES)]
    with write_transaction(engine) as connection:
        connection.execute(insert(FileHash), rows)
    return engine


def name_of(engine: Engine) -> str:
    """Return what `--db` takes."""
    return engine.url.render_as_string(hide_password=False)


def test_the_job_of_the_page(filled: Engine, count_years: Callable[..., dict[str, int]]) -> None:
    """It counts every file once, and afresh when it is run again."""
    assert count_years(filled) == COUNTED
    assert count_years(filled) == COUNTED
    assert (row(filled, "count-years").state, row(filled, "count-years").counters) == (DONE, COUNTED)


def test_another_process_pauses_resumes_and_stops_it(
    filled: Engine, count_years: Callable[..., dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`jobs pause` holds it, `jobs list` says so, `jobs resume` lets it go on, `jobs stop` ends it, and it goes on."""
    monkeypatch.setattr("cowrieprocessor.jobs.runtime.job.LOOK_EVERY_S", 0.0)
    seen: list[tuple[str, int]] = []
    listed: list[str] = []
    ends_at = {100: "pause", 300: "stop"}

    def act(now: JobProgress) -> None:
        seen.append((now.state, now.done))
        if now.state == "paused":
            listed.append(run("jobs", "list", "--db", name_of(filled)).stdout)
            assert run("jobs", "resume", "count-years", "--db", name_of(filled)).returncode == 0
        elif (asked := ends_at.pop(now.done, None)) is not None:
            assert run("jobs", asked, "count-years", "--db", name_of(filled)).returncode == 0

    with pytest.raises(JobStopped, match="stopped by command"):
        count_years(filled, on_progress=act)
    stopped = row(filled, "count-years")
    counted = count_years(filled)

    assert ("paused", 100) in seen
    assert "count-years  paused, 100/450 files 22.2%" in listed[0]
    assert (stopped.state, stopped.counters, stopped.pause_requested) == (STOPPED, {"2026": 300}, False)
    assert counted == COUNTED


def test_asking_a_job_that_does_not_run(filled: Engine, count_years: Callable[..., dict[str, int]]) -> None:
    """A job that ended cannot be stopped or resumed, which is said; one that was never there is an error."""
    count_years(filled)
    stopped, resumed = (run("jobs", word, "count-years", "--db", name_of(filled)) for word in ("stop", "resume"))
    unknown = run("jobs", "pause", "nobody", "--db", name_of(filled))

    assert (stopped.returncode, stopped.stdout) == (0, "count-years does not run\n")
    assert (resumed.returncode, resumed.stdout) == (0, "count-years was not asked to pause\n")
    assert (unknown.returncode, "no such job" in unknown.stderr) == (1, True)


_KILLED = """
import sys, types
sys.path.insert(0, {project!r})
from cowrieprocessor.db.engine import get_engine
module = types.ModuleType("page_example")
from tests.documents import blocks, PROJECT
page = (PROJECT / "docs" / "write_a_job.md").read_text(encoding="utf-8")
exec([block.text for block in blocks(page) if block.language == "python"][0], module.__dict__)
module.BATCH = 10
module.count_years(get_engine({url!r}), on_progress=lambda now: print(now.done, flush=True))
"""


def test_killed_it_goes_on(filled: Engine, count_years: Callable[..., dict[str, int]], tmp_path: Path) -> None:
    """After kills at any moment it is shown as died, and the next run gives the result of an undisturbed one."""
    script = _KILLED.format(project=str(PROJECT), url=name_of(filled))
    for wanted in (1, 3, 5):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=PROJECT)
        assert process.stdout is not None
        for _ in range(wanted):
            process.stdout.readline()
        time.sleep(0.001 * wanted)
        process.kill()
        process.communicate()
        assert shown_state(row(filled, "count-years")) == DIED

    assert count_years(filled) == COUNTED
