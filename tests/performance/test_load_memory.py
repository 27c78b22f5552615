"""How much memory a load takes, whatever it reads. Nothing here looks at the clock."""

from __future__ import annotations

import gzip
import sqlite3
from pathlib import Path

import pytest

from tests.command_line import peak_memory_bytes
from tests.logs import FORMS, events

LIMIT_BYTES = 200 * 1000 * 1000
MEBIBYTE = 1 << 20


def _line_of_200_mb(path: Path) -> None:
    with path.open("wb") as log:
        log.write(FORMS["lines"](events(2)) + b'{"eventid":"x","session":"s","input":"')
        for _ in range(200):
            log.write(b"A" * MEBIBYTE)
        log.write(b'"}\n' + FORMS["lines"](events(3, start=50)))


def _bomb(path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=6) as log:
        log.write(FORMS["lines"](events(5)))
        for _ in range(300):
            log.write(b'{"a":"' + b"A" * MEBIBYTE)


def _array_on_one_line(path: Path) -> None:
    with path.open("wb") as log:
        log.write(b"[")
        for start in range(0, 60_000, 1000):
            log.write(",".join(events(1000, start=start % 27_000, session=f"{start:04x}")).encode() + b",")
        log.write(b"{}]\n")


def _millions_of_brackets(path: Path) -> None:
    inner = b"{}," * (600_000)
    path.write_bytes(FORMS["lines"](events(5)) + (b'{"eventid":"x","l":[' + inner + b"{}]}\n") * 5)


def _nul_run(path: Path) -> None:
    with path.open("wb") as log:
        log.truncate(400 * MEBIBYTE)
        log.seek(0, 2)
        log.write(FORMS["lines"](events(5)))


@pytest.mark.parametrize(
    ("make", "name", "stored"),
    [
        (_line_of_200_mb, "cowrie.json", 5),
        (_bomb, "cowrie.json.gz", 5),
        (_array_on_one_line, "cowrie.json", 60_001),
        (_millions_of_brackets, "cowrie.json", 10),
        (_nul_run, "cowrie.json", 5),
    ],
    ids=["a line of 200 MB", "a gzip bomb", "an array on one line", "millions of brackets", "a run of NULs"],
)
def test_memory_is_bounded(tmp_path: Path, make: object, name: str, stored: int) -> None:
    """A load stays below 200 MB, and stores what can be stored."""
    log, db = tmp_path / name, tmp_path / "x.sqlite"
    make(log)  # type: ignore[operator]

    code, peak_bytes = peak_memory_bytes("load", log, "--db", db)

    assert code in {0, 3}
    assert peak_bytes < LIMIT_BYTES
    with sqlite3.connect(db) as connection:
        assert (stored,) == connection.execute("SELECT count(*) FROM raw_events").fetchone()
    connection.close()
