"""Builds version 3's second index of raw_events again, in a process of its own that sorts on disk.

An index over tens of millions of rows is built by sorting them. The SQLite of pysqlite3 is compiled to sort in memory
(TEMP_STORE=3), which would take gigabytes; Python's own sorts in files. One process uses one library for one file, so
another process does it: `python -m cowrieprocessor.jobs.upgrade.build_index FILE LOCK_TIMEOUT_S`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cowrieprocessor.child_process import module_command, module_environment
from cowrieprocessor.db.dialects.definitions import definitions_of
from cowrieprocessor.db.engine import describe, dispose, get_engine, write_transaction
from cowrieprocessor.db.upgrade.rollback import create_redundant_index
from cowrieprocessor.errors import CowrieProcessorError, DatabaseError

EXIT_REFUSED = 4


def build_in_subprocess(path: Path, lock_timeout_s: float) -> None:
    """Build the index in another process and wait for it. It is there whole, or not at all.

    Args:
        path: the database's file, which this process must not write to meanwhile.
        lock_timeout_s: how long to wait for other writers.

    Raises:
        DatabaseError: it could not be built; the message says why.
    """
    done = subprocess.run(  # noqa: S603 - ourselves
        module_command("jobs.upgrade.build_index", str(path), str(lock_timeout_s)),
        env=module_environment(COWRIEPROC_SQLITE_DRIVER="stdlib"),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        raise DatabaseError(f"{path}: v3's second index could not be built again, nothing else was changed: {last}")


def build(path: str, lock_timeout_s: float) -> None:
    """Build the index with this process's library, if it is not there."""
    engine = get_engine(path, lock_timeout_s=lock_timeout_s)
    try:
        with write_transaction(engine) as connection:
            definitions = definitions_of(connection)
            definitions.sort_on_disk(connection)
            create_redundant_index(connection, describe(engine))
    finally:
        dispose(engine)


def main() -> int:
    """Build the index that the command line asks for, and return the exit code."""
    try:
        build(sys.argv[1], float(sys.argv[2]))
    except CowrieProcessorError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
