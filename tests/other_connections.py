"""Connections beside the engine under test: the driver it uses, and another process.

Two SQLite libraries in one process do not see each other's locks, so tests take the engine's own driver from here.
Where another writer is wanted it is another process, with the library that v3's tools use.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from cowrieprocessor.db.dialects.sqlite.dialect import load_driver

sqlite3 = load_driver(os.environ.get("COWRIEPROC_SQLITE_DRIVER", "auto"))

_SCRIPT = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    connection.execute(statement)
print("ready", flush=True)
sys.stdin.read()
connection.close()
"""


class OtherProcess:
    """Another process that runs statements on a database and keeps its transaction open until the end."""

    def __init__(self, path: Path, *statements: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, str(path), *statements],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> OtherProcess:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Undo the other process's transaction and end it."""
        self._process.communicate()
