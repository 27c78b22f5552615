"""Following, measured: the rate beside that of a bulk load, what it takes at rest, many logs at once, and memory."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import inputs
from benchmarks.cases import MEMORY_TARGET_BYTES, Bench, Result
from benchmarks.follower import Follower
from benchmarks.honeypots import made_up
from benchmarks.measure import Command, CommandFailed, Spread

MIB = 1 << 20
SHARE_OF_BULK = 0.7
LATE_AT_MOST_S = 2.0
BUSY_AT_MOST = 1.0
"""Percent of one core, at rest."""

LINES_PER_S = 5.0
RESTING_LINES = 50
ARCHIVED_LINES = 3
ROTATIONS = 20
POLL: tuple[str, ...] = ("--poll", "1")
SETTLED_S = 8.0
"""After so long a follower that has nothing to do has come to rest."""


def following(bench: Bench) -> Iterator[Result]:
    """Measure following in four ways; the memory is that of the others."""
    yield from live_ingest(bench)
    yield from at_rest(bench)
    yield from many_at_once(bench)


def live_ingest(bench: Bench) -> Iterator[Result]:
    """Compare following a log that grows as fast as it may with a bulk load of the same log, then at a steady rate."""
    events = bench.scale.events
    log = inputs.log(events)
    start_s = Spread.of([bench.loading(inputs.log(10))().wall_s for _ in range(bench.scale.pairs)]).median
    bulk: list[float] = []
    for rotate_bytes in (None, log.stat().st_size // ROTATIONS):
        loads, follows, peaks, cpu, rotations = [], [], [], [], 0.0
        for _ in range(bench.scale.pairs):
            took_s, cpu_s, peak_bytes, wrote = _live(bench, log, _flag("--rotate-bytes", rotate_bytes))
            loads.append(max(bench.loading(log)().wall_s - start_s, 1e-3))
            follows.append(took_s)
            cpu.append(cpu_s)
            peaks.append(peak_bytes / MIB)
            rotations = wrote["rotations"]
        bulk += loads
        details = {
            "follow_s": Spread.of(follows).median,
            "load_s": Spread.of(loads).median,
            "follow_cpu_s": Spread.of(cpu).median,
            "follow_events_per_s": events / Spread.of(follows).median,
            "load_events_per_s": events / Spread.of(loads).median,
            "rotations": rotations,
        }
        ratio = Spread.of([load_s / follow_s for load_s, follow_s in zip(loads, follows, strict=True)])
        how = "" if rotate_bytes is None else ", rotating"
        what = f"rate of follow / of load, {events:,} events{how}"
        yield Result("following", what, ratio, "x", SHARE_OF_BULK, at_least=True, details=details)
        yield _memory(f"follow, peak memory{how}", peaks)
    yield from _keeping_up(bench, log, events, SHARE_OF_BULK * events / Spread.of(bulk).median)


def _keeping_up(bench: Bench, log: Path, events: int, rate: float) -> Iterator[Result]:
    """Find how late the last event is when events come at the promised share of the bulk rate all the time."""
    late = []
    details: dict[str, float] = {}
    for _ in range(bench.scale.pairs):
        took_s, _, peak_bytes, wrote = _live(bench, log, _flag("--rate", rate))
        wrote_s = wrote["ended"] - wrote["began"]
        late.append(took_s - wrote_s)
        details = {"wanted_events_per_s": rate, "events_per_s": events / wrote_s, "peak_mib": peak_bytes / MIB}
    what = f"behind, after {SHARE_OF_BULK:g} x the rate of load"
    yield Result("following", what, Spread.of(late), "s", LATE_AT_MOST_S, details=details)


def at_rest(bench: Bench) -> Iterator[Result]:
    """Find the CPU of a follower of logs in which nothing happens: told of changes, polling, and beside archives."""
    folder, db = bench.work / "resting", bench.new_database()
    folder.mkdir()
    files, archives = bench.scale.live_files, bench.scale.archives
    for number in range(files):
        lines = b"".join(made_up(number, line) for line in range(RESTING_LINES))
        (folder / f"cowrie.json.{number}").write_bytes(lines)
    live = folder / "cowrie.json"
    live.write_bytes(made_up(files, 0))
    events = files * RESTING_LINES + 1
    for beside in (0, archives):
        for number in range(beside):
            lines = b"".join(made_up(files + 1 + number, line) for line in range(ARCHIVED_LINES))
            (folder / f"cowrie.json.{files + number}.gz").write_bytes(gzip.compress(lines, 1))
        events += beside * ARCHIVED_LINES
        for how, flags in (("told", ()), ("polling", POLL)):
            with Follower(bench.work, db, folder, flags=flags) as follower:
                with live.open("ab") as out:
                    out.write(made_up(files, events))
                events += 1
                follower.wait_for(events)
                time.sleep(SETTLED_S)
                share, used_s = _share(follower, bench.scale.rest_s)
                peak_mib = follower.peak_bytes / MIB
            what = f"CPU at rest, {how}, {files + 1:,} logs" + (f" and {beside:,} archives" if beside else "")
            details = {"cpu_s": used_s, "of_s": bench.scale.rest_s, "peak_mib": peak_mib}
            yield _one(what, share, "%", BUSY_AT_MOST, details)
    inputs.remove_database(db)


def many_at_once(bench: Bench) -> Iterator[Result]:
    """Find what following many logs takes that all get something, and how late their events are."""
    folder, db = bench.work / "many", bench.new_database()
    folder.mkdir()
    files, seconds = bench.scale.live_files, bench.scale.live_s
    writing: Command = [
        *_module("honeypots", "live", folder),
        *("--files", str(files), "--rate", str(LINES_PER_S), "--seconds", str(seconds)),
    ]
    with Follower(bench.work, db, folder) as follower:
        (folder / "first.json").write_bytes(made_up(files, 0))
        follower.wait_for(1)
        before_s = follower.cpu_s()
        with subprocess.Popen(writing, cwd=bench.work, stdout=subprocess.PIPE, text=True) as writer:
            try:
                delays, wrote = _delays(follower, writer, 1)
            finally:
                writer.kill()
        wrote_s = wrote["ended"] - wrote["began"]
        used_s = follower.cpu_s() - before_s
        peak_mib = follower.peak_bytes / MIB
        follower.wait_for(int(wrote["events"]) + 1)
    inputs.remove_database(db)
    of = f"{files:,} logs, {LINES_PER_S:g} lines/s each"
    details = {"cpu_s": used_s, "of_s": wrote_s, "events_per_s": wrote["events"] / wrote_s}
    yield _one(f"CPU, {of}", 100 * used_s / wrote_s, "%", details=details)
    for share in (50, 99, 100):
        late_s = _percentile(delays, share)
        name = "longest" if share == 100 else f"p{share}"
        yield _one(f"from write to commit, {name}, {of}", late_s, "s", LATE_AT_MOST_S)
    yield _memory(f"follow, peak memory, {of}", [peak_mib])


def _live(bench: Bench, log: Path, flags: Sequence[str]) -> tuple[float, float, int, dict[str, float]]:
    """Let a writer write a log while a follower reads it.

    Returns:
        The seconds from the first byte until everything was stored, the follower's CPU in these and its peak of
        memory, and what the writer said.
    """
    folder, db = bench.new_database().with_suffix(".logs"), bench.new_database()
    folder.mkdir()
    target = folder / "cowrie.json"
    with Follower(bench.work, db, target) as follower:
        target.write_bytes(made_up(0, 0))  # once this is stored, the follower waits for more
        follower.wait_for(1)
        before_s = follower.cpu_s()
        with subprocess.Popen(
            _module("honeypots", "copy", log, target, *flags), cwd=bench.work, stdout=subprocess.PIPE, text=True
        ) as writer:
            told, _ = writer.communicate()
        if writer.returncode:
            raise CommandFailed(f"the writer ended with {writer.returncode}")
        wrote: dict[str, float] = json.loads(told)
        ended = follower.wait_for(int(wrote["events"]) + 1)
        used_s = follower.cpu_s() - before_s
        peak_bytes = follower.peak_bytes
    inputs.remove_database(db)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    return ended - wrote["began"], used_s, peak_bytes, wrote


def _delays(follower: Follower, writer: subprocess.Popen[str], last_id: int) -> tuple[list[float], dict[str, float]]:
    """Return how many seconds after its writing each event was seen in the database, and what the writer said."""
    delays: list[float] = []
    wrote: dict[str, float] = {}

    def look() -> bool:
        nonlocal last_id
        rows = follower.rows(
            "SELECT id, json_extract(payload, '$.written_at') FROM raw_events WHERE id > ? ORDER BY id", last_id
        )
        now = time.monotonic()
        delays.extend(now - written_at for _, written_at in rows)
        if rows:
            last_id = rows[-1][0]
        if not wrote and (returncode := writer.poll()) is not None:
            if returncode or writer.stdout is None:
                raise CommandFailed(f"the writer ended with {returncode}")
            wrote.update(json.load(writer.stdout))
        return bool(wrote) and len(delays) >= wrote["events"]

    follower.wait_until(look, "the end of what was written")
    return delays, wrote


def _share(follower: Follower, seconds: float) -> tuple[float, float]:
    """Return the CPU of a follower in the coming seconds, in percent of a core, and in seconds."""
    before_s, began = follower.cpu_s(), time.monotonic()
    time.sleep(seconds)
    used_s = follower.cpu_s() - before_s
    return 100 * used_s / (time.monotonic() - began), used_s


def _percentile(values: Sequence[float], share: int) -> float:
    """Return the value that so many percent of all do not exceed."""
    return sorted(values)[max(0, -(-len(values) * share // 100) - 1)]


def _flag(name: str, value: float | None) -> list[str]:
    return [] if value is None else [name, str(value)]


def _module(name: str, *arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", f"benchmarks.{name}", *arguments]


def _memory(what: str, peaks_mib: Sequence[float]) -> Result:
    return Result("following", what, Spread.of(peaks_mib), "MiB", MEMORY_TARGET_BYTES / MIB)


def _one(
    what: str, value: float, unit: str, target: float | None = None, details: dict[str, float] | None = None
) -> Result:
    return Result("following", what, Spread(value, value, value), unit, target, details=details)
