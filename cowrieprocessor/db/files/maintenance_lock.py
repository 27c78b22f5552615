"""One command at a time on a database as a whole: migrating, writing a copy, putting one in its place."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cowrieprocessor.db.dialects.base import EngineOptions
from cowrieprocessor.db.dialects.waiting import wait_until
from cowrieprocessor.errors import DatabaseError, DatabaseLocked, DatabaseReadOnly

PRIVATE = 0o600


@contextmanager
def maintenance_lock(database: Path, options: EngineOptions) -> Iterator[None]:
    """Hold the lock file beside a database; it is gone afterwards. A killed holder's file keeps nobody out.

    Raises:
        DatabaseLocked: another such command held it for longer than we may wait.
        DatabaseError: the folder is missing or may not be written.
    """
    path = database.with_name(f"{database.name}.maintenance-lock")
    held: list[int] = []
    if not wait_until(lambda: _take(path, held), options):
        raise DatabaseLocked(
            f"{database}: another maintenance command has been at work on it for {options.lock_timeout_s:g} s; "
            "wait for it, then repeat the command"
        )
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while we still hold it: whoever waits finds another file, or none
        os.close(held[0])


def _take(path: Path, held: list[int]) -> bool:
    """Try to get the lock; the file that was locked has to be the one that has the name now."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE)
    except FileNotFoundError:
        raise DatabaseError(f"{path.parent}: no such folder; create it, or name another file") from None
    except PermissionError as error:
        raise DatabaseReadOnly(f"{path}: may not be written; choose a folder that you may write in") from error
    except OSError as error:
        raise DatabaseError(f"{path}: cannot be opened: {error.strerror}; look at what is there") from error
    taken = False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        taken = _has_the_name(descriptor, path)
    except BlockingIOError:
        return False
    finally:
        if not taken:
            os.close(descriptor)
    if taken:
        held.append(descriptor)
    return taken


def _has_the_name(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
