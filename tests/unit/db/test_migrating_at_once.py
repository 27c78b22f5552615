"""Two processes that migrate one file at the same time."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from cowrieprocessor.db.revisions import HEAD
from tests import v3_schema
from tests.other_connections import OtherProcess, sqlite3

_MIGRATE = """
import sys
from cowrieprocessor.db.engine import get_engine
from cowrieprocessor.db.migrations import apply_migrations, schema_version
engine = get_engine(sys.argv[1], lock_timeout_s=60)
print("ready", flush=True)
sys.stdin.read()
print(apply_migrations(engine))
"""


@pytest.mark.parametrize("planned", [False, True])
def test_second_process_waits_and_finds_it_migrated(tmp_path: Path, planned: bool) -> None:
    """Both wait for a writer, then the first migrates and the second finds it done: one record, one set of tables."""
    path = v3_schema.create(tmp_path / "v3.sqlite", planned_files=planned)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _MIGRATE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    with OtherProcess(path, "BEGIN IMMEDIATE"):
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
            process.stdin = None
    assert ["4\n", "4\n"] == [process.communicate(timeout=60)[0] for process in processes]
    with closing(sqlite3.connect(path)) as connection:
        assert [("migrate",)] == connection.execute("SELECT name FROM jobs").fetchall()
        assert [(HEAD,)] == connection.execute("SELECT version_num FROM alembic_version").fetchall()
