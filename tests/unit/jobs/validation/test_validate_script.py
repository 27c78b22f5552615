"""`scripts/validate_files_migration.py`: the command named in users' runbooks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import v3_schema
from tests.documents import PROJECT
from tests.unit.jobs.upgraded import change, upgrade

SCRIPT = PROJECT / "scripts" / "validate_files_migration.py"


def call(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the script in a folder."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_sample_data_is_migrated_and_validated(tmp_path: Path) -> None:
    """`--sample-data` creates, migrates, backfills and validates a v3 database, and leaves nothing in the folder."""
    done = call("--sample-data", "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert (done.returncode, report["valid"], report["compared"]["files"] > 100) == (0, True, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("damage", "code"), [("SELECT 1", 0), ("DELETE FROM files", 1)])
def test_a_database_by_url(tmp_path: Path, damage: str, code: int) -> None:
    """`--db URL` exits with 0 if nothing differs, else with 1."""
    path = upgrade(v3_schema.create(tmp_path / "v3.sqlite"))
    change(path, damage)
    assert call("--db", f"sqlite:///{path}", cwd=tmp_path).returncode == code
