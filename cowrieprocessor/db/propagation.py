"""Copies of a hash's verdict and size in the rows of `files`, and the flags of its sessions.

On PostgreSQL rows are locked in one order: sessions, then hashes, then notes of propagation, then files. A loader
holds its sessions when it comes to the hash, and whoever judges holds the hash when it writes the note.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, Engine, Table, delete, func, select, text, update

from cowrieprocessor.db.dialects.writing import writing_of
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.knowledge import FILES, HASHES
from cowrieprocessor.db.models import VERDICT_COLUMNS, VerdictPropagation

__all__ = ["MAX_ROWS", "PropagationStep", "current_verdict", "propagate", "propagate_some", "waiting_hashes"]

T = TypeVar("T")
PENDING_HASHES: Table = VerdictPropagation.metadata.tables["verdict_propagation"]
MAX_ROWS = 5_000
"""Rows of `files` that one transaction may change."""

HASHES_AT_ONCE = 25
"""Hashes that one transaction looks at: each costs some statements, and a loader may be waiting."""

NAMED_AT_ONCE = 400
"""Values that one statement names: SQLite may be built for 999 parameters. Source: sqlite.org/limits.html."""


@dataclass(frozen=True, slots=True)
class PropagationStep:
    """What one transaction did.

    Attributes:
        rows: rows of `files` looked at.
        changed: of these, the rows that got another verdict or size.
        hashes_done: hashes of which every row has the current verdict now.
        remaining_hashes: hashes of which some rows still wait.
    """

    rows: int
    changed: int
    hashes_done: int
    remaining_hashes: int


class _Row(NamedTuple):
    """A row of `files`: what identifies it, and whether it says malicious."""

    id: int
    session_id: str
    vt_malicious: bool
    differs: bool


class _Part(NamedTuple):
    """Some rows of one hash that waits, and the place behind which they begin."""

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
    rows = _rows(connection, sha256, known, after_id, limit)
    if known["vt_malicious"]:
        _flag(connection, {row.session_id for row in rows})
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
        if connection.execute(select(PENDING_HASHES.c.sha256).limit(1)).first() is None:
            return None
    rows = changed = done = 0
    with write_transaction(engine) as connection:
        parts = _parts(connection, min(max(max_rows, 1), MAX_ROWS))
        _lock_sessions(connection, {row.session_id for part in parts for row in part.rows})
        for part in parts:
            known = _lock_note(connection, part)
            if known is None:
                continue
            rows += len(part.rows)
            changed += _spread(connection, part, known, now)
            done += part.is_last
            _move_on(connection, part)
        remaining = waiting_hashes(connection)
    return PropagationStep(rows, changed, done, remaining)


def waiting_hashes(connection: Connection) -> int:
    """Return of how many hashes some rows in `files` still wait for the verdict."""
    return int(connection.execute(select(func.count()).select_from(PENDING_HASHES)).scalar_one())


def _parts(connection: Connection, max_rows: int) -> list[_Part]:
    """Return the next rows of the next hashes that wait, so many in all."""
    waiting = select(PENDING_HASHES).order_by(PENDING_HASHES.c.sha256).limit(HASHES_AT_ONCE)
    parts: list[_Part] = []
    room = max_rows
    for note in connection.execute(waiting).mappings().all():
        known = current_verdict(connection, note["sha256"])
        rows = [] if known is None else _rows(connection, note["sha256"], known, note["cursor"], room)
        parts.append(_Part(note["sha256"], note["requested_at"], note["cursor"], rows, len(rows) < room))
        room -= len(rows)
        if room <= 0:
            break
    return parts


def _lock_note(connection: Connection, part: _Part) -> dict[str, Any] | None:
    """Keep the verdict of a hash from changing and return it; None if another process was here meanwhile."""
    mine = PENDING_HASHES.c.sha256 == part.sha256
    note = connection.execute(select(PENDING_HASHES).where(mine).with_for_update()).mappings().one_or_none()
    if note is None or (note["requested_at"], note["cursor"]) != (part.requested_at, part.cursor):
        return None
    return current_verdict(connection, part.sha256) or {}


def _move_on(connection: Connection, part: _Part) -> None:
    mine = PENDING_HASHES.c.sha256 == part.sha256
    if part.is_last:
        connection.execute(delete(PENDING_HASHES).where(mine))
    else:
        connection.execute(update(PENDING_HASHES).where(mine).values(cursor=part.rows[-1].id))


def _spread(connection: Connection, part: _Part, known: Mapping[str, Any], now: dt.datetime) -> int:
    """Give the rows of one part their verdict and their sessions the flag; the sessions are locked."""
    if not known:
        return 0
    # They are read once more, because they may have changed before the verdict was locked. What was added meanwhile
    # already has the verdict.
    seen = {row.id for row in part.rows}
    last_id = part.rows[-1].id if part.rows else 0
    rows = [row for row in _rows(connection, part.sha256, known, part.cursor, None, last_id) if row.id in seen]
    if known["vt_malicious"]:
        _flag(connection, {row.session_id for row in rows})
    changed = _copy(connection, known, rows, now)
    if not known["vt_malicious"]:
        _unflag(connection, {row.session_id for row in rows if row.vt_malicious})
    return changed


def _rows(
    connection: Connection,
    sha256: str,
    known: Mapping[str, Any],
    after_id: int,
    limit: int | None,
    last_id: int | None = None,
) -> list[_Row]:
    columns = (FILES.c.id, FILES.c.session_id, FILES.c.file_size, *(FILES.c[name] for name in VERDICT_COLUMNS))
    query = select(*columns).where(FILES.c.shasum == sha256, FILES.c.id > after_id).order_by(FILES.c.id).limit(limit)
    if last_id is not None:
        query = query.where(FILES.c.id <= last_id)
    size = known["size_bytes"]
    return [
        _Row(
            row["id"],
            row["session_id"],
            row["vt_malicious"],
            any(row[name] != known[name] for name in VERDICT_COLUMNS) or size not in (None, row["file_size"]),
        )
        for row in connection.execute(query).mappings()
    ]


def _copy(connection: Connection, known: Mapping[str, Any], rows: Sequence[_Row], now: dt.datetime) -> int:
    """Write the verdict and the size of their hash into the rows that differ; return how many these are."""
    values = {name: known[name] for name in VERDICT_COLUMNS} | {"last_updated": now}
    if known["size_bytes"] is not None:
        values["file_size"] = known["size_bytes"]
    different = [row.id for row in rows if row.differs]
    for ids in _named(different):
        connection.execute(update(FILES).where(FILES.c.id.in_(ids)).values(values))
    return len(different)


def _lock_sessions(connection: Connection, sessions: Collection[str]) -> None:
    """Keep sessions from changing, in the order in which loaders lock them."""
    sql = writing_of(connection)
    if not sql.for_update():
        return
    identity = sql.binary("session_id")
    for part in _named(sorted(sessions)):
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
    """Flag sessions, in the order in which loaders lock them."""
    _lock_sessions(connection, sessions)
    for part in _named(sorted(sessions)):
        _change_flags(connection, "TRUE", "NOT vt_flagged", part)


def _unflag(connection: Connection, sessions: Collection[str]) -> None:
    """Take the flag from sessions that have no malicious file any more; one that v3 set is not ours to take."""
    enrichment = writing_of(connection).json_text("enrichment")
    condition = (
        f"vt_flagged AND (enrichment IS NULL OR {enrichment} = 'null') AND NOT EXISTS (SELECT 1 FROM files"
        " WHERE files.session_id = session_summaries.session_id AND files.vt_malicious)"
    )
    for part in _named(sorted(sessions)):
        _change_flags(connection, "FALSE", condition, part)


def _change_flags(connection: Connection, flag: str, condition: str, sessions: Sequence[str]) -> None:
    names = {f"s{number}": session_id for number, session_id in enumerate(sessions)}
    marks = ", ".join(f":{name}" for name in names)
    connection.execute(
        text(f"UPDATE session_summaries SET vt_flagged = {flag} WHERE session_id IN ({marks}) AND {condition}"), names
    )


def _named(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield values in runs that one statement can name."""
    for start in range(0, len(values), NAMED_AT_ONCE):
        yield values[start : start + NAMED_AT_ONCE]
