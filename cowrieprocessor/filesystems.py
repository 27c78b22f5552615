"""The file system of a path, as Linux reports it."""

from __future__ import annotations

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
