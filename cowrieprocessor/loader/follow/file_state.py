"""The last known state of a followed file, and how to tell that the file has not changed since."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from cowrieprocessor.db.ingest.followed_files import SeenFile
from cowrieprocessor.loader.follow.tail_reader import Outcome, file_id_of
from cowrieprocessor.loader.follow.timing import FollowTiming

NANOSECONDS_PER_MS = 1_000_000


@dataclass(slots=True)
class FileState:
    """The last known state of a file.

    Attributes:
        outcome: what reading it gave.
        is_racy: whether it changed so recently that its size and times may not reveal the next change.
        error: why it could not be read.
    """

    outcome: Outcome
    is_racy: bool = False
    error: str | None = None

    @property
    def seen(self) -> SeenFile:
        """What was seen of the file."""
        return self.outcome.seen

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing to do if the file only gets another name: it is read, and ends with a value."""
        return not (self.is_racy or self.error or self.seen.bytes_pending)

    def is_due(self, now: float) -> bool:
        """Return whether the file may be finished by now and ends with a torn value; `now` in Unix seconds."""
        return self.outcome.finished_at is not None and now >= self.outcome.finished_at

    def to_store(self) -> SeenFile:
        """Return the state for the database; without a signature where the next process has to read the file again."""
        return replace(self.seen, signature=(0, 0, 0)) if self.error or self.is_racy else self.seen


def signature_of(status: os.stat_result) -> tuple[int, int, int]:
    """Return size and times of a file, which reveal whether it changed."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def content_key(seen: SeenFile) -> tuple[str, int, int]:
    """Return what stays the same under any name and on any mount: inode, size and modification time."""
    return seen.inode, seen.signature[0], seen.signature[1]


def settles_in_s(signature: tuple[int, int, int], polled_at: float, timing: FollowTiming) -> float | None:
    """Return when to poll a file again that has just changed, in seconds; None if its times reveal the next change.

    Within that time it may change twice at what looks like one moment; some file systems count whole seconds.

    Args:
        signature: of the file.
        polled_at: a moment before the signature was taken and the file was read, which may take long; Unix seconds.
        timing: the times within which changes may not show.
    """
    is_coarse = any(moment_ns % NANOSECONDS_PER_MS == 0 for moment_ns in signature[1:])
    settles_s = timing.coarse_time_settles_s if is_coarse else timing.fine_time_settles_s
    return settles_s if abs(polled_at - max(signature[1:]) / 1e9) < settles_s else None


def is_same(seen: SeenFile, status: os.stat_result) -> bool:
    """Return whether a file is unchanged since it was seen."""
    return seen.signature == signature_of(status) and (seen.device, seen.inode) == file_id_of(status)


def was_replaced(seen: SeenFile, path: str, status: os.stat_result) -> bool:
    """Return whether the file that was opened is another one than was listed, and has taken its path.

    Different numbers alone do not prove it: some file systems number a file by its name, and differently once it is
    open; and the state of a file that cannot be read may be older than a change of its device number.

    Args:
        seen: the file that was opened.
        path: its path.
        status: the file that was listed there.
    """
    if (seen.device, seen.inode) == file_id_of(status):
        return False
    try:
        current = Path(path).stat()
    except OSError:
        return True
    return file_id_of(current) != file_id_of(status)
