"""The recount: counters and times are those of the events, whatever v3 stored."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, text

from benchmarks.make_v3_db import make_v3_db
from cowrieprocessor.cli.db_commands.recount import recount as command
from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.upgrade.recount_rows import RecountRows
from cowrieprocessor.errors import NotFound
from cowrieprocessor.jobs.runtime.progress import JobProgress
from cowrieprocessor.jobs.upgrade import recount as job
from cowrieprocessor.jobs.upgrade.recount import RecountResult, recount
from cowrieprocessor.jobs.validation.validate import validate
from cowrieprocessor.loader.bulk import BulkLoader
from tests import v3_schema
from tests.unit.jobs.upgraded import change, opened, rows
from tests.v3_schema import SESSIONS

DAY = "2025-01-02"
RIGHT = [
    ("s1", f"{DAY} 03:04:00.000000", f"{DAY} 03:05:00.000000", 8, 1, 3, 1),
    ("s2", f"{DAY} 03:04:08.000000", f"{DAY} 03:30:00.000000", 3, 0, 2, 0),
]
"""Counters of the events of `v3_schema.habits`; four of them, and the closing without an inode, are stored twice."""


@pytest.fixture
def migrated(v3_file: Path) -> Path:
    """A v3 file migrated to version 4, with v3's counters."""
    with opened(v3_file) as engine:
        apply_migrations(engine)
    return v3_file


def call(*arguments: object) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_counters_and_times_are_those_of_the_events(migrated: Path) -> None:
    """Every stored event counts once, failed downloads and uploads do not count as downloads, and times are in UTC."""
    with opened(migrated) as engine:
        result = recount(engine)
    assert (result.sessions, result.changed, result.without_events) == (2, 2, 0)
    assert rows(migrated, SESSIONS) == RIGHT


@pytest.mark.parametrize(
    ("flags", "answer", "code", "is_changed"),
    [([], "n\n", 1, False), ([], "\n", 1, False), ([], "y\n", 0, True), (["--yes"], "", 0, True)],
)
def test_it_asks_on_a_terminal(migrated: Path, flags: list[str], answer: str, code: int, is_changed: bool) -> None:
    """On a terminal the command asks, with no as the default; --yes does not ask."""
    master, slave = pty.openpty()
    try:
        os.write(master, answer.encode())
        program = [sys.executable, "-m", "cowrieprocessor", "db", "recount", "--db", str(migrated), *flags]
        done = subprocess.run(program, stdin=slave, capture_output=True, text=True, check=False)
    finally:
        os.close(master)
        os.close(slave)
    assert (done.returncode, rows(migrated, SESSIONS) == RIGHT) == (code, is_changed)


def test_a_second_recount_changes_nothing(migrated: Path) -> None:
    """A second recount changes no row."""
    with opened(migrated) as engine:
        recount(engine)
        before = rows(migrated, "SELECT * FROM session_summaries")
        again = recount(engine)
    assert (again.changed, again.resumed) == (0, False)
    assert rows(migrated, "SELECT * FROM session_summaries") == before


def test_a_dry_run_changes_no_byte(migrated: Path) -> None:
    """A dry run reports how many sessions would change, and does not change the file."""
    before = migrated.read_bytes()
    done = call("--dry-run", "--db", migrated)
    assert (done.exit_code, done.stdout) == (
        0,
        "2 sessions compared with their events, 2 would change\n"
        "5 stored events are there twice, because version 3 met their log under two names; they would count once\n",
    )
    assert migrated.read_bytes() == before


def test_one_session_alone(migrated: Path) -> None:
    """With --session only that session changes, and no job is recorded."""
    done = call("--db", migrated, "--session", "s2", "--json")
    result = json.loads(done.stdout)["result"]
    assert result == {"sessions": 1, "changed": 1, "without_events": 0, "twins": 0, "resumed": False}
    assert [row[0] for row in rows(migrated, SESSIONS) if row in RIGHT] == ["s2"]
    assert rows(migrated, "SELECT name FROM jobs WHERE name = 'recount'") == []


