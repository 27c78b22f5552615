"""The rate limit: how closely requests may follow each other so that no 60 seconds contain more than are allowed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

MAX_BURST = 4
"""The most requests that may be sent at once, and the number of request times that are stored."""

MAX_PER_MINUTE = 100_000
"""A higher limit is as good as none: no client sends that fast."""

MARGIN = 1.025
"""Factor by which a window is longer than necessary: latencies differ between requests."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Allows at most `burst` requests in any `window`, and so `per_minute` in any minute.

    A token bucket refilled at the allowed rate would not do: a full bucket grants its burst and then the refill, so the
    first minute sees almost twice what is allowed. This is a sliding window: the times of the last `burst` requests are
    stored, and a request is granted once the oldest of them has left the window. `burst` divides `per_minute`, so that
    `per_minute / burst` windows cover a minute.

    Attributes:
        per_minute: requests allowed a minute, 1 or more.
    """

    per_minute: int

    @property
    def burst(self) -> int:
        """The number of requests that may be sent at once: the largest divisor of `per_minute` up to MAX_BURST."""
        return max(size for size in range(1, MAX_BURST + 1) if self.per_minute % size == 0)

    @property
    def window(self) -> dt.timedelta:
        """The time in which at most `burst` requests may be sent."""
        return dt.timedelta(seconds=60 * self.burst / self.per_minute * MARGIN)

    def next_at(self, recent: Sequence[dt.datetime]) -> dt.datetime | None:
        """Return when the next request may be sent, from the times of the last ones (oldest first); None: now."""
        return recent[-self.burst] + self.window if len(recent) >= self.burst else None

    def normalized(self, recent: Sequence[dt.datetime], now: dt.datetime) -> list[dt.datetime]:
        """Return the request times to store, oldest first, none more than a window in the future.

        After the clock was set back, requests with times of the old clock count as sent now.
        """
        latest = now + self.window
        return sorted(now if moment > latest else moment for moment in recent)[-MAX_BURST:]
