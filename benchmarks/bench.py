"""Measure what the design promises, as ratios: `python -m benchmarks.bench`.

Each value comes from whole processes that were run in turns; benchmarks/README.md says what each means.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from dataclasses import asdict, replace
from typing import TextIO

import orjson

from benchmarks import cases, inputs
from benchmarks.cases import FULL, QUICK, Bench, Result
from benchmarks.enriching.cases import enrichment
from benchmarks.following import following
from benchmarks.measure import CommandFailed
from benchmarks.upgrade import upgrade

EXIT_MISSED = 1
CASES = cases.CASES | {"upgrade": upgrade, "enrichment": enrichment, "following": following}
WHAT_CHARS = 58


def main() -> int:
    """Run the measurements that the command line asks for, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small inputs: minutes, and rougher values")
    parser.add_argument("--only", action="append", choices=sorted(CASES), metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--rows", type=int, metavar="N", help="let `growth` go to so many rows (default: 5 million)")
    parser.add_argument("--json", action="store_true", help="print JSON on standard output instead of the table")
    parser.add_argument("--check", action="store_true", help="end with 1 if a target is missed")
    parser.add_argument("--clean", action="store_true", help="remove the inputs that were kept, and stop")
    given = parser.parse_args()
    if given.clean:
        shutil.rmtree(inputs.OUT, ignore_errors=True)
        return 0
    scale = QUICK if given.quick else FULL
    if given.rows:
        scale = replace(scale, grown_events=given.rows, free_bytes=max(scale.free_bytes, given.rows * 2500))
    inputs.OUT.mkdir(exist_ok=True)
    free_bytes = shutil.disk_usage(inputs.OUT).free
    if free_bytes < scale.free_bytes:
        parser.error(f"{scale.free_bytes / 1e9:.0f} GB of free disk are needed, there are {free_bytes / 1e9:.1f}")
    machine = _machine()
    table = sys.stderr if given.json else sys.stdout
    print(f"{machine}{', quick' if given.quick else ''}\n\n{_heading()}", file=table, flush=True)
    try:
        with inputs.work_folder() as work:
            names = [name for name in CASES if not given.only or name in given.only]
            results, failures = _measure(names, Bench(work, scale), table)
    except inputs.BenchRuns as error:
        parser.error(str(error))
    if given.json:
        document = {
            "machine": machine,
            "quick": given.quick,
            "results": [asdict(result) | {"met": result.met} for result in results],
            "failures": failures,
        }
        sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    missed = [result for result in results if result.met is False]
    return EXIT_MISSED if failures or (given.check and missed) else 0


def _measure(names: list[str], bench: Bench, table: TextIO) -> tuple[list[Result], dict[str, str]]:
    """Run the measurements and print each result as it comes; a command that fails ends only its measurement."""
    results: list[Result] = []
    failures: dict[str, str] = {}
    for name in names:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        try:
            for result in CASES[name](bench):
                results.append(result)
                print(_line(result), file=table, flush=True)
        except CommandFailed as error:
            failures[name] = str(error)
            print(f"{name}: {error}", file=sys.stderr, flush=True)
    return results, failures


def _heading() -> str:
    return f"{'what':<{WHAT_CHARS}} {'median':>8}  {'min – max':>15}  {'target':>8}"


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
    """Return what the numbers were measured with, without naming the machine."""
    from cowrieprocessor.db.dialects.sqlite.dialect import load_driver

    sqlite = load_driver("auto").sqlite_version
    return f"Python {platform.python_version()}, SQLite {sqlite}, {os.cpu_count()} CPUs, {platform.machine()}"


if __name__ == "__main__":
    sys.exit(main())
