"""A loader at work: writes events at a steady rate, the way v3 did, and measures how long it is kept waiting.

`python -m benchmarks.live_writer --db FILE --rate 500`: until standard input ends; then it prints one JSON object
with the seconds that its transactions took (`stalls`: count, median, p99, max) and the largest write-ahead log it saw.
It uses Python's own SQLite, in a process of its own, as v3 does.
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
    """Write until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.live_writer", description=__doc__)
    parser.add_argument("--db", required=True, metavar="FILE")
    parser.add_argument("--rate", type=float, default=500, metavar="N", help="events a second (default: 500)")
    given = parser.parse_args()
    over = threading.Event()
    threading.Thread(target=_wait_for_the_end, args=(over,), daemon=True).start()
    connection = sqlite3.connect(given.db, isolation_level=None, timeout=30)
    connection.execute("PRAGMA synchronous=NORMAL")
    took: list[float] = []
    log_bytes = line = 0
    due = time.monotonic()
    print("ready", flush=True)
    while not over.wait(max(0.0, due - time.monotonic())):
        due += EVENTS_AT_ONCE / given.rate
        rows = [_row(line + number) for number in range(EVENTS_AT_ONCE)]
        line += EVENTS_AT_ONCE
        began = time.monotonic()
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO raw_events (source, source_offset, source_inode, payload) VALUES (?, ?, ?, ?)", rows
        )
        connection.execute("COMMIT")
        took.append(time.monotonic() - began)
        log_bytes = max(log_bytes, _size(f"{given.db}-wal"))
    connection.close()
    took = took or [0.0]
    stalls = {
        "count": len(took),
        "median": statistics.median(took),
        "p99": sorted(took)[int(len(took) * 0.99) - 1],
        "max": max(took),
    }
    print(json.dumps({"stalls": stalls, "log_bytes": log_bytes}), flush=True)


def _wait_for_the_end(over: threading.Event) -> None:
    sys.stdin.read()
    over.set()


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


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - looked at ten times a second
    except FileNotFoundError:
        return 0


if __name__ == "__main__":
    main()
