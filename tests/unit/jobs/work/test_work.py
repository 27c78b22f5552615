"""The worker: what it runs, in which order, what becomes of failures, and what it leaves for others to read."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.jobs import JobRecord, load_job, request_pause, request_stop
from cowrieprocessor.errors import ConfigurationError, DatabaseError, JobStopped, JobTaken, SchemaVersionError
from cowrieprocessor.jobs.runtime.job import run_job
from cowrieprocessor.jobs.runtime.job_record import JobRow
from cowrieprocessor.jobs.runtime.progress import JobProgress
from cowrieprocessor.jobs.work import work as worker
from cowrieprocessor.jobs.work.status import work_status
from cowrieprocessor.jobs.work.task import Task, TaskContext, TaskOutcome
from cowrieprocessor.settings import Settings
from cowrieprocessor.settings.schedule import OFF, Schedule
from tests.unit.jobs.work.scene import LIMIT_S, MINUTE, START, Office, task, until_stopped


def row(engine: Engine, name: str) -> JobRecord:
    """Return the row of a job."""
    with read_transaction(engine) as connection:
        job = load_job(connection, name)
    assert job is not None
    return job


def ask(engine: Engine, name: str, *, to_pause: bool | None = None) -> None:
    """Ask a job to pause or to go on, else to stop."""
    with write_transaction(engine) as connection:
        if to_pause is None:
            request_stop(connection, name)
        else:
            request_pause(connection, name, is_on=to_pause)


def until(condition: Callable[[], object]) -> None:
    """Wait until something is the case."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def at_work(office: Office, stop: threading.Event | None = None) -> Iterator[threading.Event]:
    """Run a worker in a thread; yield the event that stops it, which is set at the end."""
    stop = stop or threading.Event()
    thread = threading.Thread(target=office.stay, args=(stop,))
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(LIMIT_S)
        assert not thread.is_alive()


# --- what is run ---


def test_once_runs_what_is_due_and_then_nothing(engine: Engine) -> None:
    """The second call right after runs nothing; when an interval has passed, its task is due again."""
    ran: list[str] = []

    def note(name: str) -> Task:
        return task(name, lambda _context: ran.append(name) or TaskOutcome(f"did {name}"))  # type: ignore[func-returns-value]

    office = Office(engine, [note("a"), replace(note("b"), schedule=Schedule(every_s=1200.0)), note("off")])
    office.settings = Settings(work=(("off", OFF),))
    first, second = office.once(), office.once()
    office.clock.at += 11 * MINUTE
    third = office.once()

    assert (sorted(first.ended), list(second.ended), list(third.ended)) == (["a", "b"], [], ["a"])
    assert sorted(ran) == ["a", "a", "b"]
    assert first.ended["a"].text == "did a"
    assert worker.rest_text(second.states) == "nothing is due; next is a at 2026-11-22 10:10:00 UTC"
    assert not first.failed + second.failed + third.failed


def test_tasks_of_a_kind_take_turns_and_others_do_not_wait(engine: Engine) -> None:
    """Two of one kind are never at work at once; one of another kind is, meanwhile."""
    at_work_now: set[str] = set()
    seen: list[set[str]] = []
    both = threading.Barrier(2, timeout=LIMIT_S)

    def alone(name: str) -> Callable[[TaskContext], TaskOutcome]:
        def run(_context: TaskContext) -> TaskOutcome:
            at_work_now.add(name)
            if name == "a1":
                both.wait()
            time.sleep(0.05)
            seen.append(set(at_work_now))
            at_work_now.discard(name)
            return TaskOutcome()

        return run

    def other(_context: TaskContext) -> TaskOutcome:
        both.wait()
        return TaskOutcome()

    tasks = [task(name, alone(name), kind="a") for name in ("a1", "a2", "a3")]
    result = Office(engine, [*tasks, task("b", other)]).once()

    assert {name: run.state for name, run in result.ended.items()} == dict.fromkeys(("a1", "a2", "a3", "b"), "done")
    assert seen == [{"a1"}, {"a2"}, {"a3"}]


def test_what_has_no_work_is_not_run(engine: Engine) -> None:
    """It is asked each time; with work it runs at once, if its interval has passed."""
    work: list[int] = []
    office = Office(engine, [task("a", has_work=lambda _connection, _settings: bool(work))])

    assert (office.once().ended, office.state("a")) == ({}, ("done", "nothing to do"))
    work.append(1)
    assert office.state("a") == ("due", None)
    assert list(office.once().ended) == ["a"]
    assert list(office.once().ended) == []


def test_a_task_may_ask_to_be_run_earlier(engine: Engine) -> None:
    """As enrichment does, whose source pauses for a minute."""
    office = Office(engine, [task("a", lambda _context: TaskOutcome(again_at=START + MINUTE))])
    office.once()
    assert office.states()["a"].next_run_at == START + MINUTE
    office.clock.at += MINUTE
    assert list(office.once().ended) == ["a"]


