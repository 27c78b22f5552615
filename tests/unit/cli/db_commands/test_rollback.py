"""`cowrieprocessor db rollback`: its output, its question and its exit codes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cowrieprocessor.cli.db import db
from cowrieprocessor.db.engine import dispose, get_engine
from cowrieprocessor.db.migrations import apply_migrations, schema_version
from cowrieprocessor.db.revisions import REVISIONS
from cowrieprocessor.errors import ConfigurationError, JobTaken, SaveFailed
from tests import v4_state_scene as scene
from tests.command_line import PROGRAM
from tests.v4_state_scene import working


def call(*args: str | Path) -> Result:
    """Run `cowrieprocessor db rollback` in this process."""
    return CliRunner().invoke(db, ["rollback", *(str(argument) for argument in args)])


def version_of(path: Path) -> int | None:
    """Return the schema version of a file."""
    engine = get_engine(path, read_only=True)
    try:
        return schema_version(engine)
    finally:
        dispose(engine)


@pytest.fixture
def v4_file(v3_file: Path, tmp_path: Path) -> Path:
    """A v3 file that was migrated, backfilled and enriched."""
    engine = get_engine(v3_file)
    scene.build(engine, tmp_path)
    dispose(engine)
    return v3_file


@pytest.mark.parametrize("missing", ["--db", "--to"])
def test_database_and_version_have_to_be_named(v4_file: Path, missing: str) -> None:
    """Neither the database nor the version is guessed."""
    options = {"--db": str(v4_file), "--to": "3"}
    del options[missing]
    result = call(*(word for pair in options.items() for word in pair))
    assert (2, True, 4) == (result.exit_code, f"Missing option '{missing}'" in result.stderr, version_of(v4_file))


def test_no_other_version(v4_file: Path) -> None:
    """Version 2 is no version to go back to."""
    assert (2, 4) == (call("--to", "2", "--db", v4_file).exit_code, version_of(v4_file))


def test_dry_run_says_everything_and_changes_nothing(v4_file: Path, tmp_path: Path) -> None:
    """It prints what would be dropped and saved, and where; no file is created."""
    before = v4_file.read_bytes()
    result = call("--to", "3", "--db", v4_file, "--dry-run")
    for fact in ("files: 5 rows", "2 of file_verdicts", f"into {v4_file}.v4-saved-", "does not shrink"):
        assert fact in result.stderr
    assert (0, 4, []) == (result.exit_code, version_of(v4_file), list(tmp_path.glob("*.v4-saved-*")))
    assert before == v4_file.read_bytes()
    plan = json.loads(call("--to", "3", "--db", v4_file, "--dry-run", "--json").stdout)["plan"]
    assert {"rows": 5, "exact": True} == plan["drops"]["files"]
    assert (2, False) == (plan["saves"]["file_verdicts"], plan["adds_index"])


def test_done_it_says_what_it_did(v4_file: Path, tmp_path: Path) -> None:
    """The result names the tables, the saved file and what went out of v3's tables; again there is nothing to do."""
    document = json.loads(call("--to", "3", "--db", v4_file, "--save", tmp_path / "s", "--yes", "--json").stdout)
    assert (4, 3, "files" in document["result"]["dropped"]) == (document["from"], document["to"], True)
    assert (str(tmp_path / "s"), 2) == (
        document["result"]["saved"]["path"],
        document["result"]["saved"]["rows"]["file_verdicts"],
    )
    again = call("--to", "3", "--db", v4_file)
    assert (0, f"{v4_file}: is at schema version 3 already, nothing to do\n") == (again.exit_code, again.stdout)


def test_text_of_the_result(v4_file: Path, tmp_path: Path) -> None:
    """For people: the version, the saved file, what else went, and how much room there is now."""
    lines = call("--to", "3", "--db", v4_file, "--save", tmp_path / "s", "--yes").stdout.splitlines()
    tables = [table for _, tables in REVISIONS[1:] for table in tables]
    assert f"{v4_file}: is at schema version 3 now; dropped {len(tables)} tables" == lines[0]
    assert lines[1].startswith("saved 4 of file_hashes, 1 of files, ")
    assert "2 rows of command_stats, 3 dead letters about files" in lines[2]
    assert lines[3].startswith("free for new rows: ")


def test_errors_have_their_codes(v4_file: Path, tmp_path: Path) -> None:
    """An existing file and a running job end with their own exit codes."""
    (tmp_path / "there").touch()
    refused = call("--to", "3", "--db", v4_file, "--save", tmp_path / "there", "--yes").exception
    assert isinstance(refused, SaveFailed)
    engine = get_engine(v4_file)
    scene.delete_jobs(engine)
    working(engine, {})
    dispose(engine)
    busy = call("--to", "3", "--db", v4_file, "--yes").exception
    assert isinstance(busy, JobTaken)
    assert (1, 4, 4) == (refused.exit_code, busy.exit_code, version_of(v4_file))


@pytest.mark.postgres
def test_postgresql_requires_save(postgres_url: str) -> None:
    """On a server --save is required; the dry run without it says so."""
    engine = get_engine(postgres_url)
    apply_migrations(engine)
    dispose(engine)
    assert "into the file of --save" in call("--to", "3", "--db", postgres_url, "--dry-run").stderr
    refused = call("--to", "3", "--db", postgres_url, "--yes").exception
    assert isinstance(refused, ConfigurationError)
    assert refused.exit_code == 2


@pytest.mark.parametrize(("answer", "code", "version"), [("n", 1, 4), ("y", 0, 3)])
def test_on_a_terminal_it_asks(v4_file: Path, answer: str, code: int, version: int) -> None:
    """On a terminal it asks; no changes nothing."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, "db", "rollback", "--to", "3", "--db", str(v4_file)],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.write(ours, f"{answer}\n".encode())
        _, errors = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert "Go on? [y/N]" in errors
    assert (code, version) == (process.returncode, version_of(v4_file))
