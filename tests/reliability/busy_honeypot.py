"""A honeypot that never rests: it writes lines whole and in parts, and its logs are rotated in all ways that keep them.

Nothing that it wrote is ever destroyed: what is truncated was copied before, what is deleted was packed before.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import shutil
from collections import Counter
from pathlib import Path

from tests.rotation.honeypot import event_line

_NUMBERED = re.compile(r"cowrie\.json\.(\d+)(\.gz)?")
_COPY_CHUNK_BYTES = 700


class BusyHoneypot:
    """Writes `cowrie.json` in a folder.

    Attributes:
        folder: where the logs are.
        live: the log that it writes, whatever has become of the file.
        events: the lines of events that are written to their end.
        damaged: how many lines were written that are no events.

    Args:
        folder: an empty one.
        seed: of everything it does.
        packs: whether rotated logs are compressed.
    """

    def __init__(self, folder: Path, seed: int, *, packs: bool = True) -> None:
        self.folder = folder
        self.live = folder / "cowrie.json"
        self.events: list[bytes] = []
        self.damaged = 0
        self._seed = seed
        self._dice = random.Random(seed)
        self._packs = packs
        self._numbered = self._dice.random() < 0.5
        self._days = 0
        self._rest = b""
        self._log = self._open()

    def close(self) -> None:
        """Write the rest of a line, and let go of the log."""
        self.finish()
        os.close(self._log)

    def do_something(self, lines: int) -> None:
        """Do one thing: mostly write so many lines or fewer, now and then rotate."""
        chance = self._dice.random()
        if chance < 0.80:
            self.append(self._dice.randint(1, max(1, lines)))
        elif chance < 0.90:
            self.append(1)
            self.begin()
        elif chance < 0.94:
            self.rotate()
        elif chance < 0.96:
            self.copy_and_truncate()
        elif self._packs:
            self.compress()

    def append(self, lines: int) -> None:
        """Write lines, one of forty damaged; the first of a log is none of those."""
        self.finish()
        for _ in range(lines):
            line = event_line(self._seed, len(self.events))
            self._write(line + b"\n")
            self.events.append(line)
            if self._dice.random() < 0.025:
                self._write(f"not json {self.damaged}\n".encode())
                self.damaged += 1

    def begin(self) -> None:
        """Write a part of a line, which may end inside a character."""
        line = event_line(self._seed, len(self.events)) + b"\n"
        cut = self._dice.randint(1, len(line) - 1)
        self._write(line[:cut])
        self._rest = line[cut:]

    def finish(self) -> None:
        """Write the rest of a line that was begun."""
        if self._rest:
            self._write(self._rest)
            self._rest = b""
            self.events.append(event_line(self._seed, len(self.events)))

    def rotate(self) -> None:
        """Rename the log, write on into it for a while, and begin a new one, as Cowrie does."""
        if not self._begun():
            return
        self._make_room()
        self.live.rename(self._rotated_name())
        if self._dice.random() < 0.5:
            self.append(self._dice.randint(1, 4))
        self.finish()
        os.close(self._log)
        self._log = self._open()

    def copy_and_truncate(self) -> None:
        """Copy the log, which takes a while, and truncate it, as logrotate's `copytruncate` does."""
        self.finish()
        if not self._begun():
            return
        self._make_room()
        with self.live.open("rb") as log, self._rotated_name().open("wb", buffering=0) as copy:
            shutil.copyfileobj(log, copy, _COPY_CHUNK_BYTES)
        os.truncate(self.live, 0)

    def compress(self) -> None:
        """Pack a rotated log, and delete it then, as gzip does."""
        plain = [path for path in self.folder.iterdir() if path != self.live and path.suffix != ".gz"]
        if not plain:
            return
        path = self._dice.choice(sorted(plain))
        packed = path.with_name(path.name + ".gz")
        with path.open("rb") as log, gzip.open(packed, "wb") as archive:
            shutil.copyfileobj(log, archive, _COPY_CHUNK_BYTES)
        shutil.copystat(path, packed)
        path.unlink()

    def written(self) -> Counter[str]:
        """Return the events in the form in which `stored_events` gives them."""
        return Counter(plain(line.decode("utf-8", "surrogateescape")) for line in self.events)

    def _begun(self) -> bool:
        return self.live.stat().st_size > 0

    def _open(self) -> int:
        return os.open(self.live, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def _write(self, data: bytes) -> None:
        assert os.write(self._log, data) == len(data)

    def _rotated_name(self) -> Path:
        if self._numbered:
            return self.folder / "cowrie.json.1"
        self._days += 1
        return (
            self.folder
            / f"cowrie.json.{2020 + self._days // 336}-{1 + self._days // 28 % 12:02d}-{1 + self._days % 28:02d}"
        )

    def _make_room(self) -> None:
        """Rename `.1` to `.2` and so on, from the highest."""
        if not self._numbered:
            return
        found = [
            (int(match[1]), match[2] or "")
            for path in self.folder.iterdir()
            if (match := _NUMBERED.fullmatch(path.name))
        ]
        for number, packed in sorted(found, reverse=True):
            old = self.folder / f"cowrie.json.{number}{packed}"
            old.rename(self.folder / f"cowrie.json.{number + 1}{packed}")


def plain(payload: str) -> str:
    """Return a payload as it is compared: its fields, whatever their order and spelling."""
    return json.dumps(json.loads(payload), sort_keys=True)
