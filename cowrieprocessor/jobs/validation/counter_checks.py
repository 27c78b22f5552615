"""Comparison of session counters with the events: informative, because `db recount` repairs counters on request."""

from __future__ import annotations

from collections.abc import Callable

from cowrieprocessor.db.dialects.scan import TableScan
from cowrieprocessor.db.upgrade.recount_rows import RecountRows, SessionCounters
from cowrieprocessor.jobs.upgrade.recount_pages import PageReader
from cowrieprocessor.jobs.validation.report import CounterCheck

SAMPLED_SESSIONS = 1_000
MAX_EVENTS = 20_000
"""A session whose counter is higher is left out of the sample: reading its events would take too long."""

_ID_PREFIXES = 0x1000
"""Number of three-digit hexadecimal prefixes of session ids."""


def check_sample(scan: TableScan) -> CounterCheck:
    """Compare about a thousand sessions, evenly distributed over all."""
    pages = PageReader(scan, only_counters=True)
    sampled = _sample(scan, pages.rows)
    wrong = without_events = compared = 0
    for session_id in sampled:
        with scan.snapshot() as connection:
            stored = pages.rows.session(connection, session_id)
        page = None if stored is None or stored.event_count > MAX_EVENTS else pages.of_session(session_id)
        if page is None:
            continue
        compared += 1
        wrong += len(page.wrong())
        without_events += page.without_events(1)
    return CounterCheck(compared, wrong, without_events, is_sample=len(sampled) >= SAMPLED_SESSIONS)


def check_all(scan: TableScan, on_rows: Callable[[int, float], None]) -> CounterCheck:
    """Compare every session.

    Args:
        scan: the database.
        on_rows: called with the number of sessions compared, and the share of all, 0 to 1.
    """
    pages = PageReader(scan, only_counters=True)
    with scan.snapshot() as connection:
        total = max(1, pages.rows.count_sessions(connection))
    sessions = wrong = without_events = 0
    after: str | None = None
    while page := pages.page(after):
        after = page.sessions[-1].session_id
        sessions += len(page.sessions)
        wrong += len(page.wrong())
        without_events += page.without_events(len(page.sessions))
        on_rows(sessions, min(1.0, sessions / total))
    return CounterCheck(sessions, wrong, without_events, is_sample=False)


def _sample(scan: TableScan, rows: RecountRows) -> list[str]:
    """Return all sessions if there are few, else those after evenly spaced id prefixes, filled up with the first."""
    with scan.snapshot() as connection:
        first: list[SessionCounters] = rows.after(connection, None, SAMPLED_SESSIONS)
        if len(first) < SAMPLED_SESSIONS:
            return [session.session_id for session in first]
        prefixes = (f"{number * _ID_PREFIXES // SAMPLED_SESSIONS:03x}" for number in range(SAMPLED_SESSIONS))
        spaced = {session.session_id for prefix in prefixes for session in rows.after(connection, prefix, 1)}
    others = [session.session_id for session in first if session.session_id not in spaced]
    return sorted([*spaced, *others[: SAMPLED_SESSIONS - len(spaced)]])
