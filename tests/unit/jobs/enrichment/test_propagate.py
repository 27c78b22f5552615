"""Propagation writes in short transactions, as many rows at a time as one of them can write."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import Engine

from cowrieprocessor.jobs.enrichment.propagate import FIRST_ROWS, Propagation
from cowrieprocessor.jobs.runtime.throttle import Obstacle, Throttle
from tests.enrichment_scene import answer, flags, load, rows, sha, vt_verdict
from tests.stand_ins.clock import ManualClock
from tests.unit.jobs.ticking import LOOKS_ALONE, ticking

FULL = LOOKS_ALONE + 1
"""Slices that one transaction writes by the ticking clock."""


class CountingPropagation(Propagation):
    """Records how many rows each transaction wrote."""

    def __init__(self, engine: Engine, **rows: int) -> None:
        super().__init__(engine, ManualClock(), ticking(engine), **rows)
        self.sizes: list[int] = []

    def propagate_some(self) -> bool:
        """Write in one transaction, and record how many rows it changed."""
        before = self.rows_changed
        wrote = super().propagate_some()
        if wrote:
            self.sizes.append(self.rows_changed - before)
        return wrote


def test_transactions_grow_until_they_last_long_enough(engine: Engine) -> None:
    """The first one writes few rows; each reads a little more than the one before it wrote, up to a short time."""
    assert FIRST_ROWS == 500
    load(engine, [(f"s{number:03d}", sha(1)) for number in range(200)])
    answer(engine, sha(1), vt_verdict(9))
    most = 2 * FULL

    propagation = CountingPropagation(engine, first_rows=2, slice_rows=2)
    propagation.propagate_all(threading.Event())

    sizes = propagation.sizes
    growing = [2 * number for number in range(1, FULL)]
    assert sizes[: len(growing)] == growing
    assert set(sizes[len(growing) : -1]) == {most}
    assert sum(sizes) == 200 == propagation.rows_changed
    assert {row["vt_positives"] for row in rows(engine, "files")} == {9}
    assert all(flags(engine).values())
    assert rows(engine, "verdict_propagation") == []


def test_many_small_hashes_end_in_time_too(engine: Engine) -> None:
    """A transaction also ends between two hashes; none is left out, none is written twice."""
    load(engine, [(f"s{number:03d}", sha(number)) for number in range(30)])
    for number in range(30):
        answer(engine, sha(number), vt_verdict(9))

    propagation = CountingPropagation(engine)
    propagation.propagate_all(threading.Event())

    assert propagation.sizes == [FULL, FULL, 30 - 2 * FULL]
    assert propagation.rows_changed == 30
    assert rows(engine, "verdict_propagation") == []


def test_an_obstacle_keeps_it_from_writing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the write-ahead log must not grow, nothing is propagated; the next run does it."""
    load(engine, [("s1", sha(1))])
    answer(engine, sha(1), vt_verdict(9))
    propagation = Propagation(engine, ManualClock())
    monkeypatch.setattr(Throttle, "obstacle", lambda _self: Obstacle("waiting", "the log is long"))
    assert not propagation.propagate_some()
    monkeypatch.undo()

    assert propagation.propagate_some()
    assert not propagation.propagate_some()
    assert propagation.rows_changed == 1
