"""The comparison with another checkout: both programs run in turns, and each figure is a ratio ours / theirs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import bench as command
from benchmarks.cases import QUICK, Bench, Result, floor, start
from benchmarks.comparison import COMPARABLE, compare, two_benches
from benchmarks.following import following
from benchmarks.inputs import Inputs
from benchmarks.measure import CommandFailed, Spread
from benchmarks.program import NotACheckout, Program
from tests.documents import PROJECT

TINY = replace(QUICK, events=300, live_files=2, archives=1, settle_s=0.0, idle_s=0.3, live_s=0.5)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone of this repository, without a virtual environment."""
    if shutil.which("git") is None or not (PROJECT / ".git").exists():
        pytest.skip("this is no clone")
    path = tmp_path / "other"
    subprocess.run(["git", "clone", "--quiet", "--no-local", "--depth=1", f"file://{PROJECT}", path], check=True)
    return path


@pytest.fixture
def benches(tmp_path: Path, checkout: Path) -> tuple[Bench, Bench]:
    """The benches of this checkout and of the clone."""
    return tiny_benches(tmp_path, checkout)


def tiny_benches(tmp_path: Path, checkout: Path) -> tuple[Bench, Bench]:
    """Return the benches of this checkout and of another one, with their own inputs."""
    work = tmp_path / "work"
    work.mkdir()
    return two_benches(work, TINY, checkout, Inputs(tmp_path / "inputs"))


def test_floor_and_following_are_compared(benches: tuple[Bench, Bench]) -> None:
    """Each value and detail has a ratio, and the medians of both checkouts."""
    results = {result.what: result for result in compare("floor", floor, *benches, rounds=2)}
    results |= {result.what: result for result in compare("following", following, *benches, rounds=1)}

    expected = {
        "load / floor, 300 events",
        "load / floor, 300 events: a_wall_s",
        "load / floor, 300 events: a_peak_mib",
        "rate of follow / of load, 300 events, rotating",
        "rate of follow / of load, 300 events: follow_events_per_s",
        "follow, peak memory",
        "CPU when idle, polling, 3 logs and 1 archives: peak_mib",
        "from write to commit, p50, 2 logs, 5 lines/s each",
    }
    assert expected - results.keys() == set()
    for result in results.values():
        assert (result.unit, result.target, result.met) == ("x", None, None)
        assert result.value.low <= result.value.median <= result.value.high
        assert result.details is not None
        assert result.details.keys() == {"ours", "theirs"}
    assert 0.7 < results["follow, peak memory"].value.median < 1.4
    for bench in benches:
        assert [path.name for path in bench.work.iterdir() if path.suffix not in ("", ".pyc")] == []


def test_the_other_checkout_is_what_runs(tmp_path: Path, checkout: Path) -> None:
    """A checkout whose program needs more CPU time shows it, and its own interpreter runs it."""
    main = checkout / "cowrieprocessor" / "__main__.py"
    main.write_text(f"sum(range(20_000_000))\n{main.read_text(encoding='utf-8')}", encoding="utf-8")
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\n: > "{tmp_path}/ran"\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)

    (result,) = compare("start", start, *tiny_benches(tmp_path, checkout), rounds=1)

    assert result.value.high < 0.8
    assert (tmp_path / "ran").exists()


def test_programs_run_in_turns(benches: tuple[Bench, Bench]) -> None:
    """The checkouts alternate at each result; ratios are taken within a round, of figures that both have."""
    ours, theirs = benches
    order: list[str] = []

    def case(bench: Bench) -> Iterator[Result]:
        for figure in ("x", "y"):
            order.append(f"{figure} {'ours' if bench is ours else 'theirs'}")
            value = float(len(order))
            yield Result("case", figure, Spread(value, value, value), details={"zero": 0.0, "one": 1.0})
        if bench is theirs:
            yield Result("case", "z", Spread(1.0, 1.0, 1.0))

    results = {result.what: result for result in compare("case", case, ours, theirs, rounds=2)}

    assert order == ["x ours", "x theirs", "y ours", "y theirs"] * 2
    assert results["x"].value == Spread.of([1 / 2, 5 / 6])
    assert results["x"].details == {"ours": 3.0, "theirs": 4.0}
    assert results["y: one"].value == Spread(1.0, 1.0, 1.0)
    assert results.keys() == {"x", "x: one", "y", "y: one"}


def test_a_program_that_fails_ends_the_case(tmp_path: Path, checkout: Path) -> None:
    """An error of the other checkout's program is reported with its message."""
    (checkout / "cowrieprocessor" / "__main__.py").write_text("raise SystemExit('out of luck')\n", encoding="utf-8")

    with pytest.raises(CommandFailed, match="out of luck"):
        list(compare("floor", floor, *tiny_benches(tmp_path, checkout), rounds=1))


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    """The message names the file that is missing."""
    with pytest.raises(NotACheckout, match="there is no cowrieprocessor/__main__"):
        Program.of_checkout(tmp_path, tmp_path / "copy")


def test_cases_that_import_the_package_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--only` with a case that does not use the command line alone is a wrong call."""
    with pytest.raises(SystemExit, match="2"):
        command.main(["--only", "enrichment", "--against", str(tmp_path)])

    assert "--against does not work with enrichment" in capsys.readouterr().err
    assert COMPARABLE < command.CASES.keys()
