"""The runtime of long jobs: `with run_job(engine, "recount") as job:`.

A job has one record from its start to its end, a row of `jobs`: who runs it, how far it is, why it waits and how it
ended. Other processes pause, resume and stop it there. docs/write_a_job.md has an example.
"""

from __future__ import annotations

import datetime as dt
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.jobs import (
    BEGINS_ANEW,
    DONE,
    FAILED,
    GOES_ON,
    RUNNING,
    STOPPED,
    JobRecord,
    add_counters,
    end_reason,
)
from cowrieprocessor.errors import DatabaseError, JobStopped, JobTaken
from cowrieprocessor.jobs.runtime.job_record import Admit, JobRow, Record
from cowrieprocessor.jobs.runtime.progress import JobProgress, Meter
from cowrieprocessor.jobs.runtime.throttle import DEFAULT_LIMITS, Obstacle, Throttle, ThrottleLimits

LOOK_EVERY_S = 1.0
"""How often a job looks for requests of others."""

SAVE_EVERY_S = 5.0
"""How often the progress of a job is saved that commits nothing itself meanwhile."""

HEARTBEAT_S = 60.0
"""How often a job says that it is there that has nothing new to say."""

PAUSED_BY_COMMAND = "by command; `cowrieprocessor {resume}` lets it go on"
STOPPED_BY_COMMAND = f"stopped by command; {GOES_ON}"
STOPPED_BY_SIGNAL = f"asked to stop; {GOES_ON}"

READS_ONLY = ThrottleLimits(max_log_bytes=sys.maxsize)
"""Limits of a job that writes nothing: it does not wait for the write-ahead log to be emptied."""


