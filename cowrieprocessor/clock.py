"""The current time and waiting, as an interface that tests can replace."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable
from typing import Protocol

STOP_CHECK_S = 0.25
"""Longest interval between two checks of the stop event while pausing."""

MAX_CLOCK_SKEW = dt.timedelta(days=1)
"""Times further in the future were written by a wrong clock; smaller differences between clocks are normal."""


class Clock(Protocol):
    """A source of the current time that can also wait."""

    def now(self) -> dt.datetime:
        """Return the current time as an aware datetime in UTC."""
        ...

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Wait for `seconds`, or until `stop` is set."""
        ...


class SystemClock:
    """The system clock."""

    def now(self) -> dt.datetime:
        """Return the current time as an aware datetime in UTC."""
        return dt.datetime.now(dt.UTC)

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Wait for `seconds`, or until `stop` is set."""
        stop.wait(seconds)


def pause(seconds: float, stop: threading.Event, *, clock: Callable[[], float] = time.monotonic) -> None:
    """Wait for `seconds`, or until shortly after `stop` is set.

    Polls `stop` instead of waiting on it: if a signal handler sets the event just before the same thread waits on it,
    the wait never returns.
    """
    deadline = clock() + seconds
    while not stop.is_set() and (left_s := deadline - clock()) > 0:
        time.sleep(min(STOP_CHECK_S, left_s))
