"""A clock that goes on each time that it is looked at: how much a transaction does is then the same each time."""

from __future__ import annotations

from sqlalchemy import Engine

from cowrieprocessor.jobs.runtime.throttle import Throttle

TICK_S = 0.0075
LOOKS_ALONE = 10
"""How often the clock is looked at while a transaction alone may go on: 0.08 s."""


class TickingClock:
    """Seconds that go up by TICK_S with each look, and by sleeping."""

    def __init__(self) -> None:
        self.ticks = 0
        self.slept: list[float] = []

    def __call__(self) -> float:
        """Return the time."""
        self.ticks += 1
        return self.ticks * TICK_S

    def sleep(self, seconds: float) -> None:
        """Let no time pass, but keep that it was wanted."""
        self.slept.append(seconds)


def ticking(engine: Engine) -> Throttle:
    """Return a pace by such a clock."""
    clock = TickingClock()
    return Throttle(engine, clock=clock, sleep=clock.sleep)