class Job:
    """A running job. Made by `run_job`.

    Attributes:
        name: its name.
        throttle: decides when it may write, and for how long.
        resumed: whether an earlier run did not come to its end.
        ends_as: state and reason that the record gets when the block ends without an error.
    """

    def __init__(
        self,
        row: Record,
        record: JobRecord,
        throttle: Throttle,
        *,
        resumed: bool,
        resume_command: str,
        goes_on: bool,
        stop: Event,
        on_progress: Callable[[JobProgress], None] | None,
        clock: Callable[[], float],
    ) -> None:
        self.name = record.name
        self.throttle = throttle
        self.resumed = resumed
        self.ends_as: tuple[str, str | None] = (DONE, None)
        self._goes_on = goes_on
        self._paused_reason = PAUSED_BY_COMMAND.format(resume=resume_command)
        self._row = row
        self._record = record
        self._stop = stop
        self._on_progress = on_progress
        self._clock = clock
        self._meter = Meter(clock)
        self._progress = JobProgress(record.name)
        self._pause_requested, self._stop_requested = row.requests_in(record)
        self._looked_at = self._saved_at = clock()

    @property
    def cursor(self) -> dict[str, Any]:
        """The position of the last checkpoint, also of an earlier run; plain JSON. Empty if there is none."""
        return dict(self._record.cursor)

    @property
    def counters(self) -> dict[str, Any]:
        """The counters of the last checkpoint, also of an earlier run."""
        return dict(self._record.counters)

    @property
    def record(self) -> JobRecord:
        """The record as it was saved last; after the block, how the job ended."""
        return self._record

    @property
    def stop_requested(self) -> bool:
        """Whether the job shall end, by a signal or by another process, which is asked once a second."""
        self._look()
        return self._stop.is_set() or self._stop_requested

    def progress(
        self,
        done: int,
        total: int | None = None,
        unit: str = "",
        *,
        step: str | None = None,
        total_is_estimate: bool = False,
    ) -> None:
        """Report how far the job is; it is saved with the next checkpoint, at the latest after some seconds.

        Args:
            done: units that this run has done.
            total: units that this run does; None if unknown.
            unit: what is counted, in the plural.
            step: what it does now, if it has steps; rate and remaining time are those of the step.
            total_is_estimate: whether the total is estimated.
        """
        if step != self._progress.step:
            self._meter = Meter(self._clock)
        per_s, eta_s = self._meter.rate(done, total)
        self._progress = JobProgress(
            self.name, RUNNING, done, total, unit, per_s, eta_s, step, total_is_estimate=total_is_estimate
        )
        if self._clock() - self._saved_at >= SAVE_EVERY_S:
            self._try_to_save(self._with_progress)
        self._report()

    def checkpoint(
        self,
        connection: Connection,
        *,
        cursor: Mapping[str, Any] | None = None,
        counters: Mapping[str, Any] | None = None,
        add: Mapping[str, int] | None = None,
    ) -> None:
        """Save position, counters and progress in the transaction of the batch.

        Args:
            connection: the transaction that writes the batch.
            cursor: where the next run goes on; plain JSON. Unchanged by default.
            counters: all counters; unchanged by default.
            add: counts that are added to the counters, for a job that several processes run.

        Raises:
            JobTaken: another process runs the job; the transaction has to be rolled back.
        """

        def change(record: JobRecord) -> None:
            self._with_progress(record)
            if cursor is not None:
                record.cursor = dict(cursor)
            if counters is not None:
                record.counters = dict(counters)
            add_counters(record.counters, add or {})

        self._adopt(self._row.save(change, connection))

    def lock(self, connection: Connection) -> None:
        """Lock the record until the transaction ends, before anything that another run must not write at the same time.

        Raises:
            JobTaken: another process runs the job.
        """
        self._row.lock(connection)

    def wait(self) -> None:
        """Wait while the job is paused or must not write; call it before each batch.

        Raises:
            JobStopped: the job shall end.
        """
        self._raise_if_stopped()
        self.throttle.wait(self.note_obstacle)
        self._raise_if_stopped()

    def _raise_if_stopped(self) -> None:
        if self.stop_requested:
            raise JobStopped(self.reason(STOPPED_BY_SIGNAL if self._stop.is_set() else STOPPED_BY_COMMAND))

    def reason(self, text: str) -> str:
        """Return why the job ended, with what the same command then does."""
        return text if self._goes_on else text.replace(GOES_ON, BEGINS_ANEW)

    def paused_reason(self) -> str | None:
        """Return why the job is paused, or None; a stop ends the pause.

        Raises:
            JobStopped: the job shall end.
        """
        self._raise_if_stopped()
        return self._paused_reason if self._pause_requested else None

    def heartbeat(
        self,
        state: str = RUNNING,
        reason: str | None = None,
        *,
        facts: Mapping[str, Any] | None = None,
        at_once: bool = False,
    ) -> None:
        """Save how a job is that waits for something to do: a new state now, news after some seconds, else each minute.

        Args:
            state: running, waiting or paused.
            reason: why it waits or is paused.
            facts: added to the cursor; plain JSON.
            at_once: give up if the database does not answer at once.

        Raises:
            JobTaken: another process runs the job, or the database's file was replaced.
            DatabaseError: see `write_transaction`; the next call tries again.
        """

        def change(record: JobRecord) -> None:
            self._with_progress(record)
            record.cursor |= facts or {}

        self._meter.idle(is_idle=state != RUNNING)
        self._progress = replace(self._progress, state=state, reason=reason)
        if not self._is_due(facts or {}):
            return
        if at_once:
            self._try_to_save(change)
        else:
            self._adopt(self._row.save(change))
        self._report()

    def _is_due(self, facts: Mapping[str, Any]) -> bool:
        """Return whether something is to be saved: a new state now, progress and facts after some seconds."""
        now, saved = self._progress, self._record
        if (now.state, now.reason) != (saved.state, saved.reason):
            return True
        has_news = now.done != (saved.progress or {}).get("done", 0) or not facts.items() <= saved.cursor.items()
        return self._clock() - self._saved_at >= (SAVE_EVERY_S if has_news else HEARTBEAT_S)

    def _look(self) -> None:
        """Look once a second for what other processes want."""
        if self._clock() - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = self._clock()
            self._pause_requested, self._stop_requested = self._row.requests()

    def note_obstacle(self, obstacle: Obstacle | None) -> None:
        """Report and save why the job waits, or with None that it goes on."""
        self._meter.idle(is_idle=obstacle is not None)
        state, reason = (RUNNING, None) if obstacle is None else (obstacle.state, obstacle.reason)
        self._progress = replace(self._progress, state=state, reason=reason)
        self._adopt(self._row.save(self._with_progress))
        self._report()

    def _report(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self._progress)

    def _with_progress(self, record: JobRecord) -> None:
        record.state, record.reason = self._progress.state, self._progress.reason
        record.progress = self._progress.document()

    def _adopt(self, record: JobRecord) -> None:
        self._record = record
        self._pause_requested, self._stop_requested = self._row.requests_in(record)
        self._saved_at = self._looked_at = self._clock()

    def _try_to_save(self, change: Callable[[JobRecord], None]) -> None:
        """Save the record if the database answers at once."""
        try:
            record = self._row.save(change, at_once=True)
        except JobTaken:
            raise
        except DatabaseError:
            self._saved_at = self._clock()
        else:
            self._adopt(record)

    def end(self, state: str, reason: str | None, *, at_once: bool) -> None:
        """Save how the job ended. What was committed stays: an interrupt may come just after a commit.

        Args:
            state: done, stopped or failed.
            reason: why it stopped or failed.
            at_once: give up if the database does not answer at once; others then see that the process is gone.
        """

        def change(record: JobRecord) -> None:
            record.state, record.reason = state, reason
            # Also of a run that ended in a pause (a quota is used up): no process runs the job until the next one.
            record.finished_at = None if state in (STOPPED, FAILED) else dt.datetime.now(dt.UTC)
            record.progress = self._progress.document()

        try:
            self._adopt(self._row.end(change, at_once=at_once))
        except DatabaseError:
            if not at_once:
                raise


