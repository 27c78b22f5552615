"""A database file in the making: `NAME.part`, which gets its name when it is whole and verified."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cowrieprocessor.db.dialects.base import DatabaseFiles
from cowrieprocessor.errors import CopyRefused, DatabaseFull

SPARE_BYTES = 16 << 20
"""Room that is left on the disk whatever is written."""


def part_of(target: Path) -> Path:
    """Return the name under which a file is made."""
    return target.with_name(f"{target.name}.part")


def clear_part(files: DatabaseFiles, target: Path) -> Path:
    """Remove what an earlier run that was killed left, and return the name to write to.

    Raises:
        CopyRefused: something else has that name.
    """
    part = part_of(target)
    if part.is_symlink() or (part.exists() and not (part.is_file() and files.looks_like_database(part))):
        raise CopyRefused(f"{part}: is in the way and is no copy that was begun; move it, then repeat the command")
    discard(files, part)
    return part


def discard(files: DatabaseFiles, part: Path) -> None:
    """Remove a file in the making and what belongs to it."""
    for path in (part, *files.companions(part)):
        path.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int:
    """Return how much room a folder's disk has for us."""
    return shutil.disk_usage(folder).free


def require_room(folder: Path, needed_bytes: int, what: str) -> None:
    """Refuse to begin what cannot be ended.

    Raises:
        DatabaseFull: the disk has less than that.
    """
    free = free_bytes(folder)
    if free < needed_bytes + SPARE_BYTES:
        raise DatabaseFull(
            f"{folder}: {what} needs {needed_bytes:,} bytes, {free:,} are free; make room, or choose another disk"
        )


def sync(path: Path) -> None:
    """Have a file or folder on the disk, not only in memory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(part: Path, target: Path) -> None:
    """Give a finished file its name, which nothing may have.

    Raises:
        CopyRefused: something has that name by now.
    """
    try:
        os.link(part, target)  # unlike a rename it never replaces
    except FileExistsError:
        raise CopyRefused(f"{target}: is there already; name another file") from None
    except OSError:  # a file system without hard links
        if target.exists():
            raise CopyRefused(f"{target}: is there already; name another file") from None
        part.rename(target)
    else:
        part.unlink()
    sync(target.parent)
