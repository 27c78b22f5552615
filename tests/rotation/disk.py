"""The files in a honeypot's folder, on a real file system, and where the content of each comes from."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

LIVE = "cowrie.json"
_NUMBERED = re.compile(re.escape(LIVE) + r"\.(\d{1,4})(\.[a-z0-9]+)?")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the content of a file comes from.

    Attributes:
        log: number of the log, which is what was written to an inode between two truncations; the same for copies.
        is_part: whether it has only some lines of that log.
        packed: of an archive, the bytes that were compressed.
        is_cut: whether the archive is still being written.
    """

    log: int
    is_part: bool = False
    packed: bytes | None = None
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Sighting:
    """A file as a poll finds it.

    Attributes:
        name: its name in the folder; of a deleted file its last name.
        inode: its inode number.
        origin: where its content comes from.
        content: its (decompressed) bytes.
        age_s: how long ago it changed; of a log, how long ago it was written to.
        is_gone: whether only a process that has it open can read it.
    """

    name: str
    inode: int
    origin: Origin
    content: bytes
    age_s: float
    is_gone: bool = False


@dataclass(frozen=True, slots=True)
class _Unnamed:
    """A deleted file that the honeypot or the follower still has open; the descriptor reserves its inode number."""

    name: str
    inode: int
    descriptor: int


@dataclass(slots=True)
class Disk:
    """The folder that is followed, and one next to it.

    Attributes:
        folder: the folder that is followed.
        elsewhere: where files can be moved out of sight.
        was_destroyed: whether anything was done that may have destroyed bytes.
        is_held: whether the follower may have the file with an inode number open; set by the model.
    """

    folder: Path
    elsewhere: Path
    was_destroyed: bool = False
    is_held: Callable[[int], bool] = lambda _: False
    _origins: dict[int, Origin] = field(default_factory=dict)
    _unnamed: list[_Unnamed] = field(default_factory=list)
    _logs: int = 0
    _days: int = 0

    @property
    def live(self) -> Path:
        """The path of the live log."""
        return self.folder / LIVE

    def paths(self) -> list[Path]:
        """Return the files in the folder, by name."""
        return sorted(self.folder.iterdir())

    def rotated(self) -> list[Path]:
        """Return the files in the folder other than the live log."""
        return [path for path in self.paths() if path != self.live]

    def sightings(self) -> Iterator[Sighting]:
        """Yield what a poll can read: the files in the folder, and those gone from it that the follower has open."""
        hidden = [path for path in self.elsewhere.iterdir() if self.is_held(path.stat().st_ino)]
        now = time.time()
        for path in [*self.paths(), *hidden]:
            origin, status = self.origin(path), path.stat()
            content = path.read_bytes() if origin.packed is None else origin.packed
            changed = status.st_mtime if origin.packed is None else max(status.st_mtime, status.st_ctime)
            yield Sighting(path.name, status.st_ino, origin, content, now - changed, path in hidden)
        for file in self._unnamed:
            if self.is_held(file.inode):
                status = os.fstat(file.descriptor)
                content = os.pread(file.descriptor, status.st_size, 0)
                yield Sighting(file.name, file.inode, self._origins[file.inode], content, now - status.st_mtime, True)

    def origin(self, path: Path) -> Origin:
        """Return where a file's content comes from."""
        return self._origins[path.stat().st_ino]

    def note(self, path: Path, origin: Origin) -> None:
        """Record where the content of a new file comes from."""
        self._origins[path.stat().st_ino] = origin

    def note_new_log(self, path: Path) -> None:
        """Record that a new log begins in a file."""
        self._logs += 1
        self.note(path, Origin(self._logs))

    def truncate(self, path: Path) -> None:
        """Truncate a file to 0 bytes: what follows is another log."""
        self.note_new_log(path)
        os.truncate(path, 0)

    def copy(self, path: Path, target: Path, *, keeps_times: bool = False) -> None:
        """Copy a file."""
        (shutil.copy2 if keeps_times else shutil.copyfile)(path, target)
        self.note(target, self.origin(path))

    def remove(self, path: Path, *, is_written: bool) -> None:
        """Delete a file; if the honeypot or the follower has it open, it continues without a name."""
        self.was_destroyed = True
        self._keep(path, is_written=is_written)
        path.unlink()

    def move_away(self, path: Path) -> None:
        """Move a file out of sight."""
        self.was_destroyed = True
        path.rename(self.elsewhere / f"{len(list(self.elsewhere.iterdir()))}.{path.name}")

    def bring_back(self, which: int) -> None:
        """Move a file back that was out of sight, under a free name."""
        if found := sorted(self.elsewhere.iterdir()):
            path = found[which % len(found)]
            suffix = path.suffix if self.origin(path).packed is not None else ""
            path.rename(self.free_name(f"{LIVE}.back{suffix}"))

    def forget_unnamed(self, written: int | None) -> None:
        """Close deleted files that neither the honeypot (its inode is `written`) nor the follower has open."""
        for file in [file for file in self._unnamed if file.inode != written and not self.is_held(file.inode)]:
            os.close(file.descriptor)
            self._unnamed.remove(file)

    def free_name(self, name: str) -> Path:
        """Return a path with this name, or if it exists with a number before its ending."""
        path, number = self.folder / name, 0
        while path.exists():
            number += 1
            path = self.folder / f"{LIVE}_{number}{name.removeprefix(LIVE)}"
        return path

    def rotated_name(self, kind: int) -> Path:
        """Return a path for a rotated log: with the next date in one of two spellings, or `.1` once that is free."""
        self._days += 1
        if kind % 3 == 0:
            return self.free_name(f"{LIVE}.2026-06-{self._days:02d}")
        if kind % 3 == 1:
            return self.free_name(f"{LIVE}-202606{self._days:02d}")
        self._make_room()
        return self.folder / f"{LIVE}.1"

    def _make_room(self) -> None:
        """Rename `.1` to `.2` and so on, beginning with the highest."""
        numbered = [
            (int(match[1]), match[2] or "", path) for path in self.paths() if (match := _NUMBERED.fullmatch(path.name))
        ]
        for number, suffix, path in sorted(numbered, reverse=True):
            path.rename(self.folder / f"{LIVE}.{number + 1}{suffix}")

    def _keep(self, path: Path, *, is_written: bool) -> None:
        status = path.stat()
        if status.st_nlink == 1 and (is_written or self.is_held(status.st_ino)):
            self._unnamed.append(_Unnamed(path.name, status.st_ino, os.open(path, os.O_RDONLY | os.O_CLOEXEC)))
