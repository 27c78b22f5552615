"""Where the values of dead letters belong: their logs, and the places in raw_events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, select, tuple_, update

from cowrieprocessor.db.dialects.sql_expressions import sql_of
from cowrieprocessor.db.ingest.stored_events import SourceKey
from cowrieprocessor.db.models import DeadLetterEvent, LogFile, RawEvent

_LETTER = DeadLetterEvent.__table__
_LOG = LogFile.__table__
_EVENT = RawEvent.__table__


@dataclass(frozen=True, slots=True)
class SourceLog:
    """A log that a dead letter may have come from, as `log_files` has it."""

    identity: str
    generation: int
    source_key: SourceKey
    current_path: str


@dataclass(frozen=True, slots=True)
class ByteCountChange:
    """What a replay changes in a log's row: bytes by what became of them, and values.

    Attributes:
        last_value_hash: of the last value in the letter's place, where that is the last one that was read of the log.
        next_offset: behind it then.
    """

    identity: str
    generation: int
    stored: int
    dead: int
    nul: int
    values: int
    last_value_hash: str | None = None
    next_offset: int | None = None


def candidate_logs(connection: Connection, source: str, generation: int, offset: int, byte_end: int) -> list[SourceLog]:
    """Return the logs that a letter with this source, generation, offset and range may have come from."""
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
    """Return the inodes of the events that were stored in one transaction with a letter."""
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
    """Return which offsets of a log, from `first` to `last`, hold an event."""
    query = select(_EVENT.c.source_offset).where(*_rows_of(source_key), _EVENT.c.source_offset.between(first, last))
    return set(connection.execute(query).scalars())


def payload_at(connection: Connection, source_key: SourceKey, offset: int) -> str | None:
    """Return the payload stored at a place as text; None where there is none."""
    payload = sql_of(connection).json_text("payload")
    same_inode = "source_inode IS NULL" if source_key.source_inode is None else "source_inode = ?"
    values: list[Any] = [source_key.source, source_key.source_generation, offset]
    values += [] if source_key.source_inode is None else [source_key.source_inode]
    statement = (
        f"SELECT {payload} FROM raw_events WHERE source = ? AND source_generation = ? AND source_offset = ?"
        f" AND {same_inode} ORDER BY id LIMIT 1"
    )
    found = connection.exec_driver_sql(sql_of(connection).statement(statement), tuple(values)).scalar()
    return None if found is None else str(found)


def source_keys_of(connection: Connection, source: str) -> list[SourceKey]:
    """Return the places that the rows of a source have, by jumping through the index: there are few of them."""
    found = []
    query = select(_EVENT.c.source_inode, _EVENT.c.source_generation).where(_EVENT.c.source == source)
    inode, generation = _EVENT.c.source_inode, _EVENT.c.source_generation
    behind: ColumnElement[bool] = inode.is_not(None)
    while row := connection.execute(query.where(behind).order_by(inode, generation).limit(1)).first():
        found.append(SourceKey(source, *row))
        behind = tuple_(inode, generation) > tuple_(*row)
    behind = inode.is_(None)
    while row := connection.execute(query.where(behind).order_by(generation).limit(1)).first():
        found.append(SourceKey(source, *row))
        behind = and_(inode.is_(None), generation > row.source_generation)
    return found


def is_last_value(connection: Connection, log: SourceLog, offset: int, *, hold: bool) -> bool:
    """Return whether the value at a place is the last one that was read of a log.

    Args:
        connection: any; in a transaction that writes to hold the log.
        log: the log.
        offset: the place.
        hold: keep loaders from going on until the transaction ends.
    """
    query = select(_LOG.c.next_offset).where(_LOG.c.identity == log.identity, _LOG.c.generation == log.generation)
    return connection.execute(query.with_for_update() if hold else query).scalar() == offset + 1


def update_byte_counts(connection: Connection, moved: Sequence[ByteCountChange]) -> None:
    """Say in `log_files` that bytes are stored that were dead.

    Where the number of values changes, a loader that is at work on the log sees that its cursor was moved.
    """
    for one in sorted(moved, key=lambda one: (one.identity, one.generation)):
        changes: dict[str, Any] = {
            "bytes_stored": _LOG.c.bytes_stored + one.stored,
            "bytes_dead": _LOG.c.bytes_dead + one.dead,
            "bytes_nul": _LOG.c.bytes_nul + one.nul,
            "values_done": _LOG.c.values_done + one.values,
        }
        if one.last_value_hash is not None:
            changes |= {"last_value_hash": one.last_value_hash, "next_offset": one.next_offset}
        this = and_(_LOG.c.identity == one.identity, _LOG.c.generation == one.generation)
        connection.execute(update(LogFile).where(this).values(**changes))


def _rows_of(source_key: SourceKey) -> list[ColumnElement[bool]]:
    return [
        _EVENT.c.source == source_key.source,
        _equals(_EVENT.c.source_inode, source_key.source_inode),
        _EVENT.c.source_generation == source_key.source_generation,
    ]


def _equals(column: ColumnElement[Any], value: object) -> ColumnElement[bool]:
    return column.is_(None) if value is None else column == value
