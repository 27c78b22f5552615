"""Runs one job of the backfill to completion: read, aggregate, write in a short transaction, rest.

Each transaction commits the rows together with the job's cursor, so a killed run resumes where it stopped.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import read_transaction, second_engine, write_transaction
from cowrieprocessor.db.ingest import event_scan
from cowrieprocessor.db.ingest.event_locks import lock_events
from cowrieprocessor.db.ingest.removals import count_removals
from cowrieprocessor.db.ingest.statements import LoadingStatements
from cowrieprocessor.db.jobs import (
    DONE,
    FAILED,
    RUNNING,
    STOPPED,
    JobRecord,
    add_counters,
    load_job,
    save_job,
)
from cowrieprocessor.errors import DatabaseError, JobTaken
from cowrieprocessor.events import utc_text
from cowrieprocessor.jobs.runtime import process_identity
from cowrieprocessor.jobs.runtime.throttle import Obstacle, Throttle
from cowrieprocessor.jobs.upgrade.backfill_aggregates import Slice

SLICE_ROWS = 250
"""Events by which a write transaction grows."""

FIRST_ROWS = 1000
"""Rows of the first read, before it is known how many a transaction writes."""

FINAL_STATE_TIMEOUT_S = 0.2
"""How long a stopped run waits for the write lock to record its end."""

_ANY_DAY = (("", ""),)
"""Locked by every write, so that no event is removed meanwhile."""

_CLOCK_TICK_S = 1e-6

ALL_TYPES = ""
"""Cursor key of a job that reads all types together, in id order."""


@dataclass(frozen=True, slots=True)
class BackfillProgress:
    """Progress of a job of the backfill.

    Attributes:
        job: backfill-files, backfill-mentions, backfill-sessions or backfill-sensors.
        state: running, waiting or paused.
        rows_done: events read by this run.
        rows_total: events that this run reads; events stored since it began are not included.
        rows_per_s: rate since the run began, without pauses.
        eta_s: seconds left at that rate; None while unknown.
        reason: why the job waits; None while it works.
    """

    job: str
    state: str
    rows_done: int
    rows_total: int
    rows_per_s: float
    eta_s: float | None
    reason: str | None


class BackfillRun:
    """Runs one job.

    Args:
        engine: the database, at the current schema version.
        kind: the job's aggregates.
        throttle: decides when the job may write.
        batch_size: rows read at a time.
        slice_rows: events by which a write transaction grows.
        on_progress: called after each write, and when the job starts or stops waiting.
        clock: monotonic clock in seconds.
    """

    def __init__(
        self,
        engine: Engine,
        kind: type[Slice],
        throttle: Throttle,
        *,
        batch_size: int,
        slice_rows: int = SLICE_ROWS,
        on_progress: Callable[[BackfillProgress], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._kind = kind
        self._throttle = throttle
        self._batch_size = batch_size
        self._slice_rows = slice_rows
        self._on_progress = on_progress
        self._clock = clock
        self._holder = process_identity.this_process()
        self._rows_done = 0
        self._rows_total = 0
        self._idle_s = 0.0
        self._idle_since: float | None = None
        self._began_at = clock()
        self._record = JobRecord(kind.job, RUNNING)
        self._own_logs: Collection[event_scan.SourceKey] = ()
        self._last_v3_id = 0
        self._twins = (0, 0, 0)
        """The range of ids that was read last, and how many events in it were marked as twins then."""
        self._rows_per_s = 0.0
        """How many rows of aggregates the last transaction wrote a second; 0 before the first."""
        self._removals = 0
        """How many transactions had removed events then."""

    def run(self) -> JobRecord:
        """Process every event up to the newest one at the start, and return the job as it ended.

        Raises:
            JobTaken: another process runs the job.
            DatabaseError: see `write_transaction`; committed work is kept, and the next run resumes there.
        """
        self._claim()
        try:
            self._count_rows()
            for event_type in self._streams():
                self._run_stream(event_type)
            self._end(DONE, None)
        except KeyboardInterrupt:
            self._try_to_record_end(STOPPED, "interrupted; the same command goes on from here")
            raise
        except JobTaken:
            raise
        except DatabaseError as error:
            self._try_to_record_end(FAILED, str(error))
            raise
        return self._record

    def _streams(self) -> tuple[str, ...]:
        """Return the streams to read in sequence: each event type if events are sparse, else all types together."""
        return self._kind.event_types if self._kind.by_type else (ALL_TYPES,)

    def _claim(self) -> None:
        """Claim the job, and set the newest event as target of this run."""
        with write_transaction(self._engine) as connection:
            before = load_job(connection, self._kind.job, for_update=True)
            if before is not None and before.state not in (DONE, STOPPED, FAILED):
                other = before.cursor.get("holder") or {}
                if process_identity.is_alive(other, before.updated_at):
                    raise JobTaken(
                        f"{self._kind.job}: {process_identity.describe(other)} is running it; watch it with "
                        "`db status`, or stop that process and repeat the command"
                    )
            last = {} if before is None else dict(before.cursor.get("last") or {})
            self._record = JobRecord(
                self._kind.job,
                RUNNING,
                cursor={"last": last, "target": event_scan.last_event_id(connection), "holder": self._holder},
                counters={} if before is None else before.counters,
            )
            save_job(connection, self._record)
            # Events up to the target are committed by now, and so are the logs that they came from.
            self._last_v3_id = event_scan.last_v3_event_id(connection)
            if self._target > self._last_v3_id:
                self._own_logs = event_scan.own_source_keys(connection)

    def _count_rows(self) -> None:
        """Count the events up to the target."""
        for event_type in self._streams():
            with read_transaction(self._engine) as connection:
                self._rows_total += self._count(connection, event_type)
        self._report(None)

    def _count(self, connection: Connection, event_type: str) -> int:
        after, target = self._last(event_type), self._target
        if event_type == ALL_TYPES:
            return max(0, target - after)
        return event_scan.count_events_of_type(connection, event_type, after, target)

    @property
    def _target(self) -> int:
        return int(self._record.cursor["target"])

    def _last(self, event_type: str) -> int:
        return int(self._record.cursor["last"].get(event_type, 0))

    def _run_stream(self, event_type: str) -> None:
        """Process a stream: read about as many rows as one transaction writes, so that others can write meanwhile."""
        rows = FIRST_ROWS
        while slices := self._read(event_type, min(rows, self._batch_size)):
            while slices:
                self._throttle.wait(self._record_obstacle)
                self._throttle.rest()
                wrote = self._write(event_type, slices)
                self._report(None)
            rows = max(self._slice_rows, wrote + self._slice_rows)

    def _read(self, event_type: str, limit: int) -> deque[Slice]:
        """Return the aggregates of the next rows in slices, empty at the end; payloads are not kept."""
        now = utc_text(dt.datetime.now(dt.UTC))
        slices: deque[Slice] = deque()
        with read_transaction(self._engine) as connection:
            for row in self._rows(connection, event_type, limit):
                if not slices or slices[-1].values >= self._slice_rows:
                    slices.append(self._kind(now))
                slices[-1].add(row, self._own_logs, self._last_v3_id)
            if slices:
                read = self._last(event_type), slices[-1].last_id
                self._twins = (*read, event_scan.count_twins_between(connection, *read))
                self._removals = count_removals(connection)
        return slices

    def _rows(self, connection: Connection, event_type: str, limit: int) -> Iterator[event_scan.StoredEvent]:
        after = self._last(event_type)
        if event_type == ALL_TYPES:
            return event_scan.events_in_order(connection, after, self._target, limit)
        return event_scan.events_of_type(connection, event_type, after, self._target, limit)

    def _write(self, event_type: str, slices: deque[Slice]) -> int:
        """Write as many slices as a transaction has time for, and the cursor after them; return how many events."""
        requested_at = self._clock()
        cursor, counters = dict(self._record.cursor), dict(self._record.counters)
        with write_transaction(self._engine) as connection:
            lock_events(connection, _ANY_DAY)
            began_at = self._clock()
            budget_s = self._throttle.budget_s(connection, began_at - requested_at)
            self._require_ownership(connection)
            if self._has_changed(connection):
                slices.clear()
                return 0
            slice_ = self._take(slices, budget_s)
            statements = LoadingStatements(connection)
            try:
                slice_.write(statements, connection)
            finally:
                statements.close()
            wrote_s = self._clock() - began_at
            add_counters(counters, slice_.counters)
            done = slice_.last_id - self._last(event_type) if event_type == ALL_TYPES else slice_.values
            cursor["last"] = {**cursor["last"], event_type: slice_.last_id}
            cursor["progress"] = self._progress_document(done)
            save_job(connection, self._record_with(cursor, counters))
        self._record = self._record_with(cursor, counters)
        self._rows_done += done
        self._throttle.record_write(self._clock() - began_at)
        if slice_.rows:
            self._rows_per_s = slice_.rows / max(wrote_s, _CLOCK_TICK_S)
        return slice_.values

    def _take(self, slices: deque[Slice], budget_s: float) -> Slice:
        """Take the slices that are written in the given time at the speed of the last write, at least one, as one."""
        taken = slices.popleft()
        while slices and taken.rows + slices[0].rows < budget_s * self._rows_per_s:
            taken.merge(slices.popleft())
        return taken

    def _has_changed(self, connection: Connection) -> bool:
        """Return whether events that were read were removed or marked as twins since: they have to be read again."""
        twins = event_scan.count_twins_between(connection, *self._twins[:2])
        return twins != self._twins[2] or count_removals(connection) != self._removals

    def _record_with(self, cursor: dict[str, Any], counters: dict[str, Any]) -> JobRecord:
        return JobRecord(self._kind.job, RUNNING, cursor, counters, self._record.started_at)

    def _require_ownership(self, connection: Connection) -> JobRecord:
        """Return the stored job, locked until the transaction ends, if this process still owns it.

        Raises:
            JobTaken: another process has taken it over; this transaction is rolled back.
        """
        stored = load_job(connection, self._kind.job, for_update=True)
        other = {} if stored is None else stored.cursor.get("holder") or {}
        if stored is None or other.get("run") != self._holder["run"]:
            raise JobTaken(
                f"{self._kind.job}: {process_identity.describe(other)} has taken it over, or the database was "
                "rolled back; nothing is lost"
            )
        return stored

    def _progress_document(self, more: int) -> dict[str, Any]:
        progress = self._progress(RUNNING, None, more)
        eta_s = None if progress.eta_s is None else round(progress.eta_s)
        return {
            "rows_done": progress.rows_done,
            "rows_total": progress.rows_total,
            "rows_per_s": round(progress.rows_per_s),
            "eta_s": eta_s,
        }

    def _progress(self, state: str, reason: str | None, more: int = 0) -> BackfillProgress:
        done = self._rows_done + more
        worked_s = self._clock() - self._began_at - self._idle_s
        rate = done / worked_s if worked_s > 0 else 0.0
        eta_s = (self._rows_total - done) / rate if rate > 0 else None
        return BackfillProgress(self._kind.job, state, done, self._rows_total, rate, eta_s, reason)

    def _report(self, obstacle: Obstacle | None) -> None:
        if self._on_progress is not None:
            state, reason = (RUNNING, None) if obstacle is None else (obstacle.state, obstacle.reason)
            self._on_progress(self._progress(state, reason))

    def _record_obstacle(self, obstacle: Obstacle | None) -> None:
        """Report an obstacle, or with None its end, and record it in `jobs`."""
        now = self._clock()
        if self._idle_since is not None:
            self._idle_s += now - self._idle_since
        self._idle_since = None if obstacle is None else now
        self._report(obstacle)
        with write_transaction(self._engine) as connection:
            self._require_ownership(connection)
            self._record.state, self._record.reason = (
                (RUNNING, None) if obstacle is None else (obstacle.state, obstacle.reason)
            )
            save_job(connection, self._record)

    def _end(self, state: str, reason: str | None, engine: Engine | None = None) -> None:
        """Record how the run ended; the stored cursor is kept, because an interrupt may come just after a commit."""
        with write_transaction(engine or self._engine) as connection:
            self._record = self._require_ownership(connection)
            self._record.state, self._record.reason = state, reason
            self._record.finished_at = dt.datetime.now(dt.UTC) if state == DONE else None
            save_job(connection, self._record)

    def _try_to_record_end(self, state: str, reason: str) -> None:
        """Record in `jobs` why the run stopped, if the write lock is free; else the next run finds the process dead."""
        engine = second_engine(self._engine, lock_timeout_s=FINAL_STATE_TIMEOUT_S)
        try:
            self._end(state, reason, engine)
        except DatabaseError:
            return  # the error that stopped the run is reported instead
        finally:
            engine.dispose()
