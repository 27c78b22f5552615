"""Logs that are kept open, so that one that is renamed or deleted is still read to its end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cowrieprocessor.db.ingest.followed_files import SeenFile
from cowrieprocessor.loader.reading.log_stream import LogStream

MAX_OPEN_LOGS = 256
"""How many logs are kept open at most; by default the system allows a process 1024 open files."""

CLOSE_IDLE_AFTER_S = 3600.0
"""A log that was not written to for this long is closed; it is opened again when it grows."""

CLOSE_UNNAMED_AFTER_S = 600.0
"""A log without a path is read until nothing was added to it for this long."""

FileId = tuple[int, int]


@dataclass(slots=True)
class OpenLog:
    """A log that is kept open.

    Attributes:
        file_key: the key of the path under which it was opened.
        path: that path.
        descriptor: a file descriptor that nothing else uses.
        file_id: device and inode.
        size: its size in bytes when it was last read without a path, -1 before that.
        idle_since: when it was last read without a path; monotonic seconds.
        is_renamed: whether it was found under another path, under which it is read from now on.
        seen: what was read of it since it lost its path.
    """

    file_key: str
    path: Path
    descriptor: int
    file_id: FileId
    size: int = -1
    idle_since: float = 0.0
    is_renamed: bool = False
    seen: SeenFile | None = None

    def duplicate_descriptor(self) -> int:
        """Return another descriptor of the same file, for the caller to close."""
        return os.dup(self.descriptor)


class OpenLogs:
    """The logs that are kept open, by the paths under which they were found.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._named: dict[str, OpenLog] = {}
        self._unnamed: list[OpenLog] = []
        self._complete: set[FileId] = set()

    def keep_open(self, file_key: str, stream: LogStream) -> None:
        """Keep a log open that was just read under a path, if it may still be written to."""
        status = stream.status
        file_id = (status.st_dev, status.st_ino)
        log = self._named.get(file_key)
        if stream.is_complete:
            self._complete.add(file_id)
            return
        self._complete.discard(file_id)  # the inode number was that of an archive that is gone
        if log is not None and log.file_id == file_id:
            return
        if any(unnamed.file_id == file_id for unnamed in self._unnamed):
            return  # it is open already
        if log is not None:
            self._unnamed.append(log)
        self._named.pop(file_key, None)
        self._make_room()
        try:
            descriptor = os.dup(stream.descriptor)
        except OSError:
            return  # no descriptor is left: the log is followed by its path alone
        self._named[file_key] = OpenLog(file_key, stream.path, descriptor, file_id)

    def should_open(self, file_key: str, status: os.stat_result) -> bool:
        """Return whether a file that is not open should be kept open."""
        if file_key in self._named or (status.st_dev, status.st_ino) in self._complete:
            return False
        return self._has_room_for(status)

    def should_hold(self, file_key: str, status: os.stat_result) -> bool:
        """Return whether a file should be opened although nothing is read now, whatever is open under its path."""
        file_id = (status.st_dev, status.st_ino)
        named = self._named.get(file_key)
        if named is not None and named.file_id == file_id:
            return False
        if any(log.file_id == file_id for log in (*self._named.values(), *self._unnamed)):
            return False
        return self._has_room_for(status)

    def _has_room_for(self, status: os.stat_result) -> bool:
        """Return whether a file was written to lately, and not too many are open."""
        is_idle = time.time() - status.st_mtime >= CLOSE_IDLE_AFTER_S
        return not is_idle and len(self._named) + len(self._unnamed) < MAX_OPEN_LOGS

    def record_read(self, log: OpenLog, size: int) -> None:
        """Record that a log without a path was read up to this size."""
        log.size, log.idle_since = size, self._clock()

    def find_grown(self, present: Mapping[str, FileId]) -> Iterator[tuple[OpenLog, int]]:
        """Yield open logs that grew after losing their path, with their sizes; close those that stayed idle.

        Args:
            present: the file at each path now, by file key.
        """
        now = self._clock()
        self._update_named(present)
        file_ids = set(present.values())
        for log in list(self._unnamed):
            log.is_renamed = log.file_id in file_ids
            if log.is_renamed:
                continue
            if (size := _size(log.descriptor)) != log.size:
                yield log, size
            elif now - log.idle_since > CLOSE_UNNAMED_AFTER_S:
                self.release(log)

    @property
    def unnamed(self) -> list[OpenLog]:
        """The logs that are open without a path."""
        return [log for log in self._unnamed if not log.is_renamed]

    def release_renamed(self, read: Collection[FileId]) -> None:
        """Close logs that were found under another path and have been read there."""
        for log in [log for log in self._unnamed if log.is_renamed and log.file_id in read]:
            self.release(log)

    def is_open(self, file_key: str) -> bool:
        """Return whether a log is kept open under its path."""
        return file_key in self._named

    def release(self, log: OpenLog) -> None:
        """Close a log that has no path any more."""
        self._unnamed.remove(log)
        os.close(log.descriptor)

    def close(self) -> None:
        """Close all logs."""
        for log in [*self._named.values(), *self._unnamed]:
            os.close(log.descriptor)
        self._named.clear()
        self._unnamed.clear()

    def _update_named(self, present: Mapping[str, FileId]) -> None:
        """Move logs that lost their path to the unnamed ones, and close those that are idle."""
        for file_key, log in list(self._named.items()):
            if present.get(file_key) != log.file_id:
                self._unnamed.append(self._named.pop(file_key))
            elif time.time() - _mtime_ns(log.descriptor) / 1e9 > CLOSE_IDLE_AFTER_S:
                self._close_named(file_key)

    def _close_named(self, file_key: str) -> None:
        os.close(self._named.pop(file_key).descriptor)

    def _make_room(self) -> None:
        """Keep the number of open logs bounded: logs without a path are closed first, the longest idle of them."""
        while len(self._named) + len(self._unnamed) >= MAX_OPEN_LOGS:
            if self._unnamed:
                self.release(min(self._unnamed, key=lambda log: log.idle_since))
            else:
                self._close_named(min(self._named.values(), key=lambda log: _mtime_ns(log.descriptor)).file_key)


def _size(descriptor: int) -> int:
    try:
        return os.fstat(descriptor).st_size
    except OSError:
        return 0


def _mtime_ns(descriptor: int) -> int:
    try:
        return os.fstat(descriptor).st_mtime_ns
    except OSError:  # the file server no longer knows the file
        return 0
