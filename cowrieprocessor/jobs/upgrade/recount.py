"""The recount: recomputes what is derived of sessions from the stored events.

v3 added a log's counters again whenever the log was reloaded, counted failed downloads and uploads as downloads, never
moved a session's start earlier, and stored times with an offset unconverted. raw_events is the authority: each row
counts once, as v4's loaders count it, but for twins: events that v3 stored again under another name of their log. They
are marked, and count nowhere. Addresses, commands and logins that an earlier revision derived by other rules are
replaced: of each session all rows at once, by the loaders' own function, from the events that loaders or backfill have
taken in.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.dialects.scan import TableScan
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.jobs import DONE, RECOUNT_JOB, RUNNING, STOPPED, JobRecord, load_job, save_job
from cowrieprocessor.db.migrations import require_current
from cowrieprocessor.db.upgrade.recount_rows import IS_OURS, store_counters, store_derived
from cowrieprocessor.errors import NotFound
from cowrieprocessor.events import utc_text
from cowrieprocessor.jobs.runtime.throttle import Throttle
from cowrieprocessor.jobs.upgrade.recount_pages import PAGE_SESSIONS, Count, Page, PageReader, derived_rows

JOB = RECOUNT_JOB
SAVE_EVERY_S = 5.0

_NO_COUNTERS = {"sessions": 0, "changed": 0, "without_events": 0, "twins": 0}


@dataclass(frozen=True, slots=True)
class RecountProgress:
    """Progress of a recount.

    Attributes:
        sessions: sessions checked so far.
        total: sessions at the start.
        changed: sessions that were wrong.
        sessions_per_s: rate of this run.
        eta_s: seconds left at that rate; None while unknown.
    """

    sessions: int
    total: int
    changed: int
    sessions_per_s: float
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class RecountResult:
    """Result of a recount.

    Attributes:
        sessions: sessions checked.
        changed: sessions that differed from their events; a dry run leaves them so.
        without_events: sessions without a stored event, which stay as they are.
        twins: events that version 3 stored again under another name of their log; they count once.
        resumed: whether the run resumed an earlier one; the numbers then cover both.
    """

    sessions: int
    changed: int
    without_events: int
    twins: int
    resumed: bool = False


def recount(
    engine: Engine,
    *,
    session_id: str | None = None,
    dry_run: bool = False,
    on_progress: Callable[[RecountProgress], None] | None = None,
    page_sessions: int = PAGE_SESSIONS,
    save_every_s: float = SAVE_EVERY_S,
) -> RecountResult:
    """Correct what is derived of sessions by their events, in short transactions alongside loaders.

    If killed, the next run resumes where this one stopped.

    Args:
        engine: a database at the current schema version.
        session_id: recount only this session.
        dry_run: count only; nothing is written.
        on_progress: called after each page of sessions.
        page_sessions: sessions per page.
        save_every_s: how often the cursor is saved while no session needs a correction.

    Raises:
        NotFound: there is no such session.
        MigrationNeeded, SchemaVersionError: the database has to be migrated first.
        DatabaseError: see `write_transaction`; committed work is kept.
    """
    require_current(engine)
    with dialect_of(engine).scan(engine) as scan:
        pages = PageReader(scan, page_sessions=page_sessions)
        keeps_record = not dry_run and session_id is None
        run = _Recount(
            engine, scan, pages, on_progress, dry_run=dry_run, keeps_record=keeps_record, save_every_s=save_every_s
        )
        if session_id is None:
            return run.all_sessions()
        page = pages.of_session(session_id)
        if page is None:
            raise NotFound(f"session {session_id!r}: not in the database; `sessions list` shows those that are")
        run.take(page)
        return run.result()


class _Recount:
    """One run of the recount."""

    def __init__(
        self,
        engine: Engine,
        scan: TableScan,
        pages: PageReader,
        on_progress: Callable[[RecountProgress], None] | None,
        *,
        dry_run: bool,
        keeps_record: bool,
        save_every_s: float,
    ) -> None:
        self._pages = pages
        self._engine = engine
        self._scan = scan
        self._on_progress = on_progress
        self._dry_run = dry_run
        self._keeps_record = keeps_record
        self._save_every_s = save_every_s
        self._throttle = Throttle(engine)
        self._began_at = self._saved_at = time.monotonic()
        self._done_before = self._total = 0
        self._resumed = False
        self._record = JobRecord(JOB, RUNNING, counters=dict(_NO_COUNTERS))

    def all_sessions(self) -> RecountResult:
        """Recount every session, resuming an earlier run that did not complete."""
        with self._scan.snapshot() as connection:
            self._total = self._pages.rows.count_sessions(connection)
            before = load_job(connection, JOB) if self._keeps_record else None
        if before is not None and before.state != DONE:
            self._resumed = "last" in before.cursor
            counters = _NO_COUNTERS | before.counters
            self._record = JobRecord(JOB, RUNNING, before.cursor, counters, before.started_at)
            self._done_before = int(before.counters.get("sessions", 0))
        self._save()
        try:
            while page := self._pages.page(self._record.cursor.get("last")):
                self.take(page)
                self._report()
        except KeyboardInterrupt:
            self._end(STOPPED, "interrupted; the same command goes on from here")
            raise
        self._end(DONE, None)
        return self.result()

    def take(self, page: Page) -> None:
        """Correct the wrong sessions of a page and advance the cursor past it."""
        wrong = page.wrong()
        if self._dry_run:
            self._record.counters["changed"] += len(wrong)
            self._advance(page, 0, len(page.sessions))
            return
        done = 0
        while wrong:
            self._throttle.wait(lambda obstacle: None)
            done = self._write(page, wrong, done)
        self._advance(page, done, len(page.sessions))
        if time.monotonic() - self._saved_at > self._save_every_s:
            self._save()

    def result(self) -> RecountResult:
        """Return the result so far, including the runs that this one resumed."""
        return RecountResult(**self._record.counters, resumed=self._resumed)

    def _write(self, page: Page, wrong: list[int], done: int) -> int:
        """Correct sessions and save the cursor after them until the transaction's time is up; return the next index."""
        self._throttle.rest()
        requested_at = time.monotonic()
        now = utc_text(dt.datetime.now(dt.UTC))
        with write_transaction(self._engine) as connection:
            began_at = time.monotonic()
            until = began_at + self._throttle.budget_s(connection, began_at - requested_at)
            backfilled = self._pages.rows.backfilled(connection, to_write=True)
            changed = 0
            index = done
            while wrong and (index == done or time.monotonic() < until):
                wrong_index = wrong.pop(0)
                changed += self._correct(connection, page, page.sessions[wrong_index].session_id, backfilled, now)
                index = wrong_index + 1
            self._record.counters["changed"] += changed
            self._advance(page, done, index)
            if self._keeps_record:
                save_job(connection, self._record)
        self._saved_at = time.monotonic()
        self._throttle.record_write(self._saved_at - began_at)
        return index

    def _correct(self, connection: Connection, page: Page, session_id: str, backfilled: int, now: str) -> bool:
        """Correct one session by the events that this transaction sees: a loader may have added some to the page's."""
        rows = self._pages.rows
        stored = rows.session(connection, session_id, to_write=True)
        if stored is None:
            return False
        count, twins, is_of_page = self._count_now(connection, page, session_id, backfilled)
        is_marked_anew = rows.twins is not None and rows.twins.mark(connection, session_id, twins)
        corrected = count.correction(stored)
        if corrected is not None:
            store_counters(connection, corrected, now)
        expected = derived_rows(count, rows)
        of_session = page.derived if is_of_page else rows.derived(connection, session_id, session_id)
        if not count.events or expected == ((of_session or {}).get(session_id) or rows.rows([], [], [])):
            return corrected is not None or is_marked_anew
        store_derived(connection, session_id, expected)
        return True

    def _count_now(
        self, connection: Connection, page: Page, session_id: str, backfilled: int
    ) -> tuple[Count, set[int], bool]:
        """Return what the events of a session say now, its twins, and whether that is what the page says."""
        rows = self._pages.rows
        only_newer = self._scan.ids_rise_with_commits and backfilled == page.backfilled
        newer = rows.events_now(connection, session_id, page.bound if only_newer else 0)
        if only_newer and not all(row[IS_OURS] for row in newer):  # it may be a twin of one before
            only_newer, newer = False, rows.events_now(connection, session_id, 0)
        if only_newer:
            count, twins = page.counts[session_id], page.twins.get(session_id, set())
        else:
            count = Count()
            twins = set() if rows.twins is None else rows.twins.of_session(connection, session_id)
        self._pages.add({session_id: count}, newer, backfilled, connection, {session_id: twins})
        return count, twins, only_newer and not newer

    def _advance(self, page: Page, done: int, until: int) -> None:
        """Advance the cursor past the first `until` sessions of a page, of which `done` are counted already."""
        if until > done:
            counters = self._record.counters
            counters["sessions"] += until - done
            counters["without_events"] += page.without_events(until) - page.without_events(done)
            counters["twins"] += sum(len(page.twins_of(session)) for session in page.sessions[done:until])
            self._record.cursor = {**self._record.cursor, "last": page.sessions[until - 1].session_id}

    def _save(self) -> None:
        if self._keeps_record:
            with write_transaction(self._engine) as connection:
                save_job(connection, self._record)
        self._saved_at = time.monotonic()

    def _end(self, state: str, reason: str | None) -> None:
        if state == STOPPED and self._keeps_record:  # the cursor in memory may be ahead of the committed one
            with read_transaction(self._engine) as connection:
                self._record = load_job(connection, JOB) or self._record
        self._record.state, self._record.reason = state, reason
        self._record.finished_at = dt.datetime.now(dt.UTC) if state == DONE else None
        self._save()

    def _report(self) -> None:
        if self._on_progress is None:
            return
        counters = self._record.counters
        elapsed_s = time.monotonic() - self._began_at
        rate = (counters["sessions"] - self._done_before) / elapsed_s if elapsed_s > 0 else 0.0
        eta_s = max(0, self._total - counters["sessions"]) / rate if rate > 0 else None
        self._on_progress(RecountProgress(counters["sessions"], self._total, counters["changed"], rate, eta_s))
