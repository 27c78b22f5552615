"""Measure whole processes from outside: wall time, CPU time and peak memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ERROR_TAIL_CHARS = 2000
LAUNCHER = Path(__file__).with_name("launcher.py")
Command = Sequence[str | os.PathLike[str]]


class CommandFailed(Exception):
    """A measured command ended with an unexpected exit code, or did not do what it should."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The resources that one run of a process used.

    Attributes:
        wall_s: seconds of wall time.
        cpu_s: seconds of user and system CPU time.
        peak_bytes: peak resident memory.
        returncode: its exit code.
        output: its standard output.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int
    returncode: int
    output: str


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, minimum and maximum of several measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of one or more values."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Pair:
    """Measurements of two commands that were run in turns, A B A B."""

    a: list[Usage]
    b: list[Usage]

    def wall_ratio(self) -> Spread:
        """Return the wall time of A over that of B, within each pair."""
        return Spread.of([a.wall_s / b.wall_s for a, b in zip(self.a, self.b, strict=True)])

    def cpu_ratio(self) -> Spread:
        """Return the CPU time of A over that of B, within each pair."""
        return Spread.of([a.cpu_s / max(b.cpu_s, 1e-3) for a, b in zip(self.a, self.b, strict=True)])


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for a measured process: this one's, without settings of cowrieprocessor.

    Args:
        variables: variables to add.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COWRIEPROC_")}
    return inherited | dict(variables or {})


def run(
    command: Command, *, cwd: Path, allowed: Sequence[int] = (0,), variables: Mapping[str, str] | None = None
) -> Usage:
    """Run a process to its end and measure it together with the processes that it started.

    Dirty pages of other processes are written before, and settings of cowrieprocessor are removed from the environment.

    Args:
        command: the path of the program, and its arguments.
        cwd: the working directory.
        allowed: exit codes that are no failure.
        variables: environment variables to add.

    Raises:
        CommandFailed: it ended with another exit code; the message has the end of its standard error.
    """
    os.sync()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as report:
        subprocess.run(
            [sys.executable, "-I", "-S", LAUNCHER, str(report.fileno()), *command],
            cwd=cwd,
            env=environment(variables),
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
    """Run two measurements in turns, so that a machine that slows down slows both.

    Args:
        a: measures A.
        b: measures B.
        pairs: how often to run each.
    """
    measured = Pair([], [])
    for _ in range(pairs):
        measured.a.append(a())
        measured.b.append(b())
    return measured
