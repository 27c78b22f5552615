"""Spreading: new verdicts reach the rows of `files` and the flags of sessions in short transactions beside loaders."""

from __future__ import annotations

import threading
import time

from sqlalchemy import Engine

from cowrieprocessor.db.propagation import propagate_some
from cowrieprocessor.enrichment.clock import Clock
from cowrieprocessor.jobs.pacing import Pace

PAUSE_JOB = "enrich-pause"


class Spreading:
    """Gives rows of `files` the verdict of their hash, a few thousand at a time.

    Args:
        engine: the database.
        clock: the time.
    """

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._pace = Pace(engine, PAUSE_JOB)
        self.rows_changed = 0

    def some(self) -> bool:
        """Write one transaction's worth; False if nothing waits, or if another writer should not be hindered now."""
        if self._pace.obstacle() is not None:
            return False
        began = time.monotonic()
        step = propagate_some(self._engine, now=self._clock.now())
        if step is None:
            return False
        self.rows_changed += step.changed
        self._pace.wrote(time.monotonic() - began)
        self._pace.rest()
        return True

    def all(self, stop: threading.Event) -> None:
        """Write until nothing waits any more, or `stop` is set; what is left the next run writes."""
        while not stop.is_set() and self.some():
            pass
