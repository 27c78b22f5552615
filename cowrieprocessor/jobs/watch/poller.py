"""Polling fallback for folders without inotify."""

from __future__ import annotations

import os
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from cowrieprocessor.filesystems import NETWORK_FILE_SYSTEMS, file_system_type, mounts

POLL_S = 1.0
"""How often a folder without inotify is polled."""

LONGEST_POLL_S = 30.0
"""The longest interval between polls, however long a poll takes."""

REST_PER_SCAN = 99.0
"""The ratio of the time between scans to the duration of a scan."""

SCANS_KEPT = 5
"""Scans whose median counts as the duration of a scan; a single slow one says little."""

FILE_SYSTEMS_WITHOUT_INOTIFY = NETWORK_FILE_SYSTEMS | {"virtiofs", "fuse.vmhgfs-fuse", "prl_fs"}
"""File systems on which others change files without this kernel's knowledge. Source: inotify(7), "Limitations"."""

NOT_READABLE = "changes are not reported (no permission to read it)"


class Changes(NamedTuple):
    """Paths in the watched folders, or these folders themselves."""

    written: Iterable[str] = frozenset()
    added_or_removed: frozenset[str] = frozenset()


class ScanInterval:
    """The time between scans, chosen so that scanning takes one hundredth of the time.

    Args:
        shortest_s: lower bound in seconds.
        longest_s: upper bound in seconds.
    """

    def __init__(self, shortest_s: float, longest_s: float) -> None:
        self._shortest_s = shortest_s
        self._longest_s = longest_s
        self._durations_s: deque[float] = deque(maxlen=SCANS_KEPT)

    def record(self, scan_s: float) -> None:
        """Record the duration of a scan."""
        self._durations_s.append(scan_s)

    @property
    def scan_s(self) -> float:
        """The typical duration of a scan; 0 before the second one."""
        return statistics.median_low(self._durations_s) if len(self._durations_s) > 1 else 0.0

    @property
    def seconds(self) -> float:
        """The time between scans."""
        return max(self._shortest_s, min(self._longest_s, self.scan_s * REST_PER_SCAN))


class PolledFolders:
    """Detects changes in folders by comparing their content with that of the last poll.

    Args:
        folders: the folders, without their subfolders.
        is_wanted: returns whether a file may matter, by its path; others are ignored.
        clock: monotonic time in seconds.
    """

    def __init__(self, folders: Iterable[str], is_wanted: Callable[[str], bool], clock: Callable[[], float]) -> None:
        self._folders = tuple(folders)
        self._is_wanted = is_wanted
        self._clock = clock
        self.interval = ScanInterval(POLL_S, LONGEST_POLL_S)
        self._polled_at = 0.0
        self._signatures = self._poll()

    def due_in_s(self) -> float:
        """Return the time until the next poll is due; not positive if it is."""
        return self._polled_at + self.interval.seconds - self._clock()

    def changes(self) -> Changes:
        """Poll the folders, and return what changed since the last poll."""
        before, self._signatures = self._signatures, self._poll()
        now = self._signatures
        written = {path for path, signature in now.items() if path in before and before[path] != signature}
        return Changes(written, frozenset(before.keys() ^ now.keys()))

    def _poll(self) -> dict[str, tuple[int, ...]]:
        """Return the signatures of the wanted files, and the subfolders with an empty signature."""
        began = self._clock()
        signatures: dict[str, tuple[int, ...]] = {}
        for folder in self._folders:
            signatures.update(_entries(folder, self._is_wanted))
        self._polled_at = self._clock()
        self.interval.record(self._polled_at - began)
        return signatures


def _entries(folder: str, is_wanted: Callable[[str], bool]) -> dict[str, tuple[int, ...]]:
    """Return signatures of a folder's wanted files, and its subfolders; empty if it cannot be read."""
    signatures: dict[str, tuple[int, ...]] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_folder(entry):
                    signatures[entry.path] = ()
                elif is_wanted(entry.path) and (signature := _signature(entry.path)):
                    signatures[entry.path] = signature
    except OSError:
        return signatures
    return signatures


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _signature(path: str) -> tuple[int, ...]:
    """Return values that change with a file; empty if the file is gone."""
    try:
        status = Path(path).stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def folders_to_poll(folders: Iterable[str], mountinfo: Path | None = None) -> Mapping[str, str]:
    """Return the folders for which inotify does not work, each with the reason.

    Args:
        folders: the folders.
        mountinfo: lists the mounted file systems; see `mounts`.
    """
    mount_lines = mounts(mountinfo)
    reasons = {}
    for folder in folders:
        kind = file_system_type(Path(folder).resolve(), mount_lines)
        if kind in FILE_SYSTEMS_WITHOUT_INOTIFY:
            reasons[folder] = f"a file system ({kind}) that does not report every change"
        elif not folder.isprintable() and not _is_utf8(folder):
            reasons[folder] = "changes are not reported (its name is not text)"
        elif not os.access(folder, os.R_OK | os.X_OK) and Path(folder).exists():
            reasons[folder] = NOT_READABLE
    return reasons


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
