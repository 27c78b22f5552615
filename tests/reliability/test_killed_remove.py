"""`db remove` killed with SIGKILL between any two of its statements: no load afterwards loses or doubles an event."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import dispose, get_engine
from cowrieprocessor.jobs.maintenance.remove_log import plan, remove
from cowrieprocessor.loader.bulk import BulkLoader
from cowrieprocessor.settings import Settings
from tests.logical_digest import EVENT_TABLES, Contents, difference, logical_contents
from tests.logs import events, write
from tests.torture import rounds

pytestmark = pytest.mark.torture

WHERE = ("source", "source_offset", "source_files", "source_generation", "metadata_json")
STEPS = rounds(1, 17)
"""After every so many statements it is killed once."""

_REMOVE = """
import os, signal, sys
from cowrieprocessor.db.engine import get_engine
from cowrieprocessor.db.ingest import log_removal, recomputed_rows, statements
from cowrieprocessor.jobs.maintenance.remove_log import plan, remove
left = int(sys.argv[3])
def counted(execute):
    def counting(*arguments):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return execute(*arguments)
    return counting
log_removal._execute = counted(log_removal._execute)
for kind, name in (
    (recomputed_rows.RecomputedRows, "_execute"),
    (statements.LoadingStatements, "_execute"),
    (statements.LoadingStatements, "_execute_many"),
):
    setattr(kind, name, counted(getattr(kind, name)))
engine = get_engine(sys.argv[1])
remove(engine, plan(engine, sys.argv[2]), rows=5)
"""


@contextmanager
def opened(path: Path) -> Iterator[Engine]:
    """Open a database."""
    engine = get_engine(path)
    try:
        yield engine
    finally:
        dispose(engine)


def load(engine: Engine, *paths: Path) -> None:
    """Load logs."""
    assert [] == BulkLoader(engine, settings=Settings(batch_size=7)).load(paths).failed


def contents(engine: Engine) -> Contents:
    """Return what the database says of the events, whichever log they were read from."""
    return logical_contents(engine, tables=EVENT_TABLES, without=WHERE)


def loaded(path: Path, *logs: Path) -> Contents:
    """Load logs into a new database, and return its contents."""
    with opened(path) as engine:
        load(engine, *logs)
        return contents(engine)


def test_killed_removals_lose_and_double_nothing(tmp_path: Path) -> None:
    """Wherever it is killed: loading all gives all; the same command, and loading the others, gives the others."""
    lines = events(30)
    wrong = tmp_path / "wrong.json"
    wrong.write_text("".join(f"{line}\n" for line in [*lines[:20], "no event"]))
    part = write(tmp_path / "part.json", lines[12:])
    everything = loaded(tmp_path / "everything.sqlite", wrong, part)
    without = loaded(tmp_path / "without.sqlite", part)

    killed, was_killed = 0, True
    while was_killed:
        killed += 1
        path = tmp_path / f"{killed}.sqlite"
        loaded(path, wrong, part)
        arguments = [sys.executable, "-c", _REMOVE, str(path), str(wrong), str(1 + (killed - 1) * STEPS)]
        was_killed = -signal.SIGKILL == subprocess.run(arguments, check=False).returncode
        with opened(path) as engine:
            if killed % 2:
                load(engine, part, wrong)
                assert [] == difference(everything, contents(engine)), killed
            if was_killed or killed % 2:
                remove(engine, plan(engine, str(wrong)), rows=5)
            load(engine, part)
            assert [] == difference(without, contents(engine)), killed
    assert killed > 3
