"""A simulated loader: writes events at a steady rate as v3 did, and measures how long its transactions take.

`python -m benchmarks.live_writer --db FILE --rate 500` runs until standard input ends, then prints one JSON object with
the seconds that its transactions took (`stalls`: count, median, p99, max) and the largest size of the write-ahead log.
It uses Python's own SQLite library in a separate process, as v3 does.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import sys
import threading
import time

EVENTS_AT_ONCE = 50


def main() -> None:
    """Write until standard input ends, then print the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.live_writer", description=__doc__)
    parser.add_argument("--db", required=True, metavar="FILE")
    parser.add_argument("--rate", type=float, default=500, metavar="N", help="events a second (default: 500)")
    options = parser.parse_args()
    input_ended = threading.Event()
    threading.Thread(target=_wait_for_input_end, args=(input_ended,), daemon=True).start()
    connection = sqlite3.connect(options.db, isolation_level=None, timeout=30)
    connection.execute("PRAGMA synchronous=NORMAL")
    durations_s: list[float] = []
    log_bytes = line = 0
    due = time.monotonic()
    print("ready", flush=True)
    while not input_ended.wait(max(0.0, due - time.monotonic())):
        due += EVENTS_AT_ONCE / options.rate
        rows = [_row(line + number) for number in range(EVENTS_AT_ONCE)]
        line += EVENTS_AT_ONCE
        began = time.monotonic()
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO raw_events (source, source_offset, source_inode, payload) VALUES (?, ?, ?, ?)", rows
        )
        connection.execute("COMMIT")
        durations_s.append(time.monotonic() - began)
        log_bytes = max(log_bytes, _file_bytes(f"{options.db}-wal"))
    connection.close()
    durations_s = durations_s or [0.0]
    stalls = {
        "count": len(durations_s),
        "median": statistics.median(durations_s),
        "p99": sorted(durations_s)[int(len(durations_s) * 0.99) - 1],
        "max": max(durations_s),
    }
    print(json.dumps({"stalls": stalls, "log_bytes": log_bytes}), flush=True)


def _wait_for_input_end(input_ended: threading.Event) -> None:
    sys.stdin.read()
    input_ended.set()


def _row(number: int) -> tuple[str, int, str, str]:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
    event = {
        "eventid": ("cowrie.session.connect", "cowrie.login.failed", "cowrie.session.closed")[number % 3],
        "session": f"{number // 3:012x}",
        "timestamp": stamp,
        "src_ip": "198.51.100.9",
        "sensor": "live",
        "message": "written by the benchmark beside a backfill, of about the length of a real event " * 3,
    }
    return "/var/log/cowrie/live.json", number, "live", json.dumps(event)


def _file_bytes(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - called ten times a second
    except FileNotFoundError:
        return 0


if __name__ == "__main__":
    main()
