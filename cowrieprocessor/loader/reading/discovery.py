"""The logs among the files and folders that were named, in the order in which they were written."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cowrieprocessor.errors import InputNotFound, InputNotReadable
from cowrieprocessor.sanitize import inert

_LOG_NAME = re.compile(r"\.(?:json|jsonl|ndjson)(?:[._-].*)?$", re.IGNORECASE)
_COMPRESSED = re.compile(r"\.(?:gz|bz2|xz|zst|zstd)$", re.IGNORECASE)
_DATED = re.compile(r"[._-](\d{4}-?\d\d-?\d\d)(?:[._T-]?(\d[\d_:-]*))?$")
_LIVE = 2
_NUMBERED = re.compile(r"\.(\d{1,6})$")


def find_logs(paths: Iterable[Path], unreadable: list[InputNotReadable] | None = None) -> list[Path]:
    """Return the logs to load: each file as named, of each folder the logs in it and below it.

    Args:
        paths: files and folders, as they were named.
        unreadable: where given, takes the errors of folders that may not be read, which then stop nothing.

    In a folder, logs are the regular files named like Cowrie's (`*.json`, `*.jsonl`, `*.ndjson`, also with a date,
    a number or a compression behind); rotated ones come before the ones that continue them.

    Raises:
        InputNotFound: nothing is there, or a folder holds no logs.
        InputNotReadable: a folder may not be read, or a path not be looked at.
    """
    logs: list[Path] = []
    for path in paths:
        if not _is_folder(path):
            logs.append(path)
            continue
        found = sorted(_logs_below(path, unreadable), key=rotation_order)
        if not found and not unreadable:
            raise InputNotFound(
                f"{inert(str(path))}: no logs in this folder; logs are files named like cowrie.json, "
                "cowrie.json.2026-01-31 or cowrie.json.1.gz. Name a file to load it whatever it is called"
            )
        logs.extend(found)
    return list(dict.fromkeys(logs))


LISTING_SETTLES_S = 2.0
"""A folder that changed so recently may change once more at what looks like the same moment."""

LISTED_FOR_S = 60.0
"""After so long a folder is listed again in any case, and all in it is looked at."""

PACKED_SETTLES_S = 15.0
"""An archive that nobody has changed for so long is finished, and looked at each LISTED_FOR_S only."""


@dataclass(frozen=True, slots=True)
class _Listing:
    """The names in a folder as it was at a moment, and until when they are believed."""

    moment: tuple[int, int, int]
    until: float
    names: list[str]


@dataclass(slots=True)
class LogsThere:
    """The logs that are there at a moment, whatever is missing.

    Attributes:
        logs: the path of each with what the system says of it, in the order in which they were written.
        folders: the folders in which others may appear.
        unreadable: what could not be looked into.
        nowhere: names of which the system says nothing, such as links to what is not there (yet).
    """

    logs: list[tuple[str, os.stat_result]] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    unreadable: list[InputNotReadable] = field(default_factory=list)
    nowhere: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _AtRest:
    """What was there, and what tells for how long that is so.

    Attributes:
        there: what was there.
        watched: the files that may change, each with what tells that it has.
        folders: the folders, each as it was listed.
        until: until when this is believed.
    """

    there: LogsThere
    watched: list[tuple[str, tuple[int, ...]]]
    folders: list[tuple[str, _Listing]]
    until: float


class FollowedLogs:
    """Finds the logs to follow: in folders and below them as `find_logs` does, beside a file its rotated ones.

    Rotated ones lie beside the file under its name with something behind: `cowrie.json.2026-01-31`, `cowrie.json-1.gz`.
    What is not there is no error; it may come. A folder in which nothing came or went is not listed again; its files
    cost one look each, archives that were finished long ago less.

    Args:
        paths: files and folders, absolute.
        clock: seconds that only go up.
    """

    def __init__(self, paths: Iterable[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._paths = tuple(paths)
        self._clock = clock
        self._listings: dict[str, _Listing] = {}
        self._orders: dict[str, tuple[str, str, int, str, int, str]] = {}
        self._last: _AtRest | None = None

    def is_wanted(self, path: str) -> bool:
        """Return whether a file, if it were there, would be one of the logs, going by its name alone."""
        folder, _, name = path.rpartition("/")
        for followed in self._paths:
            if folder == str(followed.parent) and _is_rotated_from(followed.name, name):
                return True
            if is_log_name(name) and path.startswith(str(followed).rstrip("/") + "/"):
                return True
        return False

    def there(self) -> LogsThere:
        """Return what is there now: the same object as the last time where nothing seems to have changed."""
        if self._last is None or not self._is_as_it_was(self._last):
            began = self._clock()
            there = self._look()
            self._last = _AtRest(there, [], [], began) if there.unreadable else self._at_rest(there, began)
        return self._last.there

    def _at_rest(self, there: LogsThere, began: float) -> _AtRest:
        """Return what is to be looked at to see whether anything has changed since."""
        now = time.time()
        watched = [
            (path, _signature(status))
            for path, status in there.logs
            if not is_packed_name(path) or now - max(status.st_mtime, status.st_ctime) < PACKED_SETTLES_S
        ]
        watched += [(path, ()) for path in there.nowhere]
        folders = [(str(folder), listing) for folder in there.folders if (listing := self._listings.get(str(folder)))]
        until = min([began + LISTED_FOR_S, *(listing.until for _, listing in folders)])
        return _AtRest(there, watched, folders, until if len(folders) == len(there.folders) else began)

    def _is_as_it_was(self, last: _AtRest) -> bool:
        if self._clock() >= last.until:
            return False
        try:
            for folder, listing in last.folders:
                if _moment(os.stat(folder)) != listing.moment:  # noqa: PTH116
                    return False
        except OSError:
            return False
        return all(_signature_at(path) == signature for path, signature in last.watched)

    def look_again(self) -> None:
        """Believe nothing of what was there the last time: something is known to have changed."""
        self._last = None

    def _look(self) -> LogsThere:
        found = LogsThere()
        there: dict[str, os.stat_result] = {}
        for path in self._paths:
            if stat.S_ISDIR(_mode(path)):
                self._walk(str(path), found, there, is_log_name, deep=True)
                continue
            if stat.S_ISDIR(_mode(path.parent)):
                self._walk(str(path.parent), found, there, partial(_is_rotated_from, path.name), deep=False)
                continue
            try:
                path.parent.stat()
            except (FileNotFoundError, NotADirectoryError):
                pass
            except OSError as error:
                found.unreadable.append(_not_readable(path.parent, error))
            found.folders += [one for one in path.parents if stat.S_ISDIR(_mode(one))][:1]
        self._orders = {name: self._orders.get(name) or rotation_order(Path(name)) for name in there}
        found.logs = [(name, there[name]) for name in sorted(there, key=self._orders.__getitem__)]
        found.folders = list(dict.fromkeys(found.folders))
        return found

    def _walk(
        self,
        folder: str,
        found: LogsThere,
        there: dict[str, os.stat_result],
        is_log: Callable[[str], bool],
        *,
        deep: bool,
    ) -> None:
        """Take in the logs in a folder; a folder that links lead back to is seen once."""
        seen: set[tuple[int, int]] = set()
        waiting = [folder]
        while waiting:
            current = waiting.pop()
            try:
                status = Path(current).stat()
                names = self._names(current, status)
            except OSError as error:
                if not isinstance(error, FileNotFoundError):
                    found.unreadable.append(_not_readable(Path(current), error))
                continue
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            found.folders.append(Path(current))
            for name in names:
                wanted = is_log(name)
                if not wanted and not deep:
                    continue
                path = f"{current.rstrip('/')}/{name}"
                try:
                    status = os.stat(path)  # noqa: PTH116 - there may be thousands, each second
                except OSError:
                    found.nowhere.append(path)
                    continue
                if stat.S_ISDIR(status.st_mode):
                    waiting += [path] * deep
                elif wanted and stat.S_ISREG(status.st_mode):
                    there[path] = status

    def _names(self, folder: str, status: os.stat_result) -> list[str]:
        """Return the names in a folder; they are read again when one may have come or gone."""
        known = self._listings.get(folder)
        moment = _moment(status)
        now = self._clock()
        if known is not None and known.moment == moment and now < known.until:
            return known.names
        is_settled = time.time() - status.st_mtime > LISTING_SETTLES_S
        names = [entry.name for entry in os.scandir(folder)]
        self._listings[folder] = _Listing(moment, now + LISTED_FOR_S if is_settled else now, names)
        return names


def _moment(folder: os.stat_result) -> tuple[int, int, int]:
    return folder.st_dev, folder.st_ino, folder.st_mtime_ns


def _signature(file: os.stat_result) -> tuple[int, ...]:
    return file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns, file.st_mode


def _signature_at(path: str) -> tuple[int, ...]:
    try:
        return _signature(os.stat(path))  # noqa: PTH116 - there may be thousands, each second
    except OSError:
        return ()


def logs_there(paths: Iterable[Path]) -> list[Path]:
    """Return the logs that are there now, as `FollowedLogs` finds them."""
    return [Path(name) for name, _ in FollowedLogs(paths).there().logs]


def is_live_name(path: str) -> bool:
    """Return whether a log is named like one that is still written to: without a date, number or compression behind."""
    name = path.rpartition("/")[2]
    return not (_COMPRESSED.search(name) or _DATED.search(name) or _NUMBERED.search(name))


def is_packed_name(path: str) -> bool:
    """Return whether a file is named like a compressed one."""
    return _COMPRESSED.search(path) is not None


def is_followed(path: str, followed: str) -> bool:
    """Return whether a file belongs to what is followed under a path: inside it, or it itself or rotated from it.

    Args:
        path: the file's path, inert.
        followed: the path that is followed, inert.
    """
    if path.startswith(followed.rstrip("/") + "/"):
        return True
    folder, _, name = path.rpartition("/")
    live_folder, _, live = followed.rpartition("/")
    return folder == live_folder and _is_rotated_from(live, name)


def _is_rotated_from(live: str, name: str) -> bool:
    return name == live or (name.startswith(live) and name[len(live)] in "._-")


def is_log_name(name: str) -> bool:
    """Return whether a file in a folder is named like one of Cowrie's JSON logs."""
    return _LOG_NAME.search(name) is not None and not name.startswith(".")


