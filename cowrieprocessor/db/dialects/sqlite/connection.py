"""SQLite connections: the choice of library, how a file is opened, and how a write transaction begins.

The driver's own transaction handling is off (`isolation_level=None`): our listener issues BEGIN IMMEDIATE, so that DDL
is transactional and no read transaction has to be upgraded to a write transaction, which SQLite may refuse.

A process must use one SQLite library per file: POSIX locks belong to the process, so two libraries in it (pysqlite3 and
Python's own) miss each other's locks and release them for each other. Source: sqlite.org/howtocorrupt.html, 2.2.1.
"""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from cowrieprocessor.db.dialects.base import EngineOptions
from cowrieprocessor.db.dialects.sqlite.files import (
    WriterLock,
    create_private,
    no_trace_uri,
    primary_code,
    require_existing,
    require_local_disk,
    shared_uri,
)
from cowrieprocessor.db.dialects.sqlite.recovery import recover
from cowrieprocessor.db.dialects.waiting import wait_until
from cowrieprocessor.errors import ConfigurationError, DatabaseLocked

BUSY_MS = 10_000
"""SQLite's busy timeout for short waits: recovery, or the close of the last connection."""

WRITER_BUSY_MS = 250
"""SQLite's busy timeout for the write lock; after it our own loop, which can report the wait, tries again."""

CLOSE_WAIT_S = 5.0

CHECKPOINT_BUSY_MS = 50
"""How long truncating the log may block other writers while a reader still needs the log."""

PRAGMAS = (
    "PRAGMA foreign_keys=ON",
    "PRAGMA temp_store=MEMORY",
    "PRAGMA cache_size=-40960",  # KiB: the loader and its parser together stay below 200 MB
    "PRAGMA mmap_size=0",
)
CACHED_STATEMENTS = 512
"""Prepared statements that a connection keeps.

Where the cache is full, pysqlite3 replaces the newest of those that were used least: once a migration has filled it, no
statement of the loader stays in it.
"""

WRITER_PRAGMAS = (
    "PRAGMA synchronous=NORMAL",
    "PRAGMA wal_autocheckpoint=40000",  # pages: 160 MB, so that index pages are copied once for several batches
    "PRAGMA journal_size_limit=163840000",  # the same: a WAL that restarts keeps its space
)


def wal_reset_bug(version: tuple[int, ...]) -> bool:
    """Return whether this SQLite version can corrupt a WAL database when two connections checkpoint at once.

    Args:
        version: major, minor, patch.

    Source: sqlite.org/wal.html, the WAL-reset bug: 3.7.0 to 3.51.2, fixed in 3.51.3, 3.50.7 and 3.44.6.
    """
    if version[:2] == (3, 44):
        return version < (3, 44, 6)
    if version[:2] == (3, 50):
        return version < (3, 50, 7)
    return (3, 7, 0) <= version < (3, 51, 3)


@cache
def load_driver(choice: str) -> ModuleType:
    """Return the SQLite driver module.

    Args:
        choice: `pysqlite3`, `stdlib`, or `auto` for pysqlite3 if it is installed.

    Raises:
        ConfigurationError: `pysqlite3` was chosen but is not installed.
    """
    driver = _driver(choice)
    # For a value of another type than int, float and str, the driver looks for an adapter, and without one for methods
    # that None and bool do not have: 2 microseconds for each value that is bound.
    driver.register_adapter(type(None), {None: None}.get)  # returns None, without a call into Python
    driver.register_adapter(bool, int)
    return driver


def _driver(choice: str) -> ModuleType:
    if choice == "stdlib":
        return sqlite3
    try:
        return importlib.import_module("pysqlite3.dbapi2")
    except ImportError as error:
        if choice == "pysqlite3":
            raise ConfigurationError(
                "pysqlite3 is not installed; `pip install pysqlite3`, or set COWRIEPROC_SQLITE_DRIVER=auto"
            ) from error
        return sqlite3


@cache
def driver_errors() -> tuple[type[Exception], ...]:
    """Return the base error classes of the drivers that may be in use."""
    return tuple({sqlite3.Error, load_driver("auto").Error})


class _SerializedWrites:
    """Mixin for connections of a library with the WAL-reset bug: one writer at a time, including close."""

    writer_lock: WriterLock | None = None

    def commit(self) -> None:
        """Commit, which may checkpoint, then release the writer lock."""
        super().commit()  # type: ignore[misc]
        self._release()

    def rollback(self) -> None:
        """Roll back, then release the writer lock."""
        super().rollback()  # type: ignore[misc]
        self._release()

    def close(self) -> None:
        """Close while holding the lock, because the last connection to close checkpoints.

        If the lock stays taken for longer, its owner has the database open, so this is not the last connection.
        """
        if self.writer_lock is not None:
            self.writer_lock.try_acquire(EngineOptions(lock_timeout_s=CLOSE_WAIT_S))
        try:
            super().close()  # type: ignore[misc]
        finally:
            if self.writer_lock is not None:
                self.writer_lock.release()

    def _release(self) -> None:
        if self.writer_lock is not None and not self.in_transaction:  # type: ignore[attr-defined]
            self.writer_lock.release()


