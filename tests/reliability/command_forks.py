"""The program's commands in processes that begin at once: a server has imported everything and forks for each.

    python -m tests.reliability.command_forks

Each line on standard input is JSON. {"argv", "log", "settings", "sabotage"} is answered by the number of a new process
that runs `cowrieprocessor` with these arguments and further variables, and writes what it says into a file; with the
name of a mistake of `tests.rotation.sabotage` it makes it. {"wait": NUMBER} is answered by its exit code, or minus the
signal that ended it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.command_line import PROGRAM

PROJECT = Path(__file__).parents[2]
UNEXPECTED = 70
"""The exit code of a command that ended with an exception, as a process of its own would with a traceback."""


class ForkServer:
    """Forks processes that have imported everything; a context manager."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.reliability.command_forks"]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT)

    def __enter__(self) -> ForkServer:
        """Return the server, which may still be importing."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the server."""
        self._server.communicate()

    def ask(self, question: Mapping[str, object]) -> int:
        """Ask the server for something, and return its answer."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(question) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, "the server has died"
        return int(answer)


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
    """Commands that begin at once.

    Attributes:
        server: forks them.
    """

    server: ForkServer = field(kw_only=True)

    def _start(self, arguments: list[str]) -> int:
        question = {
            "argv": arguments,
            "log": str(self.log),
            "settings": dict(self.settings),
            "sabotage": self.sabotage,
        }
        return self.server.ask(question)

    def _wait(self, pid: int) -> int:
        return self.server.ask({"wait": pid})


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


def _serve() -> None:
    for line in sys.stdin:
        question = json.loads(line)
        if "wait" in question:
            _, status = os.waitpid(question["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            if question["sabotage"]:
                import tests.rotation.sabotage  # noqa: F401 - so that each process need not
            if not (answer := os.fork()):
                _run(question)
        print(answer, flush=True)


def _run(question: Mapping[str, Any]) -> None:
    """Run a command in this process, and end it."""
    from cowrieprocessor.cli.main import main

    said = os.open(question["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for ours, theirs in ((nothing, 0), (said, 1), (said, 2)):
        os.dup2(ours, theirs)
    sys.argv = ["cowrieprocessor", *question["argv"]]
    os.environ.update(question["settings"])
    try:
        if question["sabotage"]:
            _sabotage(question["sabotage"])
        main()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)
    finally:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(UNEXPECTED)


def _import_everything() -> None:
    """Import what the commands import, so that they need not."""
    import psycopg
    import watchfiles

    from cowrieprocessor.db.engine import get_engine
    from cowrieprocessor.loader.bulk import BulkLoader

    get_engine("sqlite://").dispose()
    assert all((psycopg, watchfiles, BulkLoader))


def _sabotage(name: str) -> None:
    import pytest

    from tests.rotation import sabotage

    getattr(sabotage, name)(pytest.MonkeyPatch())


if __name__ == "__main__":
    _import_everything()
    _serve()
