"""Whole processes measured from outside: seconds of clock and of CPU, and peak memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ERROR_TAIL_CHARS = 2000
LAUNCHER = Path(__file__).with_name("launcher.py")
Command = Sequence[str | os.PathLike[str]]


class CommandFailed(Exception):
    """A measured command ended with a code that it should not end with."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one run of a process took; `output` is its standard output."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    returncode: int
    output: str


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several measurements, and the smallest and largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of some values."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Pair:
    """Two commands that were run in turns: A B A B and so on."""

    a: list[Usage]
    b: list[Usage]

    def wall_ratio(self) -> Spread:
        """Return how many times as long A took as B, from pair to pair."""
        return Spread.of([one.wall_s / other.wall_s for one, other in zip(self.a, self.b, strict=True)])

    def cpu_ratio(self) -> Spread:
        """Return how many times as much CPU A took as B, from pair to pair."""
        return Spread.of([one.cpu_s / max(other.cpu_s, 1e-3) for one, other in zip(self.a, self.b, strict=True)])


def run(command: Command, *, cwd: Path, allowed: Sequence[int] = (0,)) -> Usage:
    """Run a process to its end and measure it and the processes that it waited for.

    Its surroundings are the same whoever measures: no COWRIEPROC_ variables, dirty pages of others written before.

    Args:
        command: the program, by its path, and its arguments.
        cwd: the folder to run in.
        allowed: exit codes that are no failure.

    Raises:
        CommandFailed: it ended with another code; the message has the end of its standard error.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COWRIEPROC_")}
    os.sync()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as report:
        subprocess.run(
            [sys.executable, "-I", "-S", LAUNCHER, str(report.fileno()), *command],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            pass_fds=[report.fileno()],
            check=True,
        )
        for file in (out, err, report):
            file.seek(0)
        output, errors = out.read().decode(errors="replace"), err.read().decode(errors="replace")
        wall_s, cpu_s, peak_kib, returncode = map(float, report.read().split())
    if returncode not in allowed:
        shown = " ".join(os.fspath(part) for part in command[:6])
        raise CommandFailed(f"{shown} … ended with {returncode:.0f}:\n{errors[-ERROR_TAIL_CHARS:]}")
    return Usage(wall_s, cpu_s, int(peak_kib) * 1024, int(returncode), output)


def in_turns(a: Callable[[], Usage], b: Callable[[], Usage], pairs: int) -> Pair:
    """Run two measurements in turns, so that a machine that slows down slows both."""
    measured = Pair([], [])
    for _ in range(pairs):
        measured.a.append(a())
        measured.b.append(b())
    return measured
