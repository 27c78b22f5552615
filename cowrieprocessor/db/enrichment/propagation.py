"""Copies of a hash's verdict and size in the rows of `files`, and the flags of its sessions.

On PostgreSQL rows are locked in one order: sessions, then hashes, then notes of propagation, then files. A loader
holds its sessions when it comes to the hash, and whoever judges holds the hash when it writes the note.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Table, delete, or_, select, text, update

from cowrieprocessor.db.chunks import MAX_PARAMETERS
from cowrieprocessor.db.chunks import chunks as parts_of
from cowrieprocessor.db.dialects.sql_expressions import sql_of
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.models import FILES, HASHES, VERDICT_COLUMNS, VerdictPropagation

__all__ = [
    "MAX_ROWS",
    "SLICE_ROWS",
    "Part",
    "PropagationStep",
    "current_verdict",
    "propagate",
    "propagate_some",
    "spread",
    "waiting_parts",
]

PENDING_HASHES: Table = VerdictPropagation.metadata.tables["verdict_propagation"]
MAX_ROWS = 5_000
"""Rows of `files` that one transaction may change."""

HASHES_AT_ONCE = 64
"""Hashes that one transaction looks at: each costs some statements, and a loader may be waiting."""

SLICE_ROWS = MAX_PARAMETERS
"""A transaction can end behind so many rows of a hash."""


@dataclass(frozen=True, slots=True)
class PropagationStep:
    """What one transaction did.

    Attributes:
        rows: rows of `files` looked at.
        changed: of these, the rows that got another verdict or size.
        hashes_done: hashes of which every row has the current verdict now.
    """

    rows: int
    changed: int
    hashes_done: int


class _Row(NamedTuple):
    """What identifies a row of `files`."""

    id: int
    session_id: str


class Part(NamedTuple):
    """Some rows of one hash that waits.

    Attributes:
        sha256: the hash.
        requested_at: when it was asked for that its rows follow.
        cursor: they begin behind this id.
        rows: at most SLICE_ROWS.
        is_last: none follow.
    """

    sha256: str
    requested_at: dt.datetime
    cursor: int
    rows: Sequence[_Row]
    is_last: bool


def current_verdict(connection: Connection, sha256: str) -> dict[str, Any] | None:
    """Return what `file_hashes` says about a hash that `files` copies, or None."""
    columns = (HASHES.c.size_bytes, *(HASHES.c[name] for name in VERDICT_COLUMNS))
    row = connection.execute(select(*columns).where(HASHES.c.sha256 == sha256)).mappings().one_or_none()
    return None if row is None else {str(name): value for name, value in row.items()}


def propagate(connection: Connection, sha256: str, after_id: int, limit: int) -> tuple[int, int, int | None]:
    """Give the next rows of a hash in `files` what `file_hashes` says, and flag their sessions if it is malicious.

    Args:
        connection: holds the write lock.
        sha256: the hash.
        after_id: rows behind this id are looked at.
        limit: how many rows at most.

    Returns:
        The rows looked at, the rows changed, and the id to go on behind; None at the end.
    """
    known = current_verdict(connection, sha256)
    if known is None:
        return 0, 0, None
    rows = _rows(connection, sha256, after_id, limit)
    if known["vt_malicious"]:
        sessions = {row.session_id for row in rows}
        _lock_sessions(connection, sessions)
        _flag(connection, sessions)
    changed = _copy(connection, known, rows, dt.datetime.now(dt.UTC))
    return len(rows), changed, rows[-1].id if len(rows) == limit else None


def propagate_some(engine: Engine, *, now: dt.datetime, max_rows: int = 2_000) -> PropagationStep | None:
    """Bring some rows of hashes that wait up to date, in one transaction; None if no hash waits.

    It may be killed anywhere and be called by several processes at once.

    Args:
        engine: the database.
        now: the time.
        max_rows: how many rows of `files` at most, up to MAX_ROWS.
    """
    with read_transaction(engine) as connection:
        parts = waiting_parts(connection, max_rows)
    if not parts:
        return None
    with write_transaction(engine) as connection:
        return spread(connection, parts, now=now)


def waiting_parts(connection: Connection, max_rows: int) -> list[Part]:
    """Return the next rows of the next hashes that wait; none if no hash waits.

    Args:
        connection: in a transaction; one that only reads is enough, and keeps no writer waiting.
        max_rows: how many rows of `files` at most, up to MAX_ROWS.
    """
    room = min(max(max_rows, 1), MAX_ROWS)
    waiting = select(PENDING_HASHES).order_by(PENDING_HASHES.c.sha256).limit(HASHES_AT_ONCE)
    parts: list[Part] = []
    for note in connection.execute(waiting).mappings().all():
        rows = _rows(connection, note["sha256"], note["cursor"], room)
        is_whole, cursor = len(rows) < room, note["cursor"]
        for start in range(0, max(len(rows), 1), SLICE_ROWS):
            some = rows[start : start + SLICE_ROWS]
            is_last = is_whole and start + SLICE_ROWS >= len(rows)
            parts.append(Part(note["sha256"], note["requested_at"], cursor, some, is_last))
            cursor = some[-1].id if some else cursor
        room -= len(rows)
        if room <= 0:
            break
    return parts


def spread(
    connection: Connection, parts: Sequence[Part], *, now: dt.datetime, may_go_on: Callable[[], bool] = lambda: True
) -> PropagationStep:
    """Give rows the verdict that their hash has now, and note how far it came.

    Args:
        connection: in a write transaction that has locked nothing yet.
        parts: what waited just before. What another process did meanwhile is left to it; rows that were added have
            the verdict from the beginning.
        now: the time.
        may_go_on: asked behind each part whether the next one may follow in this transaction.
    """
    rows = changed = done = 0
    _lock_sessions(connection, {row.session_id for part in parts for row in part.rows})
    for number, part in enumerate(parts):
        if number and not may_go_on():
            break
        if not _is_as_it_was(connection, part):
            continue
        known = current_verdict(connection, part.sha256)
        if known is not None:
            rows += len(part.rows)
            changed += _spread_part(connection, part, known, now)
        is_done = part.is_last or known is None
        done += is_done
        _move_on(connection, part, is_done=is_done)
    return PropagationStep(rows, changed, done)


def _is_as_it_was(connection: Connection, part: Part) -> bool:
    """Keep a hash's note, and so its verdict, from changing; False if another process was here meanwhile."""
    mine = PENDING_HASHES.c.sha256 == part.sha256
    note = connection.execute(select(PENDING_HASHES).where(mine).with_for_update()).mappings().one_or_none()
    return note is not None and (note["requested_at"], note["cursor"]) == (part.requested_at, part.cursor)


