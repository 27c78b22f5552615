"""Commands that stand in users' runbooks, typed as written into a fresh clone that has nothing but uv."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cowrieprocessor.clock import SystemClock
from tests import v3_schema
from tests.documents import PROJECT
from tests.stand_ins.scene import services
from tests.stand_ins.virustotal import KeyLimits

NAMED_TESTS = (
    "tests/unit/test_file_processing.py",
    "tests/unit/test_files_table.py",
    "tests/integration/test_file_enrichment.py",
    "tests/integration/test_files_enrichment_flow.py",
    "tests/performance/test_files_backfill.py",
)
IMPORTS = """
from cowrieprocessor.db.engine import get_engine
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.loader.file_processor import process_file_download_event

result = BulkLoader(get_engine()).load(["samples"])
file = process_file_download_event(
    {"eventid": "cowrie.session.file_download", "shasum": "a" * 64, "url": "http://198.51.100.9/x",
     "timestamp": "2026-01-01T00:00:00Z"},
    "5e551",
)
print(result.counters["events"], file["shasum"][:2])
"""


@dataclass(frozen=True)
class Clone:
    """A fresh clone in a folder of its own, and the environment of somebody who has nothing but uv."""

    folder: Path
    environment: dict[str, str]

    def uv_run(self, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Type `uv run …` in the clone and expect an exit code."""
        done = subprocess.run(
            ["uv", "run", *map(str, arguments)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"uv run {arguments}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done


def copy_of_the_project(folder: Path) -> Path:
    """Return a folder with the files that a clone of the working tree would have, in a repository of its own."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        check=True,
    ).stdout.split(b"\0")
    for name in filter(None, map(os.fsdecode, names)):
        if (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, folder / name)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A fresh clone; uv is on the path, no virtual environment is active, nothing is configured."""
    folder = tmp_path_factory.mktemp("runbook") / "cowrieprocessor"
    folder.mkdir()
    own_bin = str(Path(sys.executable).parent)
    uv_only = tmp_path_factory.mktemp("bin")
    (uv_only / "uv").symlink_to(Path(own_bin) / "uv")
    path = [str(uv_only), *(part for part in os.environ["PATH"].split(os.pathsep) if part != own_bin)]
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("COWRIEPROC_", "PYTEST_", "VIRTUAL_ENV", "PYTHON"))
    }
    return Clone(copy_of_the_project(folder), kept | {"PATH": os.pathsep.join(path)})


@contextmanager
def with_services(clone: Clone) -> Iterator[Clone]:
    """Yield the clone, with settings that lead to stand-ins for every service."""
    with services(KeyLimits(None, 500, 15_500), SystemClock()) as here:  # type: ignore[arg-type]
        yield Clone(clone.folder, clone.environment | here.environment())


@pytest.mark.timeout(900)
def test_commands_of_runbooks_work_as_written(clone: Clone, tmp_path: Path) -> None:
    """In a fresh clone the named tests pass, the named imports work, and the scripts upgrade a v3 database."""
    check_named_tests(clone)
    check_imports(clone)
    with with_services(clone) as connected:
        check_scripts(connected, f"sqlite:///{v3_schema.create(tmp_path / 'v3.sqlite')}")


def check_named_tests(clone: Clone) -> None:
    """Run the tests that runbooks name, each once."""
    for name in NAMED_TESTS:
        done = clone.uv_run("pytest", name, "-v")
        assert " passed" in done.stdout.splitlines()[-1], name
        assert "No module named" not in done.stdout + done.stderr


def check_imports(clone: Clone) -> None:
    """Import loaders and engine, and use them with nothing configured."""
    printed = clone.uv_run("python", "-c", IMPORTS).stdout.split()

    assert int(printed[0]) > 100
    assert printed[1] == "aa"
    assert (clone.folder / "cowrieprocessor.sqlite").is_file()
    assert not (clone.folder / "uv.lock").is_file() or "uv.lock" in (clone.folder / ".gitignore").read_text()


def check_scripts(enrichment: Clone, url: str) -> None:
    """Migrate, backfill, validate and enrich a v3 database by the scripts, as runbooks spell them."""
    assert url.startswith("sqlite:////")
    enrichment.uv_run("python", "scripts/migrate_to_v4_schema.py", "--db", url)
    enrichment.uv_run("python", "scripts/backfill_files_table.py", "--db", url, "--batch-size", 10000)
    validated = enrichment.uv_run("python", "scripts/validate_files_migration.py", "--db", url)
    sampled = enrichment.uv_run("python", "scripts/validate_files_migration.py", "--sample-data")
    enrichment.uv_run("python", "scripts/enrichment_refresh.py", "--files", "--db", url)
    status = enrichment.uv_run("cowrieprocessor", "enrich", "status", "--db", url, "--json")

    for report in (validated, sampled):
        assert "NOT valid" not in report.stdout
        assert "valid" in report.stdout
    assert {source["provider"] for source in json.loads(status.stdout)["sources"]} >= {"virustotal", "hashlookup"}
