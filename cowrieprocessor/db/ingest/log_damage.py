"""Statements on `log_damage`: refused values, NUL runs and torn ends of logs, and the dead letters stored for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, func, insert, or_, select, update

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.ingest.damage_kinds import NUL, REFUSED, TORN_END
from cowrieprocessor.db.ingest.stored_events import SourceKey
from cowrieprocessor.db.models import DeadLetterEvent, LogDamage, LogFile, OverlappingEvent, RawEvent

Log = tuple[str, int]
"""Identity and generation of a log."""

_DAMAGE = LogDamage.__table__
_LOG = LogFile.__table__
_LETTER = DeadLetterEvent.__table__
_EVENT = RawEvent.__table__
_SHARED = OverlappingEvent.__table__


@dataclass(frozen=True, slots=True)
class Damage:
    """One row of `log_damage`; see `LogDamage`."""

    identity: str
    generation: int
    byte_start: int
    byte_end: int
    kind: str
    source_offset: int = 0
    context: str = ""
    digest: str = ""
    moment: str | None = None
    raw: bytes | None = None
    has_letter: bool = False
    is_explained: bool = False
    joined: str | None = None
    place: str = ""
    path: str | None = None

    @property
    def log(self) -> Log:
        """Identity and generation of the log."""
        return self.identity, self.generation


COLUMNS = tuple(field.name for field in fields(Damage))
_OF_VALUE = _DAMAGE.c.kind != NUL


def add(connection: Connection, damage: Sequence[Damage]) -> None:
    """Insert rows."""
    if damage:
        connection.execute(insert(LogDamage), [{name: getattr(row, name) for name in COLUMNS} for row in damage])


def update_row(connection: Connection, damage: Damage) -> None:
    """Store what may change of a row: times, and what is known of its bytes."""
    changed = {name: getattr(damage, name) for name in ("byte_end", "moment", "has_letter", "is_explained", "joined")}
    connection.execute(update(LogDamage).where(_is_row(damage)).values(**changed))


def remove(connection: Connection, damage: Damage) -> None:
    """Delete a row."""
    connection.execute(delete(LogDamage).where(_is_row(damage)))


def places(connection: Connection, log: Log, *, until: int | None = None) -> list[Damage]:
    """Return the damage of a log before its cursor in order, at most up to a byte position."""
    query = _rows_of(log).where(_DAMAGE.c.kind != TORN_END).order_by(_DAMAGE.c.byte_start)
    return _read(connection, query if until is None else query.where(_DAMAGE.c.byte_start < until))


def overlapping(connection: Connection, log: Log, byte_start: int, byte_end: int) -> list[Damage]:
    """Return the damage of a log before its cursor that shares a byte with a range."""
    return _read(
        connection,
        _rows_of(log).where(
            _DAMAGE.c.kind != TORN_END, _DAMAGE.c.byte_start < byte_end, _DAMAGE.c.byte_end > byte_start
        ),
    )


def ends_in_file(connection: Connection, place: str) -> list[Damage]:
    """Return the torn ends that a file had when it was read last; `place` is its key, see `file_key_of`."""
    return _read(connection, select(_DAMAGE).where(_DAMAGE.c.place == place, _DAMAGE.c.kind == TORN_END))


def torn_ends(connection: Connection, log: Log) -> list[Damage]:
    """Return the torn values at the ends of the files that a log is in, in order."""
    return _read(connection, _rows_of(log).where(_DAMAGE.c.kind == TORN_END).order_by(_DAMAGE.c.byte_start))


def logs_with_open_end(connection: Connection) -> set[Log]:
    """Return the logs with a torn end that is neither explained nor a dead letter yet."""
    query = select(_DAMAGE.c.identity, _DAMAGE.c.generation).where(
        _DAMAGE.c.kind == TORN_END, ~_DAMAGE.c.is_explained, ~_DAMAGE.c.has_letter
    )
    return {(identity, generation) for identity, generation in connection.execute(query)}


def unexplained_ends(connection: Connection, since: str, until: str) -> list[Damage]:
    """Return the torn ends between two times whose events are not stored."""
    return _read(
        connection,
        select(_DAMAGE).where(
            _DAMAGE.c.kind == TORN_END, _DAMAGE.c.moment.between(since, until), ~_DAMAGE.c.is_explained
        ),
    )


def ends(connection: Connection, since: str, until: str) -> list[Damage]:
    """Return the torn ends between two times."""
    return _read(connection, select(_DAMAGE).where(_DAMAGE.c.kind == TORN_END, _DAMAGE.c.moment.between(since, until)))


def beginnings(connection: Connection, since: str, until: str) -> list[Damage]:
    """Return the values between two times with which a log begins and which may be the rest of a torn one."""
    return _read(
        connection,
        select(_DAMAGE).where(
            _DAMAGE.c.kind == REFUSED, _DAMAGE.c.raw.is_not(None), _DAMAGE.c.moment.between(since, until)
        ),
    )


def undated_beginning(connection: Connection, log: Log) -> Damage | None:
    """Return the value that a log begins with and that may be the rest of a torn one, if no event's time is noted."""
    query = _rows_of(log).where(_DAMAGE.c.kind == REFUSED, _DAMAGE.c.raw.is_not(None), _DAMAGE.c.moment.is_(None))
    rows = _read(connection, query)
    return rows[0] if rows else None


