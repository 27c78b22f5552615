"""How a follower says that it is at work: a line a minute on standard error, on a terminal one that is kept anew."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cowrieprocessor.cli.shared.common import message

if TYPE_CHECKING:
    from rich.status import Status

    from cowrieprocessor.loader.delta import PollResult
    from cowrieprocessor.loader.log_loading import LoadProgress

LINE_EVERY_S = 60.0
SHOW_EVERY_S = 0.5


class FollowLines:
    """Events, and bytes behind, of a follower.

    Args:
        count: how many paths are followed.
        clock: seconds that only go up.
    """

    def __init__(self, count: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._count = count
        self._clock = clock
        self._events = 0
        self._in_this_look: dict[str, int] = {}
        self._said_events = 0
        self._said_at = self._shown_at = clock()
        self._bytes_behind = 0
        self._last_at: dt.datetime | None = None
        self._status: Status | None = None

    def __enter__(self) -> FollowLines:
        """Begin to show."""
        from rich.console import Console
        from rich.status import Status

        console = Console(stderr=True)
        if console.is_terminal:
            self._status = Status("", console=console, refresh_per_second=1)
            self._status.start()
        self._show()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop showing."""
        if self._status is not None:
            self._status.stop()

    def progress(self, now: LoadProgress) -> None:
        """Take note of a batch."""
        self._in_this_look[now.path] = now.events
        self._bytes_behind = max(0, now.bytes_total - now.bytes_done)
        self._last_at = dt.datetime.now(dt.UTC)
        self._say()

    def looked(self, look: PollResult) -> None:
        """Take note of a look that is over."""
        new = look.counters["events"] + look.counters["dead_letters"]
        if new:
            self._last_at = dt.datetime.now(dt.UTC)
        self._events += new
        self._in_this_look.clear()
        self._bytes_behind = 0
        self._say()

    def text(self) -> str:
        """Return what there is to say."""
        events = self._events + sum(self._in_this_look.values())
        paths = f"{self._count} path{'' if self._count == 1 else 's'}"
        last = f", the last at {self._last_at:%H:%M:%S} UTC" if self._last_at else ""
        return f"following {paths}: {events:,} new events{last}; {self._bytes_behind:,} bytes behind"

    def _say(self) -> None:
        now = self._clock()
        events = self._events + sum(self._in_this_look.values())
        if self._status is not None:
            if now - self._shown_at >= SHOW_EVERY_S or not self._bytes_behind:
                self._show()
        elif events != self._said_events and now - self._said_at >= LINE_EVERY_S:
            self._said_at, self._said_events = now, events
            message(self.text())

    def _show(self) -> None:
        from rich.text import Text

        if self._status is not None:
            self._shown_at = self._clock()
            self._status.update(Text(self.text()))
