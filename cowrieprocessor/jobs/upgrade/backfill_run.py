"""One job of the backfill, from where it stands to its end: read, tally, write for a moment, rest.

Each write transaction holds the rows and the job's new place, so that it can be killed anywhere and goes on there.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import get_engine, read_transaction, write_transaction
from cowrieprocessor.db.ingest import event_scan as stored
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
from cowrieprocessor.jobs.runtime import process_identity as holder
from cowrieprocessor.jobs.runtime.throttle import Obstacle, Throttle
from cowrieprocessor.jobs.upgrade.backfill_aggregates import FilesSlice, SessionsSlice, Slice

SLICE_ROWS = 250
"""A transaction can end behind so many rows."""

FIRST_ROWS = 1000
"""Rows read before it is known how many a transaction writes."""

LAST_WORD_S = 0.2
"""How long a run that was stopped waits for the write lock to say so."""

ALL_TYPES = ""
"""Stands in the cursor for all types at once, read in the order of ids."""


@dataclass(frozen=True, slots=True)
class BackfillProgress:
    """How far a job of the backfill is.

    Attributes:
        job: backfill-files or backfill-sessions.
        state: running, waiting or paused.
        rows_done: events read by this run.
        rows_total: events that this run reads; more may be added behind them, which are not its business.
        rows_per_s: since the run began, pauses left out.
        eta_s: seconds to go at that rate; None while it is not known.
        reason: why it waits; None while it works.
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
        engine: the database, at our version.
        kind: what the job makes of events.
        pace: when it may write.
        batch_size: rows read at a time.
        on_progress: told after each write, and when the job begins or ends to wait.
        clock: seconds that only go up.
    """

    def __init__(
        self,
        engine: Engine,
        kind: type[FilesSlice] | type[SessionsSlice],
        pace: Throttle,
        *,
        batch_size: int,
        on_progress: Callable[[BackfillProgress], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._kind = kind
        self._pace = pace
        self._batch_size = batch_size
        self._on_progress = on_progress
        self._clock = clock
        self._holder = holder.this_process()
        self._rows_done = 0
        self._rows_total = 0
        self._idle_s = 0.0
        self._idle_since: float | None = None
        self._began = clock()
        self._record = JobRecord(kind.job, RUNNING)
        self._ours: Collection[stored.Place] = ()
        self._last_id_of_v3 = 0

    def run(self) -> JobRecord:
        """Read every event up to the newest one of now, and return the job as it ended.

        Raises:
            JobTaken: another process runs it.
            DatabaseError: see `write_transaction`; what was committed is kept, the next run goes on there.
        """
        self._begin()
        try:
            for event_type in self._streams():
                self._run_stream(event_type)
            self._end(DONE, None)
        except KeyboardInterrupt:
            self._leave_word(STOPPED, "interrupted; the same command goes on from here")
            raise
        except JobTaken:
            raise
        except DatabaseError as error:
            self._leave_word(FAILED, str(error))
            raise
        return self._record

    def _streams(self) -> tuple[str, ...]:
        """Return what is read one after the other: each type, where they are few; else all together."""
        return self._kind.event_types if self._kind is FilesSlice else (ALL_TYPES,)

    def _begin(self) -> None:
        """Take the job, fix the newest event that this run reads, and count what lies before it."""
        with write_transaction(self._engine) as connection:
            before = load_job(connection, self._kind.job, for_update=True)
            if before is not None and before.state not in (DONE, STOPPED, FAILED):
                other = before.cursor.get("holder") or {}
                if holder.is_alive(other, before.updated_at):
                    raise JobTaken(
                        f"{self._kind.job}: {holder.describe(other)} is at it; watch it with `cowrieprocessor db "
                        "status`, or stop that process and repeat the command"
                    )
            last = {} if before is None else dict(before.cursor.get("last") or {})
            self._record = JobRecord(
                self._kind.job,
                RUNNING,
                cursor={"last": last, "target": stored.last_event_id(connection), "holder": self._holder},
                counters={} if before is None else before.counters,
            )
            save_job(connection, self._record)
            # Whatever lies before the target was committed by now, and with it the log that it came from.
            self._last_id_of_v3 = stored.last_id_of_v3(connection)
            if self._target > self._last_id_of_v3:
                self._ours = stored.own_places(connection)
        for event_type in self._streams():
            with read_transaction(self._engine) as connection:
                self._rows_total += self._count(connection, event_type)
        self._report(None)

    def _count(self, connection: Connection, event_type: str) -> int:
        after, target = self._last(event_type), self._target
        if event_type == ALL_TYPES:
            return max(0, target - after)
        return stored.count_events_of_type(connection, event_type, after, target)

    @property
    def _target(self) -> int:
        return int(self._record.cursor["target"])

    def _last(self, event_type: str) -> int:
        return int(self._record.cursor["last"].get(event_type, 0))

    def _run_stream(self, event_type: str) -> None:
        """Read about as much as one transaction writes, write it, and so on: others write while we read."""
        rows = FIRST_ROWS
        while slices := self._read(event_type, min(rows, self._batch_size)):
            while slices:
                self._pace.wait(self._say)
                self._pace.rest()
                wrote = self._write(event_type, slices)
                self._report(None)
            rows = max(SLICE_ROWS, wrote + SLICE_ROWS)

    def _read(self, event_type: str, limit: int) -> deque[Slice]:
        """Return the next rows in slices, empty at the end; the payloads are gone by then."""
        now = utc_text(dt.datetime.now(dt.UTC))
        slices: deque[Slice] = deque()
        with read_transaction(self._engine) as connection:
            for row in self._rows(connection, event_type, limit):
                if not slices or slices[-1].values >= SLICE_ROWS:
                    slices.append(self._kind(now))
                slices[-1].add(row, self._ours, self._last_id_of_v3)
        return slices

    def _rows(self, connection: Connection, event_type: str, limit: int) -> Iterator[stored.StoredEvent]:
        after = self._last(event_type)
        if event_type == ALL_TYPES:
            return stored.events_in_order(connection, after, self._target, limit)
        return stored.events_of_type(connection, event_type, after, self._target, limit)

    def _write(self, event_type: str, slices: deque[Slice]) -> int:
        """Write slices, and the place behind them, until the transaction has lasted long enough; return the rows."""
        asked = self._clock()
        cursor, counters = dict(self._record.cursor), dict(self._record.counters)
        done = rows = 0
        with write_transaction(self._engine) as connection:
            began = self._clock()
            until = began + self._pace.budget_s(connection, began - asked)
            self._make_sure_it_is_ours(connection)
            statements = LoadingStatements(connection)
            try:
                while slices and (not done or self._clock() < until):
                    one = slices.popleft()
                    one.write(statements)
                    rows += one.values
                    add_counters(counters, one.counters)
                    read_to = int(cursor["last"].get(event_type, 0))
                    done += one.last_id - read_to if event_type == ALL_TYPES else one.values
                    cursor["last"] = {**cursor["last"], event_type: one.last_id}
            finally:
                statements.close()
            cursor["progress"] = self._progress_document(done)
            save_job(connection, self._with(cursor, counters))
        self._record = self._with(cursor, counters)
        self._rows_done += done
        self._pace.record_write(self._clock() - began)
        return rows

    def _with(self, cursor: dict[str, Any], counters: dict[str, Any]) -> JobRecord:
        return JobRecord(self._kind.job, RUNNING, cursor, counters, self._record.started_at)

    def _make_sure_it_is_ours(self, connection: Connection) -> JobRecord:
        """Return the job as it is stored, and refuse to go on where another process has taken it over.

        Raises:
            JobTaken: it has; nothing of this transaction is written.
        """
        now = load_job(connection, self._kind.job, for_update=True)
        other = {} if now is None else now.cursor.get("holder") or {}
        if now is None or other.get("run") != self._holder["run"]:
            raise JobTaken(
                f"{self._kind.job}: {holder.describe(other)} has taken it over, or the database was rolled back; "
                "nothing is lost"
            )
        return now

    def _progress_document(self, more: int) -> dict[str, Any]:
        now = self._progress(RUNNING, None, more)
        eta_s = None if now.eta_s is None else round(now.eta_s)
        return {
            "rows_done": now.rows_done,
            "rows_total": now.rows_total,
            "rows_per_s": round(now.rows_per_s),
            "eta_s": eta_s,
        }

    def _progress(self, state: str, reason: str | None, more: int = 0) -> BackfillProgress:
        done = self._rows_done + more
        worked_s = self._clock() - self._began - self._idle_s
        rate = done / worked_s if worked_s > 0 else 0.0
        eta_s = (self._rows_total - done) / rate if rate > 0 else None
        return BackfillProgress(self._kind.job, state, done, self._rows_total, rate, eta_s, reason)

    def _report(self, obstacle: Obstacle | None) -> None:
        if self._on_progress is not None:
            state, reason = (RUNNING, None) if obstacle is None else (obstacle.state, obstacle.reason)
            self._on_progress(self._progress(state, reason))

    def _say(self, obstacle: Obstacle | None) -> None:
        """Report an obstacle or its end, in `jobs` too."""
        now = self._clock()
        if self._idle_since is not None:
            self._idle_s += now - self._idle_since
        self._idle_since = None if obstacle is None else now
        self._report(obstacle)
        with write_transaction(self._engine) as connection:
            self._make_sure_it_is_ours(connection)
            self._record.state, self._record.reason = (
                (RUNNING, None) if obstacle is None else (obstacle.state, obstacle.reason)
            )
            save_job(connection, self._record)

    def _end(self, state: str, reason: str | None, engine: Engine | None = None) -> None:
        """Write how the run ended. The place is left as it is stored: an interrupt may come just behind a commit."""
        with write_transaction(engine or self._engine) as connection:
            self._record = self._make_sure_it_is_ours(connection)
            self._record.state, self._record.reason = state, reason
            self._record.finished_at = dt.datetime.now(dt.UTC) if state == DONE else None
            save_job(connection, self._record)

    def _leave_word(self, state: str, reason: str) -> None:
        """Say in `jobs` why the run stopped, if the database listens at once; without a word the next run sees it."""
        engine = get_engine(self._engine.url.render_as_string(hide_password=False), lock_timeout_s=LAST_WORD_S)
        try:
            self._end(state, reason, engine)
        except DatabaseError:
            return  # what stopped us says more
        finally:
            engine.dispose()
