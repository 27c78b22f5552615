"""The file of an SQLite database: made private, found on a local disk, and locked against a second writer.

Nothing here opens the database file itself, except to create it: closing any descriptor of a file drops the
locks that SQLite holds on it in this process. Source: sqlite.org/howtocorrupt.html, section 2.2.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from urllib.parse import quote

from cowrieprocessor.db.dialects.base import EngineOptions
from cowrieprocessor.db.dialects.waiting import wait_until
from cowrieprocessor.errors import DatabaseError, DatabaseLocked, DatabaseReadOnly, NotADatabase
from cowrieprocessor.filesystems import NETWORK_FILE_SYSTEMS, file_system_type, mounts

PRIVATE = 0o600
COMPANIONS = ("-wal", "-shm", "-journal")
"""What SQLite appends to a database's name for the files beside it."""


def require_local_disk(path: Path) -> None:
    """Refuse a path on a network file system.

    Raises:
        DatabaseError: WAL needs memory that all processes share, and machines do not share memory.

    Source: sqlite.org/wal.html, "WAL does not work over a network filesystem".
    """
    kind = file_system_type(path, mounts())
    if kind in NETWORK_FILE_SYSTEMS:
        raise DatabaseError(
            f"{path}: lies on a network file system ({kind}), where SQLite's write-ahead log is not safe; "
            "put the database on a local disk, or use PostgreSQL"
        )


def require_existing(path: Path) -> None:
    """Refuse to look at a database that is not there, or that is no regular file.

    Raises:
        DatabaseError: no such file.
        NotADatabase: it is a folder, a FIFO or a device.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise DatabaseError(
            f"{path}: no such database; `cowrieprocessor load --db {path} LOGS` makes one, or name another with --db"
        ) from None
    except OSError as error:
        raise DatabaseError(f"{path}: {error.strerror}; correct the path or its permissions") from error
    if not stat.S_ISREG(mode):
        raise NotADatabase(f"{path}: is no regular file; name the database file itself")


def create_private(path: Path) -> None:
    """Create an empty file that only we may read, unless one is there; -wal and -shm inherit its mode.

    Raises:
        DatabaseError: the folder is missing, or cannot be written.
        NotADatabase: a folder, FIFO or device is in its place.
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
        raise DatabaseReadOnly(f"{path}: may not be created; choose a folder that you may write in") from None
    except OSError as error:
        raise DatabaseError(f"{path}: cannot be created: {error.strerror}; choose another place") from error


def uri(path: Path, mode: str) -> str:
    """Return SQLite's URI of a path; mode is `ro` or `rw`. Source: sqlite.org/uri.html."""
    return f"file:{quote(os.fsencode(path))}?mode={mode}"


def shared_uri(path: Path, mode: str) -> str:
    """Return SQLite's URI of a path that others may have open at the same time; mode is `ro` or `rw`.

    Raises:
        DatabaseError: it lies on a network file system.
    """
    require_local_disk(path)
    return uri(path, mode)


def untouching_uri(path: Path) -> str:
    """Return an URI that reads a file and makes none beside it.

    Reading a database in WAL mode makes its -wal and -shm where they are missing. Where there is no log, everything
    is in the file, which can then be read as one that does not change.

    Raises:
        DatabaseError: a log lies there without its -shm: reading it needs one.

    Source: sqlite.org/uri.html, `immutable`; sqlite.org/wal.html, "Read-Only Databases".
    """
    log, shared, journal = (path.with_name(path.name + ending) for ending in COMPANIONS)
    log_bytes = log.stat().st_size if log.exists() else 0
    if log_bytes and not shared.exists():
        raise DatabaseError(
            f"{path}: its write-ahead log lies there without {shared.name}, as after a copy; "
            "run `cowrieprocessor db status` on it, which makes that file, then repeat the command"
        )
    if journal.exists() or (log.exists() and shared.exists()):
        return shared_uri(path, "ro")
    return f"{uri(path, 'ro')}&immutable=1"


class WriterLock:
    """A lock beside the database that one writer at a time holds, where the SQLite library needs it.

    Serialized writers cannot checkpoint at the same time, which is what the WAL-reset bug needs. Each
    connection has a lock of its own, so that it also keeps the connections of one process apart.
    """

    def __init__(self, database: Path, options: EngineOptions) -> None:
        self._database = database
        self._options = options
        self._descriptor: int | None = None

    @property
    def path(self) -> Path:
        """The lock file; it stays there, empty."""
        return self._database.with_name(self._database.name + ".writer-lock")

    @property
    def held(self) -> bool:
        """Whether we hold it."""
        return self._descriptor is not None

    def acquire(self) -> None:
        """Wait for the lock.

        Raises:
            DatabaseLocked: another writer held it for longer than we may wait.
        """
        if not self.try_for(self._options):
            raise DatabaseLocked(
                f"{self._database}: another process has been writing for {self._options.lock_timeout_s:g} s; "
                "wait for it, or stop it, then repeat the command"
            )

    def try_for(self, options: EngineOptions) -> bool:
        """Wait for the lock as long as these options say; return whether we hold it."""
        if self.held:
            return True
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(self.path, flags, PRIVATE)
        except PermissionError as error:
            raise DatabaseReadOnly(f"{self.path}: may not be written; choose a folder you may write in") from error
        except OSError as error:
            raise DatabaseError(f"{self.path}: cannot be opened: {error.strerror}; remove what is there") from error
        try:
            if wait_until(lambda: _flock(descriptor), options):
                self._descriptor = descriptor
        finally:
            if self._descriptor is None:
                os.close(descriptor)
        return self.held

    def release(self) -> None:
        """Let the next writer in; does nothing when we do not hold it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
