"""The file of an SQLite database: private permissions, the check for a local disk, and the writer lock.

Nothing here opens the database file itself, except to create it: closing any descriptor of a file releases SQLite's
locks on it in this process. Source: sqlite.org/howtocorrupt.html, section 2.2.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from urllib.parse import quote

from cowrieprocessor.db.dialects.base import EngineOptions
from cowrieprocessor.db.dialects.waiting import wait_until
from cowrieprocessor.errors import DatabaseError, DatabaseFull, DatabaseLocked, DatabaseReadOnly, NotADatabase
from cowrieprocessor.filesystems import NETWORK_FILE_SYSTEMS, file_system_type, is_full, mounts, os_error_text
from cowrieprocessor.sanitize import shell_word

PRIVATE = 0o600
COMPANIONS = ("-wal", "-shm", "-journal")
"""Suffixes that SQLite appends to the name of a database for its additional files."""


def require_local_disk(path: Path) -> None:
    """Refuse a path on a network file system.

    WAL needs memory that all processes share, and machines do not share memory.

    Raises:
        DatabaseError: the path is on a network file system.

    Source: sqlite.org/wal.html, "WAL does not work over a network filesystem".
    """
    kind = file_system_type(path, mounts())
    if kind in NETWORK_FILE_SYSTEMS:
        raise DatabaseError(
            f"{path}: is on a network file system ({kind}), where SQLite's write-ahead log is not safe; "
            "put the database on a local disk, or use PostgreSQL"
        )


def require_existing(path: Path) -> None:
    """Check that a database exists and is a regular file.

    Raises:
        DatabaseError: there is no such file.
        NotADatabase: it is a folder, a FIFO or a device.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise DatabaseError(
            f"{path}: no such database; `cowrieprocessor load --db {shell_word(str(path))} LOGS` creates it, "
            "or name another with --db"
        ) from None
    except OSError as error:
        raise DatabaseError(f"{path}: {error.strerror}; correct the path or its permissions") from error
    if not stat.S_ISREG(mode):
        raise NotADatabase(f"{path}: is not a regular file; name the database file itself")


def create_private(path: Path) -> None:
    """Create an empty file that only its owner can read, unless it exists; -wal and -shm inherit its mode.

    Raises:
        DatabaseError: the folder does not exist or is not writable.
        NotADatabase: the path is a folder, a FIFO or a device.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE))
    except FileExistsError:
        require_existing(path)
    except (FileNotFoundError, NotADirectoryError):
        raise DatabaseError(
            f"{path}: the folder {path.parent} does not exist; create it, or name another file with --db"
        ) from None
    except PermissionError:
        raise DatabaseReadOnly(f"{path}: no permission to create it; choose a folder that you may write to") from None
    except OSError as error:
        raise cannot_create(path, error, "choose another path") from error


def cannot_create(path: Path, error: OSError, remedy: str) -> DatabaseError:
    """Return the error for a file that cannot be created or opened for writing: a full disk is one of its own."""
    if is_full(error):
        return DatabaseFull(f"{path}: cannot be created: {os_error_text(error)}; make room, then repeat the command")
    return DatabaseError(f"{path}: cannot be opened: {os_error_text(error)}; {remedy}")


def journal_of(path: Path) -> Path:
    """Return the path of a database's rollback journal."""
    return path.with_name(f"{path.name}-journal")


def primary_code(error: BaseException | None) -> int | None:
    """Return SQLite's primary result code of a driver's error; None if there is no error, or not from SQLite."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None


def uri(path: Path, mode: str) -> str:
    """Return the SQLite URI of a path; mode is `ro` or `rw`. Source: sqlite.org/uri.html."""
    return f"file:{quote(os.fsencode(path))}?mode={mode}"


def shared_uri(path: Path, mode: str) -> str:
    """Return the SQLite URI of a path that other processes may have open; mode is `ro` or `rw`.

    Raises:
        DatabaseError: the path is on a network file system.
    """
    require_local_disk(path)
    return uri(path, mode)


def no_trace_uri(path: Path) -> str:
    """Return the SQLite URI that reads a database without creating files next to it.

    Opening a database in WAL mode creates missing -wal and -shm files. Without a log the main file is complete, and can
    be opened as immutable. A log without its -shm file is what a writer leaves that was killed while it closed: reading
    it creates that file, and changes nothing else.

    Raises:
        DatabaseReadOnly: a log exists without its -shm file, which this user may not create.

    Source: sqlite.org/uri.html, `immutable`; sqlite.org/wal.html, "Read-Only Databases".
    """
    log, shared, journal = (path.with_name(path.name + ending) for ending in COMPANIONS)
    log_bytes = log.stat().st_size if log.exists() else 0
    if log_bytes and not shared.exists() and not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
        raise DatabaseReadOnly(
            f"{path}: its write-ahead log exists without {shared.name}, as after a kill or a copy, and this user may "
            f"not create that in the folder {path.parent}; run this as a user who may write the file and its folder"
        )
    if journal.exists() or log_bytes or (log.exists() and shared.exists()):
        return shared_uri(path, "ro")
    return f"{uri(path, 'ro')}&immutable=1"


class WriterLock:
    """A lock file next to the database that serializes writers, for SQLite libraries with the WAL-reset bug.

    The bug needs two connections that checkpoint at the same time. Each connection opens the lock file separately, so
    that the connections of one process are serialized, too.
    """

    def __init__(self, database: Path, options: EngineOptions) -> None:
        self._database = database
        self._options = options
        self._descriptor: int | None = None

    @property
    def path(self) -> Path:
        """The lock file; it is empty and never deleted."""
        return self._database.with_name(self._database.name + ".writer-lock")

    @property
    def is_held(self) -> bool:
        """Whether this connection has the lock."""
        return self._descriptor is not None

    def acquire(self) -> None:
        """Wait for the lock.

        Raises:
            DatabaseLocked: another writer kept the lock beyond the timeout.
        """
        if not self.try_acquire(self._options):
            raise DatabaseLocked(
                f"{self._database}: another process has been writing for {self._options.lock_timeout_s:g} s; "
                "wait for it, or stop it, then repeat the command"
            )

    def try_acquire(self, options: EngineOptions) -> bool:
        """Wait for the lock up to `options.lock_timeout_s`; return whether it was acquired.

        Raises:
            DatabaseReadOnly: the lock file is not writable.
            DatabaseError: it cannot be opened.
        """
        if self.is_held:
            return True
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(self.path, flags, PRIVATE)
        except PermissionError as error:
            raise DatabaseReadOnly(f"{self.path}: is not writable; choose a folder that you may write to") from error
        except OSError as error:
            raise cannot_create(self.path, error, "remove that file") from error
        try:
            if wait_until(lambda: _flock(descriptor), options):
                self._descriptor = descriptor
        finally:
            if self._descriptor is None:
                os.close(descriptor)
        return self.is_held

    def release(self) -> None:
        """Release the lock, if this connection has it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
