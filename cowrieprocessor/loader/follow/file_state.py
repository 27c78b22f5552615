"""A followed file as it was found last, and what tells that it has not changed since."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from cowrieprocessor.db.ingest.followed_files import SeenFile
from cowrieprocessor.loader.follow.tail_reader import Outcome, file_id_of

TIME_SETTLES_S = 2.0
"""Within this time of a change, a file that changes once more may keep its size and times: it is looked at again."""

FINE_TIME_SETTLES_S = 0.1
"""The same where the file system counts nanoseconds: the kernel's clock still ticks only each few milliseconds."""


@dataclass(slots=True)
class FileState:
    """A file as it was found last.

    Attributes:
        outcome: what was seen of it.
        is_racy: whether it changed so recently that its size and times may not tell the next change.
        error: why it could not be read.
    """

    outcome: Outcome
    is_racy: bool = False
    error: str | None = None

    @property
    def seen(self) -> SeenFile:
        """What was seen of it."""
        return self.outcome.seen

    def known(self) -> SeenFile:
        """Return what the database is to know: where its signature is, the next process need not look at a file."""
        return replace(self.seen, signature=(0, 0, 0)) if self.error or self.is_racy else self.seen


def signature_of(status: os.stat_result) -> tuple[int, int, int]:
    """Return size and times of a file, which tell whether it changed."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def content_key(seen: SeenFile) -> tuple[str, int, int]:
    """Return what a file keeps under any name, on any mount: inode, size and time of its last change."""
    return seen.inode, seen.signature[0], seen.signature[1]


def settles_in_s(signature: tuple[int, int, int], looked_at: float) -> float | None:
    """Return when to look again at a file that had changed just now; None where its times would tell the next change.

    Within that time it may change twice at what looks like one moment; some file systems count seconds.

    Args:
        signature: of the file.
        looked_at: a moment before that was taken, Unix seconds: reading what was in the file may have taken long.
    """
    is_coarse = any(moment % 1_000_000 == 0 for moment in signature[1:])
    settles_s = TIME_SETTLES_S if is_coarse else FINE_TIME_SETTLES_S
    return settles_s if abs(looked_at - max(signature[1:]) / 1e9) < settles_s else None


def is_same(seen: SeenFile, status: os.stat_result) -> bool:
    """Return whether a file is as it was seen."""
    return seen.signature == signature_of(status) and (seen.device, seen.inode) == file_id_of(status)
