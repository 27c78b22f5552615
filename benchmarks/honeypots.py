"""Simulated honeypots: processes that write logs as Cowrie does, with one write per event.

`python -m benchmarks.honeypots copy LOG TARGET --rotate-bytes 50000000 --rate 10000` copies a log line by line into
another one; `python -m benchmarks.honeypots live FOLDER --files 200 --rate 5 --seconds 60` writes generated events into
many logs. At the end it prints one JSON object with the number of `events` and the times at which it `began` and
`ended`. These times, and `written_at` in each generated event, are seconds of the system-wide monotonic clock.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
TICK_S = 0.01
"""The interval at which a writer with a rate writes the events that are due."""


class LiveLog:
    """A log that is open for writing, and rotated by renaming as Cowrie does.

    Args:
        path: the live log; rotated logs are called `PATH.1`, `PATH.2` and so on.
        rotate_bytes: rotate the log once it has this size; None to never rotate it.
    """

    def __init__(self, path: Path, rotate_bytes: int | None = None) -> None:
        self._path = path
        self._rotate_bytes = rotate_bytes
        self._descriptor = os.open(path, APPEND, 0o644)
        self._bytes = 0
        self.rotations = 0

    def write(self, line: bytes) -> None:
        """Write one line."""
        if self._rotate_bytes is not None and self._bytes >= self._rotate_bytes:
            self.rotations += 1
            self._path.rename(self._path.with_name(f"{self._path.name}.{self.rotations}"))
            self.close()
            self._descriptor = os.open(self._path, APPEND, 0o644)
            self._bytes = 0
        self._bytes += os.write(self._descriptor, line)

    def close(self) -> None:
        """Close the log."""
        os.close(self._descriptor)


def make_event(log: int, number: int) -> bytes:
    """Return an event of about the length of a real one, with the time at which it was made.

    Args:
        log: the number of its log.
        number: its number in the log.
    """
    event = {
        "eventid": ("cowrie.session.connect", "cowrie.login.failed", "cowrie.session.closed")[number % 3],
        "session": f"{log:04x}{number // 3:08x}",
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime()),
        "src_ip": "198.51.100.9",
        "sensor": f"pot-{log}",
        "number": number,
        "message": "written by the benchmark of following, of about the length of a real event " * 2,
        "written_at": time.monotonic(),
    }
    return json.dumps(event, separators=(",", ":")).encode("ascii") + b"\n"


def copy(source: Path, target: Path, rotate_bytes: int | None = None, rate: float | None = None) -> dict[str, float]:
    """Copy a log line by line into another one.

    Args:
        source: the log to read.
        target: the log to write.
        rotate_bytes: rotate the target at this size; None to never rotate it.
        rate: lines a second; None for full speed.

    Returns:
        The number of `events` and `rotations`, and when it `began` and `ended`.
    """
    live = LiveLog(target, rotate_bytes)
    events = 0
    with source.open("rb") as lines:
        began = time.monotonic()
        while True:
            due = None if rate is None else max(1, int((time.monotonic() - began + TICK_S) * rate) - events)
            written = 0
            for line in islice(lines, due):
                live.write(line)
                written += 1
            events += written
            if due is None or written < due:
                break
            time.sleep(TICK_S)
        ended = time.monotonic()
    live.close()
    return {"events": events, "began": began, "ended": ended, "rotations": live.rotations}


def write_live(folder: Path, files: int, rate: float, seconds: float) -> dict[str, float]:
    """Write generated events into many logs in turns.

    Args:
        folder: the folder of the logs.
        files: how many logs.
        rate: events a second for each log.
        seconds: for how long.

    Returns:
        The number of `events`, and when it `began` and `ended`.
    """
    logs = [LiveLog(folder / f"pot-{number}.json") for number in range(files)]
    turns = _turns(files)
    events = 0
    began = time.monotonic()
    total = int(files * rate * seconds)
    while events < total:
        due = min(total, int((time.monotonic() - began) * files * rate))
        for log, number in islice(turns, due - events):
            logs[log].write(make_event(log, number))
        events = due
        time.sleep(TICK_S)
    ended = time.monotonic()
    for live_log in logs:
        live_log.close()
    return {"events": events, "began": began, "ended": ended}


def _turns(files: int) -> Iterator[tuple[int, int]]:
    """Yield the number of the next log and of its next event, endlessly."""
    number = 0
    while True:
        for log in range(files):
            yield log, number
        number += 1


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.honeypots", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    copying = kinds.add_parser("copy")
    copying.add_argument("source", type=Path)
    copying.add_argument("target", type=Path)
    copying.add_argument("--rotate-bytes", type=int)
    copying.add_argument("--rate", type=float)
    live = kinds.add_parser("live")
    live.add_argument("folder", type=Path)
    live.add_argument("--files", type=int, required=True)
    live.add_argument("--rate", type=float, required=True)
    live.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    if options.kind == "copy":
        report = copy(options.source, options.target, options.rotate_bytes, options.rate)
    else:
        report = write_live(options.folder, options.files, options.rate, options.seconds)
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
