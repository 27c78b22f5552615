"""`db migrate`, `db backup` and `db restore` killed at random points: what is there afterwards is whole."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction
from cowrieprocessor.db.migrations import apply_migrations, require_current, schema_version
from cowrieprocessor.db.models import V3_TABLES
from cowrieprocessor.errors import CopyRefused
from cowrieprocessor.jobs.maintenance.backup import backup
from cowrieprocessor.jobs.maintenance.restore import restore
from tests import v3_schema
from tests.other_connections import sqlite3
from tests.sqlite_dump import dump
from tests.torture import rounds

pytestmark = pytest.mark.torture

KILLS = rounds(100, 8)
SEED = 20251122
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [__name__, "cowrieprocessor.jobs.maintenance.backup", "cowrieprocessor.jobs.maintenance.restore"]
)


def run_migrate(path: str) -> None:
    """Migrate; runs in a process of its own."""
    apply_migrations(get_engine(path))


def run_backup(path: str, target: str) -> None:
    """Back up; runs in a process of its own."""
    backup(get_engine(path, read_only=True), Path(target))


def run_restore(path: str, source: str) -> None:
    """Restore; runs in a process of its own."""
    restore(get_engine(path), Path(source))


def _after_warming_up(begin: Any, began: Any, task: Callable[..., None], *paths: str) -> None:
    """Do the task once elsewhere, so that its imports are done, then wait for the word and do it."""
    began.set()
    begin.wait()
    task(*paths)


def seconds_of(task: Callable[..., None], *paths: str) -> float:
    """Return how long a task takes that is not killed."""
    return killed_after(None, task, *paths)[1]


def killed_after(pause_s: float | None, task: Callable[..., None], *paths: str) -> tuple[bool, float]:
    """Run a task and kill it after so many seconds; return whether it was killed, and how long it ran."""
    begin, began = PROCESSES.Event(), PROCESSES.Event()
    process = PROCESSES.Process(target=_after_warming_up, args=(begin, began, task, *paths))
    process.start()
    began.wait()
    started = time.monotonic()
    begin.set()
    if pause_s is not None:
        time.sleep(pause_s)
        process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0, time.monotonic() - started


def v3_contents(path: Path) -> list[Any]:
    """Return the rows of v3's tables but schema_state, and make sure that the file is sound."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [
            connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
            for table in V3_TABLES
            if table != "schema_state"
        ]


def tables(path: Path) -> set[str]:
    """Return the names of the tables."""
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_killed_migration_is_v3_or_v4(v3_file: Path, tmp_path: Path) -> None:
    """Killed at random points a migration leaves version 3 or version 4, whole; the next one completes it."""
    expected = v3_contents(v3_file)
    whole_s = seconds_of(run_migrate, str(shutil.copy(v3_file, tmp_path / "timed.sqlite")))
    random_ = random.Random(SEED)
    killed = 0
    for number in range(KILLS):
        path = Path(shutil.copy(v3_file, tmp_path / f"{number}.sqlite"))
        killed += killed_after(random_.uniform(0, whole_s), run_migrate, str(path))[0]
        engine = get_engine(path, read_only=True)
        version = schema_version(engine)
        if version == 4:
            require_current(engine)
        else:
            assert (version, tables(path)) == (3, set(V3_TABLES))
        dispose(engine)
        engine = get_engine(path)
        apply_migrations(engine)
        require_current(engine)
        dispose(engine)
        assert v3_contents(path) == expected
    assert killed > KILLS // 4


def large_v3(path: Path) -> Path:
    """Return a v3 file that takes a moment to copy."""
    v3_schema.create(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE bulk (content BLOB)")
        connection.executemany("INSERT INTO bulk VALUES (randomblob(1000000))", [()] * 20)
    return path


def test_killed_backup_is_none(tmp_path: Path) -> None:
    """Killed at random points a backup leaves no file or the whole one; the next run makes it."""
    path, target = large_v3(tmp_path / "v3.sqlite"), tmp_path / "out" / "b.sqlite"
    target.parent.mkdir()
    whole_s = seconds_of(run_backup, str(path), str(target))
    expected = dump(path)
    random_ = random.Random(SEED)
    killed = 0
    for _ in range(KILLS):
        target.unlink(missing_ok=True)
        killed += killed_after(random_.uniform(0, whole_s), run_backup, str(path), str(target))[0]
        engine = get_engine(path, read_only=True)
        if target.exists():
            assert dump(target) == expected
            with pytest.raises(CopyRefused):
                backup(engine, target)
        else:
            backup(engine, target)
        dispose(engine)
        assert dump(target) == expected
        assert [name.name for name in target.parent.iterdir() if "lock" not in name.name] == [target.name]
    assert killed > KILLS // 4


def test_killed_restore_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    """Killed at random points a restore leaves the old database or the new one, whole; the next run completes it."""
    backup_file = tmp_path / "b.sqlite"
    source = get_engine(large_v3(tmp_path / "v3.sqlite"), read_only=True)
    backup(source, backup_file)
    dispose(source)
    old = v3_schema.create(tmp_path / "old.sqlite")
    engine = get_engine(old)
    apply_migrations(engine)
    dispose(engine)
    before, after = dump(old), dump(backup_file)
    random_ = random.Random(SEED)
    outcomes = {"old": 0, "new": 0, "killed": 0}
    whole_s = 0.0
    for number in range(KILLS + 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = Path(shutil.copy(old, folder / "cowrie.sqlite"))
        if number == 0:
            whole_s = seconds_of(run_restore, str(path), str(backup_file))
            continue
        # the swap is in the last moments: half of the kills aim there
        pause_s = random_.choice((random_.uniform(0, whole_s), random_.uniform(0.8 * whole_s, whole_s)))
        outcomes["killed"] += killed_after(pause_s, run_restore, str(path), str(backup_file))[0]
        found = dump_with_log(path)
        assert found in (before, after)
        outcomes["old" if found == before else "new"] += 1
        engine = get_engine(path)
        result = restore(engine, backup_file)
        dispose(engine)
        assert dump(path) == after
        assert result.kept is not None
        assert dump(Path(result.kept)) == found
        assert not [name for name in folder.iterdir() if ".part" in name.name]
        shutil.rmtree(folder)
    assert outcomes["killed"] > KILLS // 4
    assert outcomes["old"] > 0


def dump_with_log(path: Path) -> Any:
    """Return schema and rows as whoever opens the database sees them."""
    engine = get_engine(path, read_only=True)
    with read_transaction(engine) as connection:
        schema = connection.exec_driver_sql("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2").all()
        rows = [
            connection.exec_driver_sql(f'SELECT rowid, * FROM "{name}" ORDER BY 1').all()
            for kind, name, _, _ in schema
            if kind == "table"
        ]
    dispose(engine)
    return [tuple(row) for row in schema], [[tuple(row) for row in some] for some in rows]
