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
from pathlib import Path
from threading import Event
from typing import Any

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.dialects.scan import TableScan
from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.jobs import RECOUNT_JOB
from cowrieprocessor.db.migrations import require_current
from cowrieprocessor.db.upgrade.recount_rows import IS_OURS, store_counters, store_derived
from cowrieprocessor.errors import NotFound
from cowrieprocessor.events import utc_text
from cowrieprocessor.jobs.runtime.job import Job, run_job
from cowrieprocessor.jobs.runtime.progress import JobProgress, Reporter
from cowrieprocessor.jobs.runtime.throttle import DEFAULT_LIMITS, Throttle, ThrottleLimits
from cowrieprocessor.jobs.upgrade.recount_pages import PAGE_SESSIONS, Count, Page, PageReader, derived_rows

JOB = RECOUNT_JOB
SAVE_EVERY_S = 5.0

_NO_COUNTERS = {"sessions": 0, "changed": 0, "without_events": 0, "twins": 0}


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
    stop: Event | None = None,
    on_progress: Callable[[JobProgress], None] | None = None,
    share_of_rest: float = 0.0,
    pause_file: Path | None = None,
    limits: ThrottleLimits = DEFAULT_LIMITS,
    page_sessions: int = PAGE_SESSIONS,
    save_every_s: float = SAVE_EVERY_S,
) -> RecountResult:
    """Correct what is derived of sessions by their events, in short transactions alongside loaders.

    If killed, the next run resumes where this one stopped.

    Args:
        engine: a database at the current schema version.
        session_id: recount only this session.
        dry_run: count only; nothing is written.
        stop: once set, the recount ends after its transaction.
        on_progress: called after each page of sessions.
        share_of_rest: the share of time to rest, 0 to 0.99.
        pause_file: while this file exists, the recount is paused.
        limits: limits of its writes.
        page_sessions: sessions per page.
        save_every_s: how often the cursor is saved while no session needs a correction.

    Raises:
        NotFound: there is no such session.
        JobTaken: another process recounts.
        JobStopped: it was asked to stop; the next run goes on from there.
        MigrationNeeded, SchemaVersionError: the database has to be migrated first.
        DatabaseError: see `write_transaction`; committed work is kept.
    """
    require_current(engine)
    with dialect_of(engine).scan(engine) as scan:
        pages = PageReader(scan, page_sessions=page_sessions)
        if dry_run or session_id is not None:
            run = _Recount(engine, scan, pages, None, on_progress, dry_run=dry_run, save_every_s=save_every_s)
            return run.all_sessions() if session_id is None else run.one_session(session_id)
        with run_job(
            engine,
            JOB,
            stop=stop,
            on_progress=on_progress,
            share_of_rest=share_of_rest,
            pause_file=pause_file,
            limits=limits,
        ) as job:
            run = _Recount(engine, scan, pages, job, on_progress, dry_run=False, save_every_s=save_every_s)
            return run.all_sessions()


class _Recount:
    """One run of the recount."""

    def __init__(
        self,
        engine: Engine,
        scan: TableScan,
        pages: PageReader,
        job: Job | None,
        on_progress: Callable[[JobProgress], None] | None,
        *,
        dry_run: bool,
        save_every_s: float,
    ) -> None:
        self._pages = pages
        self._engine = engine
        self._scan = scan
        self._job = job
        self._reporter: Job | Reporter = job or Reporter(JOB, on_progress)
        self._dry_run = dry_run
        self._save_every_s = save_every_s
        self._throttle = Throttle(engine) if job is None else job.throttle
        self._resumed = job is not None and job.resumed and "last" in job.cursor
        self._cursor: dict[str, Any] = {} if job is None else job.cursor
        self._counters = _NO_COUNTERS | ({} if job is None else job.counters)
        self._done_before = self._counters["sessions"]
        self._total = 0
        self._saved_at = time.monotonic()

    def all_sessions(self) -> RecountResult:
        """Recount every session, resuming an earlier run that did not complete."""
        with self._scan.snapshot() as connection:
            self._total = self._pages.rows.count_sessions(connection)
        self._save()
        while page := self._pages.page(self._cursor.get("last")):
            self._wait()
            self.take(page)
            self._report()
        self._save()
        return self.result()

    def one_session(self, session_id: str) -> RecountResult:
        """Recount one session.

        Raises:
            NotFound: there is no such session.
        """
        page = self._pages.of_session(session_id)
        if page is None:
            raise NotFound(f"session {session_id!r}: not in the database; `sessions list` shows those that are")
        self.take(page)
        return self.result()

    def take(self, page: Page) -> None:
        """Correct the wrong sessions of a page and advance the cursor past it."""
        wrong = page.wrong()
        if self._dry_run:
            self._counters["changed"] += len(wrong)
            self._advance(page, 0, len(page.sessions))
            return
        done = 0
        while wrong:
            self._wait()
            done = self._write(page, wrong, done)
        self._advance(page, done, len(page.sessions))
        if time.monotonic() - self._saved_at > self._save_every_s:
            self._save()

    def result(self) -> RecountResult:
        """Return the result so far, including the runs that this one resumed."""
        return RecountResult(**self._counters, resumed=self._resumed)

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
            self._counters["changed"] += changed
            self._advance(page, done, index)
            self._checkpoint(connection)
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
            counters = self._counters
            counters["sessions"] += until - done
            counters["without_events"] += page.without_events(until) - page.without_events(done)
            counters["twins"] += sum(len(page.twins_of(session)) for session in page.sessions[done:until])
            self._cursor = {**self._cursor, "last": page.sessions[until - 1].session_id}

    def _wait(self) -> None:
        if self._job is None:
            self._throttle.wait(lambda _obstacle: None)
        else:
            self._job.wait()

    def _checkpoint(self, connection: Connection) -> None:
        if self._job is not None:
            self._job.checkpoint(connection, cursor=self._cursor, counters=self._counters)

    def _save(self) -> None:
        if self._job is not None:
            self._job.wait()
            with write_transaction(self._engine) as connection:
                self._checkpoint(connection)
        self._saved_at = time.monotonic()

    def _report(self) -> None:
        done, total = self._counters["sessions"] - self._done_before, self._total - self._done_before
        self._reporter.progress(done, total, "sessions")