def same_values(connection: Connection, damage: Damage) -> list[Damage]:
    """Return the places of all logs with the same bytes after the same value."""
    query = select(_DAMAGE).where(_OF_VALUE, _DAMAGE.c.digest == damage.digest, _DAMAGE.c.context == damage.context)
    return _read(connection, query.order_by(_DAMAGE.c.identity, _DAMAGE.c.generation, _DAMAGE.c.byte_start))


def counts_by_log(connection: Connection, digest: str, context: str) -> dict[Log, int]:
    """Return how often each log has the same bytes after the same value."""
    query = (
        select(_DAMAGE.c.identity, _DAMAGE.c.generation, func.count())
        .where(_OF_VALUE, _DAMAGE.c.digest == digest, _DAMAGE.c.context == context)
        .group_by(_DAMAGE.c.identity, _DAMAGE.c.generation)
    )
    return {(identity, generation): count for identity, generation, count in connection.execute(query)}


def count_letters(connection: Connection, digest: str, context: str) -> int:
    """Return how many dead letters all logs have of the same bytes after the same value."""
    query = select(func.count()).where(
        _OF_VALUE, _DAMAGE.c.digest == digest, _DAMAGE.c.context == context, _DAMAGE.c.has_letter
    )
    return int(connection.execute(query).scalar_one())


def log_of(connection: Connection, log: Log) -> Mapping[str, Any]:
    """Return the row of `log_files` of a log that is stored."""
    query = select(_LOG).where(_LOG.c.identity == log[0], _LOG.c.generation == log[1])
    return dict(connection.execute(query).mappings().one())


def letters_of_copies(connection: Connection, log: Log, first: int, last: int) -> list[Damage]:
    """Return the damage with dead letters, between two offsets, of other logs that begin with the same event."""
    query = select(_DAMAGE).where(
        _DAMAGE.c.identity == log[0],
        _DAMAGE.c.generation != log[1],
        _DAMAGE.c.kind == REFUSED,
        _DAMAGE.c.has_letter,
        _DAMAGE.c.source_offset.between(first, last),
    )
    return _read(connection, query)


def has_event_in_copy(connection: Connection, damage: Damage) -> bool:
    """Return whether another copy of a log has an event, after the same value, where the log has a refused one.

    A copy begins with the same event, has the value before on the line before, or one of those that it shares with
    other logs, and is not damaged there.
    """
    previous = damage.source_offset - 1
    query = (
        select(_LOG.c.generation)
        .outerjoin(
            _EVENT,
            and_(
                _EVENT.c.source == _LOG.c.source,
                _EVENT.c.source_inode == _LOG.c.source_inode,
                _EVENT.c.source_generation == _LOG.c.source_generation,
                _EVENT.c.source_offset == previous,
            ),
        )
        .outerjoin(
            _SHARED,
            and_(
                _SHARED.c.identity == _LOG.c.identity,
                _SHARED.c.generation == _LOG.c.generation,
                _SHARED.c.payload_hash == damage.context,
            ),
        )
        .where(
            _LOG.c.identity == damage.identity,
            _LOG.c.generation != damage.generation,
            _LOG.c.values_done >= 0,  # of a log that is read again, the damage is not known any more
            _LOG.c.next_offset > damage.source_offset,
            or_(
                _EVENT.c.payload_hash == damage.context,
                and_(_EVENT.c.id.is_(None), _SHARED.c.payload_hash.is_not(None)),
            ),
            ~exists().where(
                _DAMAGE.c.identity == _LOG.c.identity,
                _DAMAGE.c.generation == _LOG.c.generation,
                _DAMAGE.c.kind == REFUSED,
                _DAMAGE.c.source_offset == damage.source_offset,
            ),
        )
        .limit(1)
    )
    return connection.execute(query).first() is not None


def move_dead_bytes(connection: Connection, log: Log, count: int) -> None:
    """Count bytes of a log as stored that were counted as dead."""
    connection.execute(
        update(LogFile)
        .where(_LOG.c.identity == log[0], _LOG.c.generation == log[1])
        .values(bytes_dead=_LOG.c.bytes_dead - count, bytes_stored=_LOG.c.bytes_stored + count)
    )


