"""The backfill as a program when the disk is full, the file may not be written, or a page of it is damaged."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from cowrieprocessor.db.engine import dispose, get_engine
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.jobs.upgrade.backfill import backfill
from tests import v3_schema
from tests.logical_digest import Contents, difference, logical_contents
from tests.logs import events

TABLES = ("files", "file_hashes", "session_attributes", "command_stats")
DATABASE = 4

_AS_NOBODY = """
import os, sys
import cowrieprocessor.cli.db, cowrieprocessor.cli.db_commands.backfill, cowrieprocessor.jobs.upgrade.backfill
from cowrieprocessor.cli.shared.job_progress import JobProgressLine
from cowrieprocessor.cli.shared.common import run
from cowrieprocessor.db.engine import get_engine
get_engine(":memory:").connect().close()
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
sys.argv = ["cowrieprocessor", "--yes", "--db", sys.argv[1]]
sys.exit(run(cowrieprocessor.cli.db_commands.backfill.backfill))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A migrated v3 file of 4,000 events."""
    made = tmp_path / "v3.sqlite"
    v3_schema.create(made, payloads=[json.loads(line) for line in events(4000)])
    engine = get_engine(made)
    apply_migrations(engine)
    dispose(engine)
    return made


@pytest.fixture
def expected(path: Path, tmp_path: Path) -> Contents:
    """What an undisturbed backfill gives."""
    copy = tmp_path / "undisturbed.sqlite"
    copy.write_bytes(path.read_bytes())
    return filled(copy)


def filled(path: Path) -> Contents:
    """Run a backfill to its end in this process and return what it filled."""
    engine = get_engine(path)
    backfill(engine)
    contents = logical_contents(engine, tables=TABLES)
    dispose(engine)
    return contents


def run(path: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run `db backfill` in a process of its own, after a shell command."""
    program = [sys.executable, "-m", "cowrieprocessor", "db", "backfill", "--yes", "--db", str(path)]
    return subprocess.run(
        ["sh", "-c", f'{before} exec "$@"', "sh", *program], capture_output=True, text=True, check=False
    )


def test_a_full_disk_loses_nothing(path: Path, expected: Contents) -> None:
    """When the disk is full it ends with a message; after making room it goes on and ends as if nothing had been."""
    ended = run(path, "ulimit -f 600; trap '' XFSZ;")
    after = filled(path)

    assert ended.returncode == DATABASE, ended.stderr
    assert "room" in ended.stderr or "disk" in ended.stderr
    assert difference(expected, after) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_file_that_may_not_be_written_is_left_alone(path: Path, expected: Contents) -> None:
    """Who may not write the file is told so, with 4; nothing is changed, and its owner can go on."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        db = Path(folder) / "v3.sqlite"
        db.write_bytes(path.read_bytes())
        db.chmod(0o644)
        ended = subprocess.run([sys.executable, "-c", _AS_NOBODY, db], capture_output=True, text=True, check=False)

        assert ended.returncode == DATABASE, ended.stderr
        assert "check the permissions" in ended.stderr
        assert db.read_bytes() == path.read_bytes()
        assert difference(expected, filled(db)) == []


def test_a_damaged_page_makes_nothing_worse(path: Path) -> None:
    """A page of raw_events that cannot be read ends it with 4 and the remedy; a backup is still the way out."""
    with closing(sqlite3.connect(path)) as connection:
        page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
        leaf = connection.execute(
            "SELECT pageno FROM dbstat WHERE name = 'raw_events' AND pagetype = 'leaf' ORDER BY 1 LIMIT 1 OFFSET 40"
        ).fetchone()[0]
    with path.open("r+b") as file:
        file.seek((leaf - 1) * page_bytes)
        file.write(b"\xff" * page_bytes)
    ended = run(path)

    assert ended.returncode == DATABASE, ended.stderr
    assert "restore a backup" in ended.stderr
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT value FROM schema_state").fetchone() == ("4",)
        assert connection.execute("SELECT state FROM jobs WHERE name = 'backfill-files'").fetchone() == ("failed",)


def test_the_standard_librarys_sqlite_reads_the_result(path: Path) -> None:
    """A backfilled file answers in Python's own SQLite, the library that the tools of v3 use."""
    filled(path)
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        joined = (
            "SELECT count(*), count(DISTINCT f.shasum) FROM files f JOIN file_hashes h ON h.sha256 = f.shasum"
            " JOIN session_attributes a USING (session_id)"
        )
        assert (
            connection.execute(joined).fetchone()
            == connection.execute("SELECT count(*), count(DISTINCT shasum) FROM files").fetchone()
        )
        assert connection.execute("SELECT count(*) FROM files WHERE origin = 'upload'").fetchone()[0] > 0
