"""Logs for tests: events as Cowrie writes them, in every form that a log can have, and hostile ones."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import zstandard
from sqlalchemy import Engine, func, select

from cowrieprocessor.db.engine import read_transaction

FORMS: dict[str, Callable[[list[str]], bytes]] = {
    "lines": lambda lines: "".join(f"{line}\n" for line in lines).encode(),
    "crlf": lambda lines: b"\xef\xbb\xbf" + "".join(f"{line}\r\n" for line in lines).encode(),
    "pretty": lambda lines: "".join(json.dumps(json.loads(line), indent=2) + "\n" for line in lines).encode(),
    "array": lambda lines: json.dumps([json.loads(line) for line in lines]).encode() + b"\n",
    "pretty array": lambda lines: json.dumps([json.loads(line) for line in lines], indent=4).encode() + b"\n",
    "gzip": lambda lines: gzip.compress("".join(f"{line}\n" for line in lines).encode()),
    "bzip2": lambda lines: bz2.compress("".join(f"{line}\n" for line in lines).encode()),
    "xz": lambda lines: lzma.compress("".join(f"{line}\n" for line in lines).encode()),
    "zstd": lambda lines: zstandard.compress("".join(f"{line}\n" for line in lines).encode()),
    "gzipped array": lambda lines: gzip.compress(json.dumps([json.loads(line) for line in lines]).encode()),
}


def events(count: int = 40, *, start: int = 0, session: str = "5e55") -> list[str]:
    """Return log lines: sessions of ten events with a login, commands and files."""
    lines = []
    for number in range(start, start + count):
        name = f"{session}{number // 10:08x}"
        stamp = f"2026-03-{1 + number // 1000:02d}T{number // 60 % 24:02d}:{number % 60:02d}:00.{number:06d}Z"
        base: dict[str, object] = {"session": name, "timestamp": stamp, "sensor": "hp1", "src_ip": "198.51.100.7"}
        step = number % 10
        if step == 0:
            base |= {"eventid": "cowrie.session.connect", "protocol": "ssh"}
        elif step == 1:
            base |= {"eventid": "cowrie.login.success", "username": "root", "password": "1234"}
        elif step == 2:
            base |= {
                "eventid": "cowrie.session.file_download",
                "shasum": f"{number % 7:064x}",
                "destfile": f"/tmp/f{number}",
            }
        elif step == 3:
            base |= {"eventid": "cowrie.session.file_upload", "shasum": f"{number % 5:064x}", "filename": "up"}
        else:
            base |= {"eventid": "cowrie.command.input", "input": f"echo {number % 3}"}
        lines.append(json.dumps(base))
    return lines


def write(path: Path, lines: list[str], form: str = "lines") -> Path:
    """Write a log in one of the forms."""
    path.write_bytes(FORMS[form](lines))
    return path


def count(engine: Engine, model: type, *where: object) -> int:
    """Return how many rows a table has."""
    with read_transaction(engine) as connection:
        return connection.execute(select(func.count()).select_from(model).where(*where)).scalar_one()  # type: ignore[arg-type]


def hostile_lines() -> list[str]:
    """Return lines that have broken loaders: hostile text, odd types, odd numbers."""
    base = {"session": "bad0bad0bad0", "timestamp": "2026-01-01T00:00:00.000000Z"}
    command, download = "cowrie.command.input", "cowrie.session.file_download"
    odd: list[dict[str, object]] = [
        {**base, "eventid": command, "input": "a\0b\x1b[31m\u202e\ufeff\U0001f4a9 \\ ' \" % ? :x {0}"},
        {**base, "eventid": command, "input": "x" * 100_000},
        {**base, "eventid": command, "input": ["a", "list"]},
        {**base, "eventid": command, "input": "Ä" * 600},
        {**base, "eventid": "cowrie.login.failed", "username": "\0" * 300, "password": "\x80"},
        {**base, "eventid": download, "shasum": "AB" * 32, "destfile": "/tmp/\0\x1b\u202e\\" + "n" * 600},
        {**base, "eventid": download, "shasum": "cd" * 32, "url": "ftp://u:p@198.51.100.9/" + "ü" * 1100},
        {**base, "eventid": "something.new", "extra": {"deep": [1, {"er": None}]}},
        {**base, "eventid": "cowrie.session.connect", "src_ip": "2001:db8::1", "protocol": "telnet" * 9},
        {**base, "sensor": "s" * 60, "eventid": "cowrie.client.kex", "hassh": "h" * 50},
        {"session": "zz", "eventid": "cowrie.session.connect", "timestamp": 1767225600.25},
        {"session": "zz", "eventid": "cowrie.session.closed", "timestamp": 1767225600123},
        {"session": "zz", "eventid": "cowrie.session.closed", "timestamp": "2026-01-01T05:30:00.5+05:30"},
        {"session": "y1", "eventid": "cowrie.session.connect", "timestamp": "0001-01-01T00:00:00.000000+0200"},
        {"session": "y1", "eventid": "cowrie.session.connect", "timestamp": "0001-01-01T00:00:00.000000Z"},
        {"session": "y9", "eventid": "cowrie.session.connect", "timestamp": "9999-12-31T23:59:59.999999Z"},
        {"session": 12345, "eventid": "cowrie.session.connect", "timestamp": "2026-01-01T00:00:00Z"},
        {"session": "", "eventid": "", "timestamp": ""},
        {"eventid": "cowrie.session.connect"},
        {"session": ["a"], "eventid": "cowrie.session.connect"},
        {"session": "s" * 65, "eventid": "cowrie.session.connect"},
        {"session": "n\0", "eventid": "cowrie.session.connect"},
        {},
    ]
    nested, deeper = ('{"session":"n","x":' + "[" * depth + "]" * depth + "}" for depth in (1010, 2000))
    return [
        *(json.dumps(one) for one in odd),
        json.dumps(odd[0], ensure_ascii=False),
        nested,
        deeper,
        '{"session":"d1","session":"d2","eventid":"x"}',
        '{"session":"l","eventid":"x","input":"\\ud800"}',
        '{"session":"n","eventid":"x","n":NaN}',
        '{"session":"n","eventid":"x","n":' + "9" * 5000 + "}",
        '{"session":"n","eventid":"x","n":18446744073709551616}',
        "[1,2]",
        '"text"',
    ]
