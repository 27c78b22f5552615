"""The row of `jobs` of a task, `work:NAME`: its last run, for every process that asks."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import Engine

from cowrieprocessor.db.jobs import DONE, ENDED, FAILED, RUNNING, STOPPED, WAITING, JobRecord, add_counters
from cowrieprocessor.errors import DatabaseError, JobTaken
from cowrieprocessor.jobs.runtime.job_record import JobRow
from cowrieprocessor.jobs.runtime.progress import JobProgress
from cowrieprocessor.jobs.work.due import LastRun, next_run_at
from cowrieprocessor.jobs.work.run import EndedRun
from cowrieprocessor.settings.schedule import Schedule

PREFIX = "work:"
WORK_JOB = "work"
"""The row of the process that runs tasks."""


def row_name(task: str) -> str:
    """Return the name of the row of a task."""
    return PREFIX + task


def last_run(record: JobRecord | None) -> LastRun | None:
    """Return the last run of a task that does not run now, by its row; None if it never ran."""
    if record is None or "began_at" not in record.cursor:
        return None
    cursor = record.cursor
    has_ended = record.state in ENDED
    return LastRun(
        began_at=dt.datetime.fromisoformat(cursor["began_at"]),
        ended_at=_time(cursor.get("ended_at")),
        failures=int(cursor.get("failures", 0)),
        deaths=0 if has_ended else max(1, int(cursor.get("deaths", 0))),
        is_interrupted=has_ended and bool(cursor.get("is_interrupted")),
        again_at=_time(cursor.get("again_at")),
    )


def _time(text: str | None) -> dt.datetime | None:
    return None if text is None else dt.datetime.fromisoformat(text)


class TaskRow:
    """The row of a task while this process runs it.

    Args:
        engine: the database.
        task: the name of the task.
        schedule: its schedule.
    """

    def __init__(self, engine: Engine, task: str, schedule: Schedule) -> None:
        self._row = JobRow(engine, row_name(task), exclusive=True, keeps_position=True)
        self._schedule = schedule
        self._before: dict[str, Any] = {}
        self._began_at = dt.datetime.now(dt.UTC)

    def begin(self, now: dt.datetime) -> None:
        """Record that a run begins. It counts as killed until its end is recorded.

        Raises:
            JobTaken: another process runs the task.
            DatabaseError: see `write_transaction`.
        """
        record, _ = self._row.begin()
        self._before, self._began_at = dict(record.cursor), now

        def change(record: JobRecord) -> None:
            deaths = int(self._before.get("deaths", 0)) + 1
            failures = int(self._before.get("failures", 0))
            record.started_at = now
            record.cursor = {"began_at": now.isoformat(), "deaths": deaths, "failures": failures}

        try:
            self._row.save(change)
        except BaseException:
            self._row.release()
            raise

    def report(self, progress: JobProgress | None) -> None:
        """Record how far the run is, and that its process is there, if the database answers at once.

        Raises:
            JobTaken: another process runs the task, or its row is gone.
        """

        def change(record: JobRecord) -> None:
            if progress is not None:
                record.state = progress.state if progress.state == WAITING else RUNNING
                record.reason, record.progress = progress.reason, progress.document()

        try:
            self._row.save(change, at_once=True)
        except JobTaken:
            raise
        except DatabaseError:
            return

    def is_stop_requested(self) -> bool:
        """Return whether another process wants this run to stop."""
        return self._row.requests()[1]

    def end(self, ended: EndedRun, now: dt.datetime) -> None:
        """Record how the run ended. One that another process kept from beginning is as if it had not been.

        Raises:
            JobTaken, DatabaseError: see `JobRow.end`.
        """

        def change(record: JobRecord) -> None:
            record.state, record.reason = ended.state, ended.reason
            record.finished_at = now if ended.state == DONE else None
            if ended.state == WAITING:
                record.state, record.cursor = STOPPED, self._before
                return
            record.cursor = self._cursor(ended, now)
            add_counters(record.counters, {"runs": 1, ended.state: 1})

        self._row.end(change, at_once=False)
        self._row.release()

    def release(self) -> None:
        """Let other threads of this process run the task, whether or not its end could be recorded."""
        self._row.release()

    def _cursor(self, ended: EndedRun, now: dt.datetime) -> dict[str, Any]:
        last = LastRun(
            self._began_at,
            now,
            failures=int(self._before.get("failures", 0)) + 1 if ended.state == FAILED else 0,
            is_interrupted=ended.is_interrupted,
            again_at=ended.again_at,
        )
        due_at = next_run_at(self._schedule, last, now)
        return {
            "began_at": last.began_at.isoformat(),
            "ended_at": now.isoformat(),
            "result": ended.state,
            "failures": last.failures,
            "deaths": 0,
            "is_interrupted": last.is_interrupted,
            "again_at": None if last.again_at is None else last.again_at.isoformat(),
            "next_at": None if due_at is None else due_at.isoformat(),
            "text": ended.text,
        }
