"""Lists and reports walk indexes: the plans of SQLite, with no statistics to help it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, select

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import Files
from cowrieprocessor.reporting.periods import PeriodKind, period_of
from cowrieprocessor.reporting.queries.file_details import file_details, find_hash
from cowrieprocessor.reporting.queries.file_history import file_history
from cowrieprocessor.reporting.queries.file_sessions import list_file_sessions
from cowrieprocessor.reporting.queries.files import FileFilter, list_files
from cowrieprocessor.reporting.queries.sessions import SessionFilter, list_sessions, session_details
from cowrieprocessor.reporting.reports import make_report, newest_period
from tests.unit.reporting.scene import DAY, add_file, add_hash, add_session, sha

TIME = "2026-11-21T00:00:00Z,x"
QUERIES: dict[str, Callable[[Connection], Any]] = {
    "files by last seen": lambda c: list_files(c, limit=1),
    "files by last seen, next page": lambda c: list_files(c, after=TIME),
    "files by first seen": lambda c: list_files(c, order="first-seen", limit=1),
    "files by sessions": lambda c: list_files(c, order="sessions", limit=1),
    "files by sessions, next page": lambda c: list_files(c, order="sessions", after="5,x"),
    "malicious files": lambda c: list_files(c, FileFilter(verdict="malicious")),
    "beginning of a hash": lambda c: find_hash(c, sha(1)[:6]),
    "a file": lambda c: file_details(c, sha(1)),
    "a file of many sessions": lambda c: file_details(c, sha(2)),
    "history of a file": lambda c: file_history(c, sha(1)),
    "sessions of a file": lambda c: list_file_sessions(c, sha(1), limit=1),
    "sessions of a file of many sessions": lambda c: list_file_sessions(c, sha(2), after=TIME),
    "sessions": lambda c: list_sessions(c, limit=1),
    "sessions, next page": lambda c: list_sessions(c, after=TIME),
    "sessions of an address": lambda c: list_sessions(c, SessionFilter(src_ip="203.0.113.5")),
    "a session": lambda c: session_details(c, "a"),
    "a daily report": lambda c: make_report(c, period_of(PeriodKind.DAILY, DAY)),
    "a report on a sensor": lambda c: make_report(c, period_of(PeriodKind.MONTHLY, DAY), sensor="lab"),
    "the newest period": lambda c: newest_period(c, PeriodKind.DAILY, DAY),
    "the newest period of a sensor": lambda c: newest_period(c, PeriodKind.DAILY, DAY, "lab"),
}
TABLES = (
    "file_hashes",
    "files",
    "file_mentions",
    "session_summaries",
    "session_attributes",
    "command_stats",
    "raw_events",
    "file_verdicts",
    "new_verdict",
    "old_verdict",
    "verdict_before",
    "enrichment_queue",
)


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[Engine]:
    """An SQLite database with a file of one session, and a file whose row claims very many sessions."""
    engine = get_engine(str(tmp_path / "plans.sqlite"))
    apply_migrations(engine)
    with write_transaction(engine) as connection:
        add_session(connection, "a", DAY, commands={"id": 1})
        for number, sessions in ((1, 1), (2, 1_000_000)):
            add_hash(connection, sha(number), DAY, session_count=sessions)
            add_file(connection, "a", sha(number), DAY)
    yield engine
    dispose(engine)


def _scans(engine: Engine, query: Callable[[Connection], Any]) -> list[str]:
    """Return the plan steps of a query that read a whole table."""
    steps: list[str] = []

    def explain(connection: Connection, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        raw: Any = connection.connection.driver_connection
        steps.extend(row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))

    with read_transaction(engine) as connection:
        event.listen(engine, "before_cursor_execute", explain)
        try:
            query(connection)
        finally:
            event.remove(engine, "before_cursor_execute", explain)
    assert steps
    return [step for step in steps if step.startswith(tuple(f"SCAN {table}" for table in TABLES))]


@pytest.mark.parametrize("name", QUERIES)
def test_no_query_reads_a_whole_table(sqlite_engine: Engine, name: str) -> None:
    """Every list, page and report finds its rows through an index, whatever the size of the page."""
    scans = _scans(sqlite_engine, QUERIES[name])
    walks = [step for step in scans if name.endswith("many sessions") and "USING INDEX ix_files_first_seen" in step]
    assert walks == scans, scans


def test_the_check_finds_a_scan(sqlite_engine: Engine) -> None:
    """Negative control: a column without an index makes a query read the whole table, and the check reports it."""
    assert _scans(sqlite_engine, lambda c: c.execute(select(Files.id).where(Files.filename == "x")))
