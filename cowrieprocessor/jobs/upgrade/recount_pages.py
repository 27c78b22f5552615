"""Pages of sessions with what their events say, for the recount and the validation of counters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from cowrieprocessor.db.dialects.scan import Row, TableScan
from cowrieprocessor.db.upgrade.recount_rows import RecountRows, SessionCounters, SessionRows
from cowrieprocessor.db.validation.events import largest_event_id
from cowrieprocessor.events import COMMAND_INPUT, FILE_DOWNLOAD, LOGIN_FAILED, LOGIN_SUCCESS, Event, moment_or_none
from cowrieprocessor.json_text import stored_fields
from cowrieprocessor.loader.rows.session_aggregates import SessionAggregates
from cowrieprocessor.loader.rows.stored_payload import read_stored

PAGE_SESSIONS = 500


@dataclass(slots=True)
class Count:
    """Counters and times computed from the events of one session, and what else is derived from them."""

    events: int = 0
    commands: int = 0
    downloads: int = 0
    logins: int = 0
    first: str | None = None
    last: str | None = None
    derived: SessionAggregates = field(default_factory=SessionAggregates)

    def add(self, event_type: str | None, moment: str | None) -> None:
        """Count one event; `moment` is its time in UTC as text, None if unreadable."""
        self.events += 1
        self.commands += event_type == COMMAND_INPUT
        self.downloads += event_type == FILE_DOWNLOAD
        self.logins += event_type in (LOGIN_SUCCESS, LOGIN_FAILED)
        if moment is not None:
            self.first = min(moment, self.first or moment)
            self.last = max(moment, self.last or moment)

    def correction(self, stored: SessionCounters) -> SessionCounters | None:
        """Return the corrected row of the session; None if it is correct, or if no event of it is stored."""
        if not self.events:
            return None
        corrected = SessionCounters(
            stored.session_id,
            self.events,
            self.commands,
            self.downloads,
            self.logins,
            self.first or stored.first_event_at,
            self.last or stored.last_event_at,
        )
        return None if corrected == stored else corrected


@dataclass(frozen=True, slots=True)
class Page:
    """Sessions ordered by id, with the counts of their events up to the event id `bound`.

    Attributes:
        sessions: their stored counters and times.
        counts: what their events say.
        derived: their other stored rows, by session; None if these are not compared.
        bound: the newest event read.
        backfilled: up to which id the backfill had taken in the events of version 3.
        twins: ids of the events that version 3 stored twice and that do not count, by session.
        marked: ids of those that are marked as such already.
    """

    sessions: list[SessionCounters]
    counts: dict[str, Count]
    derived: dict[str, SessionRows] | None
    bound: int
    backfilled: int
    rows: RecountRows
    twins: dict[str, set[int]]
    marked: dict[str, set[int]]

    def wrong(self) -> list[int]:
        """Return the indexes of the sessions that differ from their events."""
        return [number for number, stored in enumerate(self.sessions) if self._is_wrong(stored)]

    def _is_wrong(self, stored: SessionCounters) -> bool:
        count = self.counts[stored.session_id]
        if count.correction(stored) is not None or self.twins_of(stored) != self.marked.get(stored.session_id, set()):
            return True
        if self.derived is None or not count.events:
            return False
        known = self.derived.get(stored.session_id) or self.rows.rows([], [], [])
        return derived_rows(count, self.rows) != known

    def twins_of(self, session: SessionCounters) -> set[int]:
        """Return the ids of the twins of a session."""
        return self.twins.get(session.session_id, set())

    def without_events(self, until: int) -> int:
        """Return how many of the first `until` sessions have no event."""
        return sum(not self.counts[session.session_id].events for session in self.sessions[:until])


def derived_rows(count: Count, rows: RecountRows) -> SessionRows:
    """Return the rows that the events of one session give."""
    derived = count.derived
    return rows.rows(derived.attribute_rows(), derived.command_rows(), derived.login_rows())


class PageReader:
    """Reads sessions and counts their events, in short transactions.

    Args:
        scan: the database to read.
        page_sessions: sessions per page.
        only_counters: leave out what is derived besides counters and times, for which payloads are read.
    """

    def __init__(self, scan: TableScan, *, page_sessions: int = PAGE_SESSIONS, only_counters: bool = False) -> None:
        self._scan = scan
        self._page_sessions = page_sessions
        self._only_counters = only_counters
        self.rows = RecountRows(scan, with_payloads=not only_counters)

    def page(self, after: str | None) -> Page | None:
        """Return the sessions after a session id, None after the last one."""
        with self._scan.snapshot() as connection:
            sessions = self.rows.after(connection, after, self._page_sessions)
            bound, backfilled = largest_event_id(self._scan, connection), self.rows.backfilled(connection)
        return self._counted(sessions, bound, backfilled) if sessions else None

    def of_session(self, session_id: str) -> Page | None:
        """Return the page of one session, None if there is no such session."""
        with self._scan.snapshot() as connection:
            stored = self.rows.session(connection, session_id)
            bound, backfilled = largest_event_id(self._scan, connection), self.rows.backfilled(connection)
        return self._counted([stored], bound, backfilled) if stored else None

    def _counted(self, sessions: list[SessionCounters], bound: int, backfilled: int) -> Page:
        counts = {session.session_id: Count() for session in sessions}
        first, last = sessions[0].session_id, sessions[-1].session_id
        twins: dict[str, set[int]] = {}
        marked: dict[str, set[int]] = {}
        if self.rows.twins is not None:
            with self._scan.snapshot() as connection:
                twins = self.rows.twins.of_sessions(connection, first, last)
                marked = self.rows.twins.marked(connection, first, last)
        for rows in self._scan.walk(self.rows.events(first, last, bound)):
            self.add(counts, rows, backfilled, None, twins)
        derived = None
        if not self._only_counters:
            with self._scan.snapshot() as connection:
                derived = self.rows.derived(connection, first, last)
        return Page(sessions, counts, derived, bound, backfilled, self.rows, twins, marked)

    def add(
        self,
        counts: dict[str, Count],
        rows: Sequence[Row],
        backfilled: int,
        connection: Connection | None,
        twins: Mapping[str, Collection[int]],
    ) -> None:
        """Add rows of events to the counts of their sessions; other sessions and twins are ignored.

        Nothing but counters and times is derived from an event of version 3 that the backfill has not taken in yet.
        """
        for session_id, event_id, event_type, timestamp, payload, is_ours in rows:
            count = counts.get(session_id)
            if count is None or event_id in twins.get(session_id, ()):
                continue
            count.add(event_type, self._moment(event_id, timestamp, connection))
            if payload is not None and (is_ours or event_id <= backfilled):
                event = read_stored(payload)
                if isinstance(event, Event):
                    count.derived.add(event)

    def _moment(self, event_id: int, timestamp: str | None, connection: Connection | None) -> str | None:
        """Return the time of an event, for a decimal number from the payload, because the column rounds it."""
        if timestamp is None or ":" in timestamp or "." not in timestamp:
            return moment_or_none(timestamp)
        if connection is None:
            with self._scan.snapshot() as own:
                payload = self.rows.payload(own, event_id)
        else:
            payload = self.rows.payload(connection, event_id)
        return moment_or_none(stored_fields(payload).get("timestamp"))