def test_a_task_gets_the_database_the_settings_and_a_place_to_report(engine: Engine) -> None:
    """What it says is said with its name; its progress is shown, and is in its row while it runs."""
    shown: list[JobProgress] = []
    settings = Settings(batch_size=7)

    def run(context: TaskContext) -> TaskOutcome:
        assert context.settings is settings
        context.notify("hello")
        context.on_progress(JobProgress("counting", done=1, total=3, unit="things"))
        until(lambda: (row(context.engine, "work:a").progress or {}).get("done") == 1)
        return TaskOutcome()

    office = Office(engine, [task("a", run)], settings)
    assert office.once(on_progress=shown.append).failed == []
    assert office.said == ["a: hello"]
    assert [(now.job, now.done) for now in shown] == [("counting", 1)]


# --- failures ---


def fail(error: BaseException) -> Callable[[TaskContext], TaskOutcome]:
    """Return the work of a task that fails."""

    def run(_context: TaskContext) -> TaskOutcome:
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (fail(ConfigurationError("the key is wrong; correct it")), "the key is wrong; correct it"),
        (fail(DatabaseError("the server is away")), "the server is away"),
        (fail(OSError("no such host")), "no such host"),
        (fail(ZeroDivisionError("by zero")), "an unexpected error, a mistake of the task: by zero"),
        (fail(SystemExit("bye")), "an unexpected error, a mistake of the task: bye"),
        (lambda _context: TaskOutcome(failure="the key is refused"), "the key is refused"),
        (lambda _context: None, "it returned no TaskOutcome: a mistake of the task"),
    ],
)
def test_a_failure_is_recorded_and_stops_no_other(
    engine: Engine, run: Callable[[TaskContext], TaskOutcome], reason: str
) -> None:
    """Its reason is there for everybody; it is tried again after waits that double, and a success ends that."""
    office = Office(engine, [task("bad", run), task("good")])
    result = office.once()

    assert (result.failed, result.ended["good"].state) == (["bad"], "done")
    assert (office.state("bad"), row(engine, "work:bad").reason) == (("failed", reason), reason)
    waits = []
    for _ in range(3):
        next_run_at = office.states()["bad"].next_run_at
        assert next_run_at is not None
        waits.append(next_run_at - office.clock.at)
        assert office.once().ended.keys() <= {"good"}
        office.clock.at = next_run_at
        assert "bad" in office.once().ended
    office.tasks[0] = task("bad")
    office.clock.at += dt.timedelta(hours=2)
    office.once()

    assert waits == [MINUTE, 2 * MINUTE, 4 * MINUTE]
    assert (office.state("bad"), office.states()["bad"].next_run_at) == (("done", None), office.clock.at + 10 * MINUTE)
    assert row(engine, "work:bad").counters == {"runs": 5, "failed": 4, "done": 1}


def test_an_unexpected_error_shows_where_it_happened(engine: Engine) -> None:
    """The traceback is for the operator's journal; the row has one line."""
    ended = Office(engine, [task("bad", fail(ZeroDivisionError("by zero")))]).once().ended["bad"]
    assert "ZeroDivisionError: by zero" in ended.details
    assert "test_work.py" in ended.details
    assert "\n" not in (ended.reason or "")


def test_a_task_that_cannot_be_asked_has_failed(engine: Engine) -> None:
    """What its code raises when it is asked for work, concerns it alone, also where it spoils a transaction."""

    def ask_badly(connection: object, _settings: Settings) -> bool:
        connection.exec_driver_sql("SELECT no_such_column FROM jobs")  # type: ignore[attr-defined]
        return True

    office = Office(engine, [task("bad", has_work=ask_badly), task("good")])
    result = office.once()
    assert (list(result.ended), result.failed) == (["good"], ["bad"])
    state, reason = office.state("bad")
    assert state == "failed"
    assert reason is not None
    assert reason.startswith("it cannot be asked whether it has work: ")


# --- others ---


def test_a_task_waits_for_the_same_job_of_another(engine: Engine) -> None:
    """As long as another run of its job is there; that is no failure, and it is run afterwards."""
    office = Office(engine, [task("a", jobs=("recount",)), task("b")])
    with run_job(engine, "recount"):
        state, reason = office.state("a")
        result = office.once()
    assert (state, result.failed, list(result.ended)) == ("waiting", [], ["b"])
    assert reason is not None
    assert reason.startswith("process ")
    assert reason.endswith(" is running recount")
    assert list(office.once().ended) == ["a"]


