"""Spreading writes a moment's worth, and as many rows at a time as that allows."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.enrichment import propagation
from cowrieprocessor.jobs.enrichment import propagate as enrich_spread
from cowrieprocessor.jobs.enrichment.propagate import FIRST_ROWS, Propagation
from cowrieprocessor.jobs.runtime.throttle import Obstacle, Throttle
from tests.enrichment_scene import answer, flags, load, rows, sha, vt_verdict
from tests.stand_ins.clock import ManualClock
from tests.unit.jobs.ticking import LOOKS_ALONE, ticking

FULL = LOOKS_ALONE + 1
"""Parts that one transaction writes by the ticking clock."""


def spread_all(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> tuple[Propagation, list[int]]:
    """Spread everything, and return how many rows each transaction looked at."""
    sizes: list[int] = []
    spread = propagation.propagate_slices

    def counted(*args: object, **named: object) -> propagation.PropagationStep:
        step = spread(*args, **named)  # type: ignore[arg-type]
        sizes.append(step.rows)
        return step

    monkeypatch.setattr(enrich_spread, "propagate_slices", counted)
    spreading = Propagation(engine, ManualClock(), ticking(engine))
    spreading.all(threading.Event())
    return spreading, sizes


def test_transactions_grow_until_they_last_long_enough(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins with few rows, reads a little more than the last transaction wrote, and never writes for longer."""
    monkeypatch.setattr(propagation, "SLICE_ROWS", 2)
    monkeypatch.setattr(enrich_spread, "SLICE_ROWS", 2)
    monkeypatch.setattr(enrich_spread, "FIRST_ROWS", 2)
    assert FIRST_ROWS == 500
    load(engine, [(f"s{number:03d}", sha(1)) for number in range(200)])
    answer(engine, sha(1), vt_verdict(9))
    most = 2 * FULL

    spreading, sizes = spread_all(engine, monkeypatch)

    growing = [2 * number for number in range(1, FULL)]
    assert sizes[: len(growing)] == growing
    assert set(sizes[len(growing) : -1]) == {most}
    assert sum(sizes) == 200 == spreading.rows_changed
    assert {one["vt_positives"] for one in rows(engine, "files")} == {9}
    assert all(flags(engine).values())
    assert rows(engine, "verdict_propagation") == []


def test_many_small_hashes_end_in_time_too(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction ends between two hashes as well; none is forgotten, none written twice."""
    load(engine, [(f"s{number:03d}", sha(number)) for number in range(30)])
    for number in range(30):
        answer(engine, sha(number), vt_verdict(9))

    spreading, sizes = spread_all(engine, monkeypatch)

    assert sizes == [FULL, FULL, 30 - 2 * FULL]
    assert spreading.rows_changed == 30
    assert rows(engine, "verdict_propagation") == []


def test_an_obstacle_keeps_it_from_writing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the log is not to grow, nothing is spread; the next run does it."""
    load(engine, [("s1", sha(1))])
    answer(engine, sha(1), vt_verdict(9))
    spreading = Propagation(engine, ManualClock())
    monkeypatch.setattr(Throttle, "obstacle", lambda _self: Obstacle("waiting", "the log is long"))
    assert not spreading.some()
    monkeypatch.undo()

    assert spreading.some()
    assert not spreading.some()
    assert spreading.rows_changed == 1