def test_an_unknown_session_is_an_error(migrated: Path) -> None:
    """A session that is not in the database is an error."""
    assert isinstance(call("--db", migrated, "--session", "nobody").exception, NotFound)


def test_sessions_without_events_stay(migrated: Path) -> None:
    """A session without a stored event keeps its counters, and is reported."""
    change(migrated, "INSERT INTO session_summaries (session_id, event_count) VALUES ('pruned', 9)")
    done = call("--db", migrated)
    assert "1 session has no event stored and stays as it is" in done.stdout
    assert rows(migrated, "SELECT event_count FROM session_summaries WHERE session_id = 'pruned'") == [(9,)]


def test_nothing_else_of_a_session_changes(migrated: Path) -> None:
    """Flags, enrichment, sensor and source files are not changed."""
    rest = "SELECT session_id, vt_flagged, risk_score, matcher, source_files, enrichment, created_at"
    before = rows(migrated, f"{rest} FROM session_summaries ORDER BY session_id")
    with opened(migrated) as engine:
        recount(engine)
    assert rows(migrated, f"{rest} FROM session_summaries ORDER BY session_id") == before


def test_times_that_are_numbers(tmp_path: Path) -> None:
    """A decimal timestamp is read from the payload, to the microsecond."""
    stamps: tuple[object, ...] = (1735787045.123456, 1735787046, "2025-01-02T03:04:04+00:00", None)
    payloads = [v3_schema.event("cowrie.log.open", "s1", None) | {"timestamp": stamp} for stamp in stamps]
    path = v3_schema.create(tmp_path / "v3.sqlite", payloads=payloads)
    change(path, "INSERT INTO session_summaries (session_id) VALUES ('s1')")
    with opened(path) as engine:
        apply_migrations(engine)
        recount(engine)
        still_wrong = recount(engine, dry_run=True).changed
    found = rows(path, "SELECT first_event_at, last_event_at, event_count FROM session_summaries")
    assert (found, still_wrong) == ([("2025-01-02 03:04:04.000000", "2025-01-02 03:04:06.000000", 4)], 0)


def test_counters_of_our_loader_are_right(engine: Engine, corpus: Path) -> None:
    """A recount agrees with v4's loader on either database, and repairs wrong counters."""
    BulkLoader(engine).load([corpus / "cowrie-3.1.4", corpus / "cowrie-2.9"])
    query = text(SESSIONS)
    with read_transaction(engine) as connection:
        before = connection.execute(query).all()
    first = recount(engine)
    spoil = "UPDATE session_summaries SET event_count = event_count * 2, first_event_at = last_event_at"
    with write_transaction(engine) as connection:
        connection.execute(text(spoil))
    second = recount(engine)
    with read_transaction(engine) as connection:
        after = connection.execute(query).all()
    assert (first.changed, second.changed, after == before) == (0, len(before), True)


def test_a_loader_that_adds_meanwhile_loses_nothing(migrated: Path, tmp_path: Path, monkeypatch: object) -> None:
    """Events that a loader adds between counting and writing are counted, once."""
    log = tmp_path / "cowrie.json"
    added = v3_schema.event("cowrie.login.failed", "s1", f"{DAY}T04:00:00.000000Z", username="a", password="b")
    log.write_text(json.dumps(added) + "\n", encoding="utf-8")

    def load(_: object) -> None:
        with opened(migrated) as other:
            BulkLoader(other).load([log])

    assert isinstance(monkeypatch, pytest.MonkeyPatch)
    wait = job.Throttle.wait
    monkeypatch.setattr(job.Throttle, "wait", lambda throttle, notify: (load(throttle), wait(throttle, notify))[1])
    with opened(migrated) as engine:
        recount(engine)
    expected = ("s1", f"{DAY} 03:04:00.000000", f"{DAY} 04:00:00.000000", 9, 1, 3, 2)
    assert rows(migrated, SESSIONS) == [expected, RIGHT[1]]


