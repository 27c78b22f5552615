"""Compare this checkout with another one: the same case with both programs in turns, as ratios ours / theirs.

The other checkout is used through its command line only, so that its modules may have other paths. The floors and the
processes that write logs are those of this checkout on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from benchmarks.cases import Bench, Result, Scale
from benchmarks.inputs import Inputs
from benchmarks.measure import Spread
from benchmarks.program import Program

COMPARABLE = frozenset({"start", "floor", "peer", "again", "forms", "memory", "growth", "upgrade", "following", "many"})
"""The cases that run the program through its command line only."""

Figures = dict[str, float]
Case = Callable[[Bench], Iterator[Result]]


def two_benches(work: Path, scale: Scale, checkout: Path, inputs: Inputs | None = None) -> tuple[Bench, Bench]:
    """Return the benches of this checkout and of another one.

    Args:
        work: an empty folder for both.
        scale: the sizes of the run; each round measures one pair.
        checkout: the top folder of the other checkout.
        inputs: the inputs of both; by default those in `bench-out/inputs`.

    Raises:
        NotACheckout: the folder does not contain the package.
    """
    program = Program.of_checkout(checkout, work / "their-code")
    ours, theirs = work / "ours", work / "theirs"
    ours.mkdir()
    theirs.mkdir()
    scale = replace(scale, pairs=1)
    return Bench(ours, scale, inputs=inputs), Bench(theirs, scale, program=program, inputs=inputs)


def compare(name: str, case: Case, ours: Bench, theirs: Bench, *, rounds: int) -> Iterator[Result]:
    """Run a case with both programs in turns, and yield a result for each figure.

    The programs alternate within a round, at each result of the case, so that a machine that becomes slower slows both.

    Args:
        name: the case, as `--only` names it.
        case: the case.
        ours: the bench of this checkout.
        theirs: the bench of the other one.
        rounds: how often to run the case with each program.

    Yields:
        The ratio ours / theirs of each value and each detail of the case, taken within a round, with both medians as
        details. A figure that only one of the programs has is left out, and so is one that is 0 for the other checkout.
    """
    measured: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        our_figures, their_figures = _run_in_turns(case, ours, theirs)
        for figure in (figure for figure in our_figures if figure in their_figures):
            measured.setdefault(figure, []).append((our_figures[figure], their_figures[figure]))
    for figure, pairs in measured.items():
        if all(their_value for _, their_value in pairs):
            yield _ratio(name, figure, pairs)


def _run_in_turns(case: Case, ours: Bench, theirs: Bench) -> tuple[Figures, Figures]:
    """Run a case with both programs, which alternate at each result, and return the figures of each."""
    our_figures: Figures = {}
    their_figures: Figures = {}
    for our_result, their_result in zip_longest(case(ours), case(theirs)):
        our_figures |= _figures(our_result)
        their_figures |= _figures(their_result)
    return our_figures, their_figures


def _figures(result: Result | None) -> Figures:
    """Return the value of a result and its details, by name; nothing if there is no result."""
    if result is None:
        return {}
    details = {f"{result.what}: {name}": value for name, value in (result.details or {}).items()}
    return {result.what: result.value.median, **details}


def _ratio(name: str, figure: str, pairs: list[tuple[float, float]]) -> Result:
    medians = {
        "ours": Spread.of([our_value for our_value, _ in pairs]).median,
        "theirs": Spread.of([their_value for _, their_value in pairs]).median,
    }
    return Result(name, figure, Spread.of([ours / theirs for ours, theirs in pairs]), details=medians)
