"""Counters of sessions compared with their events: information, because `db recount` repairs them on request."""

from __future__ import annotations

from collections.abc import Callable

from cowrieprocessor.db.table_scan import TableScan
from cowrieprocessor.db.upgrade.recount_rows import RecountRows, SessionCounters
from cowrieprocessor.jobs.upgrade.recount import Count, PageReader
from cowrieprocessor.jobs.validation.report import CounterCheck

SAMPLED_SESSIONS = 1_000
MAX_EVENTS = 20_000
"""A session that says it has more is no part of the sample: reading it would take too long."""

_PLACES = 0x1000
_AT_ONCE = 50


def check_sample(reading: TableScan) -> CounterCheck:
    """Compare about a thousand sessions, spread over all."""
    pages = PageReader(reading)
    sampled = _sample(reading, pages.rows)
    wrong = without_events = compared = 0
    for start in range(0, len(sampled), _AT_ONCE):
        for session_id in sampled[start : start + _AT_ONCE]:
            with reading.snapshot() as connection:
                stored = pages.rows.session(connection, session_id)
                if stored is None or stored.event_count > MAX_EVENTS:
                    continue
                count = Count()
                pages.add({session_id: count}, pages.rows.events_now(connection, session_id, 0), connection)
            compared += 1
            wrong += count.correction(stored) is not None
            without_events += not count.events
    return CounterCheck(compared, wrong, without_events, is_sample=len(sampled) >= SAMPLED_SESSIONS)


def check_all(reading: TableScan, on_rows: Callable[[int, float], None]) -> CounterCheck:
    """Compare every session."""
    pages = PageReader(reading)
    with reading.snapshot() as connection:
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


def _sample(reading: TableScan, rows: RecountRows) -> list[str]:
    """Return all sessions where there are few, else those behind evenly spaced hexadecimal ids, and the first ones."""
    with reading.snapshot() as connection:
        first: list[SessionCounters] = rows.after(connection, None, SAMPLED_SESSIONS)
        if len(first) < SAMPLED_SESSIONS:
            return [one.session_id for one in first]
        places = (f"{number * _PLACES // SAMPLED_SESSIONS:03x}" for number in range(SAMPLED_SESSIONS))
        spread = {one.session_id for place in places for one in rows.after(connection, place, 1)}
    more = [one.session_id for one in first if one.session_id not in spread]
    return sorted([*spread, *more[: SAMPLED_SESSIONS - len(spread)]])
