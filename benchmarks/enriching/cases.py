"""Measure enrichment: the rate it keeps, the cost of a request, the propagation of a verdict, and claims."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.cases import MEMORY_TARGET_BYTES, Bench, Result
from benchmarks.enriching.inputs import KNOWN_GOOD_EVERY, RESPONSE, files_to_ask, half_asked, one_hash_everywhere
from benchmarks.inputs import PROJECT, remove_database
from benchmarks.measure import Command, CommandFailed, Spread, Usage, environment, in_turns, run
from cowrieprocessor.db.dialects.sqlite.dialect import load_driver

MIB = 1 << 20
PER_MINUTE = 4
MAX_ALONE_S = 10.0
FRESH_CLAIMS, CLAIMS_IN_A_ROW = 30, 200
MAX_CLAIM_PERCENT = 2.5
"""Of the time of the requests: the rate limit leaves 97.5 % of the rate, and 95 % are promised."""


def enrichment(bench: Bench) -> Iterator[Result]:
    """Measure the rate, the cost of requests, propagation, and claims."""
    yield from allowed_rate(bench)
    yield from cost_of_requests(bench)
    yield from propagation(bench)
    yield from claims(bench)


def allowed_rate(bench: Bench) -> Iterator[Result]:
    """Measure the share of the allowed requests that is sent while there is work, in virtual time."""
    _copy_stand_ins(bench)
    hours, per_day = bench.scale.virtual_hours, bench.scale.per_day
    days = max(1, hours // 8)
    sent = over = 0
    for what, run_hours, daily_quota, allowed in (
        (f"4 a minute, {hours} hours", hours, 60 * PER_MINUTE * 25, 60 * PER_MINUTE * hours),
        (f"{per_day} a day, {days} days", 24 * days, per_day, per_day * days),
    ):
        db = bench.new_database()
        files_to_ask(db, allowed + 100, 0)
        usage = run(
            _module("enriching.virtual_day", "--db", db, "--hours", str(run_hours), "--per-day", str(daily_quota)),
            cwd=bench.work,
        )
        report: dict[str, int] = json.loads(usage.output)
        sent, over = sent + report["sent"], over + report["over"]
        details = {"sent": float(report["sent"]), "allowed": float(allowed), "took_s": usage.wall_s}
        share = report["sent"] / allowed
        yield _single(f"requests sent / allowed: {what}", share, "x", 0.95, details, at_least=True)
        remove_database(db)
    yield _single("requests over a limit / sent", over / max(sent, 1), "x", 0.0, {"over": float(over)})


def cost_of_requests(bench: Bench) -> Iterator[Result]:
    """Compare enriching files without a rate limit with the same requests in a plain loop; half the files are known."""
    files, pairs = bench.scale.asked_files, bench.scale.pairs
    for sessions_each in bench.scale.sessions_each:
        fresh, db = bench.new_database(), bench.new_database()
        files_to_ask(fresh, files, sessions_each)
        with _verdict_source(bench, files) as source:
            work_s, floor_s, cpu_ms, peaks_mib = [], [], [], []
            for _ in range(pairs):
                remove_database(db)
                shutil.copyfile(fresh, db)
                work = _enrich(bench, db, source)
                _require_answers(work, files)
                floor_s.append(_ask_floor_s(bench, source, files))
                start = _enrich(bench, db, source)
                work_s.append(_without_start_s(work, start))
                cpu_ms.append(1000 * (work.cpu_s - start.cpu_s) / files)
                peaks_mib.append(work.peak_bytes / MIB)
        details = {
            "a_ms_per_request": 1000 * Spread.of(work_s).median / files,
            "b_ms_per_request": 1000 * Spread.of(floor_s).median / files,
        }
        each = f"{sessions_each} sessions each"
        ratios = [a / b for a, b in zip(work_s, floor_s, strict=True)]
        yield Result(
            "enrichment", f"enrich / plain requests, {files:,} files, {each}", Spread.of(ratios), details=details
        )
        yield Result("enrichment", f"enrich, CPU per request, {each}", Spread.of(cpu_ms), "ms")
        yield Result(
            "enrichment", f"enrich, peak memory, {each}", Spread.of(peaks_mib), "MiB", MEMORY_TARGET_BYTES / MIB
        )
        remove_database(fresh)
        remove_database(db)


def propagation(bench: Bench) -> Iterator[Result]:
    """Compare propagating a verdict with two plain UPDATEs, then measure a live loader meanwhile."""
    sessions = bench.scale.propagated_sessions
    source_db = bench.inputs.made(f"one-hash-{sessions}.sqlite", lambda path: one_hash_everywhere(path, sessions))
    ratios, work_s, floor_s = [], [], []
    with _verdict_source(bench, 1) as source:
        for _ in range(bench.scale.pairs):
            enriched, plain = bench.new_database(), bench.new_database()
            shutil.copyfile(source_db, enriched)
            shutil.copyfile(source_db, plain)
            work = _enrich(bench, enriched, source)
            start = _enrich(bench, enriched, source)
            floor = run(_module("enriching.floor", "propagate", "--db", plain), cwd=bench.work)
            work_s.append(_without_start_s(work, start))
            floor_s.append(float(floor.output))
            ratios.append(work_s[-1] / floor_s[-1])
            for db in (enriched, plain):
                _require_propagated(db, sessions)
                remove_database(db)
        median_s = Spread.of(work_s).median
        details = {"a_s": median_s, "b_s": Spread.of(floor_s).median, "a_rows_per_s": sessions / median_s}
        what = f"propagating to {sessions:,} rows / plain UPDATEs"
        yield Result("enrichment", what, Spread.of(ratios), details=details)
        yield from _with_live_loader(bench, source_db, source)


def _with_live_loader(bench: Bench, source_db: Path, source: Mapping[str, str]) -> Iterator[Result]:
    """Measure how long a loader of 500 events a second waits during propagation, and how long when it is alone."""
    db = bench.new_database()
    shutil.copyfile(source_db, db)
    with _live_writer(bench, db) as during:
        usage = _enrich(bench, db, source)
        alone_s = min(usage.wall_s, MAX_ALONE_S)
    _require_propagated(db, bench.scale.propagated_sessions)
    remove_database(db)
    shutil.copyfile(source_db, db)
    with _live_writer(bench, db) as alone:
        time.sleep(alone_s)
    remove_database(db)
    stalls, alone_stalls = during["stalls"], alone["stalls"]
    details = {
        **stalls,
        "took_s": usage.wall_s,
        "alone_median": alone_stalls["median"],
        "alone_max": alone_stalls["max"],
    }
    what = "a live loader's stall during propagation"
    yield _single(f"{what}, longest", stalls["max"] * 1000, "ms", 250.0, details)
    yield _single(f"{what}, p99", stalls["p99"] * 1000, "ms", 250.0)


def claims(bench: Bench) -> Iterator[Result]:
    """Measure claims, `enrich status` and the start of `enrich` in a database with many files."""
    files = bench.scale.known_hashes
    source_db = bench.inputs.made(f"half-asked-{files}-{len(RESPONSE)}.sqlite", lambda path: half_asked(path, files))
    db, empty_db = bench.new_database(), bench.new_database()
    shutil.copyfile(source_db, db)
    files_to_ask(empty_db, 0, 0)
    of = f"{files:,} files, half asked"
    yield _status(bench, db, empty_db, of)
    yield from _claim_times(bench, db, of)
    yield from _first_request(bench, db, empty_db, of)
    remove_database(db)
    remove_database(empty_db)


def _status(bench: Bench, db: Path, empty_db: Path, of: str) -> Result:
    """Measure `enrich status`, and for comparison the same on an empty database."""
    settings = {"COWRIEPROC_VIRUSTOTAL_KEY": "0" * 64}
    pair = in_turns(
        lambda: bench.program.run("enrich", "status", "--db", db, "--json", settings=settings),
        lambda: bench.program.run("enrich", "status", "--db", empty_db, "--json", settings=settings),
        bench.scale.pairs,
    )
    _require_waiting(pair.a[0], bench.scale.known_hashes)
    details = {"of_an_empty_database_ms": 1000 * Spread.of([usage.wall_s for usage in pair.b]).median}
    spread = Spread.of([1000 * usage.wall_s for usage in pair.a])
    return Result("enrichment", f"enrich status, {of}", spread, "ms", details=details)


def _claim_times(bench: Bench, db: Path, of: str) -> Iterator[Result]:
    """Measure the time of a claim over that of its requests."""
    most = bench.scale.known_hashes // 200
    fresh_s, requests_s = _claim(bench, db, min(FRESH_CLAIMS, most))
    in_a_row_s, _ = _claim(bench, db, min(CLAIMS_IN_A_ROW, most), "--in-a-row")
    details = {
        "median_ms": 1000 * Spread.of(fresh_s).median,
        "p99_ms": 1000 * _p99(fresh_s),
        "in_a_row_ms": 1000 * Spread.of(in_a_row_s).median,
    }
    what = "claiming / asking"
    percents = [100 * claim_s / requests_s for claim_s in fresh_s]
    yield Result("enrichment", f"{what}, {of}", Spread.of(percents), "%", details=details)
    yield _single(f"{what}, p99", 100 * _p99(fresh_s) / requests_s, "%", MAX_CLAIM_PERCENT)


def _first_request(bench: Bench, db: Path, empty_db: Path, of: str) -> Iterator[Result]:
    """Measure `enrich --limit 1`, and for comparison the same on an empty database."""
    with _verdict_source(bench, 1) as source:
        usage, empty_usage = (_enrich(bench, path, source, "--limit", "1") for path in (db, empty_db))
    peak_mib = usage.peak_bytes / MIB
    details = {"of_an_empty_database_s": empty_usage.wall_s, "peak_mib": peak_mib}
    yield _single(f"enrich --limit 1, {of}", usage.wall_s, "s", details=details)
    yield _single("enrich --limit 1, peak memory", peak_mib, "MiB", MEMORY_TARGET_BYTES / MIB)


def _copy_stand_ins(bench: Bench) -> None:
    """Copy the stand-ins of the tests next to the copy of the code."""
    if not (bench.work / "tests").exists():
        tests = PROJECT / "tests"
        shutil.copytree(
            tests / "stand_ins", bench.work / "tests" / "stand_ins", ignore=shutil.ignore_patterns("__pycache__")
        )
        shutil.copyfile(tests / "__init__.py", bench.work / "tests" / "__init__.py")


@contextmanager
def _verdict_source(bench: Bench, files: int) -> Iterator[dict[str, str]]:
    """Run a stand-in for VirusTotal in a separate process, and yield the settings that select it."""
    _copy_stand_ins(bench)
    with _process(bench, _module("enriching.verdict_source", "--files", str(files))) as process:
        assert process.stdout is not None
        report: dict[str, str] = json.loads(process.stdout.readline())
        yield {"COWRIEPROC_VIRUSTOTAL_URL": report["url"], "COWRIEPROC_VIRUSTOTAL_KEY": report["key"]}
        process.communicate()


@contextmanager
def _live_writer(bench: Bench, db: Path) -> Iterator[dict[str, Any]]:
    """Run a loader of 500 events a second; the dict that is yielded has its report once the block has ended."""
    report: dict[str, Any] = {}
    with _process(bench, _module("live_writer", "--db", db)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield report
        output, _ = process.communicate()
    report |= json.loads(output.splitlines()[-1])


@contextmanager
def _process(bench: Bench, command: Command) -> Iterator[subprocess.Popen[str]]:
    """Run a process that ends when its standard input is closed; kill it if the measurement fails."""
    with subprocess.Popen(
        command, cwd=bench.work, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _module(name: str, *arguments: str | Path) -> Command:
    return [sys.executable, "-m", f"benchmarks.{name}", *arguments]


def _enrich(bench: Bench, db: Path, source: Mapping[str, str], *flags: str) -> Usage:
    return bench.program.run("enrich", "--db", db, "--provider", "virustotal", "--json", *flags, settings=source)


def _ask_floor_s(bench: Bench, source: Mapping[str, str], files: int) -> float:
    """Return the seconds that the floor takes for the requests."""
    key, url = source["COWRIEPROC_VIRUSTOTAL_KEY"], source["COWRIEPROC_VIRUSTOTAL_URL"]
    command = _module("enriching.floor", "ask", "--url", url, "--key", key, "--files", str(files))
    known, seconds = run(command, cwd=bench.work).output.split()
    if int(known) != (files + 1) // 2:
        raise CommandFailed(f"the floor found {known} of {files} files known")
    return float(seconds)


def _claim(bench: Bench, db: Path, count: int, *flags: str) -> tuple[list[float], float]:
    """Return the seconds of each claim, and the seconds that the requests of one claim take at the allowed rate."""
    command = _module("enriching.claim_files", "--db", db, "--claims", str(max(count, 1)), *flags)
    timed: dict[str, Any] = json.loads(run(command, cwd=bench.work).output)
    return timed["seconds"], timed["lasts_s"]


def _require_answers(usage: Usage, files: int) -> None:
    """Raise CommandFailed unless every file was asked about and half of them were known."""
    counters = json.loads(usage.output)["counters"]["virustotal"]
    found, unknown = counters.get("found", 0), counters.get("unknown", 0)
    if (found, found + unknown) != ((files + 1) // 2, files):
        raise CommandFailed(f"enrich did not ask about all {files} files: {counters}")


def _require_propagated(db: Path, sessions: int) -> None:
    """Raise CommandFailed unless every row and every session has the verdict."""
    connection = load_driver("auto").connect(str(db))
    try:
        rows = connection.execute("SELECT count(*) FROM files WHERE vt_malicious AND vt_positives = 12").fetchone()[0]
        flags = connection.execute("SELECT count(*) FROM session_summaries WHERE vt_flagged").fetchone()[0]
    finally:
        connection.close()
    if (rows, flags) != (sessions, sessions):
        raise CommandFailed(f"of {sessions} rows {rows} have the verdict, and {flags} sessions the flag")


def _require_waiting(usage: Usage, files: int) -> None:
    """Raise CommandFailed unless the status counts the files that wait for VirusTotal."""
    queues = {source["provider"]: source["queue"] for source in json.loads(usage.output)["sources"]}
    asked, waiting = queues["virustotal"]["answered"], queues["virustotal"]["waiting"]
    known_good = -(-files // KNOWN_GOOD_EVERY)
    if asked + waiting != files - known_good or not 0.45 < asked / files < 0.55:
        raise CommandFailed(f"of {files} files {asked} are answered and {waiting} wait: not what was made")


def _without_start_s(work: Usage, start: Usage) -> float:
    """Return the seconds of a run without those of starting the program."""
    return max(work.wall_s - start.wall_s, 1e-3)


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.99 + 0.5) - 1]


def _single(
    what: str,
    value: float,
    unit: str,
    target: float | None = None,
    details: dict[str, float] | None = None,
    *,
    at_least: bool = False,
) -> Result:
    return Result("enrichment", what, Spread(value, value, value), unit, target, at_least, details)
