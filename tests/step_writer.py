"""Another process that writes to a database whenever it is told to, with the library that v3's tools use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType

TABLES = ("CREATE TABLE IF NOT EXISTS pair_left (n INTEGER)", "CREATE TABLE IF NOT EXISTS pair_right (n INTEGER)")
"""What a transaction writes to both of, or to none."""

_SCRIPT = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
for statement in sys.argv[2:]:
    connection.execute(statement)
for number, line in enumerate(sys.stdin):
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO pair_left VALUES (?)", (number,))
    connection.execute("INSERT INTO pair_right VALUES (?)", (number,))
    connection.execute("COMMIT")
    print(number, flush=True)
connection.close()
"""


class StepWriter:
    """A process that has a database open and commits one transaction over two tables at each call."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, str(path), *TABLES],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.pid = self._process.pid
        self.commits = 0

    def commit(self) -> None:
        """Have it commit once more, and wait until it did."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        assert self._process.stdout.readline() == f"{self.commits}\n"
        self.commits += 1

    def kill(self) -> None:
        """Kill it, so that it leaves its log."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> StepWriter:
        self.commit()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.returncode is None:
            self._process.communicate()
