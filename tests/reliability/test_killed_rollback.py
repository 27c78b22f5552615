"""A roll back killed at random points: the database is wholly v4 or wholly v3, and what v4 alone knew is not lost."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert

from cowrieprocessor.db.engine import dispose, get_engine, write_transaction
from cowrieprocessor.db.migrations import apply_migrations, schema_version
from cowrieprocessor.jobs.upgrade.backfill import backfill
from cowrieprocessor.jobs.upgrade.rollback import roll_back
from cowrieprocessor.jobs.upgrade.state_export import import_state, read_export
from tests import v3_schema
from tests import v4_state_scene as scene
from tests.other_connections import sqlite3
from tests.schema_shape import Shape, sqlite_shape
from tests.torture import rounds
from tests.v4_state_scene import T

pytestmark = pytest.mark.torture

KILLS = rounds(100, 8)
KNOWN_HASHES = 2_000

_ROLL_BACK = """
import sys
from pathlib import Path
from cowrieprocessor.db.engine import get_engine
from cowrieprocessor.jobs.upgrade.rollback import roll_back
engine = get_engine(sys.argv[1])
print("ready", flush=True)
roll_back(engine, Path(sys.argv[2]))
print("done", flush=True)
"""


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that went the whole path and knows much, closed."""
    folder = tmp_path_factory.mktemp("master")
    path = v3_schema.create(folder / "v4.sqlite")
    engine = get_engine(path)
    scene.build(engine, folder)
    with write_transaction(engine) as connection:
        rows = [
            {"sha256": f"{number:064x}", "first_seen": scene.MOMENT, "last_seen": scene.MOMENT, "size_bytes": number}
            for number in range(KNOWN_HASHES)
        ]
        connection.execute(insert(T["file_hashes"]), rows)
    dispose(engine)
    return path


def kill_after(path: Path, saved: Path, pause_s: float) -> bool:
    """Roll back in a process of its own, kill it a moment later, and return whether it was still at work."""
    process = subprocess.Popen(
        [sys.executable, "-c", _ROLL_BACK, str(path), str(saved)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(pause_s)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def undisturbed(master: Path, folder: Path) -> tuple[float, Shape, dict[str, list[str]]]:
    """Return how long a roll back takes, and what schema and rows it ends with."""
    path = folder / "undisturbed.sqlite"
    shutil.copy(master, path)
    engine = get_engine(path)
    began = time.monotonic()
    roll_back(engine, folder / "undisturbed.saved")
    took_s = time.monotonic() - began
    try:
        return took_s, sqlite_shape(path), scene.rows_of_v3(engine)
    finally:
        dispose(engine)


def test_killed_anywhere_it_is_one_version_or_the_other(master: Path, tmp_path: Path) -> None:
    """After each kill the file is at 4 with all its rows, or at 3 with a whole saved file; again, it ends at 3."""
    took_s, v3_shape, v3_rows = undisturbed(master, tmp_path)
    v4_shape = sqlite_shape(master)
    engine = get_engine(master)
    before = scene.contents(engine)
    dispose(engine)
    random_ = random.Random(20261122)
    killed = 0
    for number in range(KILLS):
        path = tmp_path / f"{number}.sqlite"
        shutil.copy(master, path)
        saved = tmp_path / f"{number}.saved"
        killed += kill_after(path, saved, random_.uniform(0, took_s))
        engine = get_engine(path)
        if schema_version(engine) == 4:
            assert v4_shape == sqlite_shape(path)
            assert [] == scene.difference(before, scene.contents(engine))
            saved = tmp_path / f"{number}.again"
            roll_back(engine, saved)
        assert v3_shape == sqlite_shape(path)
        assert v3_rows == scene.rows_of_v3(engine)
        assert read_export(saved).rows["file_hashes"] == KNOWN_HASHES + 4
        if number == 0:
            forward_again(engine, saved, before)
        dispose(engine)
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        path.unlink()

    assert killed > 0


def forward_again(engine: Engine, saved: Path, before: scene.Contents) -> None:
    """Make sure that nothing is missing after migrating, backfilling and taking in again."""
    apply_migrations(engine)
    backfill(engine)
    import_state(engine, saved)
    assert [] == scene.difference(before, scene.contents(engine))
