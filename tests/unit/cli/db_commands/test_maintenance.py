"""`cowrieprocessor db backup`, `restore`, `optimize` and `migrate`, and the script, as their users call them."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cowrieprocessor.cli.db import db
from cowrieprocessor.cli.db_commands.plan_text import about
from cowrieprocessor.cli.shared.job_progress import JobProgressLine
from cowrieprocessor.db.engine import dispose, get_engine, write_transaction
from cowrieprocessor.db.migrations import schema_version
from cowrieprocessor.errors import CopyRefused, DatabaseDamaged, DatabaseInUse, SchemaVersionError
from cowrieprocessor.jobs.runtime.progress import JobProgress
from tests import v3_schema
from tests.command_line import PROGRAM, start
from tests.documents import PROJECT
from tests.other_connections import OtherProcess, sqlite3

SCRIPT = PROJECT / "scripts" / "migrate_to_v4_schema.py"


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """Restore the handler of SIGTERM after commands that replace it."""
    previous = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, previous)


def call(*args: str | Path) -> Result:
    """Run `cowrieprocessor db` in this process."""
    return CliRunner().invoke(db, [str(argument) for argument in args])


def version_of(path: Path) -> int | None:
    """Return the schema version of a file."""
    engine = get_engine(path, read_only=True)
    try:
        return schema_version(engine)
    finally:
        dispose(engine)


@pytest.mark.parametrize(
    "call_of", [["backup", "x"], ["restore", "x"], ["optimize"], ["migrate", "--dry-run"]], ids=lambda call: call[0]
)
def test_the_database_has_to_be_named(call_of: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Maintenance does not take a database from the environment: without --db the call is wrong."""
    monkeypatch.setenv("COWRIEPROC_DB_URL", "somewhere.sqlite")
    result = call(*call_of)
    assert (result.exit_code, "Missing option '--db'" in result.stderr) == (2, True)


def test_backup_says_what_it_does_and_restore_brings_it_back(v3_file: Path, tmp_path: Path) -> None:
    """A backup prints size, time and growth of the log first; restoring it brings the old version back."""
    saved = call("backup", tmp_path / "b.sqlite", "--db", v3_file)
    assert saved.exit_code == 0
    assert "write-ahead log (0 B now) cannot shrink" in saved.stderr
    assert "schema version 3, 23 rows in 6 tables, verified (full check)" in saved.stdout
    assert call("migrate", "--db", v3_file).exit_code == 0
    back = call("restore", tmp_path / "b.sqlite", "--yes", "--db", v3_file)
    assert (back.exit_code, version_of(v3_file)) == (0, 3)
    assert "is kept next to it" in back.stderr
    assert f"the old database is {v3_file}.before-restore-" in back.stdout


def test_backup_and_restore_as_json(v3_file: Path, tmp_path: Path) -> None:
    """`--json` gives file, version, rows and check in one document."""
    saved = json.loads(call("backup", tmp_path / "b.sqlite", "--json", "--quick", "--db", v3_file).stdout)
    assert (saved["schema_version"], saved["rows"]["raw_events"], saved["check"]) == (3, 18, "quick")
    back = json.loads(call("restore", tmp_path / "b.sqlite", "--yes", "--json", "--db", v3_file).stdout)
    assert (back["database"], back["rows"]) == (str(v3_file), saved["rows"])


def test_backup_over_a_file_is_an_error(v3_file: Path, tmp_path: Path) -> None:
    """An existing destination is an error."""
    (tmp_path / "b.sqlite").touch()
    result = call("backup", tmp_path / "b.sqlite", "--db", v3_file)
    assert isinstance(result.exception, CopyRefused)
    assert result.exception.exit_code == 4


