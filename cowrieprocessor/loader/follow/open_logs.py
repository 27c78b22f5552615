"""Logs that are held open: one that is renamed away or deleted is still read to its end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cowrieprocessor.db.ingest.followed_files import SeenFile
from cowrieprocessor.loader.reading.log_stream import LogStream

MAX_HELD = 256
"""How many files are held open at most: the system allows 1024 in a process, if nobody raised it."""

LIVE_S = 3600.0
"""A log that nobody has written to for so long is let go; it is taken up again when it grows."""

GONE_QUIET_S = 600.0
"""A log that has no name any more is read until nothing was added for so long."""

FileId = tuple[int, int]


@dataclass(slots=True)
class OpenLog:
    """A log that is open.

    Attributes:
        file_key: the key of the path under which it was opened.
        path: that path.
        descriptor: ours alone.
        file_id: device and inode.
        size: how much of it was there when it was last read without its name.
        quiet_since: since when it has not grown, once it has no name; monotonic seconds.
        seen: what was read of it since it has lost its name.
        is_named: whether it was found under another path, which is read from now on.
    """

    file_key: str
    path: Path
    descriptor: int
    file_id: FileId
    size: int = -1
    quiet_since: float = 0.0
    is_named: bool = False
    seen: SeenFile | None = None

    def opened(self) -> int:
        """Return another descriptor of the same file, from whose position nothing else depends."""
        return os.dup(self.descriptor)


class OpenLogs:
    """The logs that are held open, by the paths they were found under.

    Args:
        clock: seconds that only go up.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[str, OpenLog] = {}
        self._gone: list[OpenLog] = []
        self._finished: set[FileId] = set()

    def hold(self, file_key: str, stream: LogStream) -> None:
        """Hold a log that was just read under a path, if it may still be written to."""
        status = stream.status
        file_id = (status.st_dev, status.st_ino)
        held = self._held.get(file_key)
        if stream.is_complete:
            self._finished.add(file_id)
            return
        self._finished.discard(file_id)  # the number was an archive's, which is gone
        if held is not None and held.file_id == file_id:
            return
        if any(one.file_id == file_id for one in self._gone):
            return  # it is held already, and has no path any more
        if held is not None:
            self._gone.append(held)
        self._held.pop(file_key, None)
        self._make_room()
        try:
            descriptor = os.dup(stream.descriptor)
        except OSError:
            return  # no descriptor is left: it is followed under its path alone
        self._held[file_key] = OpenLog(file_key, stream.path, descriptor, file_id)

    def wants(self, file_key: str, status: os.stat_result) -> bool:
        """Return whether a file is to be held open that is not."""
        if file_key in self._held or (status.st_dev, status.st_ino) in self._finished:
            return False
        return time.time() - status.st_mtime < LIVE_S and len(self._held) + len(self._gone) < MAX_HELD

    def was_read(self, held: OpenLog, size: int) -> None:
        """Take note that a log without a path was read as far as it went."""
        held.size, held.quiet_since = size, self._clock()

    def moved(self, there: Mapping[str, FileId]) -> Iterator[tuple[OpenLog, int]]:
        """Yield the logs that are open and have something new, but are not to be found under any path; and their sizes.

        Args:
            there: of each place its file, as it is now.
        """
        now = self._clock()
        for place, held in list(self._held.items()):
            if there.get(place) != held.file_id:
                self._gone.append(self._held.pop(place))
            elif time.time() - _mtime_ns(held.descriptor) / 1e9 > LIVE_S:
                self._forget(place)
        named = set(there.values())
        for held in list(self._gone):
            held.is_named = held.file_id in named
            if not held.is_named and held.size >= 0 and now - held.quiet_since > GONE_QUIET_S:
                self.let_go(held)
            elif not held.is_named and (size := _size(held.descriptor)) != held.size:
                yield held, size

    @property
    def gone(self) -> list[OpenLog]:
        """The logs that are open without a path."""
        return [held for held in self._gone if not held.is_named]

    def let_go_of_named(self, read: Collection[FileId]) -> None:
        """Let logs go that were found under another path and have been read there."""
        for held in [one for one in self._gone if one.is_named and one.file_id in read]:
            self.let_go(held)

    def is_held(self, file_key: str) -> bool:
        """Return whether a log is held open under its path."""
        return file_key in self._held

    def let_go(self, held: OpenLog) -> None:
        """Let a log go that has no path any more."""
        self._gone.remove(held)
        os.close(held.descriptor)

    def close(self) -> None:
        """Let everything go."""
        for held in [*self._held.values(), *self._gone]:
            os.close(held.descriptor)
        self._held.clear()
        self._gone.clear()

    def _forget(self, file_key: str) -> None:
        os.close(self._held.pop(file_key).descriptor)

    def _make_room(self) -> None:
        """Keep the number of open files bounded: what has no path goes first, the quietest of it."""
        while len(self._held) + len(self._gone) >= MAX_HELD:
            if self._gone:
                self.let_go(min(self._gone, key=lambda one: one.quiet_since))
            else:
                self._forget(min(self._held.values(), key=lambda one: _mtime_ns(one.descriptor)).file_key)


def _size(descriptor: int) -> int:
    try:
        return os.fstat(descriptor).st_size
    except OSError:
        return 0


def _mtime_ns(descriptor: int) -> int:
    try:
        return os.fstat(descriptor).st_mtime_ns
    except OSError:  # its server has forgotten it
        return 0
