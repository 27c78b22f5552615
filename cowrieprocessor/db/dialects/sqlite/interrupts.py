"""Let Ctrl-C interrupt long SQLite statements.

Python handles signals between its own instructions, and an SQLite statement can run for minutes without any. SQLite
regularly calls our progress handler; an exception in it ends the statement with SQLITE_INTERRUPT.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cowrieprocessor.db.dialects.sqlite.connection import driver_errors
from cowrieprocessor.db.dialects.sqlite.files import primary_code

INSTRUCTIONS_PER_CHECK = 100_000
"""Instructions of SQLite's virtual machine between two calls of the handler: a few milliseconds."""


@contextmanager
def interruptible(connection: Any) -> Iterator[None]:
    """Let Ctrl-C, and signal handlers that raise, interrupt the statements of a driver's connection.

    Raises:
        KeyboardInterrupt: a signal interrupted the statement.
    """
    connection.set_progress_handler(_continue, INSTRUCTIONS_PER_CHECK)
    try:
        yield
    except driver_errors() as error:
        if primary_code(error) == sqlite3.SQLITE_INTERRUPT:
            raise KeyboardInterrupt from error
        raise
    finally:
        connection.set_progress_handler(None, INSTRUCTIONS_PER_CHECK)


def _continue() -> int:
    return 0
