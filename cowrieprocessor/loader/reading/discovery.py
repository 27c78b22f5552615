"""Finds logs in the files and folders given, in the order in which they were written."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cowrieprocessor.errors import InputNotFound, InputNotReadable
from cowrieprocessor.loader.reading.log_list import LogList
from cowrieprocessor.loader.reading.log_names import (
    RotationOrder,
    is_log_name,
    is_packed_name,
    name_order,
    rotation_order,
)
from cowrieprocessor.sanitize import inert
from cowrieprocessor.settings.paths import is_rotated_from


def find_logs(paths: Iterable[Path], unreadable: list[InputNotReadable] | None = None) -> LogList:
    """Return the logs to load: files as given, folders replaced by the logs in them and their subfolders.

    In a folder, logs are the regular files named like Cowrie's (`*.json`, `*.jsonl`, `*.ndjson`, optionally followed
    by a date, a number or a compression suffix); rotated logs come before the log that continues them.

    Args:
        paths: files and folders.
        unreadable: if given, collects the errors of unreadable folders instead of raising the first one.

    Raises:
        InputNotFound: a path does not exist, or a folder contains no logs.
        InputNotReadable: no permission to read a folder or to `stat` a path.
    """
    logs = LogList()
    for path in paths:
        if not _is_folder(path):
            logs.add_file(path)
            continue
        keys = _keys_below(path, unreadable)
        if not keys and not unreadable:
            raise InputNotFound(
                f"{inert(str(path))}: no logs in this folder; logs are files named like cowrie.json, "
                "cowrie.json.2026-01-31 or cowrie.json.1.gz. Name a file to load it whatever it is called"
            )
        logs.add_folders(keys)
    return logs


LISTING_SETTLES_S = 2.0
"""A folder that changed more recently may change again without a new modification time."""

LISTED_FOR_S = 60.0
"""After this time a folder is listed again, and every file in it is checked."""

PACKED_SETTLES_S = 15.0
"""An archive unchanged for this time is finished, and is then checked only every LISTED_FOR_S."""


@dataclass(frozen=True, slots=True)
class _Listing:
    """The names in a folder.

    Attributes:
        version: device, inode and modification time of the folder when it was listed.
        valid_until: when the listing expires, by the monotonic clock.
        names: the names.
    """

    version: tuple[int, int, int]
    valid_until: float
    names: list[str]


@dataclass(slots=True)
class FoundLogs:
    """The logs that exist at one moment.

    Attributes:
        logs: path and `stat` result of each log, in the order in which they were written.
        folders: the folders in which further logs may appear.
        unreadable: the errors of folders that could not be read.
        unresolved: names that cannot be resolved, such as links whose target does not exist (yet).
    """

    logs: list[tuple[str, os.stat_result]] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    unreadable: list[InputNotReadable] = field(default_factory=list)
    unresolved: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The result of a scan, with what it takes to check that it is still current.

    Attributes:
        result: the logs found.
        watched: the files that may change, each with its signature.
        folders: the folders, each with its listing.
        valid_until: when the snapshot expires, by the monotonic clock.
    """

    result: FoundLogs
    watched: list[tuple[str, tuple[int, ...]]]
    folders: list[tuple[str, _Listing]]
    valid_until: float


