"""Long statements that Ctrl-C can end.

Python looks at signals between its own instructions, and a statement of SQLite can take minutes without one. SQLite
calls our handler now and then; an exception in it ends the statement with SQLITE_INTERRUPT.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cowrieprocessor.db.dialects.sqlite.connection import driver_errors, primary_code

LOOK_EVERY = 100_000
"""Instructions of SQLite's machine between two looks: some milliseconds."""


@contextmanager
def interruptible(connection: Any) -> Iterator[None]:
    """Let Ctrl-C and signals that raise end the statements of a driver's connection.

    Raises:
        KeyboardInterrupt: a signal ended the statement.
    """
    connection.set_progress_handler(_go_on, LOOK_EVERY)
    try:
        yield
    except driver_errors() as error:
        if primary_code(error) == sqlite3.SQLITE_INTERRUPT:
            raise KeyboardInterrupt from error
        raise
    finally:
        connection.set_progress_handler(None, LOOK_EVERY)


def _go_on() -> int:
    return 0
