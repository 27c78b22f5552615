"""A database whose writer was killed during a transaction: readers see the committed rows."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from cowrieprocessor.db.dialects.sqlite import connection as sqlite_connection
from cowrieprocessor.db.dialects.sqlite.files import uri
from cowrieprocessor.db.engine import dispose, get_engine, read_transaction
from cowrieprocessor.errors import DatabaseReadOnly
from tests.other_connections import sqlite3

KILLED_WRITER = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size=2")
connection.execute("BEGIN")
connection.execute("UPDATE counted SET number = number + 1")
os.kill(os.getpid(), signal.SIGKILL)
"""
ROWS = 2_000


@pytest.fixture
def hot(tmp_path: Path) -> Path:
    """A database in rollback-journal mode with a hot journal."""
    path = tmp_path / "killed.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE counted (number INTEGER, filling TEXT)")
        connection.executemany("INSERT INTO counted VALUES (?, ?)", [(0, "x" * 100)] * ROWS)
    done = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.with_name("killed.sqlite-journal").stat().st_size > 0
    return path


def test_a_reader_rolls_back_the_journal_of_a_killed_writer(hot: Path) -> None:
    """A reader first rolls back the journal, as any program that opens the file for writing, then reads the rows."""
    engine = get_engine(hot, read_only=True)
    with read_transaction(engine) as connection:
        counted = connection.exec_driver_sql("SELECT count(*), sum(number) FROM counted").one()
    dispose(engine)

    assert tuple(counted) == (ROWS, 0)
    assert not hot.with_name("killed.sqlite-journal").exists()


def test_a_reader_without_write_permission_is_told_about_the_journal(
    hot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the journal cannot be rolled back, the message names it instead of permissions in general."""
    monkeypatch.setattr(sqlite_connection, "uri", lambda path, _: uri(path, "ro"))
    engine = get_engine(hot, read_only=True)

    with pytest.raises(DatabaseReadOnly, match=r"killed\.sqlite-journal"), read_transaction(engine):
        pass

    dispose(engine)
    assert hot.with_name("killed.sqlite-journal").exists()
