"""Generate Cowrie logs of any size from a seed: `python -m benchmarks.generate_logs --events 1000000`.

Sessions are drawn from a pool and overlap in time as on a real sensor; their events are written in the order of their
timestamps. Addresses are those reserved for documentation and benchmarks.
"""

from __future__ import annotations

import argparse
import heapq
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import BinaryIO

from benchmarks.session_scripts import FILES, SESSION, SRC_IP, SRC_PORT, TIMESTAMP, Script, make_scripts

POOL_SCRIPTS = 3000
POOL_HASHES = 5000
NEW_HASH_SHARE = 0.04
TOP_HASH_SHARE = 0.35
JUNK_SHARE = 0.00003
SESSIONS_PER_DAY = 15_000
START = 1_767_225_600  # 2026-01-01
WRITE_BYTES = 1 << 20
DAY_S = 86_400

_EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
_NEWLINE = "01ba4719c80b6fe911b091a7c05124b64eeece964e09c058ef8f9805daca546b"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", re.IGNORECASE)
_JUNK = (
    b'{"eventid":"cowrie.session.connect","src_ip":"198.18.0.9","src_p\n',
    b"\x00\x00\x00\x00\x00\x00\x00\x00\n",
    b"Traceback (most recent call last):\n",
    b'{"eventid":"cowrie.command.input","input":"\xff\xfe","session":"000000000000"}\n',
)


@dataclass(slots=True)
class LogSummary:
    """The logs that were written.

    Attributes:
        paths: the logs, in the order of their events.
        events: number of events.
        bytes: total size.
        junk_lines: number of lines that are no events.
    """

    paths: list[Path] = field(default_factory=list)
    events: int = 0
    bytes: int = 0
    junk_lines: int = 0


def write_log(
    path: Path | str,
    *,
    events: int | None = None,
    size: int | None = None,
    seed: int = 0,
    files: int = 1,
    junk: bool = False,
    sensor: str = "sensor-1",
) -> LogSummary:
    """Write a log, or several as daily rotation would leave them, and return a summary.

    Args:
    path: the log; its folder is made if it is missing. With several files the last one, and earlier ones have a
            date: `cowrie.json.2026-01-01`.
        events: how many events to write, junk lines not counted; give this or `size`.
        size: how many bytes to write, to within one line.
        seed: the same seed gives the same bytes.
        files: number of files, with about equally many events.
        junk: add 0.003 % of lines that are no events, as in real logs.
        sensor: name of the sensor.

    Raises:
        ValueError: neither or both of `events` and `size` are given, or `files` is not positive.
    """
    if (events is None) == (size is None):
        raise ValueError("give either events or size")
    if files < 1:
        raise ValueError("files has to be at least 1")
    summary = LogSummary()
    lines = LogStream(seed, sensor, junk)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, files + 1):
        name = Path(path)
        if number < files:
            day = time.strftime("%Y-%m-%d", time.gmtime(START + (number - 1) * DAY_S))
            name = name.with_name(f"{name.name}.{day}")
        with name.open("wb") as out:
            lines.write(
                out,
                events_until=None if events is None else events * number // files,
                bytes_until=None if size is None else size * number // files,
            )
        summary.paths.append(name)
    summary.events, summary.bytes, summary.junk_lines = lines.events, lines.bytes, lines.junk_lines
    return summary


def write_stream(
    out: BinaryIO,
    *,
    events: int | None = None,
    size: int | None = None,
    seed: int = 0,
    junk: bool = False,
    sensor: str = "sensor-1",
) -> LogSummary:
    """Write a log to an open binary file; arguments as for `write_log`."""
    lines = LogStream(seed, sensor, junk)
    lines.write(out, events_until=events, bytes_until=size)
    return LogSummary([], lines.events, lines.bytes, lines.junk_lines)


