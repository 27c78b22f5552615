"""Concurrent writers: waiting, its reports and its timeout; writers are serialized if SQLite has the WAL-reset bug."""

from __future__ import annotations

import fcntl
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from cowrieprocessor.db.dialects.base import EngineOptions
from cowrieprocessor.db.dialects.sqlite.connection import load_driver
from cowrieprocessor.db.dialects.sqlite.dialect import wal_reset_bug
from cowrieprocessor.db.dialects.waiting import wait_until
from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.errors import DatabaseLocked
from tests.other_connections import OtherProcess

OPENER = Callable[..., Engine]
affected = pytest.mark.skipif(
    not wal_reset_bug(sqlite3.sqlite_version_info), reason="Python's own SQLite does not have the WAL-reset bug"
)


@pytest.fixture
def opened() -> Iterator[OPENER]:
    """Return get_engine, whose engines are closed after the test."""
    engines: list[Engine] = []

    def open_(*args: object, **options: object) -> Engine:
        engines.append(get_engine(*args, **options))  # type: ignore[arg-type]
        return engines[-1]

    yield open_
    for engine in engines:
        dispose(engine)


def prepare(engine: Engine) -> None:
    """Create a table with one row, a counter."""
    with write_transaction(engine) as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER)"))
        connection.execute(text("INSERT INTO t VALUES (0)"))


def count_up(engine: Engine) -> None:
    """Read the counter and write it back incremented."""
    with write_transaction(engine) as connection:
        value = connection.execute(
            text("SELECT x FROM t FOR UPDATE" if engine.name == "postgresql" else "SELECT x FROM t")
        )
        connection.execute(text("UPDATE t SET x = :x"), {"x": value.scalar_one() + 1})


def test_writer_gives_up_after_its_timeout(tmp_path: Path, opened: OPENER) -> None:
    """When another process keeps writing, the writer fails with the remedy."""
    path = tmp_path / "x.sqlite"
    engine = opened(path, lock_timeout_s=0)
    prepare(engine)
    with OtherProcess(path, "BEGIN IMMEDIATE"), pytest.raises(DatabaseLocked, match="wait for it, or stop it"):
        count_up(engine)
    count_up(engine)


def test_writer_waits_and_reports_it(tmp_path: Path, opened: OPENER) -> None:
    """While another process writes, the writer reports how long it has waited, and continues afterwards."""
    path = tmp_path / "x.sqlite"
    waited: list[float] = []
    prepare(opened(path))
    with OtherProcess(path, "BEGIN IMMEDIATE") as other:

        def on_wait(seconds: float) -> None:
            waited.append(seconds)
            other.end()

        count_up(opened(path, on_wait=on_wait))
    assert len(waited) == 1


def test_reader_does_not_wait_for_a_writer(tmp_path: Path, opened: OPENER) -> None:
    """Reading is possible while another process writes."""
    path = tmp_path / "x.sqlite"
    prepare(opened(path))
    reader = opened(path, read_only=True, lock_timeout_s=0)
    with OtherProcess(path, "BEGIN IMMEDIATE", "UPDATE t SET x = 7"), read_transaction(reader) as connection:
        assert connection.execute(text("SELECT x FROM t")).scalar() == 0


def test_short_exclusive_use_is_waited_out(tmp_path: Path, opened: OPENER) -> None:
    """Opening waits while another process has exclusive access for a moment, as when it closes the file."""
    path = tmp_path / "x.sqlite"
    first = opened(path)
    prepare(first)
    dispose(first)
    with OtherProcess(path, "PRAGMA locking_mode=EXCLUSIVE", "BEGIN EXCLUSIVE", "UPDATE t SET x = 7") as other:
        ending = threading.Timer(0.6, other.end)
        ending.start()
        count_up(opened(path))
        ending.join()
    with read_transaction(opened(path, read_only=True)) as connection:
        assert connection.execute(text("SELECT x FROM t")).scalar() == 1


@pytest.mark.postgres
def test_postgres_writer_gives_up_after_its_timeout(postgres_url: str, opened: OPENER) -> None:
    """The timeout also applies to a table that another transaction has locked on a server."""
    prepare(opened(postgres_url))
    with opened(postgres_url).begin() as other:
        other.execute(text("LOCK TABLE t"))
        with pytest.raises(DatabaseLocked):
            count_up(opened(postgres_url, lock_timeout_s=0))


def test_waiting_is_reported_after_one_second_and_then_every_five() -> None:
    """Waiting is reported after the first second and then about every five, until the timeout."""
    now = [0.0]
    reports: list[int] = []

    def sleep(seconds: float) -> None:
        now[0] += seconds

    options = EngineOptions(lock_timeout_s=20, on_wait=lambda seconds: reports.append(round(seconds)))
    assert not wait_until(lambda: False, options, clock=lambda: now[0], sleep=sleep)
    assert (reports, round(now[0])) == ([1, 6, 11, 16], 20)


