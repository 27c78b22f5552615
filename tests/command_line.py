"""The program as its users run it: a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = [sys.executable, "-m", "cowrieprocessor"]


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program to its end, without a terminal."""
    return subprocess.run([*PROGRAM, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, check=False)


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start the program with its output in pipes."""
    return subprocess.Popen([*PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def peak_memory_bytes(*arguments: object) -> tuple[int, int]:
    """Run the program; return its exit code and the peak memory of its largest process, in bytes."""
    with Path(os.devnull).open("wb") as nothing:
        process = subprocess.Popen([*PROGRAM, *map(str, arguments)], stdout=nothing, stderr=nothing)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * 1024
