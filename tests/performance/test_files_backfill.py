"""The backfill's plans, memory and number of statements on databases of two sizes. Nothing here looks at the clock."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from benchmarks.make_v3_db import make_v3_db
from cowrieprocessor.db.engine import dispose, get_engine
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.jobs.upgrade.backfill import KINDS, backfill, plan
from tests.command_line import peak_memory_bytes
from tests.other_connections import sqlite3

LIMIT_BYTES = 200 * 1000 * 1000
BATCH_SIZE = 1_000
SMALL, LARGE = 3_000, 12_000
"""Events of the two databases; the large one has four times as many."""

RESULT_TABLES = (
    "files",
    "file_hashes",
    "session_attributes",
    "command_stats",
    "session_logins",
    "session_sensors",
    "file_mentions",
)
LARGE_TABLES = ("raw_events", "session_summaries", *RESULT_TABLES)


@dataclass(frozen=True)
class Run:
    """What one backfill sent to the database.

    Attributes:
        path: the database.
        statements: every statement with its values, in order.
        planned_events: how many events `plan` said that all jobs read.
    """

    path: Path
    statements: list[str] = field(default_factory=list)
    planned_events: int = 0

    def reads(self) -> list[str]:
        """Return the statements that read payloads of events."""
        return [statement for statement in self.statements if "FROM raw_events" in statement and "payload" in statement]

    def writes(self) -> int:
        """Return how many rows were written to the tables that the backfill fills."""
        writing = re.compile(rf"\s*(?:INSERT INTO|UPDATE) (?:{'|'.join(RESULT_TABLES)})\b")
        return sum(1 for statement in self.statements if writing.match(statement))

    def result_rows(self) -> int:
        """Return how many rows the tables have that the backfill fills."""
        with closing(sqlite3.connect(self.path)) as connection:
            return sum(connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in RESULT_TABLES)

    def scans(self) -> list[str]:
        """Return the statements whose plans read a whole large table, with the step that does."""
        found = []
        with closing(sqlite3.connect(self.path)) as connection:
            for statement in self.statements:
                if not statement.lstrip().upper().startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")):
                    continue
                for step in connection.execute(f"EXPLAIN QUERY PLAN {statement}"):
                    if step[3].startswith(tuple(f"SCAN {table}" for table in LARGE_TABLES)):
                        found.append(f"{step[3]}: {statement[:200]}")
        return found


@contextmanager
def watched(path: Path) -> Iterator[tuple[Any, Run]]:
    """Yield an engine on a file, and the statements that go through it."""
    run = Run(path, planned_events=planned_events(path))
    engine = get_engine(path)
    event.listen(engine, "connect", lambda raw, _: raw.set_trace_callback(run.statements.append))
    try:
        yield engine, run
    finally:
        dispose(engine)


def planned_events(path: Path) -> int:
    """Return how many events all jobs of the backfill would read."""
    engine = get_engine(path)
    try:
        return sum(plan(engine).rows.values())
    finally:
        dispose(engine)


def migrated(folder: Path, events: int) -> Path:
    """Return a v3 database with that many events, migrated and not yet backfilled."""
    path = folder / f"{events}.sqlite"
    make_v3_db(path, events=events, seed=5)
    engine = get_engine(path)
    apply_migrations(engine)
    dispose(engine)
    return path


def backfilled(path: Path, batch_size: int = BATCH_SIZE) -> Run:
    """Backfill a database and return what was sent."""
    with watched(path) as (engine, run):
        backfill(engine, batch_size=batch_size)
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """A backfill of the small database and one of the large."""
    folder = tmp_path_factory.mktemp("backfill")
    small, large = (backfilled(migrated(folder, events)) for events in (SMALL, LARGE))
    return small, large


def test_no_statement_reads_a_whole_table(runs: tuple[Run, Run]) -> None:
    """Events are found by their type through the index, or by their ids in order: nothing scans a large table."""
    assert runs[1].scans() == []


def test_the_check_finds_a_scan(runs: tuple[Run, Run]) -> None:
    """Negative control: a statement that does read a whole table is found."""
    run = Run(runs[0].path, ["SELECT count(*) FROM raw_events WHERE payload_hash = 'x'"])
    assert run.scans()


def test_statements_follow_what_is_there(runs: tuple[Run, Run]) -> None:
    """Events are read by the batch, and each row of a result is written about once, whatever the size."""
    streams = sum(len(kind.event_types) if kind.by_type else 1 for kind in KINDS)
    for run, events in zip(runs, (SMALL, LARGE), strict=True):
        assert 2 * events <= run.planned_events <= 2.2 * events
        assert len(run.reads()) <= run.planned_events / BATCH_SIZE + 2 * streams  # a stream ends with a smaller read
        assert run.writes() <= 1.5 * run.result_rows()


def test_larger_batches_take_fewer_reads(tmp_path: Path, runs: tuple[Run, Run]) -> None:
    """What reads events is sent once a batch: ten times the batch, fewer statements."""
    large = backfilled(migrated(tmp_path, LARGE), batch_size=10 * BATCH_SIZE)
    assert len(large.reads()) < len(runs[1].reads())


def test_a_second_run_reads_nothing_again(runs: tuple[Run, Run]) -> None:
    """A backfill that has ended reads no event again: its statements do not depend on the size of the database."""
    again = [backfilled(run.path) for run in runs]
    assert abs(len(again[0].statements) - len(again[1].statements)) <= 5
    assert len(again[1].statements) < 40 * len(KINDS)


def test_memory_is_bounded(tmp_path: Path) -> None:
    """The backfill of a database with long payloads stays below 200 MB, batch size 10,000 as in the runbooks."""
    path = migrated(tmp_path, LARGE)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "UPDATE raw_events SET payload = json_set(payload, '$.filler', hex(zeroblob(30000)))"
            " WHERE event_type IN ('cowrie.session.file_download', 'cowrie.session.file_upload')"
        )

    code, peak_bytes = peak_memory_bytes("db", "backfill", "--db", path, "--batch-size", 10_000)

    assert code == 0
    assert peak_bytes < LIMIT_BYTES
