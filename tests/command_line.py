"""The program as its users run it: a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.reliability.fork_server import run_forked

PROGRAM = [sys.executable, "-m", "cowrieprocessor"]


def run(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end, without a terminal, in a process that has its modules already."""
    ended = run_forked([*map(str, arguments)], cwd=cwd, env=env)
    return subprocess.CompletedProcess(ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode())


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start the program with its output in pipes."""
    return subprocess.Popen([*PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


_MEASURE = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


def peak_memory_bytes(*arguments: object) -> tuple[int, int]:
    """Run the program; return its exit code and the peak memory of its largest process, in bytes.

    A small process starts it, because the kernel counts the memory of whoever starts a process into it.
    """
    command = [sys.executable, "-I", "-S", "-c", _MEASURE, *PROGRAM, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    code, peak_bytes = ended.stdout.split()
    return int(code), int(peak_bytes)
