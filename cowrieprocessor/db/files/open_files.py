"""The other processes that have the file of a database open, if the operating system reports them.

Linux reports them in /proc: the descriptors of a process to its owner and root, locks to every process in the same
container. In WAL mode a connection has a lock for as long as it is open, so that it is visible there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_ACCESS_MODE = 0o3


@dataclass(frozen=True, slots=True)
class FileHolder:
    """A process that has the file open.

    Attributes:
        pid: its process id.
        name: its command name in the kernel; arbitrary text.
        writes: whether it opened the file for writing; None if unknown.
    """

    pid: int
    name: str
    writes: bool | None

    @property
    def may_write(self) -> bool:
        """Whether it writes, or may write."""
        return self.writes is not False


@dataclass(frozen=True, slots=True)
class FileHolders:
    """The other processes that have a file open.

    Attributes:
        processes: ordered by pid, without this process.
        complete: whether every process could be inspected.
    """

    processes: tuple[FileHolder, ...]
    complete: bool

    @property
    def writers(self) -> tuple[FileHolder, ...]:
        """The processes that may write."""
        return tuple(holder for holder in self.processes if holder.may_write)


def holders_of(path: Path, *, proc: Path = PROC) -> FileHolders | None:
    """Return the other processes that have a file open; None if the operating system does not report them.

    Args:
        path: the file.
        proc: the mount point of procfs.

    Source: proc(5), /proc/pid/fd, /proc/pid/fdinfo and /proc/locks.
    """
    if not (proc / "self" / "fd").is_dir():
        return None
    try:
        stat = path.stat()
    except FileNotFoundError:
        return FileHolders((), complete=True)
    holders: dict[int, FileHolder] = {}
    complete = True
    for pid in _other_processes(proc):
        try:
            writes = _opened(proc / str(pid), stat)
        except PermissionError:
            complete = False
            continue
        if writes is not None:
            holders[pid] = FileHolder(pid, _name(proc / str(pid)), writes)
    for pid in _lockers(proc, stat):
        if pid not in holders and pid != os.getpid():
            holders[pid] = FileHolder(pid, _name(proc / str(pid)), None)
    return FileHolders(tuple(holders[pid] for pid in sorted(holders)), complete)


def name_holders(processes: tuple[FileHolder, ...], shown: int = 3) -> str:
    """Return the display text of processes, such as `process 4711 (python3)`; more than `shown` are counted."""
    names = ", ".join(f"process {holder.pid} ({holder.name})" for holder in processes[:shown])
    return f"{names} and {len(processes) - shown} more" if len(processes) > shown else names


def _other_processes(proc: Path) -> Iterator[int]:
    for entry in proc.iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            yield int(entry.name)


def _opened(process: Path, stat: os.stat_result) -> bool | None:
    """Return whether a process opened the file for writing; None if it does not have it open, or has ended.

    Args:
        process: the folder of the process in procfs.
        stat: the stat result of the file.

    Raises:
        PermissionError: the process may not be inspected.
    """
    writes: bool | None = None
    try:
        for descriptor in (process / "fd").iterdir():
            if _is_same(descriptor, stat):
                writes = bool(writes) or _is_for_writing(process / "fdinfo" / descriptor.name)
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        return writes
    return writes


def _is_same(descriptor: Path, stat: os.stat_result) -> bool:
    try:
        opened = descriptor.stat()
    except OSError:  # closed in the meantime, or on a file system that does not respond
        return False
    return (opened.st_dev, opened.st_ino) == (stat.st_dev, stat.st_ino)


def _is_for_writing(fdinfo: Path) -> bool:
    """Return whether a descriptor was opened for writing; False if it was closed in the meantime."""
    try:
        lines = fdinfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    flags = next((int(line.split()[1], 8) for line in lines if line.startswith("flags:")), 0)
    return flags & _ACCESS_MODE != os.O_RDONLY


def _lockers(proc: Path, stat: os.stat_result) -> Iterator[int]:
    """Yield the pids that have or await a lock on the file.

    A line of /proc/locks: `1: POSIX ADVISORY READ 4711 fd:00:1234 0 EOF`.
    """
    file_id = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    try:
        lines = (proc / "locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for line in lines:
        fields = [field for field in line.split()[1:] if field != "->"]
        if len(fields) >= 5 and fields[4] == file_id and fields[3].isdigit() and int(fields[3]) > 0:
            yield int(fields[3])


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text(encoding="utf-8", errors="replace").rstrip("\n")
    except OSError:
        return ""