def test_no_update_is_lost(db_url: str, opened: OPENER) -> None:
    """Writers that read and then write never overwrite each other's result."""
    prepare(opened(db_url))
    engines = [opened(db_url) for _ in range(4)]
    _together(count_up, engines, times=25)
    with read_transaction(opened(db_url)) as connection:
        assert connection.execute(text("SELECT x FROM t")).scalar() == 100


def _together(task: Callable[[Engine], None], engines: list[Engine], times: int) -> None:
    """Run a task several times on each engine, with one thread per engine."""
    errors: list[BaseException] = []

    def work(engine: Engine) -> None:
        try:
            for _ in range(times):
                task(engine)
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 0), True),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 53, 4), False),
    ],
)
def test_versions_with_the_wal_reset_bug(version: tuple[int, ...], expected: bool) -> None:
    """The bug was introduced with WAL in 3.7.0 and fixed in 3.51.3, 3.50.7 and 3.44.6."""
    assert wal_reset_bug(version) is expected


def test_installed_pysqlite3_is_used_and_not_affected() -> None:
    """If pysqlite3 is installed it is the default, and its SQLite does not have the bug."""
    pysqlite3 = pytest.importorskip("pysqlite3.dbapi2")
    assert load_driver("auto") is pysqlite3
    assert not wal_reset_bug(pysqlite3.sqlite_version_info)


@pytest.fixture
def stdlib(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make engines use Python's own SQLite."""
    monkeypatch.setenv("COWRIEPROC_SQLITE_DRIVER", "stdlib")


def lock_is_free(path: Path) -> bool:
    """Return whether the writer lock of a database is free."""
    with path.with_name(path.name + ".writer-lock").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@affected
@pytest.mark.usefixtures("stdlib")
def test_affected_library_writes_under_a_lock(tmp_path: Path, opened: OPENER) -> None:
    """With an affected library a writer locks the lock file for the duration of each transaction."""
    path = tmp_path / "x.sqlite"
    engine = opened(path)
    prepare(engine)
    states = [lock_is_free(path)]
    with write_transaction(engine):
        states.append(lock_is_free(path))
    states.append(lock_is_free(path))
    with pytest.raises(ZeroDivisionError), write_transaction(engine):
        raise ZeroDivisionError
    states.append(lock_is_free(path))
    with read_transaction(engine):
        states.append(lock_is_free(path))
    dispose(engine)
    assert states == [True, False, True, True, True]
    assert lock_is_free(path)


@affected
@pytest.mark.usefixtures("stdlib")
def test_affected_library_waits_for_the_lock(tmp_path: Path, opened: OPENER) -> None:
    """With an affected library a writer waits for the lock file and gives up after its timeout."""
    path = tmp_path / "x.sqlite"
    engine = opened(path, lock_timeout_s=0)
    prepare(engine)
    with path.with_name("x.sqlite.writer-lock").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DatabaseLocked, match="another process has been writing"):
            count_up(engine)
    count_up(engine)


@affected
@pytest.mark.usefixtures("stdlib")
def test_affected_library_closes_under_the_lock(
    tmp_path: Path, opened: OPENER, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an affected library a connection is closed, which checkpoints, only while it has the lock."""
    path = tmp_path / "x.sqlite"
    engine = opened(path)
    prepare(engine)
    log = path.with_name("x.sqlite-wal")
    closer = threading.Thread(target=dispose, args=(engine,))
    with path.with_name("x.sqlite.writer-lock").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        closer.start()
        closer.join(0.2)
        is_waiting, had_log = closer.is_alive(), log.exists()
    closer.join()
    assert (is_waiting, had_log, log.exists()) == (True, True, False)


@affected
@pytest.mark.usefixtures("stdlib")
def test_affected_library_loses_no_update(tmp_path: Path, opened: OPENER) -> None:
    """With an affected library several writers still work concurrently, also within one process."""
    path = tmp_path / "x.sqlite"
    prepare(opened(path))
    _together(count_up, [opened(path) for _ in range(4)], times=25)
    with read_transaction(opened(path, read_only=True)) as connection:
        assert connection.execute(text("SELECT x FROM t")).scalar() == 100


def test_unaffected_library_needs_no_lock_file(tmp_path: Path, opened: OPENER, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an unaffected library no lock file is created."""
    pytest.importorskip("pysqlite3.dbapi2")
    monkeypatch.setenv("COWRIEPROC_SQLITE_DRIVER", "pysqlite3")
    prepare(opened(tmp_path / "x.sqlite"))
    assert not (tmp_path / "x.sqlite.writer-lock").exists()
