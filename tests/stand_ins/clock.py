"""A clock that tests control, and the protocol of all of them.

Nothing here sleeps: a year of waiting takes as long as the work in it.
"""

from __future__ import annotations

import datetime as dt
import math
import threading
from collections.abc import Callable
from typing import Protocol

START = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
"""The time at which tests begin by default."""


class Timepiece(Protocol):
    """Tells the time."""

    def now(self) -> dt.datetime:
        """Return the time, aware, in UTC."""
        ...


class ManualClock:
    """A clock that only tests and waits advance.

    Attributes:
        waits: the seconds of each wait.
        on_wait: called after each wait, for example to stop a loop.
    """

    def __init__(self, now: dt.datetime = START, on_wait: Callable[[], None] | None = None) -> None:
        if now.tzinfo is None:
            raise ValueError("the time needs a zone")
        self.waits: list[float] = []
        self.on_wait = on_wait
        self._now = now.astimezone(dt.UTC)
        self._lock = threading.Lock()

    def now(self) -> dt.datetime:
        """Return the time, aware, in UTC."""
        with self._lock:
            return self._now

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Advance the clock by `seconds` at once, unless `stop` is set; a negative time does not change it."""
        if stop.is_set():
            return
        with self._lock:
            self.waits.append(seconds)
            # Rounded up, so that a wait until a moment ends at that moment or after it.
            self._now += dt.timedelta(microseconds=math.ceil(max(0.0, seconds) * 1_000_000))
        if self.on_wait is not None:
            self.on_wait()

    def advance(self, seconds: float = 0.0, **units: float) -> dt.datetime:
        """Let time pass and return the time then; `units` are those of timedelta (hours, days). May be negative."""
        with self._lock:
            self._now += dt.timedelta(seconds=seconds, **units)
            return self._now

    def set(self, now: dt.datetime) -> None:
        """Set the clock to a time, earlier or later."""
        with self._lock:
            self._now = now.astimezone(dt.UTC)
