"""Spreading: new verdicts reach the rows of `files` and the flags of sessions in short transactions beside loaders."""

from __future__ import annotations

import threading

from sqlalchemy import Engine

from cowrieprocessor.clock import Clock
from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.enrichment.propagation import MAX_ROWS, SLICE_ROWS, pending_slices, propagate_slices
from cowrieprocessor.jobs.runtime.throttle import Throttle

FIRST_ROWS = 500
"""Rows read before it is known how many a transaction writes."""


class Propagation:
    """Gives rows of `files` the verdict of their hash, as many at a time as can be written in a moment.

    Args:
        engine: the database.
        clock: the time.
        pace: when to write, and for how long; one of its own by default.
    """

    def __init__(self, engine: Engine, clock: Clock, pace: Throttle | None = None) -> None:
        self._engine = engine
        self._clock = clock
        self._pace = pace or Throttle(engine)
        self._rows = FIRST_ROWS
        self.rows_changed = 0

    def some(self) -> bool:
        """Write one transaction's worth; False if nothing waits, or if another writer should not be hindered now."""
        if self._pace.obstacle() is not None:
            return False
        with read_transaction(self._engine) as connection:
            parts = pending_slices(connection, self._rows, slice_rows=SLICE_ROWS)
        if not parts:
            return False
        with self._pace.transaction() as turn:
            step = propagate_slices(turn.connection, parts, now=self._clock.now(), may_go_on=turn.may_go_on)
        self.rows_changed += step.changed
        self._rows = min(MAX_ROWS, step.rows + SLICE_ROWS)
        return True

    def all(self, stop: threading.Event) -> None:
        """Write until nothing waits any more, or `stop` is set; what is left the next run writes."""
        while not stop.is_set() and self.some():
            pass
