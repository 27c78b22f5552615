"""The floor of the backfill: only read the payloads of all file events through the index on the event type.

`python -m benchmarks.read_file_events --db FILE`; `--cold` first evicts the file from the page cache.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction
from cowrieprocessor.db.ingest.event_scan import events_of_type, last_event_id
from cowrieprocessor.jobs.upgrade.backfill_aggregates import FilesSlice


def evict_from_page_cache(path: Path) -> None:
    """Evict a file from the page cache, so that it is read from the disk; no process may be writing to it."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.read_file_events", description=__doc__)
    parser.add_argument("--db", required=True, type=Path, metavar="FILE")
    parser.add_argument("--cold", action="store_true", help="read from the disk, not from the page cache")
    options = parser.parse_args()
    if options.cold:
        evict_from_page_cache(options.db)
    engine = get_engine(options.db, read_only=True)
    events = 0
    with read_transaction(engine) as connection:
        last = last_event_id(connection)
        for event_type in FilesSlice.event_types:
            events += sum(1 for _ in events_of_type(connection, event_type, 0, last, last))
    dispose(engine)
    print(f"{events} file events")


if __name__ == "__main__":
    main()
