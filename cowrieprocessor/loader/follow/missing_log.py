"""A log that is no longer where it was seen."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cowrieprocessor.db.ingest.followed_files import SeenFile

Log = tuple[str, int]
"""Identity and generation of a log."""

LOST_SIGNATURE = (-1, 0, 0)
"""Replaces size and times of a log that is only remembered because something of it was lost."""


@dataclass(frozen=True, slots=True)
class MissingLog:
    """A log that is no longer where it was seen.

    Attributes:
        sightings: what was seen of it, under one path or several.
        bytes_seen: how long it was known to be.
        bytes_found: how far it goes in the files that are present.
        is_open: whether it is open without a path and may still be read.
    """

    sightings: tuple[SeenFile, ...]
    bytes_seen: int
    bytes_found: int = 0
    is_open: bool = False

    @property
    def log(self) -> Log | None:
        """Which log it is; None for a file without a complete object."""
        return self.sightings[0].log

    @property
    def is_found(self) -> bool:
        """Whether all that was seen of it is in files that are present."""
        return self.bytes_found >= self.bytes_seen

    def lost(self) -> SeenFile:
        """Return what to remember of it when something was lost."""
        return replace(
            self.sightings[0].displaced(), signature=LOST_SIGNATURE, bytes_seen=self.bytes_seen, bytes_pending=0
        )


def is_displaced(old: SeenFile, new: SeenFile | None) -> bool:
    """Return whether there is less at a path now than what was seen there."""
    if new is None or old.log != new.log or old.bytes_seen > new.bytes_seen:
        return True
    return old.log is None and (old.device, old.inode) != (new.device, new.inode)
