"""Rebuilds version 3's second index on raw_events in a subprocess that sorts on disk.

Building an index over tens of millions of rows sorts them. pysqlite3's SQLite is compiled to sort in memory
(TEMP_STORE=3), which would take gigabytes; Python's own library sorts in files. A process must not open a file with two
SQLite libraries, so a subprocess does it: `python -m cowrieprocessor.jobs.upgrade.build_index FILE LOCK_TIMEOUT_S`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cowrieprocessor.child_process import module_command, module_environment
from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.engine import describe, dispose, get_engine, write_transaction
from cowrieprocessor.db.upgrade.rollback import create_redundant_index
from cowrieprocessor.errors import CowrieProcessorError, DatabaseError

EXIT_REFUSED = 4


def build_in_subprocess(path: Path, lock_timeout_s: float) -> None:
    """Build the index in a subprocess and wait for it; on an error no partial index remains.

    Args:
        path: the database file, which this process must not write meanwhile.
        lock_timeout_s: how long to wait for other writers.

    Raises:
        DatabaseError: the index could not be built; the message says why.
    """
    process = subprocess.run(  # noqa: S603 - runs this package
        module_command("jobs.upgrade.build_index", str(path), str(lock_timeout_s)),
        env=module_environment(COWRIEPROC_SQLITE_DRIVER="stdlib"),
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        last_line = (process.stderr.strip().splitlines() or [f"ended with {process.returncode}"])[-1]
        raise DatabaseError(f"{path}: v3's second index could not be rebuilt, nothing else was changed: {last_line}")


def build(path: str, lock_timeout_s: float) -> None:
    """Build the index with this process's SQLite library, unless it exists."""
    engine = get_engine(path, lock_timeout_s=lock_timeout_s)
    try:
        with write_transaction(engine) as connection:
            definitions = dialect_of(connection).definitions
            definitions.sort_on_disk(connection)
            create_redundant_index(connection, describe(engine))
    finally:
        dispose(engine)


def main() -> int:
    """Build the index in the database named on the command line, and return the exit code."""
    try:
        build(sys.argv[1], float(sys.argv[2]))
    except CowrieProcessorError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
