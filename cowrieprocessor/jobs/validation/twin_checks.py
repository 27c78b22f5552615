"""Comparison of the marks of events that version 3 stored twice with the events themselves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from cowrieprocessor.db.dialects.scan import Row, TableScan
from cowrieprocessor.db.validation.twin_marks import TwinMarks
from cowrieprocessor.jobs.validation.report import EXTRA, MISSING, ORPHAN, Difference, Differences

TABLE = "twin_events"

Log = tuple[str, str, int]
"""Source, inode and generation."""


def check_marks(scan: TableScan, differences: Differences) -> int:
    """Report each mark of an event that is no twin, or that does not exist; return the number of marks.

    A wrong mark hides an event from every counter, list and report.
    """
    marks = TwinMarks(scan)
    compared = after = 0
    while True:
        with scan.snapshot() as connection:
            page = marks.after(connection, after)
            sessions = {row[2] for row in page if row[2] is not None}
            twins = {session_id: twins_among(marks.events_of(connection, session_id)) for session_id in sessions}
        if not page:
            return compared
        for marked, event_id, session_id in page:
            if event_id is None:
                differences.add(Difference(ORPHAN, TABLE, found=_named(marked)))
            elif marked not in twins.get(session_id, ()):
                differences.add(Difference(EXTRA, TABLE, session_id, found=_named(marked)))
        compared += len(page)
        after = page[-1][0]


def check_unmarked(scan: TableScan, differences: Differences) -> None:
    """Report each twin without a mark: it counts a second time. To be called after a recount of all sessions."""
    marks = TwinMarks(scan)
    after: str | None = None
    while True:
        with scan.snapshot() as connection:
            page = marks.sessions_after(connection, after)
            if not page:
                return
            after = page[-1]
            for session_id in marks.sessions_with_repetitions(connection, page[0], after):
                events = marks.events_of(connection, session_id)
                twins = twins_among(events)
                for row in events:
                    if row[0] in twins and not row[6]:
                        differences.add(Difference(MISSING, TABLE, session_id, found=_named(row[0])))


def twins_among(events: Iterable[Row]) -> set[int]:
    """Return the ids of those events of one session that count for nothing, because others are the same events.

    Version 3 knew a log by its name, so a log that got another name is stored again. Each event occurred as often as in
    the log that has most of it: its rows there count, one for each line; all others are twins. Of logs with equally
    many the one counts that has most of the session, then the one that was stored first.

    Args:
        events: rows as `TwinMarks.events_of` returns them.
    """
    by_line: dict[tuple[str, Log, int], list[int]] = defaultdict(list)
    for event_id, content, source, inode, generation, line, _ in events:
        by_line[content, (source, inode, generation), -event_id if line is None else line].append(event_id)
    rows: dict[str, dict[Log, list[int]]] = defaultdict(lambda: defaultdict(list))
    ids_of_log: dict[Log, list[int]] = defaultdict(list)
    twins: set[int] = set()
    for (content, log, _), ids in by_line.items():
        first = min(ids)
        twins.update(id_ for id_ in ids if id_ != first)
        rows[content][log].append(first)
        ids_of_log[log].append(first)
    for logs in rows.values():
        chosen = min(logs, key=lambda log: (-len(logs[log]), -len(ids_of_log[log]), min(ids_of_log[log])))
        twins.update(id_ for log, ids in logs.items() if log != chosen for id_ in ids)
    return twins


def _named(event_id: int) -> str:
    return f"event {event_id}"
