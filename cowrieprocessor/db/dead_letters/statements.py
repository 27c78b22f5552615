"""Statements on dead letters: select, read, resolve and purge them.

Nothing here commits. A writer locks the rows of the letters that it changes, always in the order of their ids.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, bindparam, cast, delete, func, select, text, update

from cowrieprocessor.db.chunks import chunks
from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.ingest.log_files import MAX_SOURCE_CHARS
from cowrieprocessor.db.jobs import MIGRATION_JOB
from cowrieprocessor.db.models import DeadLetterEvent, Job, LogFile
from cowrieprocessor.sanitize import inert_cut

_LETTER = DeadLetterEvent.__table__
_TABLE = DeadLetterEvent.__tablename__
_PURGED = "dead_letters_purged"


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Selects dead letters; a field that is None does not restrict the selection.

    Attributes:
        resolved: only resolved letters (True) or only unresolved ones (False).
        reason: only letters with exactly this reason.
        ids: only letters with these ids.
        sources: only letters of logs with these sources.
        before: only letters stored before this time.
    """

    resolved: bool | None = False
    reason: str | None = None
    ids: tuple[int, ...] | None = None
    sources: tuple[str, ...] | None = None
    before: dt.datetime | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the filter as query conditions, without `ids`, which callers split over several statements."""
        conditions: list[ColumnElement[bool]] = []
        if self.resolved is not None:
            conditions.append(_LETTER.c.resolved.is_(self.resolved))
        if self.reason is not None:
            conditions.append(_LETTER.c.reason == self.reason)
        if self.sources is not None:
            conditions.append(_LETTER.c.source.in_(self.sources))
        if self.before is not None:
            conditions.append(_LETTER.c.created_at < self.before)
        return conditions


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """One stored dead letter; `payload` is JSON text, except that v3 may have written text that is not JSON."""

    id: int
    source: str | None
    source_offset: int | None
    reason: str
    payload: str
    metadata: Mapping[str, Any]


def line_of(source_offset: int | None, metadata: Mapping[str, Any] | None) -> int | None:
    """Return the line of the log on which a letter begins, counted from 1; None if it is not known.

    `source_offset` counts each value, so that it is larger where a line holds several; the loaders of version 3 stored
    no other number.
    """
    line = (metadata or {}).get("line")
    if type(line) is int and "byte_start" in (metadata or {}):
        return line
    return None if source_offset is None else source_offset + 1


def sources_of(connection: Connection, path: str) -> tuple[str, ...]:
    """Return the values of `source` for a log's path.

    Args:
        connection: any.
        path: current path of a log, or a value of `source`; a log keeps the source under which it was first seen.
    """
    absolute = os.path.abspath(path)  # noqa: PTH100 - resolve() would follow links
    names = {inert_cut(name, MAX_SOURCE_CHARS) for name in (path, absolute)}
    first_seen_as = connection.execute(select(LogFile.source).where(LogFile.current_path.in_(names))).scalars()
    return tuple(sorted({*names, *first_seen_as, path[:MAX_SOURCE_CHARS]}))


def last_id(connection: Connection) -> int:
    """Return the largest id of all dead letters, 0 if there are none."""
    return int(connection.execute(select(func.coalesce(func.max(_LETTER.c.id), 0))).scalar_one())


def count(connection: Connection, letter_filter: LetterFilter) -> dict[str, int]:
    """Count the selected letters by reason."""
    counts: dict[str, int] = {}
    for part in _id_conditions(letter_filter):
        query = select(_LETTER.c.reason, func.count().label("rows")).where(*letter_filter.conditions(), *part)
        for reason, rows in connection.execute(query.group_by(_LETTER.c.reason)):
            counts[reason] = counts.get(reason, 0) + int(rows)
    return dict(sorted(counts.items()))


def next_ids(connection: Connection, letter_filter: LetterFilter, after: int, until: int, limit: int) -> list[int]:
    """Return the ids of the next selected letters in ascending order.

    Args:
        connection: any.
        letter_filter: which letters.
        after: lower bound of the ids, exclusive.
        until: upper bound of the ids, inclusive.
        limit: maximum number of ids.
    """
    is_in_range = _LETTER.c.id.between(after + 1, until)
    found: list[int] = []
    for part in _id_conditions(letter_filter):
        query = select(_LETTER.c.id).where(*letter_filter.conditions(), is_in_range, *part).order_by(_LETTER.c.id)
        found += connection.execute(query.limit(limit - len(found))).scalars()
        if len(found) >= limit:
            break
    return found


def payload_chars(connection: Connection, ids: Sequence[int]) -> dict[int, int]:
    """Return the payload lengths of letters in characters, by id; deleted letters are left out."""
    lengths: dict[int, int] = {}
    for part in chunks(ids):
        query = select(_LETTER.c.id, func.length(cast(_LETTER.c.payload, Text))).where(_LETTER.c.id.in_(part))
        lengths |= {letter_id: int(chars or 0) for letter_id, chars in connection.execute(query)}
    return lengths


def read_letters(connection: Connection, ids: Sequence[int]) -> list[StoredLetter]:
    """Return letters with their payloads, ordered by id; deleted letters are left out."""
    sql = dialect_of(connection).sql
    found = []
    for part in chunks(ids):
        statement = sql.statement(
            f"SELECT id, source, source_offset, reason, {sql.json_text('payload')}, {sql.json_text('metadata_json')}"
            f" FROM dead_letter_events WHERE id IN ({', '.join('?' * len(part))}) ORDER BY id"
        )
        for letter_id, source, offset, reason, payload, metadata in connection.exec_driver_sql(statement, tuple(part)):
            found.append(StoredLetter(letter_id, source, offset, reason, payload or "", _object(metadata)))
    return found


def lock_unresolved(connection: Connection, letters: Sequence[StoredLetter]) -> set[int]:
    """Lock the letters that are still unresolved until the transaction ends, and return their ids.

    The id alone does not identify a letter: SQLite reuses the id of a deleted last row.
    """
    read = {letter.id: (letter.source, letter.source_offset, letter.reason) for letter in letters}
    locked: set[int] = set()
    for part in chunks(sorted(read)):
        query = select(_LETTER.c.id, _LETTER.c.source, _LETTER.c.source_offset, _LETTER.c.reason).where(
            _LETTER.c.id.in_(part), _LETTER.c.resolved.is_(False)
        )
        rows = connection.execute(query.order_by(_LETTER.c.id).with_for_update())
        locked.update(letter_id for letter_id, *columns in rows if tuple(columns) == read[letter_id])
    return locked


def resolve(connection: Connection, letters: Sequence[tuple[int, Mapping[str, Any]]], now: dt.datetime) -> None:
    """Mark letters, given as id and new metadata, as resolved."""
    if not letters:
        return
    statement = (
        update(DeadLetterEvent)
        .where(_LETTER.c.id == bindparam("letter"))
        .values(resolved=True, resolved_at=now, metadata_json=bindparam("metadata"))
    )
    connection.execute(
        statement, [{"letter": letter_id, "metadata": dict(metadata)} for letter_id, metadata in letters]
    )


def purge(connection: Connection, letter_filter: LetterFilter, ids: Sequence[int]) -> int:
    """Delete the letters with these ids that the filter still selects, and return their number.

    Letters that v3 wrote are removed from the migration's record of v3's rows, and counted there.
    """
    purged = 0
    for part in chunks(sorted(ids)):
        query = select(_LETTER.c.id).where(*letter_filter.conditions(), _LETTER.c.id.in_(part)).order_by(_LETTER.c.id)
        selected = list(connection.execute(query.with_for_update()).scalars())
        if not selected:
            continue
        connection.execute(delete(DeadLetterEvent).where(DeadLetterEvent.id.in_(selected)))
        _record_purged(connection, selected)
        purged += len(selected)
    return purged


def _record_purged(connection: Connection, ids: Sequence[int]) -> None:
    """Update the migration's record after letters were purged: v3's letters among them are no longer expected."""
    query = select(Job.cursor).where(Job.name == MIGRATION_JOB)
    cursor = dict(connection.execute(query.with_for_update()).scalar() or {})
    v3_max_id = cursor.get("dead_letters_max_id")
    if not isinstance(v3_max_id, int):
        return
    v3_ids = {letter_id for letter_id in ids if letter_id <= v3_max_id}
    if not v3_ids:
        return
    changes = {
        "dead_letters_max_id": _largest_id_up_to(connection, v3_max_id),
        "digests": _without_rows(cursor.get("digests") or {}, v3_ids),
        _PURGED: int(cursor.get(_PURGED) or 0) + len(v3_ids),
    }
    connection.execute(update(Job).where(Job.name == MIGRATION_JOB).values(cursor={**cursor, **changes}))


def _largest_id_up_to(connection: Connection, max_id: int) -> int:
    """Return the largest remaining id up to `max_id`, 0 if none; SQLite may reuse the ids above it for new letters."""
    query = select(func.coalesce(func.max(_LETTER.c.id), 0)).where(_LETTER.c.id <= max_id)
    return int(connection.execute(query).scalar_one())


def _without_rows(digests: Mapping[str, Any], ids: Collection[int]) -> dict[str, Any]:
    """Return the migration's digests without those of these letters."""
    remaining = dict(digests)
    if digest := remaining.get(_TABLE):
        rows = {key: value for key, value in digest["rows"].items() if int(key) not in ids}
        remaining[_TABLE] = {**digest, "rows": rows}
    return remaining


