"""`cowrieprocessor db status`, `check` and `migrate`, on real files and a real server."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, text

from cowrieprocessor.cli.db import db
from cowrieprocessor.cli.db_commands.status_text import status_text
from cowrieprocessor.db.engine import dispose, get_engine, write_transaction
from cowrieprocessor.db.migrations import apply_migrations, require_current, schema_version
from cowrieprocessor.db.status import database_status
from cowrieprocessor.errors import DatabaseDamaged, DatabaseError, NotADatabase, SchemaVersionError
from cowrieprocessor.reporting.render.json import to_json
from tests import v3_schema
from tests.other_connections import sqlite3


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


@pytest.mark.parametrize("command", ["status", "check", "migrate"])
def test_the_database_has_to_be_named(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maintenance does not take a database from the environment: without --db the call is wrong."""
    monkeypatch.setenv("COWRIEPROC_DB_URL", "somewhere.sqlite")
    result = call(command)
    assert (result.exit_code, "Missing option '--db'" in result.stderr) == (2, True)


@pytest.mark.parametrize("command", ["status", "check", "migrate"])
def test_a_missing_database_is_not_made(command: str, tmp_path: Path) -> None:
    """A mistyped name is an error, and creates no file."""
    result = call(command, "--db", tmp_path / "missing.sqlite")
    assert isinstance(result.exception, DatabaseError)
    assert "no such database" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_status_of_a_v3_file(v3_file: Path) -> None:
    """The status of a v3 file shows its version, the command to migrate it, and its rows; it changes nothing."""
    before = v3_file.read_bytes()
    result = call("status", "--db", v3_file)
    assert result.exit_code == 0
    for fact in ("schema version  3 (`db migrate`", "journal mode    wal", "raw_events          18"):
        assert fact in result.stdout
    assert v3_file.read_bytes() == before


def test_what_no_migration_mends_is_not_offered_one(tmp_path: Path) -> None:
    """Where tables have gone missing, status, migration and reports name them, and none sends to another."""
    path = tmp_path / "x.sqlite"
    engine = get_engine(path)
    apply_migrations(engine)
    with write_transaction(engine) as connection:
        connection.execute(text("DROP TABLE file_mentions"))
    dispose(engine)
    status = json.loads(call("status", "--json", "--db", path).stdout)

    assert "the tables file_mentions are missing" in status["problem"]
    assert not status["needs_migration"]
    assert "which cannot be used: " in call("status", "--db", path).stdout
    with pytest.raises(SchemaVersionError, match="the tables file_mentions are missing"):
        require_current(get_engine(path))


def test_status_as_json(engine: Engine, db_url: str) -> None:
    """`--json` gives version, storage, rows and jobs in one document, on both databases."""
    with write_transaction(engine) as connection:
        connection.execute(
            text(
                "INSERT INTO jobs (name, state, started_at, updated_at, reason)"
                " VALUES ('backfill', 'paused', :at, :at, 'asked to')"
            ),
            {"at": "2025-01-02 03:04:05.000000"},
        )
    document = json.loads(call("status", "--json", "--db", db_url).stdout)
    assert (document["schema_version"], document["needs_migration"]) == (4, False)
    assert document["tables"]["jobs"] == {"rows": 1, "exact": True}
    assert document["jobs"] == [
        {
            "name": "backfill",
            "state": "silent",
            "started_at": "2025-01-02T03:04:05Z",
            "updated_at": "2025-01-02T03:04:05Z",
            "finished_at": None,
            "reason": "asked to",
            "request": None,
            "process": None,
            "progress": None,
        }
    ]
    assert document["storage"]["size_bytes"] > 0


def test_status_escapes_the_reasons_of_jobs(tmp_path: Path) -> None:
    """A job's reason is shown, its control characters escaped."""
    path = tmp_path / "x.sqlite"
    engine = get_engine(path)
    apply_migrations(engine)
    with write_transaction(engine) as connection:
        connection.execute(
            text(
                "INSERT INTO jobs (name, state, started_at, updated_at, finished_at, reason)"
                " VALUES ('load', 'failed', :at, :at, :at, :reason)"
            ),
            {"at": "2025-01-02 03:04:05.000000", "reason": "\x1b[2Jgone"},
        )
    dispose(engine)
    output = call("status", "--db", path).stdout
    assert "load  failed, finished 2025-01-02 03:04:05 UTC: \\x1b[2Jgone" in output


def test_status_estimates_large_tables(engine: Engine) -> None:
    """Large tables are estimated, and marked as estimates."""
    with write_transaction(engine) as connection:
        connection.execute(
            text("INSERT INTO files (session_id, shasum) VALUES ('a', 'x'), ('b', 'x'), ('c', 'x'), ('d', 'x')")
        )
    if engine.name == "postgresql":
        with write_transaction(engine) as connection:
            connection.execute(text("ANALYZE files"))
    status = database_status(engine, counted_rows=2)
    assert json.loads(to_json(status))["tables"]["files"] == {"rows": 4, "exact": False}
    assert "about 4" in status_text(status, [])