def remove_letter(
    connection: Connection, source_key: SourceKey, damage: Damage, *, of_stored_event: bool = False
) -> bool:
    """Delete the unresolved dead letter of a damaged place, or of the file of the event there.

    Args:
        connection: in a write transaction.
        source_key: the log's values in `raw_events`.
        damage: the place.
        of_stored_event: delete the one of a stored event instead, whose file was refused.

    Returns:
        Whether there was one.
    """
    letters = connection.execute(
        select(_LETTER.c.id, _LETTER.c.metadata_json).where(
            _LETTER.c.source == source_key.source,
            _LETTER.c.source_offset == damage.source_offset,
            ~_LETTER.c.resolved,
        )
    )
    for letter_id, metadata in letters:
        known = metadata or {}
        place = known.get("byte_start"), known.get("generation"), bool(known.get("event_stored"))
        if place == (damage.byte_start, source_key.source_generation, of_stored_event):
            connection.execute(delete(DeadLetterEvent).where(_LETTER.c.id == letter_id))
            return True
    return False


def timestamps_beginning_with(connection: Connection, beginning: str, since: str, until: str) -> Iterator[str]:
    """Yield the timestamps of stored events whose JSON begins as given, apart from white space.

    Args:
        connection: any.
        beginning: the beginning of the event's JSON; see `without_blanks`.
        since: the smallest timestamp, compared as the log spells it.
        until: the largest one.
    """
    head = f"substr({dialect_of(connection).sql.json_text('payload')}, 1, ?)"
    for _ in BLANKS:
        head = f"replace({head}, ?, '')"
    statement = (
        "SELECT event_timestamp FROM raw_events WHERE event_timestamp BETWEEN ? AND ?"
        f" AND substr({head}, 1, ?) = ? ORDER BY event_timestamp"
    )
    size = len(beginning)
    cursor = connection.connection.cursor()
    try:
        values = (since, until, head_length(size), *BLANKS, size, beginning)
        cursor.execute(dialect_of(connection).sql.statement(statement), values)
        while row := cursor.fetchone():
            yield str(row[0])
    finally:
        cursor.close()


BLANKS = " \t\r\n"
_MOST_BLANKS = 4
"""Characters per character without white space, in the head of an event that is compared; enough for indented JSON."""


def head_length(size: int) -> int:
    """Return how many characters of an event hold `size` that are not white space, even if it is indented."""
    return _MOST_BLANKS * size + len(BLANKS) * _MOST_BLANKS


def without_blanks(text: str) -> str:
    """Return a text without white space, so that it does not matter how its JSON is indented."""
    return text.translate(_NO_BLANKS)


_NO_BLANKS = str.maketrans("", "", BLANKS)


def of_log(connection: Connection, log: Log) -> list[Damage]:
    """Return all damage of a log, its torn end included, in order."""
    return _read(connection, _rows_of(log).order_by(_DAMAGE.c.byte_start))


def explained_ends(connection: Connection) -> list[Damage]:
    """Return the torn ends whose events are stored."""
    return _read(connection, select(_DAMAGE).where(_DAMAGE.c.kind == TORN_END, _DAMAGE.c.is_explained))


def remove_without_letters(connection: Connection, log: Log) -> None:
    """Delete the rows of the refused values and of the torn end of a log that have no dead letter."""
    connection.execute(
        delete(LogDamage).where(
            _DAMAGE.c.identity == log[0], _DAMAGE.c.generation == log[1], _OF_VALUE, ~_DAMAGE.c.has_letter
        )
    )


def has_unexplained_end(connection: Connection, since: str, until: str) -> bool:
    """Return whether there is a torn end between two times whose event is not stored; asked for every batch."""
    statement = "SELECT 1 FROM log_damage WHERE kind = 'end' AND moment BETWEEN ? AND ? AND NOT is_explained LIMIT 1"
    return bool(_query(connection, statement, (since, until)))


def has_end_in_file(connection: Connection, place: str) -> bool:
    """Return whether a file had a torn end when it was read last; asked for every file."""
    return bool(_query(connection, "SELECT 1 FROM log_damage WHERE place = ? LIMIT 1", (place,)))


def _query(connection: Connection, sql: str, values: Sequence[Any]) -> list[Any]:
    """Run a query on the driver's own cursor and return its rows."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(dialect_of(connection).sql.statement(sql), values)
        return list(cursor.fetchall())
    finally:
        cursor.close()


def _rows_of(log: Log) -> Any:
    return select(_DAMAGE).where(_DAMAGE.c.identity == log[0], _DAMAGE.c.generation == log[1])


def _is_row(damage: Damage) -> Any:
    return and_(
        _DAMAGE.c.identity == damage.identity,
        _DAMAGE.c.generation == damage.generation,
        _DAMAGE.c.byte_start == damage.byte_start,
        _DAMAGE.c.kind == damage.kind,
        _DAMAGE.c.place == damage.place,
    )


def _read(connection: Connection, query: Any) -> list[Damage]:
    return [Damage(**row) for row in connection.execute(query).mappings()]
