"""The worker: one process that runs what is due, at most one task of each kind at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Engine

from cowrieprocessor.clock import Clock, SystemClock, pause
from cowrieprocessor.db.jobs import FAILED, WAITING
from cowrieprocessor.db.migrations import require_current
from cowrieprocessor.errors import DatabaseError, JobStopped
from cowrieprocessor.jobs.runtime.backoff import Backoff, is_transient
from cowrieprocessor.jobs.runtime.database_file_guard import DatabaseFileGuard
from cowrieprocessor.jobs.runtime.job import STOPPED_BY_SIGNAL, Job, run_job
from cowrieprocessor.jobs.runtime.progress import JobProgress
from cowrieprocessor.jobs.work.catalogue import Catalogue
from cowrieprocessor.jobs.work.run import EndedRun, TaskRun
from cowrieprocessor.jobs.work.states import DUE, TaskState, task_states
from cowrieprocessor.jobs.work.task import Task
from cowrieprocessor.jobs.work.task_row import WORK_JOB, TaskRow
from cowrieprocessor.settings import Settings

ABANDON_S = 60.0
"""How long a worker that ends for an error waits for its tasks to stop."""


@dataclass(frozen=True, slots=True)
class WorkTiming:
    """How often the worker looks, in seconds.

    Attributes:
        tick_s: for the end of tasks, and for requests of other processes.
        decide_s: for what is due.
        heartbeat_s: how often it records that it is there.
        report_s: how often it records the progress of its tasks.
    """

    tick_s: float = 0.5
    decide_s: float = 10.0
    heartbeat_s: float = 60.0
    report_s: float = 5.0


@dataclass(slots=True)
class WorkResult:
    """What the worker did.

    Attributes:
        ended: how each task ended last, in the order of the ends.
        states: the state of each task, as it was looked at last.
        stopped: whether it was asked to stop before its end.
    """

    ended: dict[str, EndedRun] = field(default_factory=dict)
    states: list[TaskState] = field(default_factory=list)
    stopped: bool = False

    @property
    def failed(self) -> list[str]:
        """The names of the tasks whose last run failed, and of those that cannot be run at all."""
        ran = {name for name, run in self.ended.items() if run.state == FAILED}
        cannot = {state.task for state in self.states if state.state == FAILED and state.next_run_at is None}
        return sorted(ran | cannot)


def work(
    engine: Engine,
    catalogue: Catalogue,
    settings: Settings,
    *,
    once: bool = False,
    clock: Clock | None = None,
    stop: threading.Event,
    notify: Callable[[str], None] = lambda _text: None,
    on_end: Callable[[EndedRun], None] = lambda _ended: None,
    on_progress: Callable[[JobProgress], None] = lambda _progress: None,
    timing: WorkTiming | None = None,
) -> WorkResult:
    """Run tasks when they are due, until `stop` is set.

    Each decision is made by what the database says then. Tasks of different kinds run at once, in threads; a task that
    fails is recorded and tried again after growing waits, and stops no other.

    Args:
        engine: the database.
        catalogue: the tasks.
        settings: all settings.
        once: run each task that is due once, and end.
        clock: the current time; by default the system's.
        stop: once set, the running tasks are asked to stop, and the worker ends when they have.
        notify: called with one line for the operator, also by threads.
        on_end: called with each run that ended.
        on_progress: called with the progress of the tasks.
        timing: how often it looks.

    Raises:
        ConfigurationError: the settings name a task that is not installed.
        JobTaken: another process runs tasks of this database, or its file was replaced.
        JobStopped: it was asked to stop by another process.
        SchemaVersionError: the database has another schema version.
        DatabaseError: with `once`, at the start, or if it is permanent; else the database is waited for.
    """
    require_current(engine)
    catalogue.schedules(settings)
    result = WorkResult()
    try:
        with run_job(engine, WORK_JOB, stop=stop) as job:
            worker = _Worker(engine, catalogue, settings, job, stop, result, timing or WorkTiming(), once=once)
            worker.clock = clock or SystemClock()
            worker.notify, worker.on_end, worker.on_progress = notify, on_end, on_progress
            worker.run()
            if stop.is_set():
                job.wait()
    except JobStopped:
        if not stop.is_set():
            raise
        result.stopped = True
    return result


def rest_text(states: Sequence[TaskState]) -> str:
    """Return that nothing is due, and what is next."""
    coming = [(state.next_run_at, state.task) for state in states if state.next_run_at is not None]
    if not coming:
        return "nothing is due"
    at, task = min(coming)
    return f"nothing is due; next is {task} at {at:%Y-%m-%d %H:%M:%S} UTC"


def _turn(state: TaskState) -> tuple[float, str]:
    """Return the place of a task among those that are due: what waits longest comes first, after what never ran."""
    return 0.0 if state.next_run_at is None else state.next_run_at.timestamp(), state.task


@dataclass(slots=True)
class _Running:
    """A task that runs, with its row."""

    run: TaskRun
    row: TaskRow
    reported_at: float = field(default_factory=time.monotonic)
    shown: JobProgress | None = None


class _Worker:
    """The loop. Rows are written by this thread alone."""

    def __init__(
        self,
        engine: Engine,
        catalogue: Catalogue,
        settings: Settings,
        job: Job,
        stop: threading.Event,
        result: WorkResult,
        timing: WorkTiming,
        *,
        once: bool,
    ) -> None:
        self._engine = engine
        self._catalogue = catalogue
        self._settings = settings
        self._job = job
        self._stop = stop
        self._result = result
        self._timing = timing
        self._once = once
        self._guard = DatabaseFileGuard(engine)
        self._tasks = {task.name: task for task in catalogue.tasks}
        self._running: dict[str, _Running] = {}
        self._runs = 0
        self._is_resting = False
        self._begun: set[str] = set()
        self._decided_at = self._beat_at = float("-inf")
        self.clock: Clock = SystemClock()
        self.notify: Callable[[str], None] = lambda _text: None
        self.on_end: Callable[[EndedRun], None] = lambda _ended: None
        self.on_progress: Callable[[JobProgress], None] = lambda _progress: None

    def run(self) -> None:
        """Run tasks until all is done, or it is asked to stop and they have stopped.

        Raises:
            JobStopped, DatabaseError: see `work`.
        """
        backoff = Backoff(self.notify)
        try:
            for task in self._catalogue.broken:
                self.notify(f"{task.name}: {task.reason}")
            while True:
                try:
                    if self._step():
                        return
                except DatabaseError as error:
                    if self._once or not is_transient(error):
                        raise
                    pause(backoff.failed(error), self._stop)
                    if self._stop.is_set():  # it has waited for long enough: the ends of runs may stay unrecorded
                        raise JobStopped(STOPPED_BY_SIGNAL) from error
                    continue
                backoff.succeeded()
                pause(self._timing.tick_s, self._waits_on())
        except KeyboardInterrupt:
            self._abandon(wait_s=0.0)
            raise
        except BaseException:
            self._abandon(wait_s=ABANDON_S)
            raise

    def _step(self) -> bool:
        """Do what is to be done now; return whether all is done.

        Raises:
            JobStopped: another process asked it to stop, and the tasks have stopped.
            DatabaseError: the database cannot serve, or is another one.
        """
        self._guard.require_same()
        self._end_runs()
        is_asked = self._job.stop_requested
        if is_asked:
            self._stop_runs()
            if not self._running:
                self._job.wait()
        else:
            self._attend()
            self._decide()
        self._beat()
        return self._once and not self._running and not self._has_more()

    # --- what is due ---

    def _decide(self) -> None:
        """Begin what is due, if it is time to look."""
        now = time.monotonic()
        if now - self._decided_at < self._timing.decide_s:
            return
        due = [state for state in self._states() if self._is_to_run(state)]
        if due:
            require_current(self._engine)
        elif not self._running:
            self._show_rest()
        for state in sorted(due, key=_turn):
            if state.kind not in {running.run.task.kind for running in self._running.values()}:
                self._begin(self._tasks[state.task])
        self._decided_at = now

    def _states(self) -> list[TaskState]:
        now = self.clock.now()
        self._result.states = task_states(self._engine, self._catalogue, self._settings, now, early=self._once)
        return self._result.states

    def _is_to_run(self, state: TaskState) -> bool:
        return state.state == DUE and state.task not in self._running and not (self._once and state.task in self._begun)

    def _has_more(self) -> bool:
        """Return whether something is due that this call has not run; with `once`."""
        return any(self._is_to_run(state) for state in self._states())

    def _show_rest(self) -> None:
        """Show once that nothing is due, until something runs again."""
        if not self._is_resting and not self._once:
            self._is_resting = True
            self.on_progress(JobProgress(WORK_JOB, WAITING, reason=rest_text(self._result.states)))

    def _begin(self, task: Task) -> None:
        schedule = self._catalogue.schedules(self._settings)[task.name]
        row = TaskRow(self._engine, task.name, schedule)
        row.begin(self.clock.now())
        self._begun.add(task.name)
        self._is_resting = False
        run = TaskRun(task, self._engine, self._settings, self.notify)
        self._running[task.name] = _Running(run, row)
        run.start()

    # --- what runs ---

    def _attend(self) -> None:
        """Show and record the progress of the running tasks, and pass requests of other processes on to them."""
        for running in self._running.values():
            progress = running.run.progress
            if progress is not None and progress is not running.shown:
                running.shown = progress
                self.on_progress(progress)
            if time.monotonic() - running.reported_at < self._timing.report_s:
                continue
            running.reported_at = time.monotonic()
            running.row.report(progress)
            if running.row.is_stop_requested():
                running.run.stop(by_command=True)

    def _end_runs(self) -> None:
        """Record the runs that have ended."""
        for name, running in list(self._running.items()):
            if running.run.is_running:
                continue
            ended = running.run.ended
            running.row.end(ended, self.clock.now())
            del self._running[name]
            self._runs += ended.state != WAITING
            self._decided_at = float("-inf")
            self._result.ended.pop(name, None)
            self._result.ended[name] = ended
            self.on_end(ended)

    def _stop_runs(self) -> None:
        for running in self._running.values():
            running.run.stop()

    def _waits_on(self) -> threading.Event:
        """Return the event that ends a pause: a worker that stops already waits for its tasks."""
        return threading.Event() if self._stop.is_set() else self._stop

    def _beat(self) -> None:
        """Record from time to time that the worker is there."""
        if time.monotonic() - self._beat_at >= self._timing.heartbeat_s:
            self._beat_at = time.monotonic()
            self._job.progress(self._runs, None, "runs")

    def _abandon(self, *, wait_s: float) -> None:
        """Stop what still runs when the worker ends, and record that as far as the database lets it."""
        self._stop_runs()
        deadline = time.monotonic() + wait_s
        while any(running.run.is_running for running in self._running.values()) and time.monotonic() < deadline:
            time.sleep(self._timing.tick_s)
        try:
            self._end_runs()
        except DatabaseError:
            return
        finally:
            for running in self._running.values():
                running.row.release()
