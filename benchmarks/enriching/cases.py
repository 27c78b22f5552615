"""Enrichment, measured: the rate it keeps, what a request costs, how a verdict spreads, and claims among many files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import inputs
from benchmarks.cases import MEMORY_TARGET_BYTES, Bench, Result
from benchmarks.enriching.inputs import RESPONSE, files_to_ask, half_asked, one_hash_everywhere
from benchmarks.measure import Command, CommandFailed, Spread, Usage, in_turns, run
from cowrieprocessor.db.dialects.sqlite.dialect import load_driver

MIB = 1 << 20
SESSIONS_EACH = (2, 0)
PER_MINUTE = 4
PER_DAY = 500
ALONE_AT_MOST_S = 10.0
RESTED_CLAIMS, CLAIMS_IN_A_ROW = 30, 200
LOST_AT_MOST = 2.5
"""Percent: the pace leaves 97.5 % of the rate, of which 95 % are promised."""


def enrichment(bench: Bench) -> Iterator[Result]:
    """Measure enrichment in four ways."""
    yield from allowed_rate(bench)
    yield from cost_of_requests(bench)
    yield from spreading(bench)
    yield from claims(bench)


def allowed_rate(bench: Bench) -> Iterator[Result]:
    """Find how much of what a key may send is sent while there is work, by virtual time."""
    _copy_stand_ins(bench)
    hours = bench.scale.virtual_hours
    days = max(1, hours // 8)
    sent = over = 0
    for what, hours_, per_day, allowed in (
        (f"4 a minute, {hours} hours", hours, 60 * PER_MINUTE * 25, 60 * PER_MINUTE * hours),
        (f"{PER_DAY} a day, {days} days", 24 * days, PER_DAY, PER_DAY * days),
    ):
        db = bench.new_database()
        files_to_ask(db, allowed + 100, 0)
        usage = run(
            _module("enriching.virtual_day", "--db", db, "--hours", str(hours_), "--per-day", str(per_day)),
            cwd=bench.work,
        )
        seen: dict[str, int] = json.loads(usage.output)
        sent, over = sent + seen["sent"], over + seen["over"]
        details = {"sent": float(seen["sent"]), "allowed": float(allowed), "took_s": usage.wall_s}
        share = seen["sent"] / allowed
        yield _one(f"requests sent / allowed: {what}", share, "x", 0.95, details, at_least=True)
        inputs.remove_database(db)
    yield _one("requests over a limit / sent", over / max(sent, 1), "x", 0.0, {"over": float(over)})


def cost_of_requests(bench: Bench) -> Iterator[Result]:
    """Compare asking about files without a limit with the same requests in a plain loop; half the files are known."""
    files, pairs = bench.scale.asked_files, bench.scale.pairs
    for sessions_each in SESSIONS_EACH:
        fresh, db = bench.new_database(), bench.new_database()
        files_to_ask(fresh, files, sessions_each)
        with _source(bench, files) as source:
            walls, floors, cpu, peaks = [], [], [], []
            for _ in range(pairs):
                inputs.remove_database(db)
                shutil.copyfile(fresh, db)
                work = _enrich(bench, db, source)
                _expect_answers(work, files)
                floors.append(_ask(bench, source, files))
                idle = _enrich(bench, db, source)
                walls.append(_without(idle, work))
                cpu.append(1000 * (work.cpu_s - idle.cpu_s) / files)
                peaks.append(work.peak_bytes / MIB)
        details = {
            "a_ms_per_request": 1000 * Spread.of(walls).median / files,
            "b_ms_per_request": 1000 * Spread.of(floors).median / files,
        }
        each = f"{sessions_each} sessions each"
        ratios = [a / b for a, b in zip(walls, floors, strict=True)]
        yield Result(
            "enrichment", f"enrich / plain requests, {files:,} files, {each}", Spread.of(ratios), details=details
        )
        yield Result("enrichment", f"enrich, CPU per request, {each}", Spread.of(cpu), "ms")
        yield Result("enrichment", f"enrich, peak memory, {each}", Spread.of(peaks), "MiB", MEMORY_TARGET_BYTES / MIB)
        inputs.remove_database(fresh)
        inputs.remove_database(db)


def spreading(bench: Bench) -> Iterator[Result]:
    """Compare giving every row of one hash its verdict with two plain UPDATEs; then spread beside a live loader."""
    sessions = bench.scale.spread_sessions
    source_db = inputs.made(f"one-hash-{sessions}.sqlite", lambda path: one_hash_everywhere(path, sessions))
    ratios, seconds, floors = [], [], []
    with _source(bench, 1) as source:
        for _ in range(bench.scale.pairs):
            ours, plain = bench.new_database(), bench.new_database()
            shutil.copyfile(source_db, ours)
            shutil.copyfile(source_db, plain)
            spread = _enrich(bench, ours, source)
            start = _enrich(bench, ours, source)
            floor = run(_module("enriching.floor", "spread", "--db", plain), cwd=bench.work)
            seconds.append(_without(start, spread))
            floors.append(float(floor.output))
            ratios.append(seconds[-1] / floors[-1])
            for db in (ours, plain):
                _expect_spread(db, sessions)
                inputs.remove_database(db)
        took_s = Spread.of(seconds).median
        details = {"a_s": took_s, "b_s": Spread.of(floors).median, "a_rows_per_s": sessions / took_s}
        what = f"spreading to {sessions:,} rows / plain UPDATEs"
        yield Result("enrichment", what, Spread.of(ratios), details=details)
        yield from _beside_a_writer(bench, source_db, source)


def _beside_a_writer(bench: Bench, source_db: Path, source: Mapping[str, str]) -> Iterator[Result]:
    db = bench.new_database()
    shutil.copyfile(source_db, db)
    with _writer(bench, db) as seen:
        usage = _enrich(bench, db, source)
        alone_s = min(usage.wall_s, ALONE_AT_MOST_S)
    _expect_spread(db, bench.scale.spread_sessions)
    inputs.remove_database(db)
    shutil.copyfile(source_db, db)
    with _writer(bench, db) as alone:
        time.sleep(alone_s)
    inputs.remove_database(db)
    stalls, before = seen["stalls"], alone["stalls"]
    details = {**stalls, "took_s": usage.wall_s, "alone_median": before["median"], "alone_max": before["max"]}
    what = "a live loader's stall beside spreading"
    yield _one(f"{what}, longest", stalls["max"] * 1000, "ms", 250.0, details)
    yield _one(f"{what}, p99", stalls["p99"] * 1000, "ms", 250.0)


def claims(bench: Bench) -> Iterator[Result]:
    """Find how long claims take among many files, and `enrich status`, and the beginning of `enrich`."""
    files = bench.scale.known_hashes
    name = f"half-asked-{files}-{len(RESPONSE)}.sqlite"
    source_db = inputs.made(name, lambda path: half_asked(path, files))
    db, empty = bench.new_database(), bench.new_database()
    shutil.copyfile(source_db, db)
    files_to_ask(empty, 0, 0)
    environment = {"COWRIEPROC_VIRUSTOTAL_KEY": "0" * 64}
    status: Command = [*_enrich_command(db, environment, "status"), "--json"]
    shown = in_turns(
        lambda: run(status, cwd=bench.work),
        lambda: run([*_enrich_command(empty, environment, "status"), "--json"], cwd=bench.work),
        bench.scale.pairs,
    )
    _expect_waiting(shown.a[0], files)
    details = {"of_an_empty_database_ms": 1000 * Spread.of([one.wall_s for one in shown.b]).median}
    of = f"{files:,} files, half asked"
    spread = Spread.of([1000 * one.wall_s for one in shown.a])
    yield Result("enrichment", f"enrich status, {of}", spread, "ms", details=details)
    rested, lasts_s = _claims(bench, db, min(RESTED_CLAIMS, files // 200))
    in_a_row, _ = _claims(bench, db, min(CLAIMS_IN_A_ROW, files // 200), "--in-a-row")
    row_ms = 1000 * Spread.of(in_a_row).median
    details = {"median_ms": 1000 * Spread.of(rested).median, "p99_ms": 1000 * _p99(rested), "in_a_row_ms": row_ms}
    what = "claiming / asking"
    yield Result(
        "enrichment", f"{what}, {of}", Spread.of([100 * one / lasts_s for one in rested]), "%", details=details
    )
    yield _one(f"{what}, p99", 100 * _p99(rested) / lasts_s, "%", LOST_AT_MOST)
    with _source(bench, 1) as source:
        begin = [_enrich(bench, one, source, "--limit", "1") for one in (db, empty)]
    details = {"of_an_empty_database_s": begin[1].wall_s, "peak_mib": begin[0].peak_bytes / MIB}
    yield _one(f"enrich --limit 1, {of}", begin[0].wall_s, "s", details=details)
    yield _one("enrich --limit 1, peak memory", begin[0].peak_bytes / MIB, "MiB", MEMORY_TARGET_BYTES / MIB)
    inputs.remove_database(db)
    inputs.remove_database(empty)


def _copy_stand_ins(bench: Bench) -> None:
    """Put the stand-ins of the tests beside the copy of the code."""
    if not (bench.work / "tests").exists():
        tests = inputs.PROJECT / "tests"
        shutil.copytree(
            tests / "stand_ins", bench.work / "tests" / "stand_ins", ignore=shutil.ignore_patterns("__pycache__")
        )
        shutil.copyfile(tests / "__init__.py", bench.work / "tests" / "__init__.py")


@contextmanager
def _source(bench: Bench, files: int) -> Iterator[dict[str, str]]:
    """Run a stand-in for VirusTotal in a process of its own, and yield the settings that lead to it."""
    _copy_stand_ins(bench)
    with _process(bench, _module("enriching.verdict_source", "--files", str(files))) as process:
        assert process.stdout is not None
        said: dict[str, str] = json.loads(process.stdout.readline())
        yield {"COWRIEPROC_VIRUSTOTAL_URL": said["url"], "COWRIEPROC_VIRUSTOTAL_KEY": said["key"]}
        process.communicate()


@contextmanager
def _writer(bench: Bench, db: Path) -> Iterator[dict[str, Any]]:
    """Run a loader of 500 events a second; what is yielded has what it saw when the block has ended."""
    seen: dict[str, Any] = {}
    with _process(bench, _module("live_writer", "--db", db)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield seen
        told, _ = process.communicate()
    seen |= json.loads(told.splitlines()[-1])


@contextmanager
def _process(bench: Bench, command: Command) -> Iterator[subprocess.Popen[str]]:
    """Run a process that ends when its standard input does; kill it if the measurement fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COWRIEPROC_")}
    with subprocess.Popen(
        command, cwd=bench.work, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _module(name: str, *arguments: str | Path) -> Command:
    return [sys.executable, "-m", f"benchmarks.{name}", *arguments]


def _enrich_command(db: Path, environment: Mapping[str, str], *subcommand: str) -> list[str | Path]:
    env = shutil.which("env")
    if env is None:
        raise CommandFailed("there is no `env` to give commands their settings with")
    settings = [f"{name}={value}" for name, value in environment.items()]
    return [env, *settings, sys.executable, "-m", "cowrieprocessor", "enrich", *subcommand, "--db", db]


def _enrich(bench: Bench, db: Path, source: Mapping[str, str], *flags: str) -> Usage:
    command = [*_enrich_command(db, source), "--provider", "virustotal", "--json", *flags]
    return run(command, cwd=bench.work)


def _ask(bench: Bench, source: Mapping[str, str], files: int) -> float:
    """Return the seconds in which the floor asks."""
    key, url = source["COWRIEPROC_VIRUSTOTAL_KEY"], source["COWRIEPROC_VIRUSTOTAL_URL"]
    command = _module("enriching.floor", "ask", "--url", url, "--key", key, "--files", str(files))
    known, seconds = run(command, cwd=bench.work).output.split()
    if int(known) != (files + 1) // 2:
        raise CommandFailed(f"the floor found {known} of {files} files known")
    return float(seconds)


def _claims(bench: Bench, db: Path, count: int, *flags: str) -> tuple[list[float], float]:
    """Return how many seconds each of some claims took, and how many the requests of one take."""
    command = _module("enriching.claim_files", "--db", db, "--claims", str(max(count, 1)), *flags)
    timed: dict[str, Any] = json.loads(run(command, cwd=bench.work).output)
    return timed["seconds"], timed["lasts_s"]


def _expect_answers(usage: Usage, files: int) -> None:
    """Raise unless every file was asked about, and half of them were known."""
    counters = json.loads(usage.output)["counters"]["virustotal"]
    found, unknown = counters.get("found", 0), counters.get("unknown", 0)
    if (found, found + unknown) != ((files + 1) // 2, files):
        raise CommandFailed(f"enrich did not ask about all {files} files: {counters}")


def _expect_spread(db: Path, sessions: int) -> None:
    """Raise unless every row and every session has the verdict."""
    connection = load_driver("auto").connect(str(db))
    try:
        rows = connection.execute("SELECT count(*) FROM files WHERE vt_malicious AND vt_positives = 12").fetchone()[0]
        flags = connection.execute("SELECT count(*) FROM session_summaries WHERE vt_flagged").fetchone()[0]
    finally:
        connection.close()
    if (rows, flags) != (sessions, sessions):
        raise CommandFailed(f"of {sessions} rows {rows} have the verdict, and {flags} sessions the flag")


def _expect_waiting(usage: Usage, files: int) -> None:
    """Raise unless the status sees the files that VirusTotal was not asked about and is to be."""
    sources = {one["provider"]: one["queue"] for one in json.loads(usage.output)["sources"]}
    asked, waiting = sources["virustotal"]["answered"], sources["virustotal"]["waiting"]
    good = -(-files // 100)
    if asked + waiting != files - good or not 0.45 < asked / files < 0.55:
        raise CommandFailed(f"of {files} files {asked} are answered and {waiting} wait: not what was made")


def _without(start: Usage, work: Usage) -> float:
    """Return the seconds that a run took beside its start."""
    return max(work.wall_s - start.wall_s, 1e-3)


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.99 + 0.5) - 1]


def _one(
    what: str,
    value: float,
    unit: str,
    target: float | None = None,
    details: dict[str, float] | None = None,
    *,
    at_least: bool = False,
) -> Result:
    return Result("enrichment", what, Spread(value, value, value), unit, target, at_least, details)
