"""The inputs of the measurements: made once, kept in `bench-out/inputs`, removed when they take too much space."""

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
"""Increased when the contents of an input change but its name does not."""


class Inputs:
    """The inputs that are kept in one folder; each is made when it is first needed.

    Args:
        folder: where they are kept; it is made if it does not exist.
        kept_bytes: how much space they may take; the least recently used are removed first.
    """

    def __init__(self, folder: Path = INPUTS, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._folder = folder
        self._kept_bytes = kept_bytes

    def made(self, name: str, make: Callable[[Path], object]) -> Path:
        """Return the input with this name; make it if it does not exist.

        Args:
            name: the file name, without a version.
            make: writes the input to a path.
        """
        path = self._folder / name.replace(".", f"-v{VERSION}.", 1)
        if path.exists():
            os.utime(path)
            return path
        self._make_room()
        unfinished = path.with_name(f"{path.name}.part")
        make(unfinished)
        unfinished.rename(path)
        return path

    def _make_room(self) -> None:
        """Remove unfinished inputs, and the least recently used ones until the others fit."""
        self._folder.mkdir(parents=True, exist_ok=True)
        files = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime)
        used_bytes = sum(path.stat().st_size for path in files)
        for path in files:
            if used_bytes <= self._kept_bytes and not path.name.endswith(".part"):
                continue
            used_bytes -= path.stat().st_size
            path.unlink()

    def log(self, events: int, seed: int = 0) -> Path:
        """Return a plain log with this number of events."""
        return self.made(f"log-{events}-{seed}.json", lambda path: write_log(path, events=events, seed=seed))

    def log_of_size(self, size_bytes: int) -> Path:
        """Return a plain log of this size."""
        return self.made(f"log-{size_bytes}-bytes.json", lambda path: write_log(path, size=size_bytes))

    def one_line(self, size_bytes: int) -> Path:
        """Return a log of three lines whose second is an event of this size."""

        def make(path: Path) -> None:
            with path.open("wb") as out:
                out.write(_event(b"1", b"first") + b"\n")
                out.write(_event(b"2", b"\x00")[: -len(b'\x00"}')])
                _repeat(out, b"A" * CHUNK_BYTES, size_bytes)
                out.write(b'"}\n')
                out.write(_event(b"3", b"last") + b"\n")

        return self.made(f"one-line-{size_bytes}.json", make)

    def bomb(self, size_bytes: int, *, zeros: bool) -> Path:
        """Return a small gzip file that expands to this size: NULs, or one JSON string."""

        def make(path: Path) -> None:
            with gzip.open(path, "wb", compresslevel=9) as out:
                if not zeros:
                    out.write(_event(b"1", b"first") + b'\n{"input":"')
                _repeat(out, (b"\x00" if zeros else b"A") * CHUNK_BYTES, size_bytes)

        return self.made(f"bomb-{'zeros' if zeros else 'string'}-{size_bytes}.json.gz", make)

    def array_on_one_line(self, source: Path) -> Path:
        """Return the events of a plain log as one JSON array without a line break."""

        def make(path: Path) -> None:
            with source.open("rb") as lines, path.open("wb", buffering=CHUNK_BYTES) as out:
                separator = b"["
                for line in lines:
                    out.write(separator + line.rstrip(b"\n"))
                    separator = b","
                out.write(b"]\n")

        return self.made(f"array-of-{source.stem}.json", make)

    def pretty(self, source: Path) -> Path:
        """Return the events of a plain log, pretty-printed."""

        def make(path: Path) -> None:
            with source.open("rb") as lines, path.open("wb", buffering=CHUNK_BYTES) as out:
                for line in lines:
                    out.write(orjson.dumps(orjson.loads(line), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))

        return self.made(f"pretty-{source.stem}.json", make)

    def compressed(self, source: Path, form: str) -> Path:
        """Return a log compressed as `gz`, `xz` or `zst`, at the default level of the usual tool."""

        def make(path: Path) -> None:
            with source.open("rb") as plain, path.open("wb") as target:
                if form == "zst":
                    zstandard.ZstdCompressor().copy_stream(plain, target)
                else:
                    with gzip.open(target, "wb", 6) if form == "gz" else lzma.open(target, "wb", preset=6) as out:
                        shutil.copyfileobj(plain, out, CHUNK_BYTES)

        return self.made(f"{source.name}.{form}", make)


class BenchRuns(Exception):
    """Another benchmark is running: both would slow down, and they would share a folder."""


@contextmanager
def work_folder() -> Iterator[Path]:
    """Yield an empty folder for databases, and remove it afterwards.

    Raises:
        BenchRuns: another process uses the folder.
    """
    OUT.mkdir(exist_ok=True)
    with (OUT / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BenchRuns("another benchmark is running; wait for its end") from None
        shutil.rmtree(WORK, ignore_errors=True)
        WORK.mkdir(parents=True)
        try:
            yield WORK
        finally:
            shutil.rmtree(WORK, ignore_errors=True)


def copy_code(folder: Path) -> Path:
    """Copy the package and the benchmarks into a folder and return it: `python -m` run there imports the copy."""
    for package in ("cowrieprocessor", "benchmarks"):
        shutil.copytree(PROJECT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def remove_database(path: Path) -> None:
    """Remove an SQLite file with its write-ahead log and other companion files."""
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def _event(session: bytes, text: bytes) -> bytes:
    return (
        b'{"eventid":"cowrie.command.input","timestamp":"2026-01-01T00:00:0' + session + b'.000000Z","sensor":"s",'
        b'"session":"00000000000' + session + b'","message":"","input":"' + text + b'"}'
    )


def _repeat(out: BinaryIO | gzip.GzipFile, chunk: bytes, size_bytes: int) -> None:
    for done in range(0, size_bytes, len(chunk)):
        out.write(chunk[: size_bytes - done])