class Killed(Exception):
    """Simulates the end of the process."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated v3 file at version 4, with many sessions whose counters are wrong."""
    path = tmp_path_factory.mktemp("made") / "v3.sqlite"
    make_v3_db(path, events=3000, seed=3)
    with opened(path) as engine:
        apply_migrations(engine)
    return path


def recount_in_small_pages(engine: Engine, on_progress: Callable[[JobProgress], None] | None = None) -> RecountResult:
    """Recount in pages of seven sessions, with the cursor saved after each."""
    return recount(engine, on_progress=on_progress, page_sessions=7, save_every_s=0.0)


def copy_of(path: Path, to: Path) -> Path:
    """Return a copy of a closed file."""
    to.write_bytes(path.read_bytes())
    return to


@pytest.mark.parametrize("stopped_at", [1, 4, 9])
def test_stopped_and_resumed_equals_undisturbed(made: Path, tmp_path: Path, stopped_at: int) -> None:
    """A recount that was stopped at any point resumes there, with the numbers and rows of an undisturbed one."""
    undisturbed, stopped = (copy_of(made, tmp_path / name) for name in ("undisturbed", "stopped"))
    pages: list[int] = []

    def stop(now: JobProgress) -> None:
        pages.append(now.done)
        if len(pages) == stopped_at:
            raise Killed

    with opened(undisturbed) as engine:
        whole = recount_in_small_pages(engine)
    with opened(stopped) as engine:
        with pytest.raises(Killed):
            recount_in_small_pages(engine, stop)
        resumed = recount_in_small_pages(engine)
    assert (resumed.resumed, resumed.changed, resumed.sessions) == (True, whole.changed, whole.sessions)
    assert whole.changed > 0
    assert rows(stopped, SESSIONS) == rows(undisturbed, SESSIONS)
    state = "SELECT state, counters FROM jobs WHERE name = 'recount'"
    assert rows(stopped, state) == rows(undisturbed, state)


def test_an_interrupt_is_recorded(made: Path, tmp_path: Path) -> None:
    """Ctrl-C leaves the job stopped, with its cursor."""
    path = copy_of(made, tmp_path / "v3.sqlite")

    def interrupt(now: JobProgress) -> None:
        raise KeyboardInterrupt

    with opened(path) as engine, pytest.raises(KeyboardInterrupt):
        recount_in_small_pages(engine, interrupt)
    ((state, cursor),) = rows(path, "SELECT state, cursor FROM jobs WHERE name = 'recount'")
    assert (state, bool(json.loads(cursor)["last"])) == ("stopped", True)


def test_a_recount_satisfies_the_validation(made: Path, tmp_path: Path) -> None:
    """After a recount, validation finds no wrong counter in any session."""
    path = copy_of(made, tmp_path / "v3.sqlite")
    with opened(path) as engine:
        before = validate(engine, files_only=True, all_counters=True).counters
        changed = recount(engine).changed
        after = validate(engine, files_only=True, all_counters=True).counters
    assert (before.wrong, after.wrong, after.sessions) == (changed, 0, before.sessions)
    assert changed > 0


def test_events_are_read_by_the_session_index(migrated: Path) -> None:
    """The events of a page are read by the session index in its order, without sorting."""
    with opened(migrated, read_only=True) as engine, dialect_of(engine).scan(engine) as scan:
        query = RecountRows(scan).events("a", "b", 100)
        order = ", ".join(query.keys)
        sql = f"EXPLAIN QUERY PLAN {query.select} WHERE {query.where} AND ({order}) > (?, ?) ORDER BY {order} LIMIT 10"
        with read_transaction(engine) as connection:
            plan = [row[3] for row in scan.rows(connection, sql, (*query.values, "a", 5))]
    assert "USING INDEX ix_raw_events_session_id (session_id>" in plan[0]
    assert not [step for step in plan if "TEMP B-TREE" in step or "SCAN" in step.replace("SCALAR", "")]
