"""The file system of a path, as Linux reports it, and disks and quotas that are full."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")
NETWORK_FILE_SYSTEMS = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "ncpfs", "afs", "9p", "vboxsf"),
        *("ceph", "gfs2", "glusterfs", "lustre", "ocfs2"),
        *("fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
    }
)
"""File systems on which processes that open a file may not share the memory that WAL needs."""


_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is full"}

PROBE_BYTES = 1 << 20
"""What is written to learn whether there is room: more than a database library adds to a file at once."""


def is_full(error: OSError) -> bool:
    """Return whether there was no room on the disk, or within the quota."""
    return error.errno in _FULL


def os_error_text(error: OSError) -> str:
    """Return the cause of an OS error; a disk or quota without room is called full, in our words first."""
    cause = error.strerror or str(error)
    return f"{_FULL[error.errno]} ({cause})" if error.errno in _FULL else cause


def lack_of_room(folder: Path) -> OSError | None:
    """Return the error of writing PROBE_BYTES to an unnamed file in a folder, if its disk or the user's quota is full.

    A database library may report a full disk as an I/O error without its cause.

    Args:
        folder: an existing folder; in one that is not writable nothing is found.
    """
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error if is_full(error) else None
    return None


def mounts(mountinfo: Path | None = None) -> Sequence[str]:
    """Return the lines of mountinfo; empty on systems other than Linux.

    Args:
        mountinfo: the file to read; by default that of this process.
    """
    try:
        return (mountinfo or MOUNTINFO).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ()


def file_system_type(path: Path, mount_lines: Iterable[str]) -> str:
    """Return the type of the file system that contains a path; empty if no mount point matches.

    The deepest mount point wins; of two on the same path, the later one.

    Args:
        path: an absolute, resolved path.
        mount_lines: the lines of mountinfo; see `mounts`.

    Source: proc(5), /proc/pid/mountinfo: the fifth field is the mount point, the type follows the hyphen.
    """
    deepest, kind = -1, ""
    for line in mount_lines:
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        mount_point = Path(_unescape(fields[4]))
        if path.is_relative_to(mount_point) and len(mount_point.parts) >= deepest:
            deepest, kind = len(mount_point.parts), right.split(" ")[0]
    return kind


def _unescape(field: str) -> str:
    """Return a field of mountinfo with its octal escapes (space, tab, newline, backslash) decoded."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field
