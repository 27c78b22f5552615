"""Random sets of logs of one honeypot, and random ways to load them: what is stored must not depend on the way.

The logs of a set overlap, repeat blocks, are cut at any byte, compressed, copied, written in another form, damaged and
split over two files. A way to load lets them grow in pieces of any size while either loader reads them at any time;
clock and mtimes are part of it.
"""

from __future__ import annotations

import gzip
import json
import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from sqlalchemy import Engine

from cowrieprocessor.settings import Settings
from tests.loading import LOADERS, read_by
from tests.logs import FORMS, events

PLAIN_FORMS = ("lines", "lines", "lines", "lines", "crlf", "pretty", "array", "pretty array")
BEGAN_AT = 1_780_000_000.0
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


def key(line: str) -> str:
    """Return an event as `tests.loading.stored` spells it."""
    return json.dumps(json.loads(line), sort_keys=True)


@dataclass
class Log:
    """A log as it is in the end.

    Attributes:
        name: its path below the folder of the set.
        content: its bytes, decompressed.
        events: how often it holds each event undamaged.
        is_compressed: whether the file is a gzip file, which comes whole.
        halves: events of which it holds one half, and another log the other.
        is_damaged: whether bytes in its middle are destroyed.
    """

    name: str
    content: bytes
    events: Counter[str]
    is_compressed: bool = False
    halves: set[str] = field(default_factory=set)
    is_damaged: bool = False