def rotation_order(path: Path) -> tuple[str, str, int, str, int, str]:
    """Return a sort key: folder, log, then dated ones by date, numbered ones from the highest, the live one last."""
    name = _COMPRESSED.sub("", path.name)
    folder = str(path.parent)
    if match := _DATED.search(name):
        return folder, name[: match.start()], 0, match[1].replace("-", "") + (match[2] or ""), 0, path.name
    if match := _NUMBERED.search(name):
        return folder, name[: match.start()], 1, "", -int(match[1]), path.name
    return folder, name, _LIVE, "", 0, path.name


def _is_folder(path: Path) -> bool:
    """Return whether a path that was named is a folder; a link that leads nowhere is left to whoever opens it."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputNotFound(f"{inert(str(path))}: no such file or folder; check the spelling") from error
    except OSError as error:
        raise _not_readable(path, error) from error
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    """Return what a path or the target of its link is: nothing (0) where a link leads nowhere or round in a loop.

    What may not be looked at counts as a file, so that whoever opens it says so.
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


def _logs_below(folder: Path, unreadable: list[InputNotReadable] | None) -> Iterator[Path]:
    """Yield the logs in a folder and its sub-folders; a folder that links lead back to is seen once."""
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            status = current.stat()
            entries = list(os.scandir(current))
        except OSError as error:
            if unreadable is None:
                raise _not_readable(current, error) from error
            unreadable.append(_not_readable(current, error))
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            found = Path(entry.path)
            mode = _mode(found)
            if stat.S_ISDIR(mode):
                waiting.append(found)
            elif stat.S_ISREG(mode) and is_log_name(entry.name):
                yield found
