"""Positions of dead letters: the log that a letter came from, and its offsets in raw_events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, select, tuple_, update

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.ingest.stored_events import SourceKey
from cowrieprocessor.db.models import DeadLetterEvent, LogFile, RawEvent

_LETTER = DeadLetterEvent.__table__
_LOG = LogFile.__table__
_EVENT = RawEvent.__table__


@dataclass(frozen=True, slots=True)
class SourceLog:
    """A log that a dead letter may have come from; columns of `log_files`."""

    identity: str
    generation: int
    source_key: SourceKey
    current_path: str


@dataclass(frozen=True, slots=True)
class ByteCountChange:
    """Changes of a replay to the counters of a log: bytes by outcome, and values.

    Attributes:
        identity: first half of the log's key.
        generation: second half of the log's key.
        stored: bytes to add to bytes_stored; may be negative, as the next two.
        dead: bytes to add to bytes_dead.
        nul: bytes to add to bytes_nul.
        values: values to add to values_done.
        last_value_hash: hash of the letter's last value if it is the last value read of the log, else None.
        next_offset: the offset after that value; used only with `last_value_hash`.
        last_event_at: the time of the letter's last event, if it is the last value read and has one.
    """

    identity: str
    generation: int
    stored: int
    dead: int
    nul: int
    values: int
    last_value_hash: str | None = None
    next_offset: int | None = None
    last_event_at: str | None = None


def candidate_logs(connection: Connection, source: str, generation: int, offset: int, byte_end: int) -> list[SourceLog]:
    """Return the logs that a letter with this source, generation, offset and byte range may have come from."""
    rows = connection.execute(
        select(_LOG)
        .where(
            _LOG.c.source == source,
            _LOG.c.source_generation == generation,
            _LOG.c.next_offset > offset,
            _LOG.c.byte_pos >= byte_end,
        )
        .order_by(_LOG.c.source_inode)
    ).mappings()
    return [
        SourceLog(
            row["identity"],
            row["generation"],
            SourceKey(row["source"], row["source_inode"], row["source_generation"]),
            row["current_path"],
        )
        for row in rows
    ]


def inodes_of_batch(connection: Connection, letter_id: int) -> set[str]:
    """Return the inodes of the events stored in the same transaction as a letter."""
    rows = connection.execute(
        select(_EVENT.c.source_inode)
        .join(
            _LETTER,
            and_(
                _EVENT.c.ingest_at == _LETTER.c.created_at,
                _EVENT.c.ingest_id == _LETTER.c.ingest_id,
                _EVENT.c.source == _LETTER.c.source,
            ),
        )
        .where(_LETTER.c.id == letter_id)
        .distinct()
    )
    return {inode for (inode,) in rows if inode is not None}


def taken_offsets(connection: Connection, source_key: SourceKey, first: int, last: int) -> set[int]:
    """Return the offsets of a log from `first` to `last` that have an event."""
    query = select(_EVENT.c.source_offset).where(*_rows_of(source_key), _EVENT.c.source_offset.between(first, last))
    return set(connection.execute(query).scalars())


def payload_at(connection: Connection, source_key: SourceKey, offset: int) -> str | None:
    """Return the payload stored at an offset of a log as text, None if there is none."""
    payload = dialect_of(connection).sql.json_text("payload")
    same_inode = "source_inode IS NULL" if source_key.source_inode is None else "source_inode = ?"
    values: list[Any] = [source_key.source, source_key.source_generation, offset]
    values += [] if source_key.source_inode is None else [source_key.source_inode]
    statement = (
        f"SELECT {payload} FROM raw_events WHERE source = ? AND source_generation = ? AND source_offset = ?"
        f" AND {same_inode} ORDER BY id LIMIT 1"
    )
    stored = connection.exec_driver_sql(dialect_of(connection).sql.statement(statement), tuple(values)).scalar()
    return None if stored is None else str(stored)


def source_keys_of(connection: Connection, source: str) -> list[SourceKey]:
    """Return the distinct keys of a source's rows by a skip scan of the index: there are few distinct keys."""
    found = []
    query = select(_EVENT.c.source_inode, _EVENT.c.source_generation).where(_EVENT.c.source == source)
    inode, generation = _EVENT.c.source_inode, _EVENT.c.source_generation
    remaining: ColumnElement[bool] = inode.is_not(None)
    while row := connection.execute(query.where(remaining).order_by(inode, generation).limit(1)).first():
        found.append(SourceKey(source, *row))
        remaining = tuple_(inode, generation) > tuple_(*row)
    remaining = inode.is_(None)
    while row := connection.execute(query.where(remaining).order_by(generation).limit(1)).first():
        found.append(SourceKey(source, *row))
        remaining = and_(inode.is_(None), generation > row.source_generation)
    return found


def is_last_value(connection: Connection, log: SourceLog, offset: int, *, lock: bool) -> bool:
    """Return whether the value at an offset is the last value read of a log.

    Args:
        connection: any; with `lock` in a write transaction.
        log: the log.
        offset: source_offset of the value.
        lock: lock the log's row, so that loaders wait until the transaction ends.
    """
    query = select(_LOG.c.next_offset).where(_LOG.c.identity == log.identity, _LOG.c.generation == log.generation)
    return connection.execute(query.with_for_update() if lock else query).scalar() == offset + 1


def update_byte_counts(connection: Connection, changes: Sequence[ByteCountChange]) -> None:
    """Apply the changes of a replay to `log_files`: bytes that were dead are stored now.

    Where the number of values changes, a loader working on the log detects that its checkpoint was moved.
    """
    for change in sorted(changes, key=lambda change: (change.identity, change.generation)):
        values: dict[str, Any] = {
            "bytes_stored": _LOG.c.bytes_stored + change.stored,
            "bytes_dead": _LOG.c.bytes_dead + change.dead,
            "bytes_nul": _LOG.c.bytes_nul + change.nul,
            "values_done": _LOG.c.values_done + change.values,
        }
        if change.last_value_hash is not None:
            values |= {"last_value_hash": change.last_value_hash, "next_offset": change.next_offset}
        if change.last_event_at is not None:
            values["last_event_at"] = change.last_event_at
        is_log = and_(_LOG.c.identity == change.identity, _LOG.c.generation == change.generation)
        connection.execute(update(LogFile).where(is_log).values(**values))


def _rows_of(source_key: SourceKey) -> list[ColumnElement[bool]]:
    return [
        _EVENT.c.source == source_key.source,
        _equals(_EVENT.c.source_inode, source_key.source_inode),
        _EVENT.c.source_generation == source_key.source_generation,
    ]


def _equals(column: ColumnElement[Any], value: object) -> ColumnElement[bool]:
    return column.is_(None) if value is None else column == value
