"""Folders of which the kernel does not tell: what changed in them is found by looking at them again and again."""

from __future__ import annotations

import os
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from cowrieprocessor.filesystems import NETWORK_FILE_SYSTEMS, file_system_type, mounts

POLL_S = 1.0
"""How often a folder is looked at of which the kernel does not tell."""

LONGEST_POLL_S = 30.0
"""However long looking takes, the next time comes after so long."""

REST_PER_LOOK = 99.0
"""Looking takes one part of the time, resting so many."""

LOOKS_KEPT = 5
"""The median of so many looks says how long one takes; a single one, or a slow one among others, says little."""

SILENT_FILE_SYSTEMS = NETWORK_FILE_SYSTEMS | {"virtiofs", "fuse.vmhgfs-fuse", "prl_fs"}
"""File systems on which others change files without our kernel's knowledge. Source: inotify(7), "Limitations"."""

NOT_READABLE = "cannot be told of changes (it may not be read by us)"


class Notices(NamedTuple):
    """Paths in the folders that are watched, or those themselves."""

    written: Iterable[str] = frozenset()
    came_or_went: frozenset[str] = frozenset()


class Rest:
    """How long to rest between looks, so that they take one part in a hundred of the time.

    Args:
        least_s: rest no shorter.
        most_s: rest no longer.
    """

    def __init__(self, least_s: float, most_s: float) -> None:
        self._least_s = least_s
        self._most_s = most_s
        self._took: deque[float] = deque(maxlen=LOOKS_KEPT)

    def took(self, look_s: float) -> None:
        """Take note of a look."""
        self._took.append(look_s)

    @property
    def look_s(self) -> float:
        """How long a look takes, as far as is known."""
        return statistics.median_low(self._took) if len(self._took) > 1 else 0.0

    @property
    def seconds(self) -> float:
        """How long to rest."""
        return max(self._least_s, min(self._most_s, self.look_s * REST_PER_LOOK))


class Polled:
    """Folders that are looked at again and again; what happens in them between two looks is told like a notice.

    Args:
        folders: where to look; not below them.
        wanted: whether a file may matter, by its path; others are not looked at.
        clock: seconds that only go up.
    """

    def __init__(self, folders: Iterable[str], wanted: Callable[[str], bool], clock: Callable[[], float]) -> None:
        self._folders = tuple(folders)
        self._wanted = wanted
        self._clock = clock
        self.rest = Rest(POLL_S, LONGEST_POLL_S)
        self._looked_at = 0.0
        self._there = self._look()

    def due_in_s(self) -> float:
        """Return when the next look is due."""
        return self._looked_at + self.rest.seconds - self._clock()

    def changes(self) -> Notices:
        """Look, and return what happened since the last look."""
        before, self._there = self._there, self._look()
        written = {path for path, what in self._there.items() if path in before and before[path] != what}
        return Notices(written, frozenset(before.keys() ^ self._there.keys()))

    def _look(self) -> dict[str, tuple[int, ...]]:
        """Return what tells a change of each file, and which folders there are."""
        began = self._clock()
        there: dict[str, tuple[int, ...]] = {}
        for folder in self._folders:
            there.update(_entries(folder, self._wanted))
        self._looked_at = self._clock()
        self.rest.took(self._looked_at - began)
        return there


def _entries(folder: str, wanted: Callable[[str], bool]) -> dict[str, tuple[int, ...]]:
    """Return the files of a folder that may matter, and its folders; nothing where it may not be looked into."""
    there: dict[str, tuple[int, ...]] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_folder(entry):
                    there[entry.path] = ()
                elif wanted(entry.path) and (what := _what(entry.path)):
                    there[entry.path] = what
    except OSError:
        return there
    return there


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _what(path: str) -> tuple[int, ...]:
    """Return what changes when a file does; nothing where it went away meanwhile."""
    try:
        status = Path(path).stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def untold(places: Iterable[str]) -> Mapping[str, str]:
    """Return the folders of which the kernel does not tell, each with the reason."""
    mount_lines = mounts()
    reasons = {}
    for place in places:
        kind = file_system_type(Path(place).resolve(), mount_lines)
        if kind in SILENT_FILE_SYSTEMS:
            reasons[place] = f"a file system ({kind}) that does not tell of every change"
        elif not place.isprintable() and _is_no_text(place):
            reasons[place] = "cannot be told of changes (its name is no text)"
        elif not os.access(place, os.R_OK | os.X_OK) and Path(place).exists():
            reasons[place] = NOT_READABLE
    return reasons


def _is_no_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return True
    return False
