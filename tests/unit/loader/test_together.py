"""Several programs that load one log at the same time: each event is stored once, and all of them end well."""

from __future__ import annotations

import subprocess
from pathlib import Path

from sqlalchemy import Engine

from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.models import RawEvent, SessionSummary
from tests.command_line import start
from tests.logs import count, events, write

LINES = 6_000
BATCH = 3
"""So small that the programs overtake each other far more often than a file is tried again."""


def ends_of(*processes: subprocess.Popen[str]) -> list[tuple[int, str]]:
    """Return the exit code of each process, and what it said."""
    return [(process.returncode, said) for process in processes for said in [process.communicate(timeout=240)[1]]]


def test_two_loads_of_one_log_both_end_well(engine: Engine, db_url: str, tmp_path: Path) -> None:
    """Two loads of one log at once store each event once, and both end with 0."""
    log = write(tmp_path / "cowrie.json", events(LINES))

    ends = ends_of(*(start("load", log, "--db", db_url, "--batch-size", BATCH) for _ in range(2)))

    assert [code for code, _ in ends] == [0, 0], ends
    assert count(engine, RawEvent) == LINES
    with write_transaction(engine) as connection:
        total = connection.exec_driver_sql("SELECT sum(event_count) FROM session_summaries").scalar_one()
    assert total == LINES
    assert count(engine, SessionSummary) == LINES // 10


def test_a_load_alongside_a_follower_ends_well(engine: Engine, db_url: str, tmp_path: Path) -> None:
    """A load of a log that `follow --once` stores at the same moment ends with 0, and so does the other."""
    log = write(tmp_path / "cowrie.json", events(LINES))

    ends = ends_of(
        start("follow", "--once", log, "--db", db_url), start("load", log, "--db", db_url, "--batch-size", BATCH)
    )

    assert [code for code, _ in ends] == [0, 0], ends
    assert count(engine, RawEvent) == LINES