@contextmanager
def run_job(
    engine: Engine,
    name: str,
    *,
    exclusive: bool = True,
    keeps_position: bool = False,
    kept_in: Record | None = None,
    resume_command: str | None = None,
    goes_on: bool = True,
    stop: Event | None = None,
    on_progress: Callable[[JobProgress], None] | None = None,
    share_of_rest: float = 0.0,
    pause_file: Path | None = None,
    limits: ThrottleLimits = DEFAULT_LIMITS,
    admit: Admit | None = None,
    ends_at_once: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Job]:
    """Run a job: its record is there from now on, and says how it ended when the block ends.

    Args:
        engine: the database.
        name: the name of the job.
        exclusive: refuse to run while another process runs it; else several processes share the record.
        keeps_position: go on from the position of a run that came to its end, and add to its counters; else a run
            after one that ended begins with neither.
        kept_in: where the record is kept if that is not a row of `jobs`; see `JobFile`.
        resume_command: the command that lets it go on when it is paused; by default `jobs resume NAME`.
        goes_on: whether a run after one that was interrupted goes on from there; else it begins anew.
        stop: once set, `Job.wait` ends the job.
        on_progress: called with each progress.
        share_of_rest: the share of time to rest, 0 to 0.99.
        pause_file: while this file exists, the job is paused.
        limits: limits of its writes.
        admit: called first in the transaction in which it begins: refuses it, or returns what changes in the record.
        ends_at_once: do not wait for the database at its end; else that it is done is saved in any case.
        clock: monotonic time in seconds.

    Raises:
        JobTaken: another process runs it, or has taken it over.
        JobStopped: it was asked to stop.
        DatabaseError: see `write_transaction`; what was committed is kept.
    """
    row = kept_in or JobRow(engine, name, exclusive=exclusive, keeps_position=keeps_position, admit=admit)
    record, resumed = row.begin()
    job: Job
    throttle = Throttle(
        engine,
        paused_reason=lambda: job.paused_reason(),
        throttle=share_of_rest,
        pause_file=pause_file,
        limits=limits,
        clock=clock,
    )
    job = Job(
        row,
        record,
        throttle,
        resumed=resumed,
        resume_command=resume_command or f"jobs resume {name}",
        goes_on=goes_on,
        stop=stop or Event(),
        on_progress=on_progress,
        clock=clock,
    )
    try:
        yield job
        job.end(*job.ends_as, at_once=ends_at_once)
    except (KeyboardInterrupt, JobStopped) as error:
        job.end(STOPPED, job.reason(end_reason(error)), at_once=True)
        raise
    except BaseException as error:  # the record says how the job ended, whatever ended it; the error goes on
        job.end(FAILED, job.reason(end_reason(error)), at_once=True)
        raise
    finally:
        row.release()


def report_steps(job: Job, steps: Mapping[str, tuple[str, str]]) -> Callable[[str, int, int], None]:
    """Return a callback for work in steps: called with step, done and total, it reports them, and waits or stops.

    Args:
        job: the job.
        steps: for each step, its description, and what is counted in it.
    """

    def on_step(step: str, done: int, total: int) -> None:
        text, unit = steps[step]
        job.progress(done, total if total > 1 else None, unit, step=text)
        job.wait()

    return on_step