def _move_on(connection: Connection, part: Part, *, is_done: bool) -> None:
    mine = PENDING_HASHES.c.sha256 == part.sha256
    if is_done:
        connection.execute(delete(PENDING_HASHES).where(mine))
    else:
        connection.execute(update(PENDING_HASHES).where(mine).values(cursor=part.rows[-1].id))


def _spread_part(connection: Connection, part: Part, known: Mapping[str, Any], now: dt.datetime) -> int:
    """Give the rows of one part their verdict and their sessions the flag; the sessions are locked."""
    if known["vt_malicious"]:
        _flag(connection, {row.session_id for row in part.rows})
        return _copy(connection, known, part.rows, now)
    # Which of them say malicious is read here: they may have changed before the verdict was locked.
    were_malicious = _malicious_sessions(connection, part.rows)
    changed = _copy(connection, known, part.rows, now)
    _unflag(connection, were_malicious)
    return changed


def _rows(connection: Connection, sha256: str, after_id: int, limit: int) -> list[_Row]:
    query = select(FILES.c.id, FILES.c.session_id).where(FILES.c.shasum == sha256, FILES.c.id > after_id)
    found = connection.execute(query.order_by(FILES.c.id).limit(limit))
    return [_Row(file_id, session_id) for file_id, session_id in found]


def _malicious_sessions(connection: Connection, rows: Sequence[_Row]) -> set[str]:
    """Return the sessions of rows that say malicious."""
    sessions: set[str] = set()
    for part in parts_of(rows):
        mine = FILES.c.id.in_([row.id for row in part])
        sessions.update(connection.scalars(select(FILES.c.session_id).where(mine, FILES.c.vt_malicious)))
    return sessions


def _copy(connection: Connection, known: Mapping[str, Any], rows: Sequence[_Row], now: dt.datetime) -> int:
    """Write the verdict and the size of their hash into the rows that differ; return how many these are."""
    values = {name: known[name] for name in VERDICT_COLUMNS}
    if known["size_bytes"] is not None:
        values["file_size"] = known["size_bytes"]
    differs = or_(*(FILES.c[name].is_distinct_from(value) for name, value in values.items()))
    changed = 0
    for part in parts_of(rows):
        mine = FILES.c.id.in_([row.id for row in part])
        changed += connection.execute(update(FILES).where(mine, differs).values(**values, last_updated=now)).rowcount
    return changed


def _lock_sessions(connection: Connection, sessions: Collection[str]) -> None:
    """Keep sessions from changing, in the order in which loaders lock them."""
    sql = sql_of(connection)
    if not sql.for_update():
        return
    identity = sql.binary("session_id")
    for part in parts_of(sorted(sessions)):
        names = {f"s{number}": session_id for number, session_id in enumerate(part)}
        marks = ", ".join(f":{name}" for name in names)
        connection.execute(
            text(
                f"SELECT session_id FROM session_summaries WHERE session_id IN ({marks})"
                f" ORDER BY {identity}{sql.for_update()}"
            ),
            names,
        ).all()


def _flag(connection: Connection, sessions: Collection[str]) -> None:
    """Flag sessions; they are locked."""
    for part in parts_of(sorted(sessions)):
        _change_flags(connection, "TRUE", "NOT vt_flagged", part)


def _unflag(connection: Connection, sessions: Collection[str]) -> None:
    """Take the flag from sessions that have no malicious file any more; one that v3 set is not ours to take."""
    enrichment = sql_of(connection).json_text("enrichment")
    condition = (
        f"vt_flagged AND (enrichment IS NULL OR {enrichment} = 'null') AND NOT EXISTS (SELECT 1 FROM files"
        " WHERE files.session_id = session_summaries.session_id AND files.vt_malicious)"
    )
    for part in parts_of(sorted(sessions)):
        _change_flags(connection, "FALSE", condition, part)


def _change_flags(connection: Connection, flag: str, condition: str, sessions: Sequence[str]) -> None:
    names = {f"s{number}": session_id for number, session_id in enumerate(sessions)}
    marks = ", ".join(f":{name}" for name in names)
    connection.execute(
        text(f"UPDATE session_summaries SET vt_flagged = {flag} WHERE session_id IN ({marks}) AND {condition}"), names
    )
