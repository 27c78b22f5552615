"""On PostgreSQL a scan and a loader that write the same hashes wait for each other, never both at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, Engine, insert, select, text

from cowrieprocessor.analysis import scan_statements
from cowrieprocessor.analysis.captured_file import CapturedFile
from cowrieprocessor.analysis.scan_statements import SizeCursor
from cowrieprocessor.db.engine import dispose, get_engine, write_transaction
from cowrieprocessor.db.ingest.statements import LoadingStatements
from cowrieprocessor.db.migrations import apply_migrations
from cowrieprocessor.db.models import FileHash, Files

pytestmark = pytest.mark.postgres

LOW, HIGH = "1" * 64, "5" * 64
SEEN = "2026-11-21 10:00:00.000000"
BLOCKED = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    """An engine on PostgreSQL."""
    made = get_engine(postgres_url)
    try:
        apply_migrations(made)
        yield made
    finally:
        dispose(made)


class Loader:
    """A loader inside its transaction, controlled by the test."""

    def __init__(self, connection: Connection) -> None:
        self._statements = LoadingStatements(connection)

    def merge_hash(self, sha256: str) -> None:
        """Do what a load does with a hash."""
        self._statements.merge_hashes([[sha256, SEEN, SEEN, "pending", SEEN]])

    def merge_file(self, session_id: str, sha256: str) -> None:
        """Do what a load does with a file of a session that it saw earlier."""
        self._statements.merge_files([[session_id, sha256, "name", None, "download", SEEN]], SEEN)


def captured(sha256: str) -> CapturedFile:
    """Return a captured file with this hash."""
    return CapturedFile(sha256, "a" * 40, "b" * 32, 7, None, None, "text/plain", "text")


@contextmanager
def beside(engine: Engine, scan: Callable[[Connection], object]) -> Iterator[Callable[[], Future[None]]]:
    """Yield a function that starts a transaction of a scan in another thread and returns when it waits for a lock."""

    def transaction() -> None:
        with write_transaction(engine) as connection:
            scan(connection)

    def start() -> Future[None]:
        running = pool.submit(transaction)
        deadline = time.monotonic() + 20
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not connection.scalar(BLOCKED):
                assert not running.done(), "it should wait for the loader"
                assert time.monotonic() < deadline
                time.sleep(0.01)
        return running

    with ThreadPoolExecutor(1) as pool:
        yield start


def test_a_scan_that_adds_hashes_waits_before_it_locks_any(engine: Engine) -> None:
    """A scan that waits for a hash of a running load has locked no hash that the load needs later."""
    with write_transaction(engine) as connection:
        Loader(connection).merge_hash(LOW)

    with (
        beside(engine, lambda c: scan_statements.store(c, [captured(LOW), captured(HIGH)], "artifact:x")) as start,
        write_transaction(engine) as connection,
    ):
        loader = Loader(connection)
        loader.merge_hash(LOW)
        scan = start()
        loader.merge_hash(HIGH)
        loader.merge_file("s", HIGH)
    scan.result()

    with engine.connect() as connection:
        rows = connection.execute(select(Files.session_id, Files.shasum, Files.origin).order_by(Files.shasum)).all()
        sizes = set(connection.scalars(select(FileHash.size_bytes)))
    assert rows == [("artifact:x", LOW, "artifact"), ("s", HIGH, "download")]
    assert sizes == {7}


def test_later_sizes_wait_for_the_hashes_first(engine: Engine) -> None:
    """A scan that sets sizes in another transaction waits for the hashes, with no row of `files` locked."""
    with write_transaction(engine) as connection:
        for sha256 in (LOW, HIGH):
            Loader(connection).merge_hash(sha256)
        connection.execute(
            insert(Files.__table__).values(first_seen=text(f"TIMESTAMPTZ '{SEEN}+00'")),
            [{"session_id": session, "shasum": sha256} for session in ("a", "b") for sha256 in (LOW, HIGH)],
        )
        connection.execute(text("UPDATE file_hashes SET size_bytes = 7"))

    with (
        beside(engine, lambda c: scan_statements.set_sizes(c, [LOW, HIGH], after=SizeCursor(LOW, 0))) as start,
        write_transaction(engine) as connection,
    ):
        loader = Loader(connection)
        loader.merge_hash(LOW)
        loader.merge_hash(HIGH)
        loader.merge_file("a", HIGH)
        scan = start()
        loader.merge_file("b", LOW)
    scan.result()

    with engine.connect() as connection:
        rows = connection.execute(select(Files.session_id, Files.shasum, Files.file_size, Files.filename)).all()
    assert sorted(rows, key=repr) == [
        ("a", LOW, 7, None), ("a", HIGH, 7, "name"), ("b", LOW, 7, "name"), ("b", HIGH, 7, None),
    ]  # fmt: skip
