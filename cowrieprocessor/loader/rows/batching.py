"""From the values of a log to batches of rows: in this process, or ahead of the writer in another one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

from cowrieprocessor.errors import ArchiveCut, InputError
from cowrieprocessor.events import utc_text
from cowrieprocessor.loader.logs.checkpoint import Checkpoint
from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.loader.reading.value_reader import ValueReader
from cowrieprocessor.loader.rows.batch import MAX_BATCH_BYTES, Batch, BatchRows


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """How batches are made.

    Attributes:
        ingest_id: the load.
        fills_event_columns: whether event rows carry session, type and timestamp (PostgreSQL).
        batch_size: values in a batch at most.
        max_nesting: the deepest nesting allowed.
    """

    ingest_id: str
    fills_event_columns: bool
    batch_size: int
    max_nesting: int


@dataclass(slots=True)
class LogEnd:
    """What is left at the end of a log.

    Attributes:
        pending_bytes: bytes of an unfinished value, which wait for the rest.
        line: the 0-based number of the line they start on.
        error: why the log could not be read to its end; all before that place is in the batches.
        is_cut: whether that is because the archive ends early, or something else follows it.
        is_stale: whether the file was overwritten while it was read; what was read of it before is in the batches.
    """

    pending_bytes: int
    line: int
    error: str | None = None
    is_cut: bool = False
    is_stale: bool = False


def prepare_batches(
    cursor: Checkpoint, reader: ValueReader, stream: LogStream, recipe: BatchConfig
) -> Iterator[BatchRows | LogEnd]:
    """Yield the rest of a log as batches of rows, and what is left at its end.

    Where events had to be looked up and need not be any more, it stops after a batch, without a `LogEnd`: the rest
    can be prepared anew, also in another process.

    Raises:
        ReadingStopped: the stream was asked to stop; the batch that was being made is made anew next time.
    """
    error, is_cut = None, False
    stored_events = cursor.lookup
    batch = _new_batch(cursor, recipe)
    try:
        for value in reader:
            batch.add(value)
            if batch.values >= recipe.batch_size or batch.size_bytes >= MAX_BATCH_BYTES:
                if stored_events:
                    stored_events.release()
                yield batch.finish(reader, stream.file_position)
                if stored_events and not stored_events.is_active:
                    cursor.lookup = None
                    return
                batch = _new_batch(cursor, recipe)
    except InputError as unreadable:
        error, is_cut = str(unreadable), isinstance(unreadable, ArchiveCut)
    finally:
        if stored_events:
            stored_events.release()
    moved = reader.position > cursor.byte_pos and not cursor.other_form
    if batch.values or moved:
        yield batch.finish(reader, stream.file_position)
    yield LogEnd(reader.pending_bytes, reader.line, error, is_cut, stream.is_stale)


def _new_batch(cursor: Checkpoint, recipe: BatchConfig) -> Batch:
    return Batch(cursor, recipe.ingest_id, now_text(), recipe.fills_event_columns, recipe.max_nesting)


def now_text() -> str:
    """Return the present moment as `YYYY-MM-DD HH:MM:SS.ffffff` in UTC."""
    return utc_text(dt.datetime.now(dt.UTC))
