"""The lock for commands on a whole database: migration, backup and restore run one at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cowrieprocessor.db.dialects.base import EngineOptions
from cowrieprocessor.db.dialects.waiting import wait_until
from cowrieprocessor.errors import DatabaseError, DatabaseFull, DatabaseLocked, DatabaseReadOnly
from cowrieprocessor.filesystems import is_full, os_error_text

PRIVATE = 0o600


@contextmanager
def maintenance_lock(database: Path, options: EngineOptions) -> Iterator[None]:
    """Lock the lock file next to a database, and delete it at the end; the file of a killed process does not block.

    Raises:
        DatabaseLocked: another such command kept the lock beyond the timeout.
        DatabaseError: the folder does not exist or is not writable.
    """
    path = database.with_name(f"{database.name}.maintenance-lock")
    descriptors: list[int] = []
    if not wait_until(lambda: _try_lock(path, descriptors), options):
        raise DatabaseLocked(
            f"{database}: another maintenance command has been running on it for {options.lock_timeout_s:g} s; "
            "wait for it, then repeat the command"
        )
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while still locked: a waiting process then finds a new file, or none
        os.close(descriptors[0])


def _try_lock(path: Path, descriptors: list[int]) -> bool:
    """Try to lock the lock file and append its descriptor; the locked file must still have its name."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
    except FileNotFoundError:
        raise DatabaseError(f"{path.parent}: no such folder; create it, or name another file") from None
    except PermissionError as error:
        raise DatabaseReadOnly(f"{path}: is not writable; choose a folder that you may write to") from error
    except OSError as error:
        if is_full(error):
            raise DatabaseFull(f"{path}: {os_error_text(error)}; make room, then repeat the command") from error
        raise DatabaseError(f"{path}: cannot be opened: {error.strerror}; check what is there") from error
    locked = False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked = _is_at_path(descriptor, path)
    except BlockingIOError:
        return False
    finally:
        if not locked:
            os.close(descriptor)
    if locked:
        descriptors.append(descriptor)
    return locked


def _is_at_path(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
