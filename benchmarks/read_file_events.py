"""The floor of the backfill: read the payloads of all file events through the index on the event type, no more.

`python -m benchmarks.read_file_events --db FILE`; with `--cold` the file is first put out of the kernel's cache.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction
from cowrieprocessor.db.ingest import event_scan as stored
from cowrieprocessor.jobs.upgrade.backfill_aggregates import FilesSlice


def forget(path: Path) -> None:
    """Put a file that nobody changes now out of the kernel's cache, so that it is read from the disk."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def main() -> None:
    """Read what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.read_file_events", description=__doc__)
    parser.add_argument("--db", required=True, type=Path, metavar="FILE")
    parser.add_argument("--cold", action="store_true", help="read from the disk, not from the kernel's cache")
    given = parser.parse_args()
    if given.cold:
        forget(given.db)
    engine = get_engine(given.db, read_only=True)
    read = 0
    with read_transaction(engine) as connection:
        last = stored.last_event_id(connection)
        for event_type in FilesSlice.event_types:
            read += sum(1 for _ in stored.events_of_type(connection, event_type, 0, last, last))
    dispose(engine)
    print(f"{read} file events")


if __name__ == "__main__":
    main()