class FollowedLogs:
    """Finds the logs to follow: in folders as `find_logs` does, and for a file also the rotated logs next to it.

    Rotated logs are in the same folder and have the file's name with a suffix: `cowrie.json.2026-01-31`,
    `cowrie.json-1.gz`. A missing file is no error; it may appear later. A folder whose entries did not change is not
    listed again; each of its files costs one `stat`, archives that were finished long ago less.

    Args:
        paths: files and folders, absolute.
        clock: monotonic time in seconds.
        listing_settles_s: a folder that changed within this time may change again without a new modification time.
        packed_settles_s: an archive unchanged for this time is finished.
    """

    def __init__(
        self,
        paths: Iterable[Path],
        clock: Callable[[], float] = time.monotonic,
        *,
        listing_settles_s: float = LISTING_SETTLES_S,
        packed_settles_s: float = PACKED_SETTLES_S,
    ) -> None:
        self._paths = tuple(paths)
        self._clock = clock
        self._listing_settles_s = listing_settles_s
        self._packed_settles_s = packed_settles_s
        self._listings: dict[str, _Listing] = {}
        self._orders: dict[str, RotationOrder] = {}
        self._last: _Snapshot | None = None

    def is_wanted(self, path: str) -> bool:
        """Return whether a file with this path would be one of the logs, judging by the name alone."""
        folder, _, name = path.rpartition("/")
        for followed in self._paths:
            if folder == str(followed.parent) and is_rotated_from(followed.name, name):
                return True
            if is_log_name(name) and path.startswith(str(followed).rstrip("/") + "/"):
                return True
        return False

    def scan(self) -> FoundLogs:
        """Return the logs that exist now; the same object as last time if nothing changed."""
        if self._last is None or not self._is_current(self._last):
            began = self._clock()
            result = self._find()
            self._last = _Snapshot(result, [], [], began) if result.unreadable else self._snapshot(result, began)
        return self._last.result

    def invalidate(self) -> None:
        """Discard the last result: something is known to have changed."""
        self._last = None

    def _snapshot(self, result: FoundLogs, began: float) -> _Snapshot:
        """Add to the result of a scan what has to be checked to detect a change."""
        now = time.time()
        watched = [
            (path, _signature(status))
            for path, status in result.logs
            if not is_packed_name(path) or now - max(status.st_mtime, status.st_ctime) < self._packed_settles_s
        ]
        watched += [(path, ()) for path in result.unresolved]
        folders = [(str(folder), listing) for folder in result.folders if (listing := self._listings.get(str(folder)))]
        valid_until = min([began + LISTED_FOR_S, *(listing.valid_until for _, listing in folders)])
        return _Snapshot(result, watched, folders, valid_until if len(folders) == len(result.folders) else began)

    def _is_current(self, last: _Snapshot) -> bool:
        if self._clock() >= last.valid_until:
            return False
        try:
            for folder, listing in last.folders:
                if _version(os.stat(folder)) != listing.version:  # noqa: PTH116 - there may be thousands, each second
                    return False
        except OSError:
            return False
        return all(_signature_at(path) == signature for path, signature in last.watched)

    def _find(self) -> FoundLogs:
        result = FoundLogs()
        statuses: dict[str, os.stat_result] = {}
        for path in self._paths:
            if stat.S_ISDIR(_mode(path)):
                self._walk(str(path), result, statuses, is_log_name, is_recursive=True)
            elif stat.S_ISDIR(_mode(path.parent)):
                is_rotated = partial(is_rotated_from, path.name)
                self._walk(str(path.parent), result, statuses, is_rotated, is_recursive=False)
            else:
                _add_existing_parent(path, result)
        self._orders = {name: self._orders.get(name) or rotation_order(Path(name)) for name in statuses}
        result.logs = [(name, statuses[name]) for name in sorted(statuses, key=self._orders.__getitem__)]
        result.folders = list(dict.fromkeys(result.folders))
        return result

    def _walk(
        self,
        folder: str,
        result: FoundLogs,
        statuses: dict[str, os.stat_result],
        is_log: Callable[[str], bool],
        *,
        is_recursive: bool,
    ) -> None:
        """Add the logs in a folder to `statuses`; a folder reached again through a link is visited once."""
        visited: set[tuple[int, int]] = set()
        pending = [folder]
        while pending:
            current = pending.pop()
            try:
                status = Path(current).stat()
                names = self._names(current, status)
            except OSError as error:
                if not isinstance(error, FileNotFoundError):
                    result.unreadable.append(_not_readable(Path(current), error))
                continue
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            result.folders.append(Path(current))
            if is_recursive:
                pending += _add_entries(current, names, is_log, result, statuses)
            else:
                _add_entries(current, filter(is_log, names), is_log, result, statuses)

    def _names(self, folder: str, status: os.stat_result) -> list[str]:
        """Return the names in a folder, from the last listing while no entry can have come or gone."""
        known = self._listings.get(folder)
        version = _version(status)
        now = self._clock()
        if known is not None and known.version == version and now < known.valid_until:
            return known.names
        is_settled = time.time() - status.st_mtime > self._listing_settles_s
        names = [entry.name for entry in os.scandir(folder)]
        self._listings[folder] = _Listing(version, now + LISTED_FOR_S if is_settled else now, names)
        return names