def test_a_job_that_another_took_meanwhile_is_no_failure(engine: Engine) -> None:
    """A task that finds its job taken counts as not run."""
    taken = [True]

    def run(_context: TaskContext) -> TaskOutcome:
        if taken.pop():
            raise JobTaken("recount: process 7 on pot is running it")
        return TaskOutcome()

    office = Office(engine, [task("a", run)])
    result = office.once()
    assert (result.failed, result.ended["a"].state) == ([], "waiting")
    assert result.ended["a"].reason == "recount: process 7 on pot is running it"
    assert office.states()["a"].last_run_at is None
    taken.append(False)
    assert office.once().ended["a"].state == "done"


@pytest.mark.parametrize("name", ["recount", "work:a", "work"])
def test_a_pause_by_command_holds_a_task(engine: Engine, name: str) -> None:
    """Of its job, of the task, or of the worker; `jobs resume` lets it go on."""
    office = Office(engine, [task("a", jobs=("recount",))])
    with run_job(engine, "recount"):
        pass
    office.once()
    office.clock.at += 11 * MINUTE
    ask(engine, name, to_pause=True)
    assert (office.once().ended, office.state("a")) == (
        {},
        ("waiting", f"{name} is paused by command; `cowrieprocessor jobs resume {name}` lets it go on"),
    )
    ask(engine, name, to_pause=False)
    assert list(office.once().ended) == ["a"]


def test_a_second_worker_is_refused(engine: Engine) -> None:
    """It says which process is at work; the first one goes on."""
    office = Office(engine, [task("a", until_stopped)])
    with at_work(office):
        until(lambda: office.state("a")[0] == "running")
        with pytest.raises(JobTaken, match=r"^work: process \d+ on .* is running it"):
            office.once()
        assert office.state("a")[0] == "running"


# --- stopping ---


def test_stopped_it_stops_its_tasks_and_goes_on_at_the_next_start(engine: Engine) -> None:
    """What was interrupted is due at once."""
    office = Office(engine, [task("a", until_stopped), task("b")])
    with at_work(office):
        until(lambda: (office.state("a")[0], office.state("b")[0]) == ("running", "done"))
    assert (row(engine, "work:a").state, row(engine, "work").state) == ("stopped", "stopped")
    assert office.state("a") == ("due", "interrupted with its process; it goes on with the next one")
    office.tasks[0] = task("a")
    assert list(office.once().ended) == ["a"]


def test_a_worker_that_is_stopped_says_so(engine: Engine) -> None:
    """Also if it was stopped before it began anything."""
    stop = threading.Event()
    stop.set()
    assert Office(engine, [task("a")]).once(stop=stop).stopped


def test_stopped_by_command_it_ends_as_other_jobs(engine: Engine) -> None:
    """`jobs stop work` stops its tasks, too, and ends with the error of a stopped job."""
    office = Office(engine, [task("a", until_stopped)])
    asked = threading.Thread(target=lambda: (until(lambda: office.state("a")[0] == "running"), ask(engine, "work")))
    asked.start()
    with pytest.raises(JobStopped, match="stopped by command"):
        office.stay(threading.Event())
    asked.join()
    assert row(engine, "work").state == "stopped"
    assert office.state("a")[0] == "due"


def test_a_task_that_is_stopped_by_command_rests_until_its_time(engine: Engine) -> None:
    """`jobs stop work:a` stops this run alone; the worker goes on, and runs it again by its schedule."""
    office = Office(engine, [task("a", until_stopped)])
    with at_work(office):
        until(lambda: office.state("a")[0] == "running")
        ask(engine, "work:a")
        until(lambda: office.state("a")[0] == "stopped")
        assert office.state("a")[1] == "stopped by command; the same command goes on from here"
        office.clock.at += 11 * MINUTE
        until(lambda: office.state("a")[0] == "running")


# --- trouble ---


