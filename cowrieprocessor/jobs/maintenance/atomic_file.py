"""Atomic creation of a database file: written as `NAME.part`, renamed when it is complete and verified."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cowrieprocessor.db.dialects.base import DatabaseFiles
from cowrieprocessor.errors import CopyRefused, DatabaseFull
from cowrieprocessor.wording import plural

SPARE_BYTES = 16 << 20
"""Free space that is left on the disk."""


def part_path(target: Path) -> Path:
    """Return the path of a file while it is being written."""
    return target.with_name(f"{target.name}.part")


def prepare_part(files: DatabaseFiles, target: Path) -> Path:
    """Remove the remains of a killed run, and return the path to write to.

    Raises:
        CopyRefused: another file has that name.
    """
    part = part_path(target)
    if part.is_symlink() or (part.exists() and not (part.is_file() and files.looks_like_database(part))):
        raise CopyRefused(f"{part}: exists and is not an unfinished copy; move it, then repeat the command")
    discard(files, part)
    return part


def discard(files: DatabaseFiles, part: Path) -> None:
    """Remove an unfinished file and its companions."""
    for path in (part, *files.companions(part)):
        path.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int:
    """Return the free bytes of a folder's disk."""
    return shutil.disk_usage(folder).free


def require_room(folder: Path, needed_bytes: int, what: str) -> None:
    """Require free space on a folder's disk before anything is written.

    Args:
        folder: the folder.
        needed_bytes: required in addition to SPARE_BYTES.
        what: what needs it, for the message.

    Raises:
        DatabaseFull: the disk has less.
    """
    free = free_bytes(folder)
    if free < needed_bytes + SPARE_BYTES:
        raise DatabaseFull(
            f"{folder}: {what} needs {plural(needed_bytes, 'byte')}, "
            f"{plural(free, 'is', 'are')} free; make room, or choose another disk"
        )


def fsync_path(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(part: Path, target: Path) -> None:
    """Give a finished file its name without replacing another file.

    Raises:
        CopyRefused: a file has that name by now.
    """
    try:
        os.link(part, target)  # unlike a rename this never replaces a file
    except FileExistsError:
        raise CopyRefused(f"{target}: exists already; name another file") from None
    except OSError:  # a file system without hard links
        if target.exists():
            raise CopyRefused(f"{target}: exists already; name another file") from None
        part.rename(target)
    else:
        part.unlink()
    fsync_path(target.parent)
