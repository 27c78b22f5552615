"""`cowrieprocessor follow` as a separate process, observed from outside while it runs."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.launcher import Sampler, tree
from benchmarks.measure import ERROR_TAIL_CHARS, CommandFailed, environment
from benchmarks.program import Program
from cowrieprocessor.db.dialects.sqlite.dialect import load_driver

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
CHECK_EVERY_S = 0.02
TIMEOUT_S = 600.0
"""A follower that does not store the expected events within this time has failed."""

STOP_TIMEOUT_S = 120.0


class Follower:
    """A follower that runs during a `with` block; afterwards it is stopped, and has to exit with 0.

    Args:
        program: the program.
        db: the database; it is created if it does not exist.
        paths: the paths to follow.
        flags: further arguments.
    """

    def __init__(self, program: Program, db: Path, *paths: Path, flags: tuple[str, ...] = ()) -> None:
        self._program = program
        self._command = program.command("follow", *paths, "--db", db, "--json", *flags)
        self._db = db

    def __enter__(self) -> Follower:
        """Create the database and start the follower."""
        self._create_database()
        os.sync()
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command,
            cwd=self._program.folder,
            env=environment(self._program.variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )
        self._sampler = Sampler(self._process.pid)
        self._sampler.start()
        self._connection = load_driver("auto").connect(str(self._db), isolation_level=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the follower.

        Raises:
            CommandFailed: its exit code is not 0, and the block raised no exception.
        """
        self._connection.close()
        self._process.send_signal(signal.SIGTERM)
        try:
            returncode = self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            returncode = self._process.wait()
        self._sampler.ended.set()
        self._sampler.join()
        errors = self._error_tail()
        self._errors.close()
        if returncode and error is None:
            raise CommandFailed(f"follow ended with {returncode}:\n{errors}")

    def _create_database(self) -> None:
        """Let the program itself create the tables, by loading an empty log."""
        empty_log = self._db.with_name(f"{self._db.name}.empty.json")
        empty_log.touch()
        self._program.run("load", empty_log, "--db", self._db)

    def kill(self) -> None:
        """Kill the follower."""
        self._process.kill()
        self._process.wait()

    @property
    def peak_bytes(self) -> int:
        """The peak memory of the follower and its child processes so far."""
        return self._sampler.peak_kib * 1024

    def cpu_s(self) -> float:
        """Return the CPU time of the follower and its child processes so far, in seconds."""
        return sum(_ticks(pid, with_ended=pid == self._process.pid) for pid in tree(self._process.pid)) / TICKS_PER_S

    def rows(self, sql: str, *values: object) -> list[Any]:
        """Return the rows of a query."""
        return list(self._connection.execute(sql, values).fetchall())

    def events(self) -> int:
        """Return the number of log values that were read and stored."""
        return int(self.rows("SELECT coalesce(sum(values_done), 0) FROM log_files")[0][0])

    def wait_for(self, events: int, *, timeout_s: float = TIMEOUT_S) -> float:
        """Wait until this number of events is stored; return the time in seconds of the monotonic clock.

        Raises:
            CommandFailed: the follower ended early, timed out, or stored more.
        """
        self.wait_until(lambda: self.events() >= events, f"{events} events", timeout_s=timeout_s)
        now = time.monotonic()
        stored = self.rows("SELECT count(*) FROM raw_events")[0][0]
        if (stored, self.events()) != (events, events):
            raise CommandFailed(f"follow stored {stored} rows of {self.events()} values, there were {events} events")
        return now

    def wait_until(self, condition: Callable[[], bool], what: str, *, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until a condition holds.

        Args:
            condition: the condition.
            what: its name, for the message.
            timeout_s: how long to wait.

        Raises:
            CommandFailed: the follower ended early, or the time is over.
        """
        ends_at = time.monotonic() + timeout_s
        while not condition():
            if self._process.poll() is not None:
                raise CommandFailed(f"follow ended before {what}:\n{self._error_tail()}")
            if time.monotonic() > ends_at:
                raise CommandFailed(f"follow did not come to {what} in {timeout_s:g} s:\n{self._error_tail()}")
            time.sleep(CHECK_EVERY_S)

    def _error_tail(self) -> str:
        """Return the end of its standard error."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-ERROR_TAIL_CHARS:]


def _ticks(pid: int, *, with_ended: bool) -> int:
    """Return the CPU time of a process in clock ticks; 0 if it has ended.

    Args:
        pid: the process.
        with_ended: include the child processes that it has waited for.

    Source: proc(5), /proc/pid/stat, fields 14 to 17; the command name before them may contain spaces.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if with_ended else 13]))
