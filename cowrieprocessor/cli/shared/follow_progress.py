"""Progress of `follow` on standard error: a status line on a terminal, otherwise a line a minute."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cowrieprocessor.cli.shared.common import notify
from cowrieprocessor.wording import plural

if TYPE_CHECKING:
    from rich.status import Status

    from cowrieprocessor.loader.delta import PollResult
    from cowrieprocessor.loader.log_loading import LoadProgress

LINE_EVERY_S = 60.0
STATUS_EVERY_S = 0.5


class FollowProgressLine:
    """Shows how many events a follower has stored and how many bytes it is behind.

    Args:
        path_count: how many paths are followed.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, path_count: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path_count = path_count
        self._clock = clock
        self._events = 0
        self._events_by_path: dict[str, int] = {}
        self._line_events = 0
        self._line_at = self._status_at = clock()
        self._bytes_behind = 0
        self._newest_at: dt.datetime | None = None
        self._status: Status | None = None

    def __enter__(self) -> FollowProgressLine:
        """Start the display."""
        from rich.console import Console
        from rich.status import Status

        console = Console(stderr=True)
        if console.is_terminal:
            self._status = Status("", console=console, refresh_per_second=1)
            self._status.start()
        self._draw_status()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop the display."""
        if self._status is not None:
            self._status.stop()

    def batch_stored(self, progress: LoadProgress) -> None:
        """Update the display after a batch of the current poll."""
        self._events_by_path[progress.path] = progress.events
        self._bytes_behind = max(0, progress.bytes_total - progress.bytes_done)
        self._newest_at = dt.datetime.now(dt.UTC)
        self._update()

    def poll_finished(self, result: PollResult) -> None:
        """Update the display after a poll."""
        new = result.counters["events"] + result.counters["dead_letters"]
        if new:
            self._newest_at = dt.datetime.now(dt.UTC)
        self._events += new
        self._events_by_path.clear()
        self._bytes_behind = 0
        self._update()

    def text(self) -> str:
        """Return the status line."""
        paths = plural(self._path_count, "path")
        last = f", the last at {self._newest_at:%H:%M:%S} UTC" if self._newest_at else ""
        events = self._total_events()
        return f"following {paths}: {plural(events, 'new event')}{last}; {plural(self._bytes_behind, 'byte')} behind"

    def _total_events(self) -> int:
        return self._events + sum(self._events_by_path.values())

    def _update(self) -> None:
        """Redraw the status line, or print a line, if it is due."""
        now = self._clock()
        events = self._total_events()
        if self._status is not None:
            if now - self._status_at >= STATUS_EVERY_S or not self._bytes_behind:
                self._draw_status()
        elif events != self._line_events and now - self._line_at >= LINE_EVERY_S:
            self._line_at, self._line_events = now, events
            notify(self.text())

    def _draw_status(self) -> None:
        from rich.text import Text

        if self._status is not None:
            self._status_at = self._clock()
            self._status.update(Text(self.text()))
