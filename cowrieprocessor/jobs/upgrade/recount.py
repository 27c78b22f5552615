"""The recount: counters and times of sessions, made anew from the events that are stored.

v3 added a log's counters again whenever the log was loaded again, counted failed downloads and uploads as downloads,
never moved a session's beginning earlier, and stored times with an offset as they came. What is stored in raw_events
is the truth: each row counts once, as our own loaders count it.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson
from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.jobs import DONE, RUNNING, STOPPED, JobRecord, load_job, save_job
from cowrieprocessor.db.migrations import require_current
from cowrieprocessor.db.table_scan import Row, TableScan, table_scan_of
from cowrieprocessor.db.upgrade.recount_rows import RecountRows, SessionCounters, store_counters
from cowrieprocessor.db.validation.events import largest_event_id
from cowrieprocessor.errors import NotFound
from cowrieprocessor.events import (
    COMMAND_INPUT,
    FILE_DOWNLOAD,
    LOGIN_FAILED,
    LOGIN_SUCCESS,
    moment_or_none,
    utc_text,
)
from cowrieprocessor.jobs.runtime.throttle import Throttle

JOB = "recount"
PAGE_SESSIONS = 500
SAVE_EVERY_S = 5.0


@dataclass(slots=True)
class Count:
    """What the events of one session say."""

    events: int = 0
    commands: int = 0
    downloads: int = 0
    logins: int = 0
    first: str | None = None
    last: str | None = None

    def add(self, event_type: str | None, moment: str | None) -> None:
        """Count one event."""
        self.events += 1
        self.commands += event_type == COMMAND_INPUT
        self.downloads += event_type == FILE_DOWNLOAD
        self.logins += event_type in (LOGIN_SUCCESS, LOGIN_FAILED)
        if moment is not None:
            self.first = min(moment, self.first or moment)
            self.last = max(moment, self.last or moment)

    def correction(self, stored: SessionCounters) -> SessionCounters | None:
        """Return what the session should say, or None where it does, or where no event of it is stored."""
        if not self.events:
            return None
        right = SessionCounters(
            stored.session_id,
            self.events,
            self.commands,
            self.downloads,
            self.logins,
            self.first or stored.first_event_at,
            self.last or stored.last_event_at,
        )
        return None if right == stored else right


@dataclass(frozen=True, slots=True)
class RecountProgress:
    """How far a recount is: sessions looked at, how many there were, how many were wrong, and the rate."""

    sessions: int
    total: int
    changed: int
    sessions_per_s: float
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class RecountResult:
    """What a recount did.

    Attributes:
        sessions: how many were looked at.
        changed: how many said something else than their events; with a dry run they still do.
        without_events: sessions of which no event is stored; they stay as they are.
        resumed: whether it went on where an earlier run had stopped; the numbers are those of both.
    """

    sessions: int
    changed: int
    without_events: int
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Some sessions, in the order of their ids, and what their events up to `bound` say."""

    sessions: list[SessionCounters]
    counts: dict[str, Count]
    bound: int

    def wrong(self) -> list[int]:
        """Return the numbers of the sessions that say something else than their events."""
        return [
            number
            for number, stored in enumerate(self.sessions)
            if self.counts[stored.session_id].correction(stored) is not None
        ]

    def without_events(self, until: int) -> int:
        """Return how many of the first sessions have no event."""
        return sum(not self.counts[one.session_id].events for one in self.sessions[:until])


class PageReader:
    """Reads sessions and counts their events, in short transactions."""

    def __init__(self, reading: TableScan) -> None:
        self._reading = reading
        self.rows = RecountRows(reading)

    def page(self, after: str | None) -> Page | None:
        """Return the next sessions; None behind the last one."""
        with self._reading.snapshot() as connection:
            sessions = self.rows.after(connection, after, PAGE_SESSIONS)
            bound = largest_event_id(self._reading, connection)
        return self._counted(sessions, bound) if sessions else None

    def of_session(self, session_id: str) -> Page | None:
        """Return one session; None where it is not there."""
        with self._reading.snapshot() as connection:
            stored = self.rows.one(connection, session_id)
            bound = largest_event_id(self._reading, connection)
        return self._counted([stored], bound) if stored else None

    def _counted(self, sessions: list[SessionCounters], bound: int) -> Page:
        counts = {one.session_id: Count() for one in sessions}
        first, last = sessions[0].session_id, sessions[-1].session_id
        for rows in self._reading.walk(self.rows.events(first, last, bound)):
            self.add(counts, rows, None)
        return Page(sessions, counts, bound)

    def add(self, counts: dict[str, Count], rows: Sequence[Row], connection: Connection | None) -> None:
        """Count rows of events."""
        for session_id, event_id, event_type, timestamp in rows:
            count = counts.get(session_id)
            if count is not None:
                count.add(event_type, self._moment(event_id, timestamp, connection))

    def _moment(self, event_id: int, timestamp: str | None, connection: Connection | None) -> str | None:
        """Return the moment of an event; a number with decimals is read from the payload, the column rounds it."""
        if timestamp is None or ":" in timestamp or "." not in timestamp:
            return moment_or_none(timestamp)
        if connection is None:
            with self._reading.snapshot() as own:
                payload = self.rows.payload(own, event_id)
        else:
            payload = self.rows.payload(connection, event_id)
        return moment_or_none(orjson.loads(payload).get("timestamp"))


