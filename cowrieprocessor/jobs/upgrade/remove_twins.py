"""Removes the twins that a recount marked, after saving them to a file.

The file is ahead of the database at every moment: rows are on the disk before the transaction that deletes them. If
killed, the same command goes on with those that are left, and saves them to another file.
"""

from __future__ import annotations

import datetime as dt
import gzip
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Engine

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.engine import describe, read_transaction, write_transaction
from cowrieprocessor.db.migrations import require_current
from cowrieprocessor.db.upgrade import twins
from cowrieprocessor.errors import ConfigurationError, SaveFailed
from cowrieprocessor.jobs.runtime.throttle import Throttle

ROWS = 1_000
"""Events that are saved, and then removed, at a time."""

FORMAT = "cowrieprocessor twin events"


@dataclass(frozen=True, slots=True)
class RemovedTwins:
    """Result of a removal.

    Attributes:
        events: events removed.
        saved_to: the file with these events; None if there were none.
    """

    events: int
    saved_to: str | None


def remove_twins(
    engine: Engine,
    save_to: Path | None = None,
    *,
    on_progress: Callable[[int], None] = lambda _removed: None,
    rows: int = ROWS,
) -> RemovedTwins:
    """Save and remove all events that are marked as twins, in short transactions alongside loaders.

    The newest event of the database stays, marked as it is, because SQLite would give its id to the next event.

    Args:
        engine: a database at the current schema version, after a recount.
        save_to: the file, which must not exist; by default next to the database file.
        on_progress: called after each transaction with the number of events removed.
        rows: events per transaction.

    Raises:
        ConfigurationError: the database is not a file, so `save_to` has to be given.
        SaveFailed: the file cannot be written; what it does not hold was not removed.
        MigrationNeeded, SchemaVersionError: the database has to be migrated first.
        DatabaseError: see `write_transaction`; committed work is kept.
    """
    require_current(engine)
    path = save_to or _default_path(engine)
    throttle = Throttle(engine)
    last = removed = 0
    file: IO[bytes] | None = None
    try:
        while True:
            with read_transaction(engine) as connection:
                events = twins.twins_after(connection, last, rows)
            if not events:
                return RemovedTwins(removed, None if file is None else str(path))
            file = file or _create(path, describe(engine))
            _append(file, path, events)
            throttle.wait(lambda _obstacle: None)
            throttle.rest()
            last = int(events[-1]["id"])
            with write_transaction(engine) as connection:
                removed += twins.remove_twins(connection, [int(event["id"]) for event in events])
            on_progress(removed)
    finally:
        if file is not None:
            file.close()


def _default_path(engine: Engine) -> Path:
    """Return a new path next to the database file."""
    files = dialect_of(engine).files
    database = files.path_of(engine.url) if files else None
    if database is None:
        raise ConfigurationError(f"{describe(engine)}: is not a file; name the file to save to with --save")
    moment = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    return database.with_name(f"{database.name}.twins-{moment}.jsonl.gz")


def _create(path: Path, database: str) -> IO[bytes]:
    """Create the file, readable only by its owner, with its first line."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigurationError(f"{path}: exists; name another file with --save, nothing was changed") from None
    except OSError as error:
        raise SaveFailed(f"{path}: cannot be written: {error.strerror}; name another file with --save") from error
    file = os.fdopen(descriptor, "wb")
    _append(file, path, [{"format": FORMAT, "database": database, "table": "raw_events"}])
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return file


def _append(file: IO[bytes], path: Path, documents: Sequence[dict[str, Any]]) -> None:
    """Append documents as lines, in a gzip member of their own, and wait until they are on the disk."""
    lines = "".join(json.dumps(document, default=str) + "\n" for document in documents)
    try:
        file.write(gzip.compress(lines.encode()))
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise SaveFailed(
            f"{path}: cannot be written: {error.strerror}; what it does not hold was not removed; make room, then "
            "repeat the command"
        ) from error
