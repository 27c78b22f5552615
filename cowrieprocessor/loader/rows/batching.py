"""Turns the values of a log into batches of rows; runs in the writer's process or in a parser process."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

from cowrieprocessor.errors import ArchiveCut, InputError
from cowrieprocessor.events import utc_text
from cowrieprocessor.loader.logs.checkpoint import Checkpoint, EventLookup
from cowrieprocessor.loader.reading.log_reader import LogReader
from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.loader.rows.batch import MAX_BATCH_BYTES, Batch, BatchRows


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """How batches are made.

    Attributes:
        ingest_id: identifies the load.
        fills_event_columns: whether event rows carry session, type and timestamp (PostgreSQL).
        batch_size: values per batch, at most.
        max_nesting: the deepest JSON nesting allowed.
        keeps_order: whether batches say which value each event follows; needed where other copies of the log are known.
    """

    ingest_id: str
    fills_event_columns: bool
    batch_size: int
    max_nesting: int
    keeps_order: bool = False


@dataclass(slots=True)
class LogEnd:
    """How reading a log ended.

    Attributes:
        pending_bytes: bytes of an unfinished value at the end.
        line: 0-based number of the line on which the unfinished value starts.
        error: why the log could not be read to its end; everything before that position is in the batches.
        is_cut: whether the error is an archive that ends early, or is followed by other data.
        is_stale: whether the file was overwritten while it was read; what was read before is in the batches.
        pending: the unfinished value, unless it is over 1 MiB.
    """

    pending_bytes: int
    line: int
    error: str | None = None
    is_cut: bool = False
    is_stale: bool = False
    pending: bytes | None = None


def prepare_batches(
    cursor: Checkpoint, reader: LogReader, stream: LogStream, config: BatchConfig
) -> Iterator[BatchRows | LogEnd]:
    """Yield the rest of a log as batches of rows, then its `LogEnd`.

    If events had to be looked up (`cursor.lookup`) and that becomes unnecessary, the iterator stops after a
    batch without a `LogEnd`: call it again for the rest, also in another process.

    Raises:
        ReadingStopped: the stream's `stop` returned True; the unfinished batch is discarded.
    """
    error, is_cut = None, False
    lookup = cursor.lookup
    batch = _new_batch(cursor, config)
    try:
        for value in reader:
            batch.add(value)
            is_full = batch.values >= config.batch_size or batch.size_bytes >= MAX_BATCH_BYTES
            if is_full and reader.is_between_values:
                _release(lookup)
                yield batch.finish(reader, stream.file_position)
                if lookup and not lookup.is_active:
                    cursor.lookup = None
                    return
                batch = _new_batch(cursor, config)
    except InputError as unreadable:
        error, is_cut = str(unreadable), isinstance(unreadable, ArchiveCut)
    finally:
        _release(lookup)
    if batch.values or _has_moved(cursor, reader):
        yield batch.finish(reader, stream.file_position)
    yield LogEnd(reader.pending_bytes, reader.line, error, is_cut, stream.is_stale, reader.pending)


def _new_batch(cursor: Checkpoint, config: BatchConfig) -> Batch:
    return Batch(
        cursor, config.ingest_id, now_text(), config.fills_event_columns, config.max_nesting, config.keeps_order
    )


def _release(lookup: EventLookup | None) -> None:
    """End the transaction of the event lookup, so that a batch can be written."""
    if lookup:
        lookup.release()


def _has_moved(cursor: Checkpoint, reader: LogReader) -> bool:
    """Return whether the reader has skipped separators since the last batch that the cursor has to record."""
    return reader.position > cursor.byte_pos


def now_text() -> str:
    """Return the current time as `YYYY-MM-DD HH:MM:SS.ffffff` in UTC."""
    return utc_text(dt.datetime.now(dt.UTC))
