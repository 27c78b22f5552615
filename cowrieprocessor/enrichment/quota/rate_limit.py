"""How fast requests may follow each other so that no minute, wherever it begins, sees more than are allowed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

MAX_BURST = 4
"""How many requests may be sent at once, and how many times have to be remembered."""

MAX_PER_MINUTE = 100_000
"""More than that is as good as no limit: no machine of ours is as fast."""

MARGIN = 1.025
"""A window is this much longer than it needs to be: requests do not all travel equally long."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `burst` requests in any `window`, which comes to `per_minute` in any minute.

    A bucket of tokens that is refilled at the allowed rate would not do: full, it lets its burst go and then what is
    refilled, so that the first minute sees almost twice what is allowed. Here the last `burst` times are kept, and a
    request goes only when the oldest of them is out of the window. `burst` divides `per_minute`, so that a minute is
    covered by `per_minute / burst` windows.

    Attributes:
        per_minute: requests allowed a minute, 1 or more.
    """

    per_minute: int

    @property
    def burst(self) -> int:
        """How many requests may be sent at once."""
        return max(size for size in range(1, MAX_BURST + 1) if self.per_minute % size == 0)

    @property
    def window(self) -> dt.timedelta:
        """How long until as many may be sent again."""
        return dt.timedelta(seconds=60 * self.burst / self.per_minute * MARGIN)

    def next_at(self, recent: Sequence[dt.datetime]) -> dt.datetime | None:
        """Return when the next request may be sent, by the times of the last ones (oldest first); None: at once."""
        return recent[-self.burst] + self.window if len(recent) >= self.burst else None

    def settled(self, recent: Sequence[dt.datetime], now: dt.datetime) -> list[dt.datetime]:
        """Return the last times to remember, none of them further ahead than a window.

        Where a clock was set back, what was sent by its old time counts as sent now.
        """
        latest = now + self.window
        return sorted(now if moment > latest else moment for moment in recent)[-MAX_BURST:]
