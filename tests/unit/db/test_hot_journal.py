"""A database whose writer was killed during a transaction: everybody sees the committed rows, or why not."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.files.database_copy import read_only_engine
from cowrieprocessor.errors import DatabaseError
from tests.other_connections import OtherProcess, sqlite3

KILLED_WRITER = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size=2")
connection.execute("BEGIN")
connection.execute("UPDATE counted SET number = number + 1")
os.kill(os.getpid(), signal.SIGKILL)
"""
ROWS = 2_000
NOBODY = 65_534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can reach."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    path.chmod(0o755)
    shutil.rmtree(path)


@pytest.fixture
def sound(folder: Path) -> Path:
    """A database in rollback-journal mode."""
    path = folder / "killed.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE counted (number INTEGER, filling TEXT)")
        connection.executemany("INSERT INTO counted VALUES (?, ?)", [(0, "x" * 100)] * ROWS)
    return path


@pytest.fixture
def hot(sound: Path) -> Path:
    """The same with a hot journal."""
    done = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(sound)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert journal_of(sound).stat().st_size > 0
    return sound


def journal_of(path: Path) -> Path:
    """Return the path of the journal."""
    return path.with_name(f"{path.name}-journal")


def read(path: Path) -> tuple[int, int]:
    """Return the number of rows and the sum of their numbers, through a read-only engine."""
    engine = get_engine(path, read_only=True)
    try:
        with read_transaction(engine) as connection:
            count, total = connection.exec_driver_sql("SELECT count(*), sum(number) FROM counted").one()
    finally:
        dispose(engine)
    return count, total


def write(path: Path) -> tuple[int, int]:
    """Write a row, take it back, and return what `read` does."""
    engine = get_engine(path)
    try:
        with write_transaction(engine) as connection:
            connection.exec_driver_sql("CREATE TABLE another (x INTEGER)")
            connection.exec_driver_sql("DROP TABLE another")
    finally:
        dispose(engine)
    return read(path)


@pytest.mark.parametrize("use", [read, write])
def test_the_journal_of_a_killed_writer_is_rolled_back_and_said(
    hot: Path, use: Callable[[Path], tuple[int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    """Readers and writers first roll the journal back, which is reported once, then see the committed rows."""
    assert use(hot) == (ROWS, 0)
    assert not journal_of(hot).exists()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"{hot}: a writer was killed")
    assert use(hot) == (ROWS, 0)
    assert len(caplog.records) == 1


def test_the_journal_of_a_running_writer_is_left_alone(sound: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While a writer is in its transaction readers see the committed rows, and nothing is said."""
    with OtherProcess(sound, "BEGIN IMMEDIATE", "UPDATE counted SET number = 1 WHERE rowid = 1"):
        assert journal_of(sound).stat().st_size > 0
        assert read(sound) == (ROWS, 0)
        assert journal_of(sound).stat().st_size > 0
    assert caplog.records == []


def test_a_journal_that_was_used_up_is_left_alone(sound: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What `journal_mode=PERSIST` keeps after a commit is no recovery."""
    with closing(sqlite3.connect(sound, isolation_level=None)) as connection:
        assert connection.execute("PRAGMA journal_mode=PERSIST").fetchone() == ("persist",)
        for number in (1, 2, 0):
            connection.execute("UPDATE counted SET number = ?", (number,))
        assert journal_of(sound).stat().st_size > 0
    assert read(sound) == (ROWS, 0)
    assert caplog.records == []


@pytest.mark.parametrize("use", [read, write])
@pytest.mark.parametrize(
    ("modes", "reason"),
    [
        ((0o444, 0o666, 0o777), "this user may not write killed.sqlite;"),
        ((0o666, 0o444, 0o777), "this user may not write killed.sqlite-journal;"),
        ((0o666, 0o000, 0o777), "this user may not read killed.sqlite-journal, in which"),
        ((0o666, 0o666, 0o555), "this user may not write the folder "),
        pytest.param(
            (0o666, 0o666, 0o1777),
            "this user may not delete killed.sqlite-journal in the folder ",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="another user's file is needed"),
        ),
    ],
)
def test_who_may_not_recover_is_told_the_reason(
    hot: Path, modes: tuple[int, int, int], reason: str, use: Callable[[Path], tuple[int, int]]
) -> None:
    """Without the right to roll back, the message names the journal and what is not writable; no byte changes."""
    before = hot.read_bytes(), journal_of(hot).read_bytes()
    for path, mode in zip((hot, journal_of(hot), hot.parent), modes, strict=True):
        path.chmod(mode)

    said = as_an_ordinary_user(lambda: use(hot))

    hot.parent.chmod(0o755)
    journal_of(hot).chmod(0o600)
    assert said.startswith(f"4 DatabaseReadOnly {hot}: ")
    assert f"{journal_of(hot).name}, " in said
    assert reason in said
    assert said.endswith("run this as a user who may write the file, its journal and its folder")
    assert (hot.read_bytes(), journal_of(hot).read_bytes()) == before
    assert read(hot) == (ROWS, 0)


def test_a_log_without_shared_memory_names_what_is_missing(sound: Path) -> None:
    """A reader that may leave no trace is told which file it may not create in the folder."""
    with closing(sqlite3.connect(sound, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("UPDATE counted SET number = 1")
        log = sound.with_name(f"{sound.name}-wal").read_bytes()
    sound.with_name(f"{sound.name}-wal").write_bytes(log)
    for path in (sound, sound.with_name(f"{sound.name}-wal")):
        path.chmod(0o644)
    sound.parent.chmod(0o555)

    def read_without_trace() -> object:
        engine = read_only_engine(get_engine(sound))
        with read_transaction(engine) as connection:
            return connection.exec_driver_sql("SELECT count(*) FROM counted").scalar()

    said = as_an_ordinary_user(read_without_trace)

    assert said.startswith(f"4 DatabaseReadOnly {sound}: its write-ahead log exists without killed.sqlite-shm")
    assert said.endswith("run this as a user who may write the file and its folder")


def as_an_ordinary_user(use: Callable[[], object]) -> str:
    """Call in a child without root's rights; return exit code, class and message of the error, or the result."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = "did not run"
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            said = str(use())
        except DatabaseError as error:
            said = f"{error.exit_code} {type(error).__name__} {error}"
        finally:
            os.write(writer, said.encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said
