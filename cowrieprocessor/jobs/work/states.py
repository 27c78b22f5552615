"""What each task is about to do: decided from its schedule, its row and the jobs of other processes, at any time anew.

`work` runs what is due by this, and `work status` shows it; so they cannot disagree.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace

from sqlalchemy import Engine

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.jobs import DONE, ENDED, FAILED, RUNNING, STOPPED, WAITING, JobRecord, all_jobs
from cowrieprocessor.jobs.runtime import process_identity
from cowrieprocessor.jobs.runtime.job_record import is_running
from cowrieprocessor.jobs.work.catalogue import BrokenTask, Catalogue
from cowrieprocessor.jobs.work.due import LastRun, is_due, next_run_at
from cowrieprocessor.jobs.work.task import Task
from cowrieprocessor.jobs.work.task_row import WORK_JOB, last_run, row_name
from cowrieprocessor.settings import Settings
from cowrieprocessor.settings.schedule import Schedule

DUE, OFF = "due", "off"
NOTHING_TO_DO = "nothing to do"
DIED = "the process that ran it is gone without a last word"
_PAUSED = "{job} is paused by command; `cowrieprocessor jobs resume {job}` lets it go on"

Jobs = dict[str, JobRecord]


@dataclass(frozen=True, slots=True)
class TaskState:
    """A task as it is now. Times are aware, in UTC.

    Attributes:
        task: its name.
        does: what it does, in a few words.
        kind: its kind: tasks of one kind never run at once.
        schedule: when it is due, as in the settings: `15min`, `03:15`, `off`.
        state: due, running, done, failed, stopped, waiting, off.
        reason: why it failed, waits, is off or is due before its time; what it did, if it is done.
        last_run_at: when it began last; None if it never did.
        duration_s: how long that run took, in seconds, or has taken so far; None if unknown.
        next_run_at: when it is, or became, due; None if it never ran, runs, is off, waits, has nothing to do, or
            cannot be run at all.
    """

    task: str
    does: str
    kind: str
    schedule: str
    state: str
    reason: str | None = None
    last_run_at: dt.datetime | None = None
    duration_s: float | None = None
    next_run_at: dt.datetime | None = None


def task_states(
    engine: Engine, catalogue: Catalogue, settings: Settings, now: dt.datetime, *, early: bool = False
) -> list[TaskState]:
    """Return the state of each task, by name.

    Args:
        engine: the database.
        catalogue: the tasks.
        settings: all settings.
        now: the current time.
        early: whether a task is due shortly before its time, too; see `is_due`.

    Raises:
        ConfigurationError: the settings name a task that is not installed.
        DatabaseError: the database cannot be read.
    """
    schedules = catalogue.schedules(settings)
    with read_transaction(engine) as connection:
        jobs = {job.name: job for job in all_jobs(connection)}
    states = [
        _Question(task, schedules[task.name], jobs, now, early=early).state(engine, settings)
        for task in catalogue.tasks
    ]
    running = {state.kind: state.task for state in states if state.state == RUNNING}
    states = [_behind(state, running.get(state.kind)) for state in states]
    return sorted([*states, *map(_broken, catalogue.broken)], key=lambda state: state.task)


def _behind(state: TaskState, other: str | None) -> TaskState:
    """Return the state of a task behind another one of its kind that runs, if one does."""
    if other is None or state.state != DUE:
        return state
    return replace(state, state=WAITING, reason=f"{other} is running, and both are of the kind {state.kind}")


def _broken(task: BrokenTask) -> TaskState:
    return TaskState(task.name, f"unknown: of {task.distribution}", "", "", FAILED, task.reason)


class _Question:
    """What a task is about to do."""

    def __init__(self, task: Task, schedule: Schedule, jobs: Jobs, now: dt.datetime, *, early: bool) -> None:
        self._task = task
        self._schedule = schedule
        self._jobs = jobs
        self._now = now
        self._early = early
        self._row = jobs.get(row_name(task.name))
        self._last = last_run(self._row)
        self._at = next_run_at(schedule, self._last, now)

    def state(self, engine: Engine, settings: Settings) -> TaskState:
        if self._row is not None and is_running(self._row):
            began_at = dt.datetime.fromisoformat(self._row.cursor.get("began_at") or self._row.started_at.isoformat())
            return self._stated(RUNNING, self._row.reason, LastRun(began_at, self._now))
        if self._schedule.is_off:
            return self._stated(OFF, "by the setting `work`")
        try:
            return self._unless_off(engine, settings)
        except Exception as error:  # noqa: BLE001 - the code of a task; the others are asked all the same
            return self._stated(FAILED, f"it cannot be asked whether it has work: {error}")

    def _unless_off(self, engine: Engine, settings: Settings) -> TaskState:
        off_reason = None if self._task.off_reason is None else self._task.off_reason(settings)
        if off_reason is not None:
            return self._stated(OFF, off_reason)
        if not is_due(self._schedule, self._at, self._now, early=self._early):
            return self._stated(*self._past(), next_run_at=self._at)
        if not self._has_work(engine, settings):
            return self._stated(DONE, NOTHING_TO_DO)
        if (reason := self._obstacle()) is not None:
            return self._stated(WAITING, reason)
        return self._stated(DUE, self._why_now(), next_run_at=None if self._last is None else self._at)

    def _stated(
        self, state: str, reason: str | None, last: LastRun | None = None, *, next_run_at: dt.datetime | None = None
    ) -> TaskState:
        last = last or self._last
        duration_s = None
        if last is not None and last.ended_at is not None:
            duration_s = round(max(0.0, (last.ended_at - last.began_at).total_seconds()), 3)
        return TaskState(
            self._task.name,
            self._task.description,
            self._task.kind,
            str(self._schedule),
            state,
            reason,
            None if last is None else last.began_at,
            duration_s,
            next_run_at,
        )

    def _has_work(self, engine: Engine, settings: Settings) -> bool:
        if self._task.has_work is None:
            return True
        with read_transaction(engine) as connection:
            return self._task.has_work(connection, settings)

    def _past(self) -> tuple[str, str | None]:
        """Return how the last run ended, and why or with what."""
        if self._row is None or self._last is None:
            return DUE, None
        if self._row.state not in ENDED:
            return FAILED, DIED
        text = self._row.cursor.get("text") or None
        return self._row.state, text if self._row.state == DONE else self._row.reason

    def _why_now(self) -> str | None:
        """Return why a task is due that has not come to its end."""
        state, reason = self._past()
        return reason if state in (FAILED, STOPPED) else None

    def _obstacle(self) -> str | None:
        """Return what keeps the task from being run now: a pause, or another process that runs its job."""
        for name in (WORK_JOB, row_name(self._task.name), *self._task.jobs):
            job = self._jobs.get(name)
            if job is not None and job.pause_requested:
                return _PAUSED.format(job=name)
        for name in self._task.jobs:
            job = self._jobs.get(name)
            if job is not None and is_running(job):
                return f"{process_identity.describe(job.owner)} is running {name}"
        return None
