"""Propagation of a hash's verdict and size to its rows in `files`, and to the flags of its sessions.

On PostgreSQL rows are locked in one order: sessions, hashes, pending propagations, files. A loader has locked its
sessions when it locks a hash, and verdict aggregation has locked the hash when it requests a propagation.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Table, delete, or_, select, text, update

from cowrieprocessor.db.chunks import MAX_PARAMETERS, chunks
from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.models import FILES, HASHES, VERDICT_COLUMNS, VerdictPropagation

__all__ = [
    "MAX_ROWS",
    "SLICE_ROWS",
    "PropagationStep",
    "Slice",
    "current_verdict",
    "pending_slices",
    "propagate_hash",
    "propagate_slices",
    "propagate_some",
]

PENDING: Table = VerdictPropagation.metadata.tables["verdict_propagation"]
MAX_ROWS = 5_000
"""Rows of `files` that one transaction may change."""

MAX_HASHES = 64
"""Hashes that one transaction processes: each costs several statements, and a loader may be waiting."""

SLICE_ROWS = MAX_PARAMETERS
"""Rows of one hash after which a transaction can end."""


@dataclass(frozen=True, slots=True)
class PropagationStep:
    """The result of one transaction.

    Attributes:
        rows: rows of `files` processed.
        changed: rows among them that got another verdict or size.
        hashes_done: hashes whose rows all have the current verdict now.
    """

    rows: int
    changed: int
    hashes_done: int


class _Row(NamedTuple):
    """The key of a row of `files`."""

    id: int
    session_id: str


class Slice(NamedTuple):
    """Consecutive rows of one hash with a pending propagation.

    Attributes:
        sha256: the hash.
        requested_at: when the propagation was requested.
        cursor: the id after which the rows begin.
        rows: at most `slice_rows` of `pending_slices`.
        is_last: whether these are the hash's last rows.
    """

    sha256: str
    requested_at: dt.datetime
    cursor: int
    rows: Sequence[_Row]
    is_last: bool


def current_verdict(connection: Connection, sha256: str) -> dict[str, Any] | None:
    """Return the columns of a hash in `file_hashes` that `files` copies, or None if there is no such hash."""
    columns = (HASHES.c.size_bytes, *(HASHES.c[name] for name in VERDICT_COLUMNS))
    row = connection.execute(select(*columns).where(HASHES.c.sha256 == sha256)).mappings().one_or_none()
    return None if row is None else {str(name): value for name, value in row.items()}


def propagate_hash(connection: Connection, sha256: str, after_id: int, limit: int) -> tuple[int, int, int | None]:
    """Copy a hash's verdict to its next rows in `files`, and flag their sessions if it is malicious.

    Args:
        connection: in a write transaction.
        sha256: the hash.
        after_id: process rows after this id.
        limit: largest number of rows.

    Returns:
        The number of rows processed, the number of rows changed, and the id after which to continue; None at the end.
    """
    verdict = current_verdict(connection, sha256)
    if verdict is None:
        return 0, 0, None
    rows = _rows(connection, sha256, after_id, limit)
    if verdict["vt_malicious"]:
        sessions = {row.session_id for row in rows}
        _lock_sessions(connection, sessions)
        _flag(connection, sessions)
    changed = _copy(connection, verdict, rows, dt.datetime.now(dt.UTC))
    return len(rows), changed, rows[-1].id if len(rows) == limit else None


def propagate_some(engine: Engine, *, now: dt.datetime, max_rows: int = 2_000) -> PropagationStep | None:
    """Propagate pending verdicts to some rows, in one transaction; return None if nothing is pending.

    It may be killed at any point, and several processes may call it at once.

    Args:
        engine: the database.
        now: the current time.
        max_rows: largest number of rows of `files`, up to MAX_ROWS.
    """
    with read_transaction(engine) as connection:
        slices = pending_slices(connection, max_rows)
    if not slices:
        return None
    with write_transaction(engine) as connection:
        return propagate_slices(connection, slices, now=now)


def pending_slices(connection: Connection, max_rows: int, *, slice_rows: int = SLICE_ROWS) -> list[Slice]:
    """Return the next rows of the next hashes with a pending propagation; empty if nothing is pending.

    Args:
        connection: in a transaction; a read transaction suffices, and blocks no writer.
        max_rows: largest number of rows of `files`, up to MAX_ROWS.
        slice_rows: largest number of rows of one slice.
    """
    remaining = min(max(max_rows, 1), MAX_ROWS)
    pending = select(PENDING).order_by(PENDING.c.sha256).limit(MAX_HASHES)
    slices: list[Slice] = []
    for entry in connection.execute(pending).mappings().all():
        rows = _rows(connection, entry["sha256"], entry["cursor"], remaining)
        is_complete, cursor = len(rows) < remaining, entry["cursor"]
        for start in range(0, max(len(rows), 1), slice_rows):
            part = rows[start : start + slice_rows]
            is_last = is_complete and start + slice_rows >= len(rows)
            slices.append(Slice(entry["sha256"], entry["requested_at"], cursor, part, is_last))
            cursor = part[-1].id if part else cursor
        remaining -= len(rows)
        if remaining <= 0:
            break
    return slices


def propagate_slices(
    connection: Connection, slices: Sequence[Slice], *, now: dt.datetime, may_go_on: Callable[[], bool] = lambda: True
) -> PropagationStep:
    """Copy the current verdict of each hash to the rows of its slices, and store the new cursors.

    Args:
        connection: in a write transaction that has locked nothing yet.
        slices: just read. A hash that another process has processed since is skipped; rows that were added since have
            the verdict already.
        now: the current time.
        may_go_on: called after each slice; whether this transaction may process the next.
    """
    rows = changed = hashes_done = 0
    _lock_sessions(connection, {row.session_id for part in slices for row in part.rows})
    for number, part in enumerate(slices):
        if number and not may_go_on():
            break
        if not _lock_unchanged(connection, part):
            continue
        verdict = current_verdict(connection, part.sha256)
        if verdict is not None:
            rows += len(part.rows)
            changed += _propagate_slice(connection, part, verdict, now)
        is_done = part.is_last or verdict is None
        hashes_done += is_done
        _advance(connection, part, is_done=is_done)
    return PropagationStep(rows, changed, hashes_done)


def _lock_unchanged(connection: Connection, part: Slice) -> bool:
    """Lock a hash's pending entry, and so its verdict; return False if it changed since the slice was read."""
    query = select(PENDING).where(PENDING.c.sha256 == part.sha256).with_for_update()
    entry = connection.execute(query).mappings().one_or_none()
    return entry is not None and (entry["requested_at"], entry["cursor"]) == (part.requested_at, part.cursor)


