"""The file of a state export while it is being written, and why it cannot be."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from cowrieprocessor.errors import SaveFailed
from cowrieprocessor.filesystems import os_error_text

PRIVATE = 0o600
_GZIP_MAGIC = b"\x1f\x8b"


def open_part(part: Path) -> IO[bytes]:
    """Open the unfinished file, empty, readable by the owner only, and locked until it is closed.

    The remains of a killed run are replaced.

    Raises:
        SaveFailed: another process is writing it, it is no unfinished export, or it cannot be written.
    """
    try:
        file = os.fdopen(os.open(part, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE), "r+b")
    except OSError as error:
        raise cannot_write(part, error) from error
    problem = _problem(file, part)
    if problem is None:
        file.truncate(0)
        return file
    file.close()
    raise SaveFailed(f"{part}: {problem}, or name another file with --save; nothing was changed")


def name_taken(path: Path) -> SaveFailed:
    """Return the error for a name that another file has."""
    return SaveFailed(f"{path}: exists already; name a new file with --save")


def cannot_write(path: Path, error: OSError) -> SaveFailed:
    """Return the error for a file that cannot be written."""
    cause = os_error_text(error)
    return SaveFailed(
        f"{path}: cannot be written: {cause}; make room, or name another file with --save; nothing was changed"
    )


def _problem(file: IO[bytes], part: Path) -> str | None:
    """Lock the file and return None, or what prevents that and the remedy."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "another rollback is writing it; wait for it"
    if not _is_at_path(file, part):  # it was just completed, and has its final name
        return "another rollback has just written it; repeat the command"
    start = file.read(len(_GZIP_MAGIC))
    file.seek(0)
    if start != _GZIP_MAGIC and start.strip(b"\0"):  # zeros: what a power failure may leave
        return "exists and is not an unfinished export; move it"
    return None


def _is_at_path(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
