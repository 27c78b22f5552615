"""Which other processes have a database's file open, where the system tells.

Linux tells in /proc: a process's descriptors to its owner and to root, locks to everybody in the same container. In WAL
mode a connection keeps a lock for as long as it is open, so that it is seen there.
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
        pid: its number.
        name: what the kernel calls it; any text.
        writes: whether it opened the file for writing; None where the system does not say.
    """

    pid: int
    name: str
    writes: bool | None

    @property
    def may_write(self) -> bool:
        """Whether it writes, as far as anybody can tell."""
        return self.writes is not False


@dataclass(frozen=True, slots=True)
class FileHolders:
    """The other processes that have a file open.

    Attributes:
        processes: by number; never our own.
        complete: whether the system let us look at every process.
    """

    processes: tuple[FileHolder, ...]
    complete: bool

    @property
    def writers(self) -> tuple[FileHolder, ...]:
        """Those that may write."""
        return tuple(holder for holder in self.processes if holder.may_write)


def holders_of(path: Path) -> FileHolders | None:
    """Return the other processes that have a file open; None where the system does not tell.

    Source: proc(5), /proc/pid/fd, /proc/pid/fdinfo and /proc/locks.
    """
    if not (PROC / "self" / "fd").is_dir():
        return None
    try:
        stat = path.stat()
    except FileNotFoundError:
        return FileHolders((), complete=True)
    found: dict[int, FileHolder] = {}
    complete = True
    for pid in _other_processes():
        try:
            writes = _opened(pid, stat)
        except PermissionError:
            complete = False
            continue
        if writes is not None:
            found[pid] = FileHolder(pid, _name(pid), writes)
    for pid in _lockers(stat):
        if pid not in found and pid != os.getpid():
            found[pid] = FileHolder(pid, _name(pid), None)
    return FileHolders(tuple(found[pid] for pid in sorted(found)), complete)


def name_holders(processes: tuple[FileHolder, ...], shown: int = 3) -> str:
    """Return processes for people: `process 4711 (python3)`."""
    names = ", ".join(f"process {holder.pid} ({holder.name})" for holder in processes[:shown])
    return f"{names} and {len(processes) - shown} more" if len(processes) > shown else names


def _other_processes() -> Iterator[int]:
    for entry in PROC.iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            yield int(entry.name)


def _opened(pid: int, stat: os.stat_result) -> bool | None:
    """Return whether a process opened the file for writing; None if it does not have it open, or is gone.

    Raises:
        PermissionError: we may not look at that process.
    """
    writes: bool | None = None
    try:
        for descriptor in (PROC / str(pid) / "fd").iterdir():
            if _is_same(descriptor, stat):
                writes = bool(writes) or _for_writing(PROC / str(pid) / "fdinfo" / descriptor.name)
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        return writes
    return writes


def _is_same(descriptor: Path, stat: os.stat_result) -> bool:
    try:
        other = descriptor.stat()
    except OSError:  # closed meanwhile, or on a file system that does not answer
        return False
    return (other.st_dev, other.st_ino) == (stat.st_dev, stat.st_ino)


def _for_writing(descriptor: Path) -> bool:
    """Return whether a descriptor was opened for writing; one that was closed meanwhile was not."""
    try:
        lines = descriptor.read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    flags = next((int(line.split()[1], 8) for line in lines if line.startswith("flags:")), 0)
    return flags & _ACCESS_MODE != os.O_RDONLY


def _lockers(stat: os.stat_result) -> Iterator[int]:
    """Yield the processes that hold or await a lock on the file: `1: POSIX ADVISORY READ 4711 fd:00:1234 0 EOF`."""
    wanted = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    try:
        lines = (PROC / "locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for line in lines:
        fields = [field for field in line.split()[1:] if field != "->"]
        if len(fields) >= 5 and fields[4] == wanted and fields[3].isdigit() and int(fields[3]) > 0:
            yield int(fields[3])


def _name(pid: int) -> str:
    try:
        return (PROC / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").rstrip("\n")
    except OSError:
        return ""
