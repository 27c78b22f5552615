"""Measure what the design promises, as ratios: `python -m benchmarks.bench`.

Each value comes from whole processes that are run in turns; benchmarks/README.md describes the cases.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TextIO

import orjson

from benchmarks import cases, inputs
from benchmarks.cases import FULL, QUICK, Bench, Result, Scale
from benchmarks.comparison import COMPARABLE, compare, two_benches
from benchmarks.enriching.cases import enrichment
from benchmarks.following import following
from benchmarks.many_logs import many
from benchmarks.measure import CommandFailed
from benchmarks.program import NotACheckout
from benchmarks.upgrade import upgrade

EXIT_MISSED = 1
CASES = cases.CASES | {"upgrade": upgrade, "enrichment": enrichment, "following": following, "many": many}
BYTES_PER_GROWN_EVENT = 2500
WHAT_CHARS = 58

Measure = Callable[[str], Iterator[Result]]
"""Yields the results of the case with a name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases that the command line selects, and return the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.clean:
        shutil.rmtree(inputs.OUT, ignore_errors=True)
        return 0
    names = _selected_cases(parser, options)
    scale = _scale(options)
    _require_free_disk(parser, scale)
    description = _machine() + (", quick" if options.quick else "")
    table = sys.stderr if options.json else sys.stdout
    print(f"{description}\n\n{_heading(compared=options.against is not None)}", file=table, flush=True)
    try:
        with inputs.work_folder() as work:
            results, failures = _run_cases(names, _measure(work, scale, options.against), table)
    except (inputs.BenchRuns, NotACheckout) as error:
        parser.error(str(error))
    if options.json:
        _print_json(options, results, failures)
    has_missed = any(result.met is False for result in results)
    return EXIT_MISSED if failures or (options.check and has_missed) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small inputs: minutes, and rougher values")
    parser.add_argument("--only", action="append", choices=sorted(CASES), metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--rows", type=int, metavar="N", help="rows at which `growth` ends (default: 5 million)")
    parser.add_argument("--json", action="store_true", help="print JSON on standard output instead of the table")
    parser.add_argument("--check", action="store_true", help="end with 1 if a target is missed")
    parser.add_argument(
        "--against", type=Path, metavar="CHECKOUT", help="compare with another checkout: print ours / theirs"
    )
    parser.add_argument("--clean", action="store_true", help="remove the inputs that were kept, and stop")
    return parser


def _selected_cases(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[str]:
    """Return the cases to run, in order; end with an error for a case that cannot be compared."""
    possible = COMPARABLE if options.against is not None else frozenset(CASES)
    impossible = sorted(set(options.only or ()) - possible)
    if impossible:
        parser.error(f"--against does not work with {', '.join(impossible)}: part of it runs inside this checkout")
    return [name for name in CASES if name in (options.only or possible)]


def _scale(options: argparse.Namespace) -> Scale:
    scale = QUICK if options.quick else FULL
    if not options.rows:
        return scale
    free_bytes = max(scale.free_bytes, options.rows * BYTES_PER_GROWN_EVENT)
    return replace(scale, grown_events=options.rows, free_bytes=free_bytes)


def _require_free_disk(parser: argparse.ArgumentParser, scale: Scale) -> None:
    inputs.OUT.mkdir(exist_ok=True)
    free_bytes = shutil.disk_usage(inputs.OUT).free
    if free_bytes < scale.free_bytes:
        parser.error(f"{scale.free_bytes / 1e9:.0f} GB of free disk are needed, there are {free_bytes / 1e9:.1f}")


def _measure(work: Path, scale: Scale, against: Path | None) -> Measure:
    """Return a function that measures a case, or compares it with another checkout.

    Raises:
        NotACheckout: there is no checkout to compare with.
    """
    if against is None:
        bench = Bench(work, scale)
        return lambda name: CASES[name](bench)
    ours, theirs = two_benches(work, scale, against)
    return lambda name: compare(name, CASES[name], ours, theirs, rounds=scale.pairs)


def _run_cases(names: Sequence[str], measure: Measure, table: TextIO) -> tuple[list[Result], dict[str, str]]:
    """Run cases and print each result as it comes; a command that fails ends only its case.

    Returns:
        The results, and for each case that failed the message.
    """
    results: list[Result] = []
    failures: dict[str, str] = {}
    for name in names:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        try:
            for result in measure(name):
                results.append(result)
                print(_line(result), file=table, flush=True)
        except CommandFailed as error:
            failures[name] = str(error)
            print(f"{name}: {error}", file=sys.stderr, flush=True)
    return results, failures


def _print_json(options: argparse.Namespace, results: Sequence[Result], failures: dict[str, str]) -> None:
    document: dict[str, object] = {
        "machine": _machine(),
        "quick": options.quick,
        "results": [asdict(result) | {"met": result.met} for result in results],
        "failures": failures,
    }
    if options.against is not None:
        document["against"] = str(options.against)
    sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _heading(*, compared: bool) -> str:
    what = "ours / theirs" if compared else "what"
    return f"{what:<{WHAT_CHARS}} {'median':>8}  {'min – max':>15}  {'target':>8}"


def _line(result: Result) -> str:
    value, unit = result.value, result.unit
    digits = 0 if unit == "MiB" else 2
    limits = f"{value.low:.{digits}f} – {value.high:.{digits}f}"
    target = ""
    if result.target is not None:
        sign = "≥" if result.at_least else "≤"
        target = f"{sign} {result.target:g} {'met' if result.met else 'MISSED'}"
    line = f"{result.what:<{WHAT_CHARS}} {value.median:>6.{digits}f} {unit:<3} {limits:>14}  {target}"
    if result.details:
        line += "\n    " + ", ".join(f"{name} {number:,.4g}" for name, number in result.details.items())
    return line


def _machine() -> str:
    """Return the software and hardware of this machine, without its name."""
    from cowrieprocessor.db.dialects.sqlite.dialect import load_driver

    sqlite = load_driver("auto").sqlite_version
    return f"Python {platform.python_version()}, SQLite {sqlite}, {os.cpu_count()} CPUs, {platform.machine()}"


if __name__ == "__main__":
    sys.exit(main())
