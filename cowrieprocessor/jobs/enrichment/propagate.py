"""Propagates new verdicts to the rows of `files` and the flags of sessions, in short transactions alongside loaders."""

from __future__ import annotations

import threading

from sqlalchemy import Engine

from cowrieprocessor.clock import Clock
from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.enrichment.propagation import MAX_ROWS, SLICE_ROWS, pending_slices, propagate_slices
from cowrieprocessor.jobs.runtime.throttle import Throttle

FIRST_ROWS = 500
"""Rows read for the first transaction, before it is known how many one can write."""


class Propagation:
    """Copies the verdict of each hash to its rows of `files`, as many at a time as one short transaction can write.

    Args:
        engine: the database.
        clock: the current time.
        throttle: decides when to write, and for how long; by default a new one.
        first_rows: rows to read for the first transaction, 1 or more.
        slice_rows: rows of one hash after which a transaction may end, 1 or more.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        throttle: Throttle | None = None,
        *,
        first_rows: int = FIRST_ROWS,
        slice_rows: int = SLICE_ROWS,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._throttle = throttle or Throttle(engine)
        self._rows = first_rows
        self._slice_rows = slice_rows
        self.rows_changed = 0

    def propagate_some(self) -> bool:
        """Write in one transaction; return False if nothing is pending, or the throttle does not allow writing now."""
        if self._throttle.obstacle() is not None:
            return False
        with read_transaction(self._engine) as connection:
            parts = pending_slices(connection, self._rows, slice_rows=self._slice_rows)
        if not parts:
            return False
        with self._throttle.transaction() as turn:
            step = propagate_slices(turn.connection, parts, now=self._clock.now(), may_go_on=turn.may_go_on)
        self.rows_changed += step.changed
        self._rows = min(MAX_ROWS, step.rows + self._slice_rows)
        return True

    def propagate_all(self, stop: threading.Event) -> None:
        """Write until nothing is pending or `stop` is set; the next run writes the rest."""
        while not stop.is_set() and self.propagate_some():
            pass
