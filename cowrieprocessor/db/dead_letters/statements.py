"""The statements about dead letters: which there are, their bytes, and what is done with them.

Nothing here commits. Who changes a letter holds its row, and letters are always taken in the order of their ids.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, bindparam, cast, delete, func, select, text, update

from cowrieprocessor.db.dialects.sql_expressions import sql_of
from cowrieprocessor.db.ingest.log_files import MAX_SOURCE_CHARS
from cowrieprocessor.db.jobs import MIGRATION_JOB
from cowrieprocessor.db.models import DeadLetterEvent, Job, LogFile
from cowrieprocessor.sanitize import inert_cut

NAMED_AT_ONCE = 400
_LETTER = DeadLetterEvent.__table__
_TABLE = DeadLetterEvent.__tablename__
_PURGED = "dead_letters_purged"


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which dead letters are meant; what is None chooses nothing away.

    Attributes:
        resolved: only the resolved ones, or only the others.
        reason: exactly this reason.
        ids: only these.
        sources: only of these logs.
        before: only those stored before this moment.
    """

    resolved: bool | None = False
    reason: str | None = None
    ids: tuple[int, ...] | None = None
    sources: tuple[str, ...] | None = None
    before: dt.datetime | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the choice as conditions of a query; `ids` are left to the caller, who takes them in parts."""
        found: list[ColumnElement[bool]] = []
        if self.resolved is not None:
            found.append(_LETTER.c.resolved.is_(self.resolved))
        if self.reason is not None:
            found.append(_LETTER.c.reason == self.reason)
        if self.sources is not None:
            found.append(_LETTER.c.source.in_(self.sources))
        if self.before is not None:
            found.append(_LETTER.c.created_at < self.before)
        return found


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """One dead letter as it is stored; `payload` is JSON text, which need not be JSON where v3 wrote it."""

    id: int
    source: str | None
    source_offset: int | None
    reason: str
    payload: str
    metadata: Mapping[str, Any]


def sources_of(connection: Connection, path: str) -> tuple[str, ...]:
    """Return the names under which what was read from a path stands in `source`.

    Args:
        connection: any.
        path: of a log, or as `source` has it; a log keeps the name under which it was first seen.
    """
    absolute = os.path.abspath(path)  # noqa: PTH100 - resolve() would follow links
    names = {inert_cut(name, MAX_SOURCE_CHARS) for name in (path, absolute)}
    first_seen_as = connection.execute(select(LogFile.source).where(LogFile.current_path.in_(names))).scalars()
    return tuple(sorted({*names, *first_seen_as, path[:MAX_SOURCE_CHARS]}))


def last_id(connection: Connection) -> int:
    """Return the largest id of the dead letters, 0 where there is none."""
    return int(connection.execute(select(func.coalesce(func.max(_LETTER.c.id), 0))).scalar_one())


def count(connection: Connection, letter_filter: LetterFilter) -> dict[str, int]:
    """Return how many letters are chosen, by reason."""
    found: dict[str, int] = {}
    for part in _id_conditions(letter_filter):
        query = select(_LETTER.c.reason, func.count().label("rows")).where(*letter_filter.conditions(), *part)
        for reason, rows in connection.execute(query.group_by(_LETTER.c.reason)):
            found[reason] = found.get(reason, 0) + int(rows)
    return dict(sorted(found.items()))


def next_ids(connection: Connection, letter_filter: LetterFilter, after: int, until: int, limit: int) -> list[int]:
    """Return the ids of the next chosen letters, in their order.

    Args:
        connection: any.
        letter_filter: which.
        after: only larger ids.
        until: no larger ids.
        limit: how many at most.
    """
    behind = _LETTER.c.id.between(after + 1, until)
    found: list[int] = []
    for part in _id_conditions(letter_filter):
        query = select(_LETTER.c.id).where(*letter_filter.conditions(), behind, *part).order_by(_LETTER.c.id)
        found += connection.execute(query.limit(limit - len(found))).scalars()
        if len(found) >= limit:
            break
    return found


def payload_chars(connection: Connection, ids: Sequence[int]) -> dict[int, int]:
    """Return how many characters the payloads of letters have, by id; those that are gone are left out."""
    found: dict[int, int] = {}
    for part in _named(ids):
        query = select(_LETTER.c.id, func.length(cast(_LETTER.c.payload, Text))).where(_LETTER.c.id.in_(part))
        found |= {letter_id: int(chars or 0) for letter_id, chars in connection.execute(query)}
    return found


def read_letters(connection: Connection, ids: Sequence[int]) -> list[StoredLetter]:
    """Return letters with all their bytes, in the order of their ids; those that are gone are left out."""
    sql = sql_of(connection)
    found = []
    for part in _named(ids):
        statement = sql.statement(
            f"SELECT id, source, source_offset, reason, {sql.json_text('payload')}, {sql.json_text('metadata_json')}"
            f" FROM dead_letter_events WHERE id IN ({', '.join('?' * len(part))}) ORDER BY id"
        )
        for letter_id, source, offset, reason, payload, metadata in connection.exec_driver_sql(statement, tuple(part)):
            found.append(StoredLetter(letter_id, source, offset, reason, payload or "", _object(metadata)))
    return found


def lock_unresolved(connection: Connection, letters: Sequence[StoredLetter]) -> set[int]:
    """Return which letters still wait, and keep them from changing until the transaction ends.

    The id alone is not enough: SQLite gives that of a deleted last row to the next one.
    """
    read = {one.id: (one.source, one.source_offset, one.reason) for one in letters}
    held: set[int] = set()
    for part in _named(sorted(read)):
        query = select(_LETTER.c.id, _LETTER.c.source, _LETTER.c.source_offset, _LETTER.c.reason).where(
            _LETTER.c.id.in_(part), _LETTER.c.resolved.is_(False)
        )
        rows = connection.execute(query.order_by(_LETTER.c.id).with_for_update())
        held.update(letter_id for letter_id, *facts in rows if tuple(facts) == read[letter_id])
    return held


def resolve(connection: Connection, letters: Sequence[tuple[int, Mapping[str, Any]]], now: dt.datetime) -> None:
    """Mark letters as resolved: their ids, and what their metadata says from now on."""
    if not letters:
        return
    statement = (
        update(DeadLetterEvent)
        .where(_LETTER.c.id == bindparam("letter"))
        .values(resolved=True, resolved_at=now, metadata_json=bindparam("metadata"))
    )
    connection.execute(statement, [{"letter": one, "metadata": dict(metadata)} for one, metadata in letters])


def purge(connection: Connection, letter_filter: LetterFilter, ids: Sequence[int]) -> int:
    """Delete the letters among some that are still chosen, and return how many there were.

    Letters that v3 wrote are taken out of what the migration noted about v3's rows, and counted there.
    """
    gone = 0
    for part in _named(sorted(ids)):
        query = select(_LETTER.c.id).where(*letter_filter.conditions(), _LETTER.c.id.in_(part)).order_by(_LETTER.c.id)
        there = list(connection.execute(query.with_for_update()).scalars())
        if not there:
            continue
        connection.execute(delete(DeadLetterEvent).where(DeadLetterEvent.id.in_(there)))
        _note_purged(connection, there)
        gone += len(there)
    return gone


def _note_purged(connection: Connection, ids: Sequence[int]) -> None:
    """Say in the migration's record which of v3's letters are not to be expected any more.

    SQLite gives the id of a deleted last row to the next one, so that the border between v3's letters and ours moves
    down to the last one of v3 that is left.
    """
    query = select(Job.cursor).where(Job.name == MIGRATION_JOB)
    cursor = dict(connection.execute(query.with_for_update()).scalar() or {})
    border = cursor.get("dead_letters_max_id")
    if not isinstance(border, int) or not (of_v3 := [one for one in ids if one <= border]):
        return
    left = select(func.coalesce(func.max(_LETTER.c.id), 0)).where(_LETTER.c.id <= border)
    digests = dict(cursor.get("digests") or {})
    if digest := digests.get(_TABLE):
        expected = {key: value for key, value in digest["rows"].items() if int(key) not in set(of_v3)}
        digests[_TABLE] = {**digest, "rows": expected}
    changes = {
        "dead_letters_max_id": int(connection.execute(left).scalar_one()),
        "digests": digests,
        _PURGED: int(cursor.get(_PURGED) or 0) + len(of_v3),
    }
    connection.execute(update(Job).where(Job.name == MIGRATION_JOB).values(cursor={**cursor, **changes}))


def count_purged_v3_letters(connection: Connection) -> int:
    """Return how many letters that v3 wrote were purged since the migration."""
    cursor = connection.execute(select(Job.cursor).where(Job.name == MIGRATION_JOB)).scalar() or {}
    return int(cursor.get(_PURGED) or 0)


def event_payload(connection: Connection, event_id: int, max_chars: int) -> str | None:
    """Return the payload of a stored event; None where there is no such event, or it is longer than `max_chars`."""
    payload = sql_of(connection).json_text("payload")
    query = text(f"SELECT {payload} FROM raw_events WHERE id = :id AND length({payload}) <= :chars")
    found = connection.execute(query, {"id": event_id, "chars": max_chars}).scalar()
    return None if found is None else str(found)


def _id_conditions(letter_filter: LetterFilter) -> list[list[ColumnElement[bool]]]:
    """Return the conditions about ids, as many as statements are needed."""
    if letter_filter.ids is None:
        return [[]]
    return [[_LETTER.c.id.in_(part)] for part in _named(sorted(letter_filter.ids))]


def _named(values: Sequence[int]) -> list[Sequence[int]]:
    return [values[start : start + NAMED_AT_ONCE] for start in range(0, len(values), NAMED_AT_ONCE)]


def _object(document: Any) -> dict[str, Any]:
    """Return a JSON column's object, empty where it is none; v3 wrote none."""
    try:
        value = json.loads(document) if isinstance(document, str) else document
    except json.JSONDecodeError:
        return {}
    return dict(value) if isinstance(value, dict) else {}
