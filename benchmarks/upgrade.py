"""Measure the upgrade of a large v3 database: migrate, backfill alone and alongside a live loader, validate."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.cases import Bench, Result
from benchmarks.inputs import remove_database
from benchmarks.make_v3_db import make_v3_db
from benchmarks.measure import Command, CommandFailed, Spread, Usage, environment, run
from benchmarks.read_file_events import evict_from_page_cache
from cowrieprocessor.db.dialects.sqlite.dialect import load_driver

MIB = 1 << 20
GOAL_BYTES = 39_000_000_000
FILES, SESSIONS = "backfill-files", "backfill-sessions"


def upgrade(bench: Bench) -> Iterator[Result]:
    """Upgrade a v3 database of the scale's size to v4, as an operator does."""
    source = bench.inputs.made(
        f"v3-{bench.scale.v3_bytes}.sqlite", lambda path: make_v3_db(path, size_bytes=bench.scale.v3_bytes)
    )
    size_bytes = source.stat().st_size
    scale_up = GOAL_BYTES / size_bytes
    db = bench.new_database()
    shutil.copyfile(source, db)
    yield _single("migrate", _command(bench, "migrate", db, "--yes").wall_s, "s", 2.0, {"size_mb": size_bytes / 1e6})
    cold, warm = (_read_file_events(bench, db, *flags) for flags in (["--cold"], []))
    evict_from_page_cache(db)
    usage = _command(bench, "backfill", db, "--yes")
    files_s, sessions_s = _job_duration_s(db, FILES), _job_duration_s(db, SESSIONS)
    details = {
        "files_s": files_s,
        "read_cold_s": cold.wall_s,
        "read_warm_s": warm.wall_s,
        "ratio_warm": files_s / warm.wall_s,
    }
    yield _single("backfill of files / reading the same payloads, cold", files_s / cold.wall_s, "x", 3.0, details)
    yield _single("backfill of files, at 39 GB", files_s * scale_up / 60, "min", 10.0)
    yield _single(
        "backfill of sessions and commands, at 39 GB", sessions_s * scale_up / 60, "min", 40.0, {"took_s": sessions_s}
    )
    yield _single("backfill, peak memory", usage.peak_bytes / MIB, "MiB", 200.0)
    validate = _command(bench, "validate", db, "--json")
    yield _single(
        "validate / backfill", validate.wall_s / (files_s + sessions_s), "x", 1.0, {"took_s": validate.wall_s}
    )
    yield _single("validate, peak memory", validate.peak_bytes / MIB, "MiB", 200.0)
    remove_database(db)
    yield from _with_live_loader(bench, source)


def _with_live_loader(bench: Bench, source: Path) -> Iterator[Result]:
    """Measure a backfill alongside a loader that writes 500 events a second."""
    db = bench.new_database()
    shutil.copyfile(source, db)
    _command(bench, "migrate", db, "--yes")
    writer_command: Command = [sys.executable, "-m", "benchmarks.live_writer", "--db", db]
    with subprocess.Popen(
        writer_command, cwd=bench.work, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        backfill = subprocess.run(
            bench.program.command("db", "backfill", "--yes", "--progress", "json", "--db", db),
            cwd=bench.program.folder,
            env=environment(bench.program.variables),
            capture_output=True,
            text=True,
            check=False,
        )
        output, _ = writer.communicate()
    if backfill.returncode:
        raise CommandFailed(backfill.stderr[-2000:])
    report: dict[str, Any] = json.loads(output.splitlines()[-1])
    stalls: dict[str, float] = report["stalls"]
    yield _single("a live loader's longest stall", stalls["max"] * 1000, "ms", 250.0, stalls)
    yield _single("a live loader's stall, p99", stalls["p99"] * 1000, "ms", 250.0)
    yield _single("write-ahead log at its largest", report["log_bytes"] / MIB, "MiB", 256.0)
    for job in (FILES, SESSIONS):
        error = _eta_error(backfill.stderr, job, _job_duration_s(db, job))
        if error is not None:
            yield _single(f"{job}: error of the ETA after 10 %", error, "x")
    remove_database(db)


def _command(bench: Bench, name: str, db: Path, *flags: str) -> Usage:
    return bench.program.run("db", name, "--db", db, *flags)


def _read_file_events(bench: Bench, db: Path, *flags: str) -> Usage:
    return run([sys.executable, "-m", "benchmarks.read_file_events", "--db", db, *flags], cwd=bench.work)


def _job_duration_s(db: Path, job: str) -> float:
    """Return the duration of a job according to its row, in seconds."""
    connection = load_driver("auto").connect(str(db))
    try:
        row = connection.execute("SELECT started_at, finished_at FROM jobs WHERE name = ?", (job,)).fetchone()
    finally:
        connection.close()
    started, finished = map(dt.datetime.fromisoformat, row)
    return (finished - started).total_seconds()


def _eta_error(progress: str, job: str, duration_s: float) -> float | None:
    """Return the error of the first ETA after 10 %, relative to the job's duration.

    Args:
        progress: the progress of the backfill, as JSON lines.
        job: the name of the job.
        duration_s: its duration in seconds.

    Returns:
        None if the job was too short for an ETA.
    """
    for line in progress.splitlines():
        if not line.startswith("{"):
            continue
        now = json.loads(line)
        if now["job"] == job and now["eta_s"] and 0.1 <= now["rows_done"] / max(now["rows_total"], 1) < 0.9:
            remaining_s = duration_s - now["rows_done"] / now["rows_per_s"]
            return abs(float(now["eta_s"]) - float(remaining_s)) / duration_s
    return None


def _single(
    what: str, value: float, unit: str, target: float | None = None, details: dict[str, float] | None = None
) -> Result:
    return Result("upgrade", what, Spread(value, value, value), unit, target, details=details)
