"""The upgrade of a large v3 database, measured: migrate, backfill alone and beside a live loader, validate."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import inputs
from benchmarks.cases import Bench, Result
from benchmarks.make_v3_db import make_v3_db
from benchmarks.measure import Command, CommandFailed, Spread, Usage, run
from benchmarks.read_file_events import forget
from cowrieprocessor.db.dialects.sqlite.dialect import load_driver

MIB = 1 << 20
GOAL_BYTES = 39_000_000_000
FILES, SESSIONS = "backfill-files", "backfill-sessions"


def upgrade(bench: Bench) -> Iterator[Result]:
    """Bring a v3 database of the scale's size to v4, as an operator does."""
    source = inputs.made(
        f"v3-{bench.scale.v3_bytes}.sqlite", lambda path: make_v3_db(path, size_bytes=bench.scale.v3_bytes)
    )
    size_bytes = source.stat().st_size
    larger = GOAL_BYTES / size_bytes
    db = bench.new_database()
    shutil.copyfile(source, db)
    yield _one("migrate", _command(bench, "migrate", db, "--yes").wall_s, "s", 2.0, {"size_mb": size_bytes / 1e6})
    cold, warm = (_read(bench, db, *flags) for flags in (["--cold"], []))
    forget(db)
    usage = _command(bench, "backfill", db, "--yes")
    files_s, sessions_s = _seconds(db, FILES), _seconds(db, SESSIONS)
    details = {
        "files_s": files_s,
        "read_cold_s": cold.wall_s,
        "read_warm_s": warm.wall_s,
        "ratio_warm": files_s / warm.wall_s,
    }
    yield _one("backfill of files / reading the same payloads, cold", files_s / cold.wall_s, "x", 3.0, details)
    yield _one("backfill of files, at 39 GB", files_s * larger / 60, "min", 10.0)
    yield _one(
        "backfill of sessions and commands, at 39 GB", sessions_s * larger / 60, "min", 40.0, {"took_s": sessions_s}
    )
    yield _one("backfill, peak memory", usage.peak_bytes / MIB, "MiB", 200.0)
    validate = _command(bench, "validate", db, "--json")
    yield _one("validate / backfill", validate.wall_s / (files_s + sessions_s), "x", 1.0, {"took_s": validate.wall_s})
    yield _one("validate, peak memory", validate.peak_bytes / MIB, "MiB", 200.0)
    inputs.remove_database(db)
    yield from _beside_a_writer(bench, source)


def _beside_a_writer(bench: Bench, source: Path) -> Iterator[Result]:
    """Backfill beside a loader that writes 500 events a second, and ask both what they saw."""
    db = bench.new_database()
    shutil.copyfile(source, db)
    _command(bench, "migrate", db, "--yes")
    writing: Command = [sys.executable, "-m", "benchmarks.live_writer", "--db", db]
    with subprocess.Popen(writing, cwd=bench.work, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        filling: Command = [
            sys.executable,
            "-m",
            "cowrieprocessor",
            "db",
            "backfill",
            "--yes",
            "--progress",
            "json",
            "--db",
            db,
        ]
        filled = subprocess.run(filling, cwd=bench.work, capture_output=True, text=True, check=False)
        told, _ = writer.communicate()
    if filled.returncode:
        raise CommandFailed(filled.stderr[-2000:])
    seen: dict[str, Any] = json.loads(told.splitlines()[-1])
    stalls: dict[str, float] = seen["stalls"]
    yield _one("a live loader's longest stall", stalls["max"] * 1000, "ms", 250.0, stalls)
    yield _one("a live loader's stall, p99", stalls["p99"] * 1000, "ms", 250.0)
    yield _one("write-ahead log at its largest", seen["log_bytes"] / MIB, "MiB", 256.0)
    for job in (FILES, SESSIONS):
        error = _error_of_eta(filled.stderr, job, _seconds(db, job))
        if error is not None:
            yield _one(f"{job}: error of the ETA after 10 %", error, "x")
    inputs.remove_database(db)


def _command(bench: Bench, name: str, db: Path, *flags: str) -> Usage:
    command: Command = [sys.executable, "-m", "cowrieprocessor", "db", name, "--db", db, *flags]
    return run(command, cwd=bench.work)


def _read(bench: Bench, db: Path, *flags: str) -> Usage:
    return run([sys.executable, "-m", "benchmarks.read_file_events", "--db", db, *flags], cwd=bench.work)


def _seconds(db: Path, job: str) -> float:
    """Return how long a job took, by its row."""
    connection = load_driver("auto").connect(str(db))
    try:
        row = connection.execute("SELECT started_at, finished_at FROM jobs WHERE name = ?", (job,)).fetchone()
    finally:
        connection.close()
    started, finished = map(dt.datetime.fromisoformat, row)
    return (finished - started).total_seconds()


def _error_of_eta(progress: str, job: str, took_s: float) -> float | None:
    """Return by what share of the truth the first ETA behind 10 % was wrong; None if the job was too short for one."""
    for line in progress.splitlines():
        if not line.startswith("{"):
            continue
        now = json.loads(line)
        if now["job"] == job and now["eta_s"] and 0.1 <= now["rows_done"] / max(now["rows_total"], 1) < 0.9:
            left_s = took_s - now["rows_done"] / now["rows_per_s"]
            return abs(float(now["eta_s"]) - float(left_s)) / took_s
    return None


def _one(
    what: str, value: float, unit: str, target: float | None = None, details: dict[str, float] | None = None
) -> Result:
    return Result("upgrade", what, Spread(value, value, value), unit, target, details=details)
