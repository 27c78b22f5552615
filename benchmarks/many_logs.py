"""Measure a folder of very many logs with one event each: time for each file, and memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.cases import MEMORY_TARGET_BYTES, Bench, Result
from benchmarks.inputs import remove_database
from benchmarks.measure import Spread, Usage, run

MIB = 1 << 20
MAX_MS_EACH = 1.0
FOLDERS = 5

_READ_EACH = (
    "import os, sys\n"
    "for folder, _, names in os.walk(sys.argv[1]):\n"
    "    for name in names:\n"
    "        with open(f'{folder}/{name}', 'rb') as log: log.read()"
)


def many(bench: Bench) -> Iterator[Result]:
    """Load the folder, load it again, and compare both with a bare loop that opens, reads and closes each file."""
    count = bench.scale.many_logs
    with bench.new_folder() as folder:
        write_logs(folder, count)
        db = bench.new_database()
        try:
            bare = run([sys.executable, "-c", _READ_EACH, folder], cwd=bench.work)
            new, known = bench.load([folder], db), bench.load([folder], db)
        finally:
            remove_database(db)
    for what, usage in (("new", new), ("stored already", known)):
        yield from _results(f"{count:,} logs of one line, {what}", usage, bare, count)


def _results(what: str, usage: Usage, bare: Usage, count: int) -> Iterator[Result]:
    details = {"wall_s": usage.wall_s, "cpu_s": usage.cpu_s, "bare_wall_s": bare.wall_s}
    yield Result("many", f"{what}: each", _only(1000 * usage.wall_s / count), "ms", MAX_MS_EACH, details=details)
    yield Result("many", f"{what}: load / reading each file", _only(usage.wall_s / bare.wall_s))
    yield Result("many", f"{what}: peak memory", _only(usage.peak_bytes / MIB), "MiB", MEMORY_TARGET_BYTES / MIB)


def _only(value: float) -> Spread:
    return Spread(value, value, value)


def write_logs(folder: Path, count: int) -> None:
    """Write logs with one event each, all of different sessions, into a few folders."""
    for number in range(count):
        below = folder / f"sensor{number % FOLDERS}"
        if number < FOLDERS:
            below.mkdir()
        stamp = f"2026-03-{1 + number // 86400:02d}T{number // 3600 % 24:02d}:{number // 60 % 60:02d}:{number % 60:02d}"
        event = {
            "eventid": "cowrie.session.connect",
            "session": f"{number:012x}",
            "timestamp": f"{stamp}.000000Z",
            "sensor": below.name,
            "src_ip": "198.51.100.7",
            "protocol": "ssh",
        }
        (below / f"cowrie.json.{number // FOLDERS}").write_text(json.dumps(event) + "\n", encoding="utf-8")