@cache
def _serialized_connection(driver: ModuleType) -> type[Any]:
    return type("SerializedConnection", (_SerializedWrites, driver.Connection), {})


def connect(path: Path, options: EngineOptions) -> Any:
    """Return a configured driver connection to a file; a writer creates a missing file.

    Raises:
        DatabaseReadOnly: a killed writer's transaction has to be rolled back, which this user may not do.
        DatabaseError: see `require_existing`, `create_private`, `require_local_disk`.
    """
    driver = load_driver(options.driver)
    path = path.resolve()
    if options.read_only:
        require_existing(path)
        require_local_disk(path)
        recover(path, driver)
        name = no_trace_uri(path) if options.leave_no_trace else shared_uri(path, "ro")
    else:
        name = shared_uri(path, "rw")
        create_private(path)
        recover(path, driver)
    serialize = not options.read_only and wal_reset_bug(driver.sqlite_version_info)
    connection = driver.connect(
        name,
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_MS / 1000,
        cached_statements=CACHED_STATEMENTS,
        factory=_serialized_connection(driver) if serialize else driver.Connection,
    )
    ready = False
    try:
        if serialize:
            connection.writer_lock = WriterLock(path, options)
        _set_up(connection, options)
        ready = True
    finally:
        if not ready:
            connection.close()
    return connection


def connect_in_memory(options: EngineOptions) -> Any:
    """Return a driver connection to a private in-memory database."""
    return load_driver(options.driver).connect(":memory:", isolation_level=None, check_same_thread=False)


def begin_immediate(connection: Any, options: EngineOptions) -> None:
    """Begin a transaction that holds the write lock, waiting for it up to `options.lock_timeout_s`.

    Raises:
        DatabaseLocked: another process kept writing.
    """
    began = False
    lock: WriterLock | None = getattr(connection, "writer_lock", None)
    if lock is not None:
        lock.acquire()
    try:
        with _short_busy_timeout(connection):
            began = wait_until(lambda: _try_execute(connection, "BEGIN IMMEDIATE"), options)
    finally:
        if lock is not None and not began:
            lock.release()
    if not began:
        raise DatabaseLocked(
            f"the database is locked: another process has been writing for {options.lock_timeout_s:g} s; "
            "wait for it, or stop it, then repeat the command"
        )


def empty_log(connection: Any) -> None:
    """Checkpoint and truncate the write-ahead log as far as other connections allow, without blocking them for long."""
    lock: WriterLock | None = getattr(connection, "writer_lock", None)
    if lock is not None and not lock.try_acquire(EngineOptions(lock_timeout_s=0.0)):
        return
    connection.execute(f"PRAGMA busy_timeout={CHECKPOINT_BUSY_MS}")
    try:
        _try_execute(connection, "PRAGMA wal_checkpoint(PASSIVE)")
        _try_execute(connection, "PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")
        if lock is not None:
            lock.release()


def _set_up(connection: Any, options: EngineOptions) -> None:
    for pragma in PRAGMAS:
        connection.execute(pragma)
    if options.read_only:
        connection.execute("PRAGMA query_only=ON")
        return
    for pragma in WRITER_PRAGMAS:
        connection.execute(pragma)
    if _journal_mode(connection) != "wal" and _is_ours_or_empty(connection):
        _switch_to_wal(connection, options)


def _journal_mode(connection: Any) -> str:
    return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def _is_ours_or_empty(connection: Any) -> bool:
    """Return whether the file may be changed: the database of another application is never written to."""
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    return not names or "schema_state" in names


def _switch_to_wal(connection: Any, options: EngineOptions) -> None:
    """Turn on write-ahead logging, which needs exclusive access for a moment.

    A file without write permission is left alone: the first write through this connection reports it.
    """
    lock: WriterLock | None = getattr(connection, "writer_lock", None)
    if lock is not None:
        lock.acquire()
    try:
        with _short_busy_timeout(connection):
            switched = wait_until(
                lambda: _try_execute(connection, "PRAGMA journal_mode=WAL", ignored_code=sqlite3.SQLITE_READONLY),
                options,
            )
    finally:
        if lock is not None:
            lock.release()
    if not switched:
        raise DatabaseLocked(
            "another process is using the database, which is not in WAL mode yet; stop it, then repeat"
        )


@contextmanager
def _short_busy_timeout(connection: Any) -> Iterator[None]:
    """Shorten SQLite's busy timeout, so that our own loop can report the wait."""
    connection.execute(f"PRAGMA busy_timeout={WRITER_BUSY_MS}")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")


def _try_execute(connection: Any, statement: str, *, ignored_code: int | None = None) -> bool:
    """Run a statement; return False if another connection blocks it.

    Args:
        connection: a driver's connection.
        statement: the statement.
        ignored_code: a primary result code that counts as success.
    """
    try:
        connection.execute(statement)
    except driver_errors() as error:
        code = primary_code(error)
        if code == sqlite3.SQLITE_BUSY:
            return False
        if code is None or code != ignored_code:
            raise
    return True
