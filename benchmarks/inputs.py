"""The inputs of the measurements: made once, kept in `bench-out/inputs`, removed when they take too much room."""

from __future__ import annotations

import fcntl
import gzip
import lzma
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import orjson
import zstandard

from benchmarks.generate_logs import write_log

PROJECT = Path(__file__).parents[1]
OUT = PROJECT / "bench-out"
INPUTS = OUT / "inputs"
WORK = OUT / "work"
KEPT_BYTES = 14_000_000_000
CHUNK_BYTES = 1 << 20
VERSION = 1
"""Goes up when an input of the same name would look different."""


def log(events: int, seed: int = 0) -> Path:
    """Return a plain log with so many events."""
    return made(f"log-{events}-{seed}.json", lambda path: write_log(path, events=events, seed=seed))


def log_of_size(size_bytes: int) -> Path:
    """Return a plain log of so many bytes."""
    return made(f"log-{size_bytes}-bytes.json", lambda path: write_log(path, size=size_bytes))


def one_line(size_bytes: int) -> Path:
    """Return a log whose second line is one event of so many bytes."""

    def make(path: Path) -> None:
        with path.open("wb") as out:
            out.write(_event(b"1", b"first") + b"\n")
            out.write(_event(b"2", b"\x00")[: -len(b'\x00"}')])
            _repeat(out, b"A" * CHUNK_BYTES, size_bytes)
            out.write(b'"}\n')
            out.write(_event(b"3", b"last") + b"\n")

    return made(f"one-line-{size_bytes}.json", make)


def bomb(size_bytes: int, *, zeros: bool) -> Path:
    """Return a small gzip file that becomes so many bytes: of NULs, or of one JSON string."""

    def make(path: Path) -> None:
        with gzip.open(path, "wb", compresslevel=9) as out:
            if not zeros:
                out.write(_event(b"1", b"first") + b'\n{"input":"')
            _repeat(out, (b"\x00" if zeros else b"A") * CHUNK_BYTES, size_bytes)

    return made(f"bomb-{'zeros' if zeros else 'string'}-{size_bytes}.json.gz", make)


def array_on_one_line(source: Path) -> Path:
    """Return the events of a plain log as one JSON array without a line break."""

    def make(path: Path) -> None:
        with source.open("rb") as lines, path.open("wb", buffering=CHUNK_BYTES) as out:
            before = b"["
            for line in lines:
                out.write(before + line.rstrip(b"\n"))
                before = b","
            out.write(b"]\n")

    return made(f"array-of-{source.stem}.json", make)


def pretty(source: Path) -> Path:
    """Return the events of a plain log as objects over several lines."""

    def make(path: Path) -> None:
        with source.open("rb") as lines, path.open("wb", buffering=CHUNK_BYTES) as out:
            for line in lines:
                out.write(orjson.dumps(orjson.loads(line), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))

    return made(f"pretty-{source.stem}.json", make)


def compressed(source: Path, form: str) -> Path:
    """Return a log compressed as `gz`, `xz` or `zst`, as the usual tool does it by default."""

    def make(path: Path) -> None:
        with source.open("rb") as plain, path.open("wb") as target:
            if form == "zst":
                zstandard.ZstdCompressor().copy_stream(plain, target)
            else:
                with gzip.open(target, "wb", 6) if form == "gz" else lzma.open(target, "wb", preset=6) as out:
                    shutil.copyfileobj(plain, out, CHUNK_BYTES)

    return made(f"{source.name}.{form}", make)


class BenchRuns(Exception):
    """Another benchmark runs: the two would slow each other, and share a folder."""


@contextmanager
def work_folder() -> Iterator[Path]:
    """Give an empty folder for databases, and remove it and all that is in it afterwards.

    Raises:
        BenchRuns: another process has it.
    """
    OUT.mkdir(exist_ok=True)
    with (OUT / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BenchRuns("another benchmark runs; wait for its end") from None
        shutil.rmtree(WORK, ignore_errors=True)
        WORK.mkdir(parents=True)
        try:
            yield WORK
        finally:
            shutil.rmtree(WORK, ignore_errors=True)


def copy_of_code(work: Path) -> Path:
    """Copy the packages into a folder and return it: `python -m` run there finds the copy first."""
    for package in ("cowrieprocessor", "benchmarks"):
        shutil.copytree(PROJECT / package, work / package, ignore=shutil.ignore_patterns("__pycache__"))
    return work


def remove_database(path: Path) -> None:
    """Remove an SQLite file and what stands beside it."""
    for beside in path.parent.glob(f"{path.name}*"):
        beside.unlink()


def _event(session: bytes, text: bytes) -> bytes:
    return (
        b'{"eventid":"cowrie.command.input","timestamp":"2026-01-01T00:00:0' + session + b'.000000Z","sensor":"s",'
        b'"session":"00000000000' + session + b'","message":"","input":"' + text + b'"}'
    )


def _repeat(out: BinaryIO | gzip.GzipFile, chunk: bytes, size_bytes: int) -> None:
    for done in range(0, size_bytes, len(chunk)):
        out.write(chunk[: size_bytes - done])


def made(name: str, make: Callable[[Path], object]) -> Path:
    """Return the input of that name, making it if it is not there."""
    path = INPUTS / name.replace(".", f"-v{VERSION}.", 1)
    if path.exists():
        os.utime(path)
        return path
    _make_room(0)
    part = path.with_name(f"{path.name}.part")
    make(part)
    part.rename(path)
    return path


def _make_room(wanted_bytes: int) -> None:
    """Remove the inputs that were used longest ago until the rest and the new one fit."""
    INPUTS.mkdir(parents=True, exist_ok=True)
    files = sorted(INPUTS.iterdir(), key=lambda path: path.stat().st_mtime)
    used = sum(path.stat().st_size for path in files)
    for path in files:
        if used + wanted_bytes <= KEPT_BYTES and not path.name.endswith(".part"):
            continue
        used -= path.stat().st_size
        path.unlink()