def test_a_database_that_is_away_is_waited_for(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so once, and goes on; what a task did meanwhile is recorded then."""
    away = threading.Event()
    require_same = worker.DatabaseFileGuard.require_same

    def fails_while_away(guard: worker.DatabaseFileGuard) -> None:
        if away.is_set():
            raise DatabaseError("the server is away")
        require_same(guard)

    monkeypatch.setattr(worker, "DatabaseFileGuard", guard_of(fails_while_away))
    goes_on = threading.Event()
    office = Office(engine, [task("a", lambda _context: TaskOutcome(str(goes_on.wait(LIMIT_S))))])
    with at_work(office):
        until(lambda: office.state("a")[0] == "running")
        away.set()
        until(lambda: office.said)
        goes_on.set()
        away.clear()
        until(lambda: office.state("a")[0] == "done")
    assert office.said[0].endswith("the server is away. It is retried until it works")
    assert "the database serves again" in office.said[1]


def guard_of(check: Callable[..., None]) -> type[worker.DatabaseFileGuard]:
    """Return a guard over the worker's database with another check; the records of jobs keep theirs."""
    return type("Guard", (worker.DatabaseFileGuard,), {"require_same": check})


def test_a_worker_without_its_database_can_be_stopped(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for the database to come back; the task that it could not record is due at once."""
    away, stop = threading.Event(), threading.Event()

    def fails_while_away(*_: object) -> None:
        if away.is_set():
            raise DatabaseError("the server is away")

    monkeypatch.setattr(worker, "DatabaseFileGuard", guard_of(fails_while_away))
    monkeypatch.setattr(worker.TaskRow, "end", fails_while_away)
    office = Office(engine, [task("a", until_stopped)])
    with at_work(office, stop):
        until(lambda: office.state("a")[0] == "running")
        away.set()
        until(lambda: office.said)
    assert row(engine, "work").state == "stopped"
    assert office.state("a") == ("due", "the process that ran it is gone without a last word")


def test_a_run_whose_beginning_could_not_be_recorded_is_begun_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not look as if it ran for as long as the worker is there."""
    save, trouble = JobRow.save, [DatabaseError("the server is away")]

    def fails_once(self: JobRow, *arguments: Any, **more: Any) -> JobRecord:
        if trouble and not self._name.endswith("work"):
            raise trouble.pop()
        return save(self, *arguments, **more)

    monkeypatch.setattr(JobRow, "save", fails_once)
    office = Office(engine, [task("a")])
    with at_work(office):
        until(lambda: office.state("a")[0] == "done")
    assert not trouble


def test_with_once_a_database_that_is_away_is_an_error(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks are stopped first."""
    begun, stopped = threading.Event(), []

    def run(context: TaskContext) -> TaskOutcome:
        begun.set()
        stopped.append(context.stop.wait(LIMIT_S))
        return TaskOutcome()

    def fails_later(*_: object) -> None:
        if begun.is_set():
            raise DatabaseError("the server is away")

    monkeypatch.setattr(worker, "DatabaseFileGuard", guard_of(fails_later))
    office = Office(engine, [task("a", run)])
    with pytest.raises(DatabaseError, match="the server is away"):
        office.once()
    assert stopped == [True]
    assert (row(engine, "work").state, office.state("a")[0]) == ("failed", "due")


def test_a_database_of_another_revision_ends_it(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is migrated while it runs."""

    def refuse(_engine: Engine) -> None:
        raise SchemaVersionError("it is newer; update")

    office = Office(engine, [task("a")])
    office.once()
    office.clock.at += 11 * MINUTE
    stop = threading.Event()
    with monkeypatch.context() as patch:
        checks = iter([lambda _engine: None, refuse])
        patch.setattr(worker, "require_current", lambda engine: next(checks)(engine))
        with pytest.raises(SchemaVersionError, match="it is newer"):
            office.stay(stop)
    assert row(engine, "work").reason == "it is newer; update"


def test_settings_of_unknown_tasks_are_refused_before_anything_is_run(engine: Engine) -> None:
    """A slip of the pen is not silently a default."""
    office = Office(engine, [task("a")], Settings(work=(("b", OFF),)))
    with pytest.raises(ConfigurationError, match="no such task is installed"):
        office.once()


# --- what others see ---


def test_the_worker_is_seen_from_outside(engine: Engine) -> None:
    """Whether there is one, which process, since when; and what became of it."""
    office = Office(engine, [task("a", until_stopped)])

    def seen() -> tuple[bool, str] | None:
        told = work_status(engine, office.catalogue, office.settings, office.clock.now()).worker
        return None if told is None else (told.is_running, told.state)

    assert seen() is None
    with at_work(office):
        until(lambda: seen() == (True, "running"))
    assert seen() == (False, "stopped")
    office.tasks[0] = task("a")
    office.once()
    assert seen() == (False, "done")


def test_a_running_task_is_seen_with_its_time(engine: Engine) -> None:
    """Since when it runs; one of its kind waits for it, one that is off is off."""
    tasks = [task("a", until_stopped, kind="k"), task("b", kind="k", schedule=Schedule(every_s=9.0)), task("c")]
    office = Office(engine, tasks, Settings(work=(("c", OFF),)))
    with at_work(office):
        until(lambda: office.states()["a"].last_run_at == START)
        office.clock.at += MINUTE
        states = office.states()
    assert (states["a"].last_run_at, states["a"].duration_s) == (START, 60.0)
    assert (states["b"].state, states["b"].reason) == ("waiting", "a is running, and both are of the kind k")
    assert (states["c"].state, states["c"].reason) == ("off", "by the setting `work`")
    assert (states["c"].schedule, states["b"].schedule) == ("off", "9s")
