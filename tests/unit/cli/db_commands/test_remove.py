"""`cowrieprocessor db remove`: its output and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cowrieprocessor.cli.db import db
from cowrieprocessor.db.engine import dispose, get_engine
from cowrieprocessor.db.models import RawEvent
from cowrieprocessor.errors import ConfigurationError, NotFound
from cowrieprocessor.loader.bulk import BulkLoader
from tests.logs import count, events, write


def call(*args: str | Path) -> Result:
    """Run `cowrieprocessor db remove` in this process."""
    return CliRunner().invoke(db, ["remove", *(str(argument) for argument in args)])


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database with two logs that overlap."""
    path = tmp_path / "test.sqlite"
    write(tmp_path / "wrong.json", events(30))
    write(tmp_path / "part.json", events(30, start=20))
    engine = get_engine(path)
    BulkLoader(engine).load([tmp_path / "wrong.json", tmp_path / "part.json"])
    dispose(engine)
    return path


def stored(path: Path) -> int:
    """Return the number of events in a database."""
    engine = get_engine(path, read_only=True)
    try:
        return count(engine, RawEvent)
    finally:
        dispose(engine)


def test_dry_run_says_what_goes_and_changes_nothing(database: Path, tmp_path: Path) -> None:
    """It says which log, how many events, sessions and dead letters; nothing is removed."""
    result = call("--log", tmp_path / "wrong.json", "--db", database, "--dry-run")

    assert (0, "nothing was changed (--dry-run)\n", 50) == (result.exit_code, result.stdout, stored(database))
    assert f"removes {tmp_path / 'wrong.json'}: 30 events of 3 sessions, 0 dead letters" in result.stderr


def test_done_it_names_the_logs_to_load_again(database: Path, tmp_path: Path) -> None:
    """The result has the numbers and the logs that overlap, as text and as JSON; again there is no such log."""
    copied = tmp_path / "copy.sqlite"
    copied.write_bytes(database.read_bytes())

    text = call("--log", tmp_path / "wrong.json", "--db", database, "--yes")
    document = json.loads(call("--log", tmp_path / "wrong.json", "--db", copied, "--yes", "--json").stdout)

    assert [
        "30 events and 0 dead letters removed; 3 sessions recomputed",
        "these logs overlap with it; load them again, which adds what they hold:",
        f"  {tmp_path / 'part.json'}",
    ] == text.stdout.splitlines()
    assert (30, [str(tmp_path / "part.json")]) == (document["result"]["events"], document["result"]["load_again"])
    assert document["plan"]["logs"][0]["sessions"] == 3
    assert 20 == stored(database) == stored(copied)
    assert isinstance(call("--log", tmp_path / "wrong.json", "--db", database, "--yes").exception, NotFound)


def test_several_logs_of_one_path_are_listed(database: Path, tmp_path: Path) -> None:
    """Where several logs were at a path, it ends as a wrong call does, and lists them."""
    write(tmp_path / "part.json", events(5, session="bbbb"))
    engine = get_engine(database)
    BulkLoader(engine).load([tmp_path / "part.json"])
    dispose(engine)

    result = call("--log", tmp_path / "part.json", "--db", database, "--yes")

    assert isinstance(result.exception, ConfigurationError)
    assert 2 == str(result.exception).count("--identity")
    assert 55 == stored(database)
