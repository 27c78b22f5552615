"""Measure `follow`: its rate compared with a bulk load, its CPU time when idle, many logs at once, and memory."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cases import MEMORY_TARGET_BYTES, Bench, Result
from benchmarks.follower import Follower
from benchmarks.honeypots import make_event
from benchmarks.inputs import remove_database
from benchmarks.measure import Command, CommandFailed, Spread

MIB = 1 << 20
SHARE_OF_BULK = 0.7
MAX_DELAY_S = 2.0
MAX_IDLE_CPU_PERCENT = 1.0
"""Of one core."""

LINES_PER_S = 5.0
IDLE_LINES = 50
ARCHIVED_LINES = 3
ROTATIONS = 20
POLL: tuple[str, ...] = ("--poll", "1")


@dataclass(frozen=True, slots=True)
class _LiveRun:
    """A follower that read a log while a writer wrote it.

    Attributes:
        follow_s: seconds from the first byte until every event was stored.
        write_s: seconds that writing took.
        cpu_s: CPU time of the follower meanwhile.
        peak_bytes: peak memory of the follower.
        rotations: how often the log was rotated.
    """

    follow_s: float
    write_s: float
    cpu_s: float
    peak_bytes: int
    rotations: float


def following(bench: Bench) -> Iterator[Result]:
    """Measure live ingest, idle followers, and many logs at once."""
    yield from live_ingest(bench)
    yield from idle(bench)
    yield from many_at_once(bench)


def live_ingest(bench: Bench) -> Iterator[Result]:
    """Compare following a log written at full speed with a bulk load of the same log, then follow at a steady rate."""
    events = bench.scale.events
    log = bench.inputs.log(events)
    start_s = Spread.of([bench.loading(bench.inputs.log(10))().wall_s for _ in range(bench.scale.pairs)]).median
    all_loads_s: list[float] = []
    for rotate_bytes in (None, log.stat().st_size // ROTATIONS):
        runs: list[_LiveRun] = []
        loads_s: list[float] = []
        for _ in range(bench.scale.pairs):
            runs.append(_follow_live(bench, log, _flag("--rotate-bytes", rotate_bytes)))
            loads_s.append(max(bench.loading(log)().wall_s - start_s, 1e-3))
        all_loads_s += loads_s
        yield from _rate_of_bulk(events, runs, loads_s, "" if rotate_bytes is None else ", rotating")
    yield _steady_rate(bench, log, events, SHARE_OF_BULK * events / Spread.of(all_loads_s).median)


def _rate_of_bulk(events: int, runs: Sequence[_LiveRun], loads_s: Sequence[float], how: str) -> Iterator[Result]:
    """Yield the rate of following over that of loading, and the follower's peak memory."""
    follow_s = Spread.of([run.follow_s for run in runs]).median
    load_s = Spread.of(loads_s).median
    details = {
        "follow_s": follow_s,
        "load_s": load_s,
        "follow_cpu_s": Spread.of([run.cpu_s for run in runs]).median,
        "follow_events_per_s": events / follow_s,
        "load_events_per_s": events / load_s,
        "rotations": runs[-1].rotations,
    }
    ratio = Spread.of([seconds / run.follow_s for seconds, run in zip(loads_s, runs, strict=True)])
    what = f"rate of follow / of load, {events:,} events{how}"
    yield Result("following", what, ratio, "x", SHARE_OF_BULK, at_least=True, details=details)
    yield _memory(f"follow, peak memory{how}", [run.peak_bytes / MIB for run in runs])


def _steady_rate(bench: Bench, log: Path, events: int, rate: float) -> Result:
    """Measure how late the last event is stored when events come steadily at the promised share of the bulk rate."""
    delays_s = []
    details: dict[str, float] = {}
    for _ in range(bench.scale.pairs):
        run = _follow_live(bench, log, _flag("--rate", rate))
        delays_s.append(run.follow_s - run.write_s)
        details = {
            "wanted_events_per_s": rate,
            "events_per_s": events / run.write_s,
            "peak_mib": run.peak_bytes / MIB,
        }
    what = f"behind, after {SHARE_OF_BULK:g} x the rate of load"
    return Result("following", what, Spread.of(delays_s), "s", MAX_DELAY_S, details=details)