def _add_entries(
    folder: str,
    names: Iterable[str],
    is_log: Callable[[str], bool],
    result: FoundLogs,
    statuses: dict[str, os.stat_result],
) -> list[str]:
    """Add the logs among the entries of a folder to `statuses`, and return the subfolders."""
    subfolders: list[str] = []
    for name in names:
        path = f"{folder.rstrip('/')}/{name}"
        try:
            status = os.stat(path)  # noqa: PTH116 - there may be thousands, each second
        except OSError:
            result.unresolved.append(path)
            continue
        if stat.S_ISDIR(status.st_mode):
            subfolders.append(path)
        elif stat.S_ISREG(status.st_mode) and is_log(name):
            statuses[path] = status
    return subfolders


def _add_existing_parent(path: Path, result: FoundLogs) -> None:
    """Add the nearest existing folder above a missing file, in which the file's own folder may appear."""
    try:
        path.parent.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        result.unreadable.append(_not_readable(path.parent, error))
    result.folders += [parent for parent in path.parents if stat.S_ISDIR(_mode(parent))][:1]


def _version(folder: os.stat_result) -> tuple[int, int, int]:
    return folder.st_dev, folder.st_ino, folder.st_mtime_ns


def _signature(file: os.stat_result) -> tuple[int, ...]:
    return file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns, file.st_mode


def _signature_at(path: str) -> tuple[int, ...]:
    try:
        return _signature(os.stat(path))  # noqa: PTH116 - there may be thousands, each second
    except OSError:
        return ()


def existing_logs(paths: Iterable[Path]) -> list[Path]:
    """Return the logs that exist now, as `FollowedLogs` finds them."""
    return [Path(name) for name, _ in FollowedLogs(paths).scan().logs]


def _is_folder(path: Path) -> bool:
    """Return whether a given path is a folder; a dangling link counts as a file, so that opening it reports the error.

    Raises:
        InputNotFound: the path does not exist.
        InputNotReadable: no permission to `stat` it.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputNotFound(f"{inert(str(path))}: no such file or folder; check the spelling") from error
    except OSError as error:
        raise _not_readable(path, error) from error
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    """Return the mode of a path or of its link's target; 0 for a dangling link or a loop of links.

    A path without permission counts as a regular file, so that opening it reports the error.
    """
    try:
        return path.stat().st_mode
    except PermissionError:
        return stat.S_IFREG
    except OSError:
        return 0


def _not_readable(path: Path, error: OSError) -> InputNotReadable:
    remedy = "; give the user who loads it the right to read it" if isinstance(error, PermissionError) else ""
    return InputNotReadable(f"{inert(str(path))}: {error.strerror}{remedy}")


def _keys_below(folder: Path, unreadable: list[InputNotReadable] | None) -> dict[str, list[str]]:
    """Return the logs in a folder and its subfolders: the sort keys of their names, by folder.

    A folder reached again through a link is visited once.
    """
    visited: set[tuple[int, int]] = set()
    pending = [folder]
    keys: dict[str, list[str]] = {}
    while pending:
        current = pending.pop()
        try:
            status = current.stat()
            subfolders, logs = _entries(current) if (status.st_dev, status.st_ino) not in visited else ([], [])
        except OSError as error:
            if unreadable is None:
                raise _not_readable(current, error) from error
            unreadable.append(_not_readable(current, error))
            continue
        visited.add((status.st_dev, status.st_ino))
        pending += subfolders
        if logs:
            keys[str(current)] = logs
    return keys


def _entries(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the subfolders of a folder, and the sort keys of the logs in it.

    Raises:
        OSError: it cannot be read.
    """
    subfolders: list[Path] = []
    logs: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            mode = stat.S_IFREG if entry.is_file(follow_symlinks=False) else _mode(Path(entry.path))
            if stat.S_ISDIR(mode):
                subfolders.append(Path(entry.path))
            elif stat.S_ISREG(mode) and is_log_name(entry.name):
                logs.append(name_order(entry.name))
    return subfolders, logs
