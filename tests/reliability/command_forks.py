"""Commands of the program that a test starts, ends and kills: forked, or as users start them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.command_line import PROGRAM
from tests.reliability.fork_server import Fork, fork_server

PROJECT = Path(__file__).parents[2]


@dataclass
class Commands:
    """Starts commands of the program, and ends them; a context manager.

    Attributes:
        log: takes all that they say.
        settings: further variables of their environment.
        sabotage: the name of a mistake that they are to make.
    """

    log: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    sabotage: str | None = None
    _running: set[int] = field(init=False, default_factory=set)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End what was started and still runs."""
        for pid in list(self._running):
            self.end(pid, signal.SIGKILL)

    @property
    def said(self) -> str:
        """All that the commands said."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def start(self, *arguments: object) -> int:
        """Start a command; return its process."""
        pid = self._start([str(one) for one in arguments])
        self._running.add(pid)
        return pid

    def end(self, pid: int, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a command a signal and wait until it ends; return its exit code, or minus the signal that ended it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        return self.wait(pid)

    def wait(self, pid: int) -> int:
        """Wait until a command ends; return its exit code, or minus the signal that ended it."""
        self._running.discard(pid)
        return self._wait(pid)

    def run(self, *arguments: object) -> int:
        """Run a command to its end; return its exit code."""
        return self.wait(self.start(*arguments))

    def _start(self, arguments: list[str]) -> int:
        raise NotImplementedError

    def _wait(self, pid: int) -> int:
        raise NotImplementedError


@dataclass
class CommandForks(Commands):
    """Commands that begin at once."""

    _forks: dict[int, Fork] = field(init=False, default_factory=dict)

    def _start(self, arguments: list[str]) -> int:
        with self.log.open("ab") as said, Path(os.devnull).open("rb") as nothing:
            streams = [nothing.fileno(), said.fileno(), said.fileno()]
            env = {**os.environ, **self.settings}
            fork = fork_server().start(arguments, streams, cwd=PROJECT, env=env, sabotage=self.sabotage)
        self._forks[fork.pid] = fork
        return fork.pid

    def _wait(self, pid: int) -> int:
        return self._forks.pop(pid).wait()


@dataclass
class Processes(Commands):
    """Commands as users start them; they make no mistakes."""

    _processes: dict[int, subprocess.Popen[bytes]] = field(init=False, default_factory=dict)

    def _start(self, arguments: list[str]) -> int:
        with self.log.open("ab") as said:
            process = subprocess.Popen(
                [*PROGRAM, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env={**os.environ, **self.settings},
            )
        self._processes[process.pid] = process
        return process.pid

    def _wait(self, pid: int) -> int:
        return self._processes.pop(pid).wait()
