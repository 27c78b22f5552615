"""The floor: the cost of inserting the lines of a log into `raw_events` and nothing else.

Each line is parsed with orjson and inserted by `executemany` into `raw_events` with its indexes, with the schema, the
driver and the pragmas of the loader. There are no sessions, files, dead letters, cursors or hashes; a line that is no
JSON object is skipped.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import uuid
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import orjson
from sqlalchemy import Engine

from cowrieprocessor.db.engine import dispose, get_engine, write_transaction
from cowrieprocessor.db.migrations import prepare

BATCH_SIZE = 10_000
READ_BYTES = 1 << 20
INSERT = (
    "INSERT INTO raw_events (ingest_id, ingest_at, source, source_offset, source_inode, source_generation, payload)"
    " VALUES (?, ?, ?, ?, ?, 0, ?)"
)

Row = tuple[str, str, str, int, str, str]


def load_floor(engine: Engine, path: Path, *, batch_size: int = BATCH_SIZE) -> int:
    """Insert every event of a log into `raw_events`, and return their number.

    Args:
        engine: an engine on an SQLite database with the current schema.
        path: a plain log with an event per line.
        batch_size: events per transaction.
    """
    rows = _rows(path)
    events = 0
    while batch := list(islice(rows, batch_size)):
        with write_transaction(engine) as connection:
            cursor = connection.connection.cursor()
            cursor.executemany(INSERT, batch)
            cursor.close()
        events += len(batch)
    return events


def _rows(path: Path) -> Iterator[Row]:
    ingest_id, source = uuid.uuid4().hex, str(path)
    ingest_at = f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M:%S.%f}"
    with path.open("rb", buffering=READ_BYTES) as log:
        inode = str(os.fstat(log.fileno()).st_ino)
        for number, line in enumerate(log):
            try:
                event = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if isinstance(event, dict):
                yield ingest_id, ingest_at, source, number, inode, line[:-1].decode()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floor", description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="plain logs with an event per line")
    parser.add_argument("--db", required=True, metavar="FILE", help="an SQLite file, new or made by this program")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, metavar="N", help="default: 10000")
    options = parser.parse_args()
    engine = get_engine(options.db)
    prepare(engine)
    events = sum(load_floor(engine, path, batch_size=options.batch_size) for path in options.paths)
    dispose(engine)
    print(f"{events} events")


if __name__ == "__main__":
    main()