def idle(bench: Bench) -> Iterator[Result]:
    """Measure the CPU time of an idle follower: with kernel notifications and polling, with and without archives."""
    files, archives = bench.scale.live_files, bench.scale.archives
    db = bench.new_database()
    with bench.new_folder() as folder:
        events = _write_idle_logs(folder, files)
        for archive_count in (0, archives):
            events += _write_archives(folder, files, archive_count)
            for how, flags in (("notified", ()), ("polling", POLL)):
                events += 1
                what = f"CPU when idle, {how}, {files + 1:,} logs"
                if archive_count:
                    what += f" and {archive_count:,} archives"
                yield _idle_follower(bench, db, folder, what, events, flags)
    remove_database(db)


def _write_idle_logs(folder: Path, files: int) -> int:
    """Write `cowrie.json` with one event, and logs that are not written to again; return the number of events."""
    for number in range(files):
        lines = b"".join(make_event(number, line) for line in range(IDLE_LINES))
        (folder / f"cowrie.json.{number}").write_bytes(lines)
    (folder / "cowrie.json").write_bytes(make_event(files, 0))
    return files * IDLE_LINES + 1


def _write_archives(folder: Path, files: int, archives: int) -> int:
    """Write compressed logs next to the others; return the number of events."""
    for number in range(archives):
        lines = b"".join(make_event(files + 1 + number, line) for line in range(ARCHIVED_LINES))
        (folder / f"cowrie.json.{files + number}.gz").write_bytes(gzip.compress(lines, 1))
    return archives * ARCHIVED_LINES


def _idle_follower(bench: Bench, db: Path, folder: Path, what: str, events: int, flags: tuple[str, ...]) -> Result:
    """Measure the CPU time of a follower after the last of `events` events, which is written here."""
    with Follower(bench.program, db, folder, flags=flags) as follower:
        with (folder / "cowrie.json").open("ab") as live_log:
            live_log.write(make_event(bench.scale.live_files, events - 1))
        follower.wait_for(events)
        time.sleep(bench.scale.settle_s)
        percent, used_s = _cpu_percent(follower, bench.scale.idle_s)
        peak_mib = follower.peak_bytes / MIB
    details = {"cpu_s": used_s, "of_s": bench.scale.idle_s, "peak_mib": peak_mib}
    return _single(what, percent, "%", MAX_IDLE_CPU_PERCENT, details)


def many_at_once(bench: Bench) -> Iterator[Result]:
    """Measure CPU time, memory and the delay of events while many logs are written to."""
    files, seconds = bench.scale.live_files, bench.scale.live_s
    db = bench.new_database()
    with bench.new_folder() as folder, Follower(bench.program, db, folder) as follower:
        writer_command: Command = [
            *_module("honeypots", "live", folder),
            *("--files", str(files), "--rate", str(LINES_PER_S), "--seconds", str(seconds)),
        ]
        (folder / "first.json").write_bytes(make_event(files, 0))
        follower.wait_for(1)
        before_s = follower.cpu_s()
        with subprocess.Popen(writer_command, cwd=bench.work, stdout=subprocess.PIPE, text=True) as writer:
            try:
                delays_s, written = _delays(follower, writer, 1)
            finally:
                writer.kill()
        write_s = written["ended"] - written["began"]
        used_s = follower.cpu_s() - before_s
        peak_mib = follower.peak_bytes / MIB
        follower.wait_for(int(written["events"]) + 1)
    remove_database(db)
    of = f"{files:,} logs, {LINES_PER_S:g} lines/s each"
    details = {"cpu_s": used_s, "of_s": write_s, "events_per_s": written["events"] / write_s}
    yield _single(f"CPU, {of}", 100 * used_s / write_s, "%", details=details)
    for percent, name in ((50, "p50"), (99, "p99"), (100, "longest")):
        delay_s = _percentile(delays_s, percent)
        yield _single(f"from write to commit, {name}, {of}", delay_s, "s", MAX_DELAY_S)
    yield _memory(f"follow, peak memory, {of}", [peak_mib])


