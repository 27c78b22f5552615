"""When a follower polls again, and how long a file that changed counts as still changing."""

from __future__ import annotations

from dataclasses import dataclass

from cowrieprocessor.loader.reading.discovery import LISTING_SETTLES_S, PACKED_SETTLES_S


@dataclass(frozen=True, slots=True)
class FollowTiming:
    """The times of a follower, in seconds.

    Attributes:
        archive_settles_s: an archive that changed within this time counts as still being written and is deferred;
            likewise a file in which bytes are missing that were there before.
        coarse_time_settles_s: a file that changes twice within this time may keep its size and times, so it is read
            again; for file systems that count no finer than milliseconds.
        fine_time_settles_s: the same for file systems that count nanoseconds: the kernel's clock still ticks only every
            few milliseconds.
        interleave_every_s: while much is read of one log, the other live logs are polled no more often than this.
        unnamed_poll_s: poll again after this time while a log without a path is open.
        contended_poll_s: poll again after this time where others kept changing a file or its checkpoint.
        listing_settles_s: a folder that changed within this time is listed again, even with the same modification time.
        packed_settles_s: an archive that changed within this time is checked at every poll.
    """

    archive_settles_s: float = 5.0
    coarse_time_settles_s: float = 2.0
    fine_time_settles_s: float = 0.1
    interleave_every_s: float = 0.5
    unnamed_poll_s: float = 5.0
    contended_poll_s: float = 1.0
    listing_settles_s: float = LISTING_SETTLES_S
    packed_settles_s: float = PACKED_SETTLES_S