def count_purged_v3_letters(connection: Connection) -> int:
    """Return the number of v3's letters purged since the migration."""
    cursor = connection.execute(select(Job.cursor).where(Job.name == MIGRATION_JOB)).scalar() or {}
    return int(cursor.get(_PURGED) or 0)


def event_payload(connection: Connection, event_id: int, max_chars: int) -> str | None:
    """Return the payload of a stored event, None if there is none or it is longer than `max_chars`."""
    payload = dialect_of(connection).sql.json_text("payload")
    query = text(f"SELECT {payload} FROM raw_events WHERE id = :id AND length({payload}) <= :chars")
    payload_text = connection.execute(query, {"id": event_id, "chars": max_chars}).scalar()
    return None if payload_text is None else str(payload_text)


def _id_conditions(letter_filter: LetterFilter) -> list[list[ColumnElement[bool]]]:
    """Return the conditions on ids, one list for each statement that is needed."""
    if letter_filter.ids is None:
        return [[]]
    return [[_LETTER.c.id.in_(part)] for part in chunks(sorted(letter_filter.ids))]


def _object(document: Any) -> dict[str, Any]:
    """Return the object of a JSON column, empty if there is none, as in v3's rows."""
    try:
        value = json.loads(document) if isinstance(document, str) else document
    except json.JSONDecodeError:
        return {}
    return dict(value) if isinstance(value, dict) else {}
