"""`cowrieprocessor db backfill` and its script, as an operator calls them."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cowrieprocessor.cli.db import db
from cowrieprocessor.cli.shared.job_progress import JobProgressLine, duration_text, progress_text
from cowrieprocessor.db.engine import dispose, get_engine, read_transaction
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.errors import MigrationNeeded
from cowrieprocessor.jobs.runtime.progress import JobProgress
from cowrieprocessor.reporting.queries.backfill import ALL_JOBS
from tests import v3_schema
from tests.documents import PROJECT
from tests.logs import events
from tests.other_connections import OtherProcess

SCRIPT = PROJECT / "scripts" / "backfill_files_table.py"


def call(*args: str | Path) -> Result:
    """Run `cowrieprocessor db` in this process."""
    return CliRunner().invoke(db, [str(argument) for argument in args])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A migrated v3 file with some events."""
    made = tmp_path / "v3.sqlite"
    v3_schema.create(made, payloads=[json.loads(line) for line in events(200)])
    engine = get_engine(made)
    apply_migrations(engine)
    dispose(engine)
    return made


def files_in(path: Path) -> int:
    """Return how many rows `files` has."""
    engine = get_engine(path, read_only=True)
    with read_transaction(engine) as connection:
        count = connection.exec_driver_sql("SELECT count(*) FROM files").scalar_one()
    dispose(engine)
    return int(count)


def test_it_fills_the_tables_and_says_what_is_next(path: Path) -> None:
    """Without a terminal it does not ask; it prints the plan, the progress and the next command."""
    result = call("backfill", "--db", path)

    assert result.exit_code == 0, result.output
    assert "files: 40 file events read, 37 files added; 0 name no file" in result.stdout
    assert result.stdout.endswith(
        f"next: cowrieprocessor db validate --db {path}\nthen: cowrieprocessor db recount --db {path}\n"
    )
    assert "backfill-files: 40/40 events 100.0%" in result.stderr
    assert files_in(path) == 37


def test_again_it_says_that_nothing_is_left(path: Path) -> None:
    """A second run finds every event processed."""
    call("backfill", "--db", path)
    result = call("backfill", "--db", path, "--json")

    assert result.exit_code == 0
    assert "every event is processed already" in result.stderr
    document = json.loads(result.stdout)
    assert (document["backfill-files"]["state"], document["backfill-sessions"]["target"]) == ("done", 200)


FIELDS = {"job", "state", "done", "total", "unit", "per_s", "eta_s", "step", "reason", "total_is_estimate"}


def test_progress_for_programs(path: Path) -> None:
    """`--progress json` writes an object per line: the fields of `JobProgress`."""
    result = call("backfill", "--db", path, "--progress", "json")
    lines = [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]

    assert FIELDS == set(lines[0])
    assert {line["job"] for line in lines} == set(ALL_JOBS)


def test_a_dry_run_changes_nothing(path: Path) -> None:
    """It prints how many rows each job would read."""
    before = path.read_bytes()
    result = call("backfill", "--db", path, "--dry-run")
    document = json.loads(call("backfill", "--db", path, "--dry-run", "--json").stdout)

    assert "backfill-files                 40 rows to read" in result.stdout
    assert document["rows_to_read"] == dict(zip(ALL_JOBS, (40, 40, 200, 200), strict=True))
    assert path.read_bytes() == before


def test_pause_and_resume(path: Path) -> None:
    """`--pause` is seen by `db status`; `--resume` takes it back; both at once are a mistake."""
    assert call("backfill", "--db", path, "--pause").exit_code == 0
    assert call("status", "--db", path).stdout.count("asked to pause") == len(ALL_JOBS)
    assert call("backfill", "--db", path, "--resume").exit_code == 0
    assert "asked to pause" not in call("status", "--db", path).stdout
    assert call("backfill", "--db", path, "--pause", "--resume").exit_code == 2


def test_a_v3_file_is_sent_to_migrate(v3_file: Path) -> None:
    """Before the migration there is nothing to fill; the message names the command."""
    result = call("backfill", "--db", v3_file)
    assert isinstance(result.exception, MigrationNeeded)


def test_no_on_a_terminal_changes_nothing(path: Path) -> None:
    """On a terminal it asks; if declined it ends with 1 and changes nothing."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "cowrieprocessor", "db", "backfill", "--db", path], stdin=slave, stderr=subprocess.PIPE
    )
    os.close(slave)
    os.write(master, b"n\n")
    _, errors = process.communicate()
    os.close(master)

    assert (process.returncode, b"nothing was changed" in errors) == (1, True)
    assert files_in(path) == 0


def test_a_service_that_is_stopped_goes_on_later(path: Path, tmp_path: Path) -> None:
    """SIGTERM while a file pauses it ends it with 130, recorded in `jobs`; the next run completes."""
    pause = Path(f"{path}.pause")
    pause.touch()
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "--db", path, "--batch-size", "50"], stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "paused" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate()

    assert (process.returncode, "interrupted" in rest) == (130, True)
    assert "stopped" in call("status", "--db", path).stdout
    assert files_in(path) == 0
    pause.unlink()
    subprocess.run([sys.executable, SCRIPT, "--db", path, "--batch-size", "50"], check=True, capture_output=True)
    assert files_in(path) == 37


def test_the_line_of_progress() -> None:
    """A line has rows, share, rate and remaining time; while it waits, the reason."""
    now = JobProgress("recount", "running", 7300, 752_865, "sessions", 3100.4, 240.6)
    waits = replace(now, state="waiting", reason="a reader pins the log")
    unknown = replace(now, total=None, eta_s=None, step="copying")

    assert progress_text(now) == "recount: 7,300/752,865 sessions 1.0%, 3,100/s, ETA 4m01s"
    assert progress_text(waits) == "recount: 7,300/752,865 sessions 1.0%; waiting: a reader pins the log"
    assert progress_text(unknown) == "recount: copying: 7,300 sessions, 3,100/s"
    assert [duration_text(seconds) for seconds in (7.4, 60, 7500)] == ["7s", "1m00s", "2h05m"]


def test_lines_come_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal a line is printed when something changes, not for each write."""
    with JobProgressLine(phases=True) as line:
        for done in range(100):
            line.update(JobProgress("backfill-files", "running", done, 1000, "events", 10.0, 5.0))
        line.update(JobProgress("backfill-files", "paused", 99, 1000, "events", 10.0, 5.0, None, "asked to"))

    assert len(capsys.readouterr().err.splitlines()) == 2


def test_who_else_writes_is_named(path: Path) -> None:
    """A process that has the file open for writing is reported: a loader of version 3 has to be stopped."""
    with OtherProcess(path, "PRAGMA user_version"):
        beside = call("backfill", "--db", path)
    alone = call("backfill", "--db", path)

    assert beside.exit_code == 0
    assert "may write to it, too. A loader of version 3 has to be stopped now" in beside.stderr
    assert "may write to it" not in alone.stderr
