"""Runs one job of the backfill to completion: read, aggregate, write in a short transaction, rest.

Each transaction commits the rows together with the job's cursor, so a killed run resumes where it stopped.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.ingest import event_scan
from cowrieprocessor.db.ingest.event_locks import lock_events
from cowrieprocessor.db.ingest.removals import count_removals
from cowrieprocessor.db.ingest.statements import LoadingStatements
from cowrieprocessor.db.jobs import add_counters
from cowrieprocessor.events import utc_text
from cowrieprocessor.jobs.runtime.job import Job
from cowrieprocessor.jobs.upgrade.backfill_aggregates import Slice

SLICE_ROWS = 250
"""Events by which a write transaction grows."""

FIRST_ROWS = 1000
"""Rows of the first read, before it is known how many a transaction writes."""

_ANY_DAY = (("", ""),)
"""Locked by every write, so that no event is removed meanwhile."""

_CLOCK_TICK_S = 1e-6

ALL_TYPES = ""
"""Cursor key of a job that reads all types together, in id order."""


class BackfillRun:
    """Runs one job.

    Args:
        engine: the database, at the current schema version.
        kind: the job's aggregates.
        job: the running job.
        batch_size: rows read at a time.
        slice_rows: events by which a write transaction grows.
        clock: monotonic clock in seconds.
    """

    def __init__(
        self,
        engine: Engine,
        kind: type[Slice],
        job: Job,
        *,
        batch_size: int,
        slice_rows: int = SLICE_ROWS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._kind = kind
        self._job = job
        self._throttle = job.throttle
        self._batch_size = batch_size
        self._slice_rows = slice_rows
        self._clock = clock
        self._rows_done = 0
        self._rows_total = 0
        self._own_logs: Collection[event_scan.SourceKey] = ()
        self._last_v3_id = 0
        self._twins = (0, 0, 0)
        """The range of ids that was read last, and how many events in it were marked as twins then."""
        self._rows_per_s = 0.0
        """How many rows of aggregates the last transaction wrote a second; 0 before the first."""
        self._removals = 0
        """How many transactions had removed events then."""

    def run(self) -> None:
        """Process every event up to the newest one at the start.

        Raises:
            JobTaken: another process runs the job now.
            JobStopped: it was asked to stop.
            DatabaseError: see `write_transaction`; committed work is kept, and the next run resumes there.
        """
        self._set_target()
        self._job.wait()
        for event_type in self._streams_with_rows():
            self._run_stream(event_type)

    def _streams(self) -> tuple[str, ...]:
        """Return the streams to read in sequence: each event type if events are sparse, else all types together."""
        return self._kind.event_types if self._kind.by_type else (ALL_TYPES,)

    def _set_target(self) -> None:
        """Set the newest event as target of this run."""
        with write_transaction(self._engine) as connection:
            target = event_scan.last_event_id(connection)
            self._job.checkpoint(connection, cursor={"last": self._job.cursor.get("last") or {}, "target": target})
            # Events up to the target are committed by now, and so are the logs that they came from.
            self._last_v3_id = event_scan.last_v3_event_id(connection)
            if target > self._last_v3_id:
                self._own_logs = event_scan.own_source_keys(connection)

    def _streams_with_rows(self) -> list[str]:
        """Count the events up to the target, and return the streams that have any."""
        found = []
        for event_type in self._streams():
            with read_transaction(self._engine) as connection:
                rows = self._count(connection, event_type)
            self._rows_total += rows
            if rows:
                found.append(event_type)
        self._report()
        return found

    def _count(self, connection: Connection, event_type: str) -> int:
        after, target = self._last(event_type), self._target
        if event_type == ALL_TYPES:
            return max(0, target - after)
        return event_scan.count_events_of_type(connection, event_type, after, target)

    @property
    def _target(self) -> int:
        return int(self._job.cursor["target"])

    def _last(self, event_type: str) -> int:
        return int(self._job.cursor["last"].get(event_type, 0))

    def _run_stream(self, event_type: str) -> None:
        """Process a stream: read about as many rows as one transaction writes, so that others can write meanwhile."""
        rows = FIRST_ROWS
        while slices := self._read(event_type, min(rows, self._batch_size)):
            while slices:
                self._job.wait()
                self._throttle.rest()
                wrote = self._write(event_type, slices)
                self._report()
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
        cursor, counters = self._job.cursor, self._job.counters
        with write_transaction(self._engine) as connection:
            lock_events(connection, _ANY_DAY)
            began_at = self._clock()
            budget_s = self._throttle.budget_s(connection, began_at - requested_at)
            self._job.lock(connection)
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
            self._job.checkpoint(connection, cursor=cursor, counters=counters)
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

    def _report(self) -> None:
        self._job.progress(self._rows_done, self._rows_total, "events")