def _advance(connection: Connection, part: Slice, *, is_done: bool) -> None:
    """Move the hash's cursor past a slice, or delete its pending entry."""
    of_hash = PENDING.c.sha256 == part.sha256
    if is_done:
        connection.execute(delete(PENDING).where(of_hash))
    else:
        connection.execute(update(PENDING).where(of_hash).values(cursor=part.rows[-1].id))


def _propagate_slice(connection: Connection, part: Slice, verdict: Mapping[str, Any], now: dt.datetime) -> int:
    """Copy the verdict to the rows of a slice and adjust the flags of their sessions, which are locked."""
    if verdict["vt_malicious"]:
        _flag(connection, {row.session_id for row in part.rows})
        return _copy(connection, verdict, part.rows, now)
    # Read only now: rows may have changed before the verdict was locked.
    were_malicious = _malicious_sessions(connection, part.rows)
    changed = _copy(connection, verdict, part.rows, now)
    unflag_sessions(connection, were_malicious)
    return changed


def _rows(connection: Connection, sha256: str, after_id: int, limit: int) -> list[_Row]:
    query = select(FILES.c.id, FILES.c.session_id).where(FILES.c.shasum == sha256, FILES.c.id > after_id)
    result = connection.execute(query.order_by(FILES.c.id).limit(limit))
    return [_Row(file_id, session_id) for file_id, session_id in result]


def _malicious_sessions(connection: Connection, rows: Sequence[_Row]) -> set[str]:
    """Return the sessions of those rows that are marked malicious."""
    sessions: set[str] = set()
    for chunk in chunks(rows):
        of_chunk = FILES.c.id.in_([row.id for row in chunk])
        sessions.update(connection.scalars(select(FILES.c.session_id).where(of_chunk, FILES.c.vt_malicious)))
    return sessions


def _copy(connection: Connection, verdict: Mapping[str, Any], rows: Sequence[_Row], now: dt.datetime) -> int:
    """Copy verdict and size of a hash to those rows that differ; return the number of changed rows."""
    values = {name: verdict[name] for name in VERDICT_COLUMNS}
    if verdict["size_bytes"] is not None:
        values["file_size"] = verdict["size_bytes"]
    differs = or_(*(FILES.c[name].is_distinct_from(value) for name, value in values.items()))
    changed = 0
    for chunk in chunks(rows):
        of_chunk = FILES.c.id.in_([row.id for row in chunk])
        statement = update(FILES).where(of_chunk, differs).values(**values, last_updated=now)
        changed += connection.execute(statement).rowcount
    return changed


def _lock_sessions(connection: Connection, sessions: Collection[str]) -> None:
    """Lock sessions in the order in which loaders lock them."""
    sql = dialect_of(connection).sql
    if not sql.for_update():
        return
    identity = sql.binary("session_id")
    for chunk in chunks(sorted(sessions)):
        names = {f"s{number}": session_id for number, session_id in enumerate(chunk)}
        marks = ", ".join(f":{name}" for name in names)
        connection.execute(
            text(
                f"SELECT session_id FROM session_summaries WHERE session_id IN ({marks})"
                f" ORDER BY {identity}{sql.for_update()}"
            ),
            names,
        ).all()


def _flag(connection: Connection, sessions: Collection[str]) -> None:
    """Flag sessions, which are locked."""
    for chunk in chunks(sorted(sessions)):
        _set_flag(connection, "TRUE", "NOT vt_flagged", chunk)


def unflag_sessions(connection: Connection, sessions: Collection[str]) -> None:
    """Unflag sessions without a malicious file; sessions that v3 enriched keep the flag it may have set."""
    enrichment = dialect_of(connection).sql.json_text("enrichment")
    condition = (
        f"vt_flagged AND (enrichment IS NULL OR {enrichment} = 'null') AND NOT EXISTS (SELECT 1 FROM files"
        " WHERE files.session_id = session_summaries.session_id AND files.vt_malicious)"
    )
    for chunk in chunks(sorted(sessions)):
        _set_flag(connection, "FALSE", condition, chunk)


def _set_flag(connection: Connection, flag: str, condition: str, sessions: Sequence[str]) -> None:
    names = {f"s{number}": session_id for number, session_id in enumerate(sessions)}
    marks = ", ".join(f":{name}" for name in names)
    connection.execute(
        text(f"UPDATE session_summaries SET vt_flagged = {flag} WHERE session_id IN ({marks}) AND {condition}"), names
    )