@pytest.mark.parametrize(("answer", "code", "version"), [("\n", 1, 4), ("y\n", 0, 3)])
def test_restore_asks_on_a_terminal(v3_file: Path, tmp_path: Path, answer: str, code: int, version: int) -> None:
    """On a terminal it asks before it replaces anything, and no is the answer to Enter."""
    call("backup", tmp_path / "b.sqlite", "--db", v3_file)
    call("migrate", "--db", v3_file)
    done = on_terminal(answer, "db", "restore", tmp_path / "b.sqlite", "--db", v3_file)
    assert (done.returncode, "Go on?" in done.stderr) == (code, True)
    assert version_of(v3_file) == version


def on_terminal(answer: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the program with a terminal as its input."""
    master, slave = pty.openpty()
    try:
        os.write(master, answer.encode())
        return subprocess.run(
            [sys.executable, "-m", "cowrieprocessor", *map(str, arguments)],
            stdin=slave,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(master)
        os.close(slave)


def test_terminated_backup_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM ends a backup as Ctrl-C does: exit code 130, and no file is left."""
    path = v3_schema.create(tmp_path / "v3.sqlite")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE bulk (content BLOB)")
        connection.executemany("INSERT INTO bulk VALUES (zeroblob(1000000))", [()] * 30)
    (tmp_path / "out").mkdir()
    process = start("db", "backup", tmp_path / "out" / "b.sqlite", "--db", path)
    assert process.stderr is not None
    process.stderr.readline()  # the plan: copying begins
    process.terminate()
    process.communicate()
    assert (process.returncode, list((tmp_path / "out").iterdir())) == (130, [])


def test_backup_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    """When the system stops taking bytes half-way, the message names the file, and nothing of it is left."""
    path = v3_schema.create(tmp_path / "v3.sqlite")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE bulk (content BLOB)")
        connection.executemany("INSERT INTO bulk VALUES (zeroblob(1000000))", [()] * 10)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "b.sqlite"
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 4000; exec "$@"', "sh", *PROGRAM, "db", "backup", target, "--db", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, list((tmp_path / "out").iterdir())) == (4, [])
    assert f"error: {target}.part: the disk could not be read or written" in done.stderr


def test_check_of_a_damaged_file_makes_nothing_worse(v3_file: Path, tmp_path: Path) -> None:
    """A damaged page is refused by check, backup and the backup's restore; not a byte of the file changes."""
    call("backup", tmp_path / "b.sqlite", "--db", v3_file)
    with closing(sqlite3.connect(v3_file)) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'raw_events'").fetchone()[0]
    content = bytearray(v3_file.read_bytes())
    content[(page - 1) * 4096 + 8 : page * 4096] = b"\xa5" * (4096 - 8)
    v3_file.write_bytes(content)
    for command in (["check"], ["check", "--full"], ["backup", tmp_path / "c.sqlite"]):
        result = call(*command, "--db", v3_file)
        assert isinstance(result.exception, DatabaseDamaged), result.output
        assert v3_file.read_bytes() == bytes(content)
    assert call("restore", tmp_path / "b.sqlite", "--yes", "--db", v3_file).exit_code == 0
    assert call("check", "--full", "--db", v3_file).exit_code == 0


def test_dry_run_of_a_migration(v3_file: Path, tmp_path: Path) -> None:
    """The dry run prints what it found, as text and as JSON, and leaves the file and its folder as they were."""
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    text, document = (
        call("migrate", "--dry-run", "--db", v3_file),
        call("migrate", "--dry-run", "--json", "--db", v3_file),
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert text.exit_code == 0
    for fact in ("schema version  3\n", "open in         no other process", "backfill files  about 7 events"):
        assert fact in text.stdout
    found = json.loads(document.stdout)
    assert (found["schema_version"], found["work"]["events"], found["refusals"]) == (3, 18, [])


def test_dry_run_on_both_databases(db_url: str, tmp_path: Path) -> None:
    """A dry run on an empty database prints the plan and creates nothing, on both databases."""
    if db_url.startswith("sqlite"):
        (tmp_path / "test.sqlite").touch()
    result = call("migrate", "--dry-run", "--db", db_url)
    assert (result.exit_code, "none: the database is empty" in result.stdout) == (0, True)
    engine = get_engine(db_url, read_only=True)
    assert schema_version(engine) is None
    dispose(engine)


def test_dry_run_ends_with_the_error_that_migrating_would(v3_file: Path) -> None:
    """While another process writes, the dry run prints its plan and ends with the error of the migration."""
    with OtherProcess(v3_file, "SELECT 1 FROM schema_state"):
        dry, wet = call("migrate", "--dry-run", "--db", v3_file), call("migrate", "--db", v3_file)
    for result in (dry, wet):
        assert isinstance(result.exception, DatabaseInUse)
    assert ", writes" in dry.stdout
    assert version_of(v3_file) == 3


def test_beside_v3_migrates_with_a_warning(v3_file: Path) -> None:
    """With --beside-v3 the file is migrated although another process has it open, with a warning."""
    with OtherProcess(v3_file, "SELECT 1 FROM schema_state"):
        result = call("migrate", "--beside-v3", "--db", v3_file)
    assert (result.exit_code, version_of(v3_file)) == (0, 4)
    assert "warning: process" in result.stderr
    assert "stop it before the backfill" in result.stderr


def test_next_commands_are_printed(v3_file: Path) -> None:
    """The migration of a v3 file prints the next commands; that of an empty database does not."""
    stderr = call("migrate", "--db", v3_file).stderr
    assert f"next: cowrieprocessor db backfill --db {v3_file}\n" in stderr
    assert f"then: cowrieprocessor db validate --db {v3_file}\n" in stderr
    assert f"then: cowrieprocessor db recount --db {v3_file}\n" in stderr
    (v3_file.parent / "empty.sqlite").touch()
    assert "next:" not in call("migrate", "--db", v3_file.parent / "empty.sqlite").stderr


def test_a_saved_state_next_to_the_database_is_reported(v3_file: Path) -> None:
    """A file that a rollback saved is reported, with the option that imports it; those of other databases are not."""
    saved = v3_file.with_name(f"{v3_file.name}.v4-saved-20251122T000000Z.jsonl.gz")
    saved.touch()
    v3_file.with_name("other.sqlite.v4-saved-20251122T000000Z.jsonl.gz").touch()
    notes = [line for line in call("migrate", "--db", v3_file).stderr.splitlines() if "--take-in" in line]
    assert len(notes) == 1
    assert str(saved) in notes[0]


def test_a_saved_state_is_imported(v3_file: Path) -> None:
    """--take-in imports what a rollback saved, and the file is not reported again."""
    call("migrate", "--db", v3_file)
    engine = get_engine(v3_file)
    with write_transaction(engine) as connection:
        connection.exec_driver_sql(
            "INSERT INTO file_verdicts (sha256, provider, fetched_at, confirmed_at, verdict)"
            " VALUES (?, 'virustotal', '2025-01-02 03:04:05.000000', '2025-01-02 03:04:05.000000', 'malicious')",
            ("a" * 64,),
        )
    dispose(engine)
    assert call("rollback", "--to", "3", "--yes", "--db", v3_file).exit_code == 0
    (saved,) = v3_file.parent.glob("*.v4-saved-*.jsonl.gz")
    result = call("migrate", "--json", "--take-in", saved, "--db", v3_file)
    assert (result.exit_code, version_of(v3_file)) == (0, 4), result.output
    assert str(saved) in result.stderr
    assert json.loads(result.stdout)["taken_in"]
    assert "--take-in" not in result.stderr
    with closing(sqlite3.connect(v3_file)) as connection:
        assert connection.execute("SELECT verdict FROM file_verdicts").fetchall() == [("malicious",)]


def test_two_migrations_at_once(v3_file: Path) -> None:
    """Of two migrations that start together both succeed: the second waits, then finds nothing to do."""
    both = [start("db", "migrate", "--db", v3_file) for _ in range(2)]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert version_of(v3_file) == 4
    assert not [path for path in v3_file.parent.iterdir() if "lock" in path.name]


@pytest.mark.parametrize("version", ["2", "5"])
def test_dry_run_refuses_other_versions(tmp_path: Path, version: str) -> None:
    """A version that cannot be migrated ends the dry run with the migration's error."""
    result = call("migrate", "--dry-run", "--db", v3_schema.create(tmp_path / "x.sqlite", version=version))
    assert isinstance(result.exception, SchemaVersionError)


def test_script_migrates(v3_file: Path) -> None:
    """The script is the command: its dry run changes nothing, and without a terminal it does not ask."""
    before = v3_file.read_bytes()
    dry = subprocess.run(
        [sys.executable, SCRIPT, "--dry-run", "--db", v3_file], capture_output=True, text=True, check=True
    )
    assert ("backfill files" in dry.stdout, v3_file.read_bytes()) == (True, before)
    subprocess.run([sys.executable, SCRIPT, "--db", f"sqlite:///{v3_file}"], capture_output=True, check=True)
    assert version_of(v3_file) == 4


def test_optimize_says_what_it_frees(v3_file: Path) -> None:
    """The dry run prints what would be dropped, the run what was; a second run drops nothing."""
    call("migrate", "--db", v3_file)
    before = v3_file.read_bytes()
    dry = call("optimize", "--dry-run", "--db", v3_file)
    assert ("uq_raw_events_source_gen is dropped" in dry.stdout, v3_file.read_bytes()) == (True, before)
    first, second = call("optimize", "--db", v3_file), call("optimize", "--db", v3_file)
    assert "4.1 kB in the file are free" in first.stdout
    assert "there was no redundant index" in second.stdout


def test_optimize_as_json(v3_file: Path) -> None:
    """`--json` gives the plan, and what was done."""
    call("migrate", "--db", v3_file)
    plan = json.loads(call("optimize", "--dry-run", "--json", "--db", v3_file).stdout)
    done = json.loads(call("optimize", "--json", "--db", v3_file).stdout)
    assert plan["redundant_index"] == done["dropped_index"] == "uq_raw_events_source_gen"


def test_optimize_asks_on_a_terminal(v3_file: Path) -> None:
    """On a terminal it asks before it drops anything; no leaves the index."""
    call("migrate", "--db", v3_file)
    done = on_terminal("n\n", "db", "optimize", "--db", v3_file)
    assert (done.returncode, "Go on?" in done.stderr) == (1, True)
    assert "is dropped" in call("optimize", "--dry-run", "--db", v3_file).stdout


def test_a_silent_step_prints_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal a step that reports nothing still prints lines, with its share where that is known."""
    printed = ""
    with JobProgressLine(ticks=True, tick_every_s=0.01) as progress:
        progress.update(JobProgress("backup", done=1, total=4, unit="pages", step="copying"))
        while "backup: copying: 1/4 pages 25.0%, 0/s, for 0s" not in printed:
            printed += capsys.readouterr().err
        progress.update(JobProgress("backup", step="checking the copy"))
        while "backup: checking the copy: at work, for 0s" not in printed:
            printed += capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "about a second"), (90, "about 90 s"), (600, "about 10 minutes"), (10_800, "about 3 hours")],
)
def test_lengths_of_time(seconds: float, text: str) -> None:
    """Durations are rounded to a unit that people use."""
    assert about(seconds) == text


def test_errors_end_with_their_message(v3_file: Path, tmp_path: Path) -> None:
    """An error ends the program with one line and its exit code."""
    process = start("db", "backup", tmp_path / "missing" / "b.sqlite", "--db", v3_file)
    _, stderr = process.communicate()
    assert (process.returncode, stderr.count("error: ")) == (4, 1)
