"""`cowrieprocessor follow` as a process of its own, looked at from outside while it runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.launcher import Sampler, tree
from benchmarks.measure import ERROR_TAIL_CHARS, CommandFailed
from cowrieprocessor.db.dialects.sqlite.dialect import load_driver
from cowrieprocessor.db.engine import dispose, get_engine
from cowrieprocessor.db.migrations import prepare

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
LOOK_EVERY_S = 0.02
PATIENCE_S = 600.0
"""A follower that stores nothing for so long has failed."""

ENDS_WITHIN_S = 120.0


class Follower:
    """A follower that runs as long as the block lasts; afterwards it is told to stop, and has to end well.

    Args:
        work: the folder in which the code is.
        db: the database; a new one is made ready.
        paths: what to follow.
        flags: further words of its command line.
    """

    def __init__(self, work: Path, db: Path, *paths: Path, flags: tuple[str, ...] = ()) -> None:
        self._work = work
        program: list[str | Path] = [sys.executable, "-m", "cowrieprocessor"]
        self._command = [*program, "follow", *paths, "--db", db, "--json", *flags]
        self._db = db

    def __enter__(self) -> Follower:
        """Start it."""
        engine = get_engine(self._db)
        prepare(engine)
        dispose(engine)
        os.sync()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COWRIEPROC_")}
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command,
            cwd=self._work,
            env=environment,
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
        """Tell it to stop.

        Raises:
            CommandFailed: it did not end well.
        """
        self._connection.close()
        self._process.send_signal(signal.SIGTERM)
        try:
            returncode = self._process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            returncode = self._process.wait()
        self._sampler.ended.set()
        self._sampler.join()
        said = self._said()
        self._errors.close()
        if returncode and error is None:
            raise CommandFailed(f"follow ended with {returncode}:\n{said}")

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()

    @property
    def peak_bytes(self) -> int:
        """The most memory that it and its processes had at once so far."""
        return self._sampler.peak_kib * 1024

    def cpu_s(self) -> float:
        """Return the CPU that it and its processes have used so far, in seconds."""
        return sum(_ticks(pid, with_ended=pid == self._process.pid) for pid in tree(self._process.pid)) / TICKS_PER_S

    def rows(self, sql: str, *values: object) -> list[Any]:
        """Return what the database says."""
        return list(self._connection.execute(sql, values).fetchall())

    def events(self) -> int:
        """Return how many values of logs are stored."""
        return int(self.rows("SELECT coalesce(sum(values_done), 0) FROM log_files")[0][0])

    def wait_for(self, events: int) -> float:
        """Return when so many values of logs were stored, in seconds of the shared clock.

        Raises:
            CommandFailed: it ended early, stands still, or stored more.
        """
        self.wait_until(lambda: self.events() >= events, f"{events} events")
        now = time.monotonic()
        stored = self.rows("SELECT count(*) FROM raw_events")[0][0]
        if (stored, self.events()) != (events, events):
            raise CommandFailed(f"follow stored {stored} rows of {self.events()} values, there were {events} events")
        return now

    def wait_until(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait.

        Raises:
            CommandFailed: it ended early, or it does not come to that.
        """
        until = time.monotonic() + PATIENCE_S
        while not is_so():
            if self._process.poll() is not None:
                raise CommandFailed(f"follow ended before {what}:\n{self._said()}")
            if time.monotonic() > until:
                raise CommandFailed(f"follow did not come to {what} in {PATIENCE_S:g} s:\n{self._said()}")
            time.sleep(LOOK_EVERY_S)

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-ERROR_TAIL_CHARS:]


def _ticks(pid: int, *, with_ended: bool) -> int:
    """Return the CPU of a process, with that of its processes that have ended, in clock ticks.

    Source: proc(5), /proc/pid/stat, fields 14 to 17; the command's name before them may hold spaces.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if with_ended else 13]))