def test_status_of_another_applications_file(tmp_path: Path) -> None:
    """Another application's file is named as such."""
    path = tmp_path / "places.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE moz_places (id INTEGER PRIMARY KEY)")
    assert isinstance(call("status", "--db", path).exception, NotADatabase)


def test_status_of_a_newer_version(tmp_path: Path) -> None:
    """The status of a newer database is shown, with a note that this program cannot use it."""
    path = v3_schema.create(tmp_path / "new.sqlite", version="5")
    assert "schema version  5 (this program works with 4 only)" in call("status", "--db", path).stdout


@pytest.mark.parametrize("flags", [[], ["--full"]])
def test_check_of_a_sound_database(engine: Engine, db_url: str, flags: list[str]) -> None:
    """The message about a sound database names the library and the check."""
    result = call("check", "--db", db_url, *flags)
    assert result.exit_code == 0
    assert f": sound ({'full' if flags else 'quick'} check, " in result.stdout


def test_check_as_json(v3_file: Path) -> None:
    """`--json` gives the outcome and the library; a v3 file can be checked too."""
    document = json.loads(call("check", "--json", "--db", v3_file).stdout)
    assert (document["sound"], document["storage"]["journal_mode"]) == (True, "wal")


def test_quick_check_finds_a_damaged_page(v3_file: Path) -> None:
    """A page that was overwritten is damage, and the message says to restore a backup."""
    with closing(sqlite3.connect(v3_file)) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'raw_events'").fetchone()[0]
    content = bytearray(v3_file.read_bytes())
    content[(page - 1) * 4096 + 8 : page * 4096] = b"\xa5" * (4096 - 8)
    v3_file.write_bytes(content)
    result = call("check", "--db", v3_file)
    assert isinstance(result.exception, DatabaseDamaged)
    assert "restore a backup" in str(result.exception)


def test_full_check_compares_tables_with_indexes(v3_file: Path) -> None:
    """An index that does not match its table is found by the full check, not by the quick check."""
    with closing(sqlite3.connect(v3_file)) as connection, connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, '(event_type)', '(ingest_id)')"
            " WHERE name = 'ix_raw_events_event_type'"
        )
    assert call("check", "--db", v3_file).exit_code == 0
    result = call("check", "--full", "--db", v3_file)
    assert isinstance(result.exception, DatabaseDamaged)
    assert "ix_raw_events_event_type" in str(result.exception)


def test_check_names_an_affected_library(v3_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library with the WAL-reset bug is warned of on standard error; the check still succeeds."""
    monkeypatch.setenv("COWRIEPROC_SQLITE_DRIVER", "stdlib")
    result = call("check", "--db", v3_file)
    affected = json.loads(call("status", "--json", "--db", v3_file).stdout)["storage"]["wal_reset_bug"]
    assert (result.exit_code, "can corrupt a database" in result.stderr) == (0, affected)


def test_migrate_says_what_it_does_and_does_it(v3_file: Path) -> None:
    """Without a terminal it does not ask: it prints the plan and migrates; a second run does nothing."""
    first, second = call("migrate", "--db", v3_file), call("migrate", "--db", v3_file)
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "adds new, empty tables" in first.stderr
    assert "backup first: docs/files_table_migration.md" in first.stderr
    assert "is at schema version 4 now" in first.stdout
    assert "nothing to do" in second.stdout
    assert second.stderr == ""
    assert version_of(v3_file) == 4


def test_migrate_as_json(v3_file: Path) -> None:
    """`--json` gives the versions before and after."""
    document = json.loads(call("migrate", "--json", "--db", v3_file).stdout)
    assert document == {"database": str(v3_file), "from": 3, "to": 4}


def test_migrate_fills_an_empty_server_database(db_url: str, tmp_path: Path) -> None:
    """An empty database, a server's or a file of no bytes, gets the tables."""
    if db_url.startswith("sqlite"):
        (tmp_path / "test.sqlite").touch()
    document = json.loads(call("migrate", "--json", "--db", db_url).stdout)
    assert (document["from"], document["to"]) == (None, 4)


@pytest.mark.parametrize("version", ["2", "5"])
def test_migrate_refuses_other_versions(tmp_path: Path, version: str) -> None:
    """A version that cannot be migrated is an error, without a question."""
    path = v3_schema.create(tmp_path / "other.sqlite", version=version)
    result = call("migrate", "--db", path)
    assert isinstance(result.exception, SchemaVersionError)
    assert result.exception.exit_code == 5


@pytest.mark.parametrize(
    ("flags", "answer", "code", "version"),
    [([], "n\n", 1, 3), ([], "\n", 1, 3), ([], "y\n", 0, 4), (["--yes"], "", 0, 4)],
)
def test_migrate_asks_on_a_terminal(v3_file: Path, flags: list[str], answer: str, code: int, version: int) -> None:
    """On a terminal it asks, and no is the answer to Enter; --yes does not ask."""
    master, slave = pty.openpty()
    try:
        os.write(master, answer.encode())
        done = subprocess.run(
            [sys.executable, "-m", "cowrieprocessor", "db", "migrate", "--db", v3_file, *flags],
            stdin=slave,
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        os.close(master)
        os.close(slave)
    assert (done.returncode, "Go on?" in done.stderr) == (code, not flags)
    assert version_of(v3_file) == version
