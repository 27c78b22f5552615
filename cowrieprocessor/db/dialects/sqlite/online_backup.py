"""Operations on whole SQLite files: online backup, and consolidation into one file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection

from cowrieprocessor.db.dialects.base import DatabaseFiles, EngineOptions, options_of
from cowrieprocessor.db.dialects.sqlite import files as sqlite_files
from cowrieprocessor.db.dialects.sqlite.connection import driver_errors, load_driver, wal_reset_bug
from cowrieprocessor.db.dialects.sqlite.files import COMPANIONS, WriterLock, create_private, primary_code, uri
from cowrieprocessor.errors import DatabaseInUse
from cowrieprocessor.filesystems import file_system_type, mounts

PAGES_AT_ONCE = 1024
"""Pages per step of the backup: 4 MiB at the default page size."""

EXCLUSIVE_BUSY_S = 2.0
"""SQLite's busy timeout for exclusive access to a file."""

HEADER = b"SQLite format 3\0"

_CODES = {
    "access permission denied": sqlite3.SQLITE_PERM,
    "attempt to write a readonly database": sqlite3.SQLITE_READONLY,
    "database disk image is malformed": sqlite3.SQLITE_CORRUPT,
    "database is locked": sqlite3.SQLITE_BUSY,
    "database or disk is full": sqlite3.SQLITE_FULL,
    "database table is locked": sqlite3.SQLITE_LOCKED,
    "disk I/O error": sqlite3.SQLITE_IOERR,
    "file is not a database": sqlite3.SQLITE_NOTADB,
    "unable to open database file": sqlite3.SQLITE_CANTOPEN,
}
"""Result codes by their message. Source: sqlite.org/c3ref/errcode.html, sqlite3_errstr."""


class SqliteDatabaseFiles(DatabaseFiles):
    """The file of an SQLite database."""

    def path_of(self, url: URL) -> Path | None:
        """Return the resolved path of the file; None for an in-memory database."""
        if url.database in (None, "", ":memory:"):
            return None
        return Path(url.database or "").expanduser().resolve()

    def companions(self, path: Path) -> tuple[Path, ...]:
        """Return the paths of the log, its shared memory, and the rollback journal."""
        return tuple(path.with_name(path.name + suffix) for suffix in COMPANIONS)

    def looks_like_database(self, path: Path) -> bool:
        """Return whether the file is empty or has SQLite's header; an unfinished copy may have zeros instead."""
        with path.open("rb") as file:
            start = file.read(len(HEADER))
        return start == HEADER or not start.strip(b"\0")

    def file_system(self, path: Path) -> str | None:
        """Return the type from Linux's list of mounts; None if it is not listed."""
        return file_system_type(path, mounts()) or None

    def require_local_disk(self, path: Path) -> None:
        """Refuse a network file system, where the write-ahead log is not safe."""
        sqlite_files.require_local_disk(path)

    def copy(
        self, connection: Connection, target: Path, *, in_use: bool, on_progress: Callable[[int, int], None]
    ) -> None:
        """Copy page by page with SQLite's online backup, from the connection whose transaction has the snapshot.

        Within an open read transaction the backup never restarts, however much others write, because it reads through
        that transaction. Without it each commit of another process would restart the backup from the first page.

        Source: sqlite.org/c3ref/backup_finish.html, sqlite3_backup_step.
        """
        source: Any = connection.connection.driver_connection
        driver = load_driver(options_of(connection).driver)
        create_private(target)
        copy = _open(driver, target)
        try:
            copy.execute("PRAGMA journal_mode=OFF")  # an unfinished copy is discarded
            copy.execute("PRAGMA synchronous=OFF")  # the whole file is synced at the end
            source.backup(copy, pages=PAGES_AT_ONCE, progress=lambda _, left, total: on_progress(total - left, total))
        except driver_errors() as error:
            _set_result_code(error)
            raise
        finally:
            copy.close()
        finished = _open(driver, target)
        try:
            finished.execute(f"PRAGMA journal_mode={'WAL' if in_use else 'DELETE'}")
        finally:
            finished.close()

    def consolidate(self, path: Path, options: EngineOptions) -> None:
        """Leave WAL mode, which SQLite allows only to the last connection, enter it again, and close."""
        driver = load_driver(options.driver)
        lock = WriterLock(path, options) if wal_reset_bug(driver.sqlite_version_info) else None
        if lock is not None:
            lock.acquire()
        try:
            connection = _open(driver, path)
            try:
                _checkpoint_exclusively(connection)
            except driver_errors() as error:
                if primary_code(error) != sqlite3.SQLITE_BUSY:
                    raise
                raise DatabaseInUse(
                    f"{path}: another process has the database open; stop it, then repeat the command"
                ) from error
            finally:
                connection.close()
        finally:
            if lock is not None:
                lock.release()


def _set_result_code(error: Any) -> None:
    """Set SQLite's result code on an error of the backup, for which the driver provides only the message."""
    if primary_code(error) is None:
        error.sqlite_errorcode = _CODES.get(str(error))


def _checkpoint_exclusively(connection: Any) -> None:
    """Move the log into the main file and remove the additional files; the journal mode does not change."""
    mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute("COMMIT")
    if mode == "wal":
        connection.execute("PRAGMA journal_mode=WAL")


def _open(driver: Any, path: Path) -> Any:
    return driver.connect(uri(path, "rw"), uri=True, isolation_level=None, timeout=EXCLUSIVE_BUSY_S)