class LogSet:
    """Some logs, made from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        stream = list(map(_with_downloads, events(self.random.randrange(4, 40))))
        self._stream = stream + [self.random.choice(stream) for _ in range(self.random.randrange(4))]
        self.logs: list[Log] = []
        self._lines: list[list[str]] = []
        for _ in range(self.random.randrange(1, 4)):
            self._add_log()
        for _ in range(self.random.randrange(4)):
            self.random.choice((self._add_copy, self._add_damaged, self._add_damaged, self._add_cut, self._add_split))()

    def expected(self) -> Counter[str]:
        """Return how often each event must be stored: as often as in the log that has most of it."""
        most: Counter[str] = Counter()
        for log in self.logs:
            most |= log.events
            most |= Counter(log.halves)
        return most

    @property
    def is_damaged(self) -> bool:
        """Whether any log has destroyed bytes in its middle."""
        return any(log.is_damaged for log in self.logs)

    def _name(self, suffix: str = "") -> str:
        """Return the path of a further log: each is a pot of its own, so that only halves meant so are joined."""
        base = self.random.choice(("cowrie.json", "cowrie.json", "cowrie.json.2026-03-01"))
        return f"{len(self.logs)}/{base}{suffix}"

    def _add(self, content: bytes, held: Counter[str], name: str | None = None) -> Log:
        is_compressed = self.random.random() < 0.25
        log = Log((name or self._name()) + ".gz" * is_compressed, content, held, is_compressed)
        self.logs.append(log)
        return log

    def _add_log(self) -> None:
        lines: list[str] = []
        for _ in range(self.random.randrange(1, 4)):
            start = self.random.randrange(len(self._stream))
            block = self._stream[start : start + self.random.randrange(1, 20)]
            lines += block * self.random.choice((1, 1, 1, 2))
        self._lines.append(lines)
        self._add(FORMS[self.random.choice(PLAIN_FORMS)](lines), Counter(map(key, lines)))

    def _add_copy(self) -> None:
        lines = self.random.choice(self._lines)
        self._add(FORMS["lines"](lines), Counter(map(key, lines)))

    def _add_cut(self) -> None:
        """Add the beginning of a log, cut at any byte."""
        lines = self.random.choice(self._lines)
        content = FORMS["lines"](lines)
        cut = content[: self.random.randrange(1, len(content))]
        self._add(cut, Counter(map(key, lines[: _whole_lines(cut, lines)])))

    def _add_damaged(self) -> None:
        """Add a copy of a log of which bytes are overwritten, or lost as NULs, in some lines."""
        lines = self.random.choice(self._lines)
        content = bytearray(FORMS["lines"](lines))
        starts = [0, *accumulate(len(line.encode()) + 1 for line in lines)]
        damaged: set[int] = set()
        for _ in range(self.random.randrange(1, 3)):
            first = self.random.randrange(len(lines))
            last = min(len(lines) - 1, first + self.random.choice((0, 0, 0, 1, 3)))
            if self.random.random() < 0.5:
                for number in range(first, last + 1):
                    content[starts[number] + 10 : starts[number] + 20] = b"{" * 10
            else:
                begin = self.random.randrange(starts[first] + 1, starts[first + 1] - 2)
                end = self.random.randrange(max(begin, starts[last]) + 1, starts[last + 1] - 1)
                content[begin:end] = bytes(end - begin)
            damaged |= set(range(first, last + 1))
        held = Counter(key(line) for number, line in enumerate(lines) if number not in damaged)
        self._add(bytes(content), held).is_damaged = True

    def _add_split(self) -> None:
        """Add a log that was rotated at any byte."""
        lines = self.random.choice(self._lines)
        content = FORMS["lines"](lines)
        cut = self.random.randrange(1, len(content))
        whole = _whole_lines(content[:cut], lines)
        is_torn = content[:cut] != FORMS["lines"](lines[:whole])[:cut]
        pot = len(self.logs)
        ends = self._add(content[:cut], Counter(map(key, lines[:whole])), f"{pot}/cowrie.json.2026-03-01")
        self._add(content[cut:], Counter(map(key, lines[whole + is_torn :])), f"{pot}/cowrie.json")
        if is_torn:
            ends.halves.add(key(lines[whole]))


def _with_downloads(line: str) -> str:
    """Return an event, some of them as further downloads: of one file from several URLs, and failed ones."""
    event = json.loads(line)
    number = int(event["timestamp"][-7:-1])
    url = f"http://203.0.113.9/{number % 4}.sh"
    if event["eventid"] == "cowrie.session.file_download":
        event |= {"url": url}
    elif event.get("input") == "echo 1":
        event |= {"eventid": "cowrie.session.file_download.failed", "url": url}
    elif event.get("input") == "echo 2":
        event |= {"eventid": "cowrie.session.file_download", "url": url, "shasum": f"{number % 2:064x}"}
    return json.dumps(event)


def _whole_lines(cut: bytes, lines: Sequence[str]) -> int:
    """Return how many events the beginning of a log holds whole; the last one needs no newline."""
    return cut.count(b"\n") + (cut.rpartition(b"\n")[2].decode() in lines)


class Way:
    """One way to load the logs of a set: they are written in pieces, and read in between, with any batch size."""

    def __init__(self, logs: Sequence[Log], folder: Path, seed: int) -> None:
        self._random = random.Random(seed)
        self._logs = logs
        self._folder = folder
        self._now = BEGAN_AT
        self.story: list[object] = [seed]

    def run(self, engine: Engine) -> None:
        """Write and read the logs until all is written and every file has been read after its last change."""
        written = [0] * len(self._logs)
        while unwritten := [n for n, log in enumerate(self._logs) if written[n] < len(log.content)]:
            number = self._random.choice(unwritten)
            written[number] = self._write(self._logs[number], written[number])
            self._now += self._random.choice((1.0, 1.0, 600.0, 2 * HOUR_S))
            while self._random.random() < 0.5:
                present = [n for n, length in enumerate(written) if length]
                self._read(engine, self._random.sample(present, self._random.randrange(1, len(present) + 1)))
        for _ in range(2):
            self._now += 2 * DAY_S
            for number in self._random.sample(range(len(self._logs)), len(self._logs)):
                self._read(engine, [number])

    def _write(self, log: Log, written: int) -> int:
        path = self._folder / log.name
        path.parent.mkdir(exist_ok=True, parents=True)
        until = len(log.content)
        if log.is_compressed:
            path.write_bytes(gzip.compress(log.content))
        else:
            if self._random.random() < 0.5:
                until = self._random.randrange(written + 1, until + 1)
            with path.open("ab") as file:
                file.write(log.content[written:until])
        os.utime(path, (self._now, self._now))
        self.story.append((log.name, until))
        return until

    def _read(self, engine: Engine, numbers: Sequence[int]) -> None:
        loader = self._random.choice(LOADERS)
        settings = Settings(batch_size=self._random.randrange(1, 9))
        paths = [self._folder / self._logs[number].name for number in numbers]
        self.story.append((loader, [self._logs[number].name for number in numbers], self._now - BEGAN_AT))
        read_by(loader, engine, paths, settings, clock=lambda: self._now)