class LogStream:
    """The endless log of one sensor, which is written in pieces.

    Args:
        seed: the same seed gives the same bytes.
        sensor: name of the sensor.
        junk: add 0.003 % of lines that are no events.
    """

    def __init__(self, seed: int = 0, sensor: str = "sensor-1", junk: bool = False) -> None:
        self._rng = Random(f"{seed}/{sensor}")
        self._stream = self._events(sensor)
        self._junk = junk
        self._next_junk = self._gap()
        self.events = 0
        self.bytes = 0
        self.junk_lines = 0

    def write(self, out: BinaryIO, *, events_until: int | None = None, bytes_until: int | None = None) -> None:
        """Write lines until the log has this total number of events or bytes."""
        events_end = sys.maxsize if events_until is None else events_until
        bytes_end = sys.maxsize if bytes_until is None else bytes_until
        stream, events, bytes_done = self._stream, self.events, self.bytes
        buffer: list[str] = []
        buffered = 0
        while events < events_end and bytes_done + buffered < bytes_end:
            line = next(stream)
            buffer.append(line)
            buffered += len(line)
            events += 1
            if buffered >= WRITE_BYTES or events == self._next_junk:
                out.write("".join(buffer).encode("ascii"))
                bytes_done += buffered
                buffer.clear()
                buffered = 0
                if events == self._next_junk:
                    bytes_done += self._write_junk(out)
        out.write("".join(buffer).encode("ascii"))
        self.events, self.bytes = events, bytes_done + buffered

    def _write_junk(self, out: BinaryIO) -> int:
        self._next_junk += self._gap()
        if not self._junk:
            return 0
        self.junk_lines += 1
        return out.write(_JUNK[self.junk_lines % len(_JUNK)])

    def _gap(self) -> int:
        """Return the number of events until the next junk line."""
        return int(self._rng.expovariate(JUNK_SHARE)) + 1

    def _events(self, sensor: str) -> Iterator[str]:
        """Yield lines ordered by time; the number of sessions a day determines how many overlap."""
        rng = self._rng
        scripts = make_scripts(rng, POOL_SCRIPTS, sensor)
        hashes = [f"{rng.getrandbits(256):064x}" for _ in range(POOL_HASHES)]
        hashes[20], hashes[30] = _EMPTY, _NEWLINE
        microseconds = 1_000_000
        mean_gap = DAY_S * microseconds / SESSIONS_PER_DAY
        next_session = START * microseconds
        running: list[tuple[int, int, list[str], int, list[int]]] = []
        number = 0
        second, second_text = -1, ""
        while True:
            if not running or running[0][0] >= next_session:
                script = scripts[int(rng.random() * POOL_SCRIPTS)]
                text = _fill(script, rng, hashes)
                pace = 0.5 + rng.random()
                times = [next_session + int(s * pace * microseconds) for s in script.offsets_s]
                number += 1
                heapq.heappush(running, (times[0], number, text.split("\n"), 0, times))
                next_session += int(rng.expovariate(1.0) * mean_gap)
                continue
            now, tie, lines, index, times = running[0]
            if now // microseconds != second:
                second = now // microseconds
                second_text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
            yield lines[index].replace(TIMESTAMP, f"{second_text}{now % microseconds:06}Z") + "\n"
            index += 1
            if index < len(lines):
                heapq.heapreplace(running, (times[index], tie, lines, index, times))
            else:
                heapq.heappop(running)


def _fill(script: Script, rng: Random, hashes: list[str]) -> str:
    """Return the lines of a session with all placeholders replaced except the timestamps."""
    bits = rng.getrandbits(16)
    port = str(1024 + rng.getrandbits(15))
    text = script.text.replace(SESSION, f"{rng.getrandbits(48):012x}").replace(SRC_PORT, port)
    text = text.replace(SRC_IP, f"198.{18 + (bits & 1)}.{(bits >> 1) & 127}.{bits >> 8}")
    for marker in FILES[: script.files]:
        text = text.replace(marker, _choose_hash(rng, hashes))
    return text


def _choose_hash(rng: Random, hashes: list[str]) -> str:
    """Return the most frequent hash, a new one, or one of the pool, where earlier ones are more likely."""
    chance = rng.random()
    if chance < TOP_HASH_SHARE:
        return hashes[0]
    if chance < TOP_HASH_SHARE + NEW_HASH_SHARE:
        return f"{rng.getrandbits(256):064x}"
    return hashes[int(POOL_HASHES * rng.random() ** 4)]


def parse_size(text: str) -> int:
    """Return the number of bytes in a size such as `500MB`, `2GB` or `1.5 G`; units are powers of 1000.

    Raises:
        ValueError: the text is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is no size: write 500MB or 2GB")
    return int(float(match[1]) * 1000 ** ("kmgt".find(match[2].lower()) + 1 if match[2] else 0))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generate_logs", description=__doc__)
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--events", type=int, metavar="N", help="number of events")
    amount.add_argument("--size", type=parse_size, metavar="BYTES", help="number of bytes: 500MB, 2GB")
    parser.add_argument("--out", default="-", metavar="FILE", help="the log; - is standard output (default)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same log (default: 0)")
    parser.add_argument("--files", type=int, default=1, metavar="N", help="rotate into N files (default: 1)")
    parser.add_argument("--sensor", default="sensor-1", help="name of the sensor (default: sensor-1)")
    parser.add_argument("--junk", action="store_true", help="add 0.003 %% of lines that are no events")
    options = parser.parse_args()
    amounts = {"events": options.events, "size": options.size, "seed": options.seed, "junk": options.junk}
    started = time.perf_counter()
    if options.out == "-":
        summary = write_stream(sys.stdout.buffer, sensor=options.sensor, **amounts)
    else:
        summary = write_log(options.out, files=options.files, sensor=options.sensor, **amounts)
    seconds = time.perf_counter() - started
    rate = summary.bytes / seconds / 1e6
    print(f"{summary.events} events, {summary.bytes} bytes, {rate:.0f} MB/s", file=sys.stderr)


if __name__ == "__main__":
    main()
