"""The current time and waiting, behind an interface that tests replace."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable
from typing import Protocol

STOP_CHECK_S = 0.25
"""The longest time between two checks of the stop event while pausing."""


class Clock(Protocol):
    """Tells the time and waits."""

    def now(self) -> dt.datetime:
        """Return the time, aware, in UTC."""
        ...

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Return after so many seconds, or as soon as `stop` is set."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> dt.datetime:
        """Return the time, aware, in UTC."""
        return dt.datetime.now(dt.UTC)

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Return after so many seconds, or as soon as `stop` is set."""
        stop.wait(seconds)


def pause(seconds: float, stop: threading.Event, *, clock: Callable[[], float] = time.monotonic) -> None:
    """Return after `seconds`, or soon after `stop` is set.

    Polls `stop` instead of waiting on it: when a signal handler sets an event that the same thread is about to wait
    on, the wait never returns.
    """
    until = clock() + seconds
    while not stop.is_set() and (left_s := until - clock()) > 0:
        time.sleep(min(STOP_CHECK_S, left_s))
