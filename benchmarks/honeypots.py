"""Honeypots at work: processes that write logs as Cowrie does, each event by a write of its own.

`python -m benchmarks.honeypots copy LOG TARGET --rotate-bytes 50000000 --rate 10000` writes the lines of a log into
another one; `python -m benchmarks.honeypots live FOLDER --files 200 --rate 5 --seconds 60` writes made-up events into
many. At the end one JSON object says how many `events` were written, and when it `began` and `ended`. These times, and
`written_at` in each made-up event, are seconds of the clock that all processes share and that only goes up.
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
TURN_S = 0.01
"""A writer that keeps a rate writes so often what is due."""


class LiveLog:
    """A log that is open for writing; with a limit it is renamed once it is larger, and begun anew, as Cowrie does.

    Args:
        path: the live log; `PATH.1`, `PATH.2` and so on are the ones that it was.
        rotate_bytes: the limit; None for none.
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
        """Close it."""
        os.close(self._descriptor)


def made_up(log: int, number: int) -> bytes:
    """Return an event, of about the length of a real one, that says when it was made."""
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
    """Write the lines of a log into another one.

    Args:
        source: the log to read.
        target: the log to write.
        rotate_bytes: rotate when it is larger.
        rate: lines a second; None for as fast as it may.
    """
    live = LiveLog(target, rotate_bytes)
    events = 0
    with source.open("rb") as lines:
        began = time.monotonic()
        while True:
            due = None if rate is None else max(1, int((time.monotonic() - began + TURN_S) * rate) - events)
            written = 0
            for line in islice(lines, due):
                live.write(line)
                written += 1
            events += written
            if due is None or written < due:
                break
            time.sleep(TURN_S)
        ended = time.monotonic()
    live.close()
    return {"events": events, "began": began, "ended": ended, "rotations": live.rotations}


def write_live(folder: Path, files: int, rate: float, seconds: float) -> dict[str, float]:
    """Write made-up events into many logs, one after the other, so that each gets `rate` a second."""
    logs = [LiveLog(folder / f"pot-{number}.json") for number in range(files)]
    turns = _turns(files)
    events = 0
    began = time.monotonic()
    total = int(files * rate * seconds)
    while events < total:
        due = min(total, int((time.monotonic() - began) * files * rate))
        for log, number in islice(turns, due - events):
            logs[log].write(made_up(log, number))
        events = due
        time.sleep(TURN_S)
    ended = time.monotonic()
    for one in logs:
        one.close()
    return {"events": events, "began": began, "ended": ended}


def _turns(files: int) -> Iterator[tuple[int, int]]:
    """Yield which log is next, and which event of it, endlessly."""
    number = 0
    while True:
        for log in range(files):
            yield log, number
        number += 1


def main() -> None:
    """Write as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.honeypots", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    one = kinds.add_parser("copy")
    one.add_argument("source", type=Path)
    one.add_argument("target", type=Path)
    one.add_argument("--rotate-bytes", type=int)
    one.add_argument("--rate", type=float)
    many = kinds.add_parser("live")
    many.add_argument("folder", type=Path)
    many.add_argument("--files", type=int, required=True)
    many.add_argument("--rate", type=float, required=True)
    many.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    if given.kind == "copy":
        told = copy(given.source, given.target, given.rotate_bytes, given.rate)
    else:
        told = write_live(given.folder, given.files, given.rate, given.seconds)
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