def recount(
    engine: Engine,
    *,
    session_id: str | None = None,
    dry_run: bool = False,
    on_progress: Callable[[RecountProgress], None] | None = None,
) -> RecountResult:
    """Make counters and times of sessions what their events say; beside loaders, in short transactions.

    Killed anywhere, the next run goes on where this one stopped.

    Args:
        engine: a database at our version.
        session_id: only this session.
        dry_run: count only; nothing is written.
        on_progress: told after each page of sessions.

    Raises:
        NotFound: there is no such session.
        MigrationNeeded, SchemaVersionError: the database has to be migrated first.
        DatabaseError: see `write_transaction`; what was committed is kept.
    """
    require_current(engine)
    with table_scan_of(engine) as reading:
        run = _Recount(engine, reading, on_progress, dry_run=dry_run, alone=session_id is not None)
        if session_id is None:
            return run.all_sessions()
        page = run.pages.of_session(session_id)
        if page is None:
            raise NotFound(f"session {session_id!r}: not in the database; `sessions list` shows those that are")
        run.take(page)
        return run.result()


class _Recount:
    """One run."""

    def __init__(
        self,
        engine: Engine,
        reading: TableScan,
        on_progress: Callable[[RecountProgress], None] | None,
        *,
        dry_run: bool,
        alone: bool,
    ) -> None:
        self.pages = PageReader(reading)
        self._engine = engine
        self._reading = reading
        self._on_progress = on_progress
        self._dry_run = dry_run
        self._keeps_record = not (dry_run or alone)
        self._pace = Throttle(engine)
        self._began = self._saved_at = time.monotonic()
        self._done_before = self._total = 0
        self._resumed = False
        self._record = JobRecord(JOB, RUNNING, counters={"sessions": 0, "changed": 0, "without_events": 0})

    def all_sessions(self) -> RecountResult:
        """Take every session, from where an earlier run stopped."""
        with self._reading.snapshot() as connection:
            self._total = self.pages.rows.count_sessions(connection)
            before = load_job(connection, JOB) if self._keeps_record else None
        if before is not None and before.state != DONE:
            self._resumed = True
            self._record = JobRecord(JOB, RUNNING, before.cursor, before.counters, before.started_at)
            self._done_before = int(before.counters.get("sessions", 0))
        self._save()
        try:
            while page := self.pages.page(self._record.cursor.get("last")):
                self.take(page)
                self._report()
        except KeyboardInterrupt:
            self._end(STOPPED, "interrupted; the same command goes on from here")
            raise
        self._end(DONE, None)
        return self.result()

    def take(self, page: Page) -> None:
        """Correct the sessions of a page."""
        wrong = page.wrong()
        if self._dry_run:
            self._record.counters["changed"] += len(wrong)
            self._advance(page, 0, len(page.sessions))
            return
        done = 0
        while wrong:
            self._pace.wait(lambda obstacle: None)
            done = self._write(page, wrong, done)
        self._advance(page, done, len(page.sessions))
        if time.monotonic() - self._saved_at > SAVE_EVERY_S:
            self._save()

    def result(self) -> RecountResult:
        """Return what was done so far, by earlier runs too."""
        return RecountResult(**self._record.counters, resumed=self._resumed)

    def _write(self, page: Page, wrong: list[int], done: int) -> int:
        """Correct sessions, and note the place behind them, until the transaction has lasted long enough."""
        self._pace.rest()
        asked = time.monotonic()
        now = utc_text(dt.datetime.now(dt.UTC))
        with write_transaction(self._engine) as connection:
            began = time.monotonic()
            until = began + self._pace.budget_s(connection, began - asked)
            changed = 0
            number = done
            while wrong and (number == done or time.monotonic() < until):
                number = wrong.pop(0)
                changed += self._correct(connection, page, page.sessions[number].session_id, now)
                number += 1
            self._record.counters["changed"] += changed
            self._advance(page, done, number)
            if self._keeps_record:
                save_job(connection, self._record)
        self._saved_at = time.monotonic()
        self._pace.record_write(self._saved_at - began)
        return number

    def _correct(self, connection: Connection, page: Page, session_id: str, now: str) -> bool:
        """Correct one session by what the transaction sees: a loader may have added events since the page was read."""
        stored = self.pages.rows.one(connection, session_id, to_write=True)
        if stored is None:
            return False
        rises = self._reading.ids_rise_with_commits
        counts = {session_id: page.counts[session_id] if rises else Count()}
        rows = self.pages.rows.events_now(connection, session_id, page.bound if rises else 0)
        self.pages.add(counts, rows, connection)
        right = counts[session_id].correction(stored)
        if right is not None:
            store_counters(connection, right, now)
        return right is not None

    def _advance(self, page: Page, done: int, until: int) -> None:
        """Move the place to behind the session number `until` - 1 of a page; those before `done` are counted."""
        if until > done:
            counters = self._record.counters
            counters["sessions"] += until - done
            counters["without_events"] += page.without_events(until) - page.without_events(done)
            self._record.cursor = {"last": page.sessions[until - 1].session_id}

    def _save(self) -> None:
        if self._keeps_record:
            with write_transaction(self._engine) as connection:
                save_job(connection, self._record)
        self._saved_at = time.monotonic()

    def _end(self, state: str, reason: str | None) -> None:
        if state == STOPPED and self._keeps_record:  # the place in memory may be ahead of what was committed
            with read_transaction(self._engine) as connection:
                self._record = load_job(connection, JOB) or self._record
        self._record.state, self._record.reason = state, reason
        self._record.finished_at = dt.datetime.now(dt.UTC) if state == DONE else None
        self._save()

    def _report(self) -> None:
        if self._on_progress is None:
            return
        counters = self._record.counters
        elapsed_s = time.monotonic() - self._began
        rate = (counters["sessions"] - self._done_before) / elapsed_s if elapsed_s > 0 else 0.0
        eta_s = max(0, self._total - counters["sessions"]) / rate if rate > 0 else None
        self._on_progress(RecountProgress(counters["sessions"], self._total, counters["changed"], rate, eta_s))
