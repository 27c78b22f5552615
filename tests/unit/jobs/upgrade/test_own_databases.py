"""The backfill of databases that version 3 never wrote to reads what their migration asked for, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.jobs.runtime.progress import JobProgress
from cowrieprocessor.jobs.upgrade.backfill import BackfillResult, backfill, plan
from cowrieprocessor.jobs.validation.validate import validate
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.reporting.queries.backfill import ALL_JOBS
from tests.earlier_revisions import go_back
from tests.logs import events

EVENTS, FILE_EVENTS = 200, 40


@pytest.fixture
def loaded(engine: Engine, tmp_path: Path) -> Engine:
    """A database with a log that version 4 loaded."""
    log = tmp_path / "cowrie.json"
    log.write_text("".join(f"{line}\n" for line in events(EVENTS)))
    BulkLoader(engine).load([log])
    return engine


def events_read(result: BackfillResult) -> list[int]:
    """Return the number of events that each job read."""
    jobs = (result.files, result.mentions, result.sessions, result.sensors)
    return [job.counters.get("events_read", 0) for job in jobs]


def recorded(engine: Engine) -> list[str]:
    """Return the jobs of the backfill that have a row."""
    with read_transaction(engine) as connection:
        return list(connection.scalars(text("SELECT name FROM jobs WHERE name LIKE 'backfill-%' ORDER BY name")))


def test_nothing_is_read_where_loaders_stored_everything(loaded: Engine) -> None:
    """No event is planned, read or reported; no job is recorded; the database is valid."""
    progress: list[JobProgress] = []

    assert plan(loaded).rows == dict.fromkeys(ALL_JOBS, 0)
    result = backfill(loaded, on_progress=progress.append)
    assert (events_read(result), progress, recorded(loaded)) == ([0, 0, 0, 0], [], [])
    assert {job.state for job in (result.files, result.mentions, result.sessions, result.sensors)} == {"done"}
    assert validate(loaded).valid


@pytest.mark.parametrize(
    ("revision", "counts"),
    [("0011", (0, FILE_EVENTS, 0, 0)), ("0007", (0, FILE_EVENTS, 0, EVENTS))],
)
def test_an_upgrade_reads_for_its_new_tables_only(loaded: Engine, revision: str, counts: tuple[int, ...]) -> None:
    """After an upgrade each event is read once for each table that the earlier revision had not."""
    go_back(loaded, revision)
    apply_migrations(loaded)
    planned = plan(loaded).rows
    result = backfill(loaded)

    assert planned == dict(zip(ALL_JOBS, counts, strict=True))
    assert events_read(result) == list(counts)
    assert set(recorded(loaded)) == {job for job, count in zip(ALL_JOBS, counts, strict=True) if count}
    assert validate(loaded).valid
    assert plan(loaded).rows == dict.fromkeys(ALL_JOBS, 0)