def _follow_live(bench: Bench, log: Path, flags: Sequence[str]) -> _LiveRun:
    """Let a writer write a log while a follower reads it.

    Args:
        bench: the bench.
        log: the log to write.
        flags: further arguments of the writer.

    Raises:
        CommandFailed: the writer or the follower failed, or not every event was stored once.
    """
    db = bench.new_database()
    with bench.new_folder() as folder, Follower(bench.program, db, folder / "cowrie.json") as follower:
        live_log = folder / "cowrie.json"
        live_log.write_bytes(make_event(0, 0))  # once this is stored, the follower waits for more
        follower.wait_for(1)
        before_s = follower.cpu_s()
        written = _run_writer(bench, log, live_log, flags)
        ended_at = follower.wait_for(int(written["events"]) + 1)
        used_s = follower.cpu_s() - before_s
        peak_bytes = follower.peak_bytes
    remove_database(db)
    return _LiveRun(
        follow_s=ended_at - written["began"],
        write_s=written["ended"] - written["began"],
        cpu_s=used_s,
        peak_bytes=peak_bytes,
        rotations=written["rotations"],
    )


def _run_writer(bench: Bench, log: Path, live_log: Path, flags: Sequence[str]) -> dict[str, float]:
    """Write a log with `benchmarks.honeypots` and return its report."""
    command = _module("honeypots", "copy", log, live_log, *flags)
    with subprocess.Popen(command, cwd=bench.work, stdout=subprocess.PIPE, text=True) as writer:
        output, _ = writer.communicate()
    if writer.returncode:
        raise CommandFailed(f"the writer ended with {writer.returncode}")
    written: dict[str, float] = json.loads(output)
    return written


def _delays(follower: Follower, writer: subprocess.Popen[str], last_id: int) -> tuple[list[float], dict[str, float]]:
    """Return the seconds from writing each event until it was seen in the database, and the writer's report.

    Args:
        follower: the follower.
        writer: a running `benchmarks.honeypots live`.
        last_id: the last row of raw_events that it did not write.
    """
    delays_s: list[float] = []
    written: dict[str, float] = {}

    def is_complete() -> bool:
        nonlocal last_id
        rows = follower.rows(
            "SELECT id, json_extract(payload, '$.written_at') FROM raw_events WHERE id > ? ORDER BY id", last_id
        )
        now = time.monotonic()
        delays_s.extend(now - written_at for _, written_at in rows)
        if rows:
            last_id = rows[-1][0]
        if not written and (returncode := writer.poll()) is not None:
            if returncode or writer.stdout is None:
                raise CommandFailed(f"the writer ended with {returncode}")
            written.update(json.load(writer.stdout))
        return bool(written) and len(delays_s) >= written["events"]

    follower.wait_until(is_complete, "the end of what was written")
    return delays_s, written


def _cpu_percent(follower: Follower, seconds: float) -> tuple[float, float]:
    """Return the CPU time that a follower uses within some seconds, in percent of a core and in seconds."""
    before_s, began = follower.cpu_s(), time.monotonic()
    time.sleep(seconds)
    used_s = follower.cpu_s() - before_s
    return 100 * used_s / (time.monotonic() - began), used_s


def _percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest value that is not exceeded by this percentage of all."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def _flag(name: str, value: float | None) -> list[str]:
    return [] if value is None else [name, str(value)]


def _module(name: str, *arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", f"benchmarks.{name}", *arguments]


def _memory(what: str, peaks_mib: Sequence[float]) -> Result:
    return Result("following", what, Spread.of(peaks_mib), "MiB", MEMORY_TARGET_BYTES / MIB)


def _single(
    what: str, value: float, unit: str, target: float | None = None, details: dict[str, float] | None = None
) -> Result:
    return Result("following", what, Spread(value, value, value), unit, target, details=details)
