"""Dead letters: values of logs that could not be stored as events, and why."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Text, cast, func, select

from cowrieprocessor.db.dead_letters.statements import sources_of
from cowrieprocessor.db.models import DeadLetterEvent
from cowrieprocessor.errors import ConfigurationError, NotFound
from cowrieprocessor.reporting.queries.paging import Bytewise, Page, page_of

EXCERPT_CHARS = 4096
"""Characters of the stored payload that are read for a list: dead letters can be large."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter in a list.

    Attributes:
        source: the log it came from; `source_offset` is the 0-based number of the line it starts on.
        excerpt: the beginning of the stored payload, as JSON text; `payload_chars` is its whole length.
    """

    id: int
    reason: str
    source: str | None
    source_offset: int | None
    created_at: dt.datetime
    resolved: bool
    resolved_at: dt.datetime | None
    details: Mapping[str, Any] | None
    excerpt: str
    payload_chars: int


@dataclass(frozen=True, slots=True)
class WholeDeadLetter:
    """One dead letter with all that is stored of it.

    Attributes:
        ingest_id: the load that met it.
        source: the log it came from; `source_offset` is the 0-based number of the line it starts on.
        details: the place of its bytes, and what became of it.
        payload: its bytes: `text`, or `base64`; of more than 1 MiB the first 64 KiB, with `length` and `sha256`.
    """

    id: int
    ingest_id: str | None
    reason: str
    source: str | None
    source_offset: int | None
    created_at: dt.datetime
    resolved: bool
    resolved_at: dt.datetime | None
    details: Mapping[str, Any] | None
    payload: Any


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """How many dead letters one reason has."""

    reason: str
    count: int


def list_dead_letters(
    connection: Connection,
    *,
    reason: str | None = None,
    source: str | None = None,
    resolved: bool = False,
    limit: int = 50,
    after: str | None = None,
) -> Page[DeadLetter]:
    """Return one page of the dead letters, the latest stored first.

    Args:
        connection: a connection in a transaction.
        reason: only those with this reason.
        source: only those of this log, by its path or by what the column `source` says.
        resolved: also those that were replayed or dismissed since.
        limit: rows on the page, at least 1.
        after: the cursor of an earlier page: the id of its last row.

    Raises:
        ConfigurationError: `after` is not a cursor of this list.
    """
    payload = cast(DeadLetterEvent.payload, Text)
    query = select(
        DeadLetterEvent.id,
        DeadLetterEvent.reason,
        DeadLetterEvent.source,
        DeadLetterEvent.source_offset,
        DeadLetterEvent.created_at,
        DeadLetterEvent.resolved,
        DeadLetterEvent.resolved_at,
        DeadLetterEvent.metadata_json.label("details"),
        func.substr(payload, 1, EXCERPT_CHARS).label("excerpt"),
        func.length(payload).label("payload_chars"),
    )
    if reason is not None:
        query = query.where(DeadLetterEvent.reason == reason)
    if source is not None:
        query = query.where(DeadLetterEvent.source.in_(sources_of(connection, source)))
    if not resolved:
        query = query.where(DeadLetterEvent.resolved.is_(False))
    if after is not None:
        if not (after.isascii() and after.isdigit()) or len(after) > 18:
            raise ConfigurationError(f"--after {after!r}: not a cursor of this list; take the one below the page")
        query = query.where(DeadLetterEvent.id < int(after))
    query = query.order_by(DeadLetterEvent.id.desc()).limit(limit + 1)
    rows = [DeadLetter(**row) for row in connection.execute(query).mappings()]
    return page_of(rows, limit, lambda row: str(row.id))


def count_dead_letters(
    connection: Connection, *, source: str | None = None, resolved: bool = False
) -> tuple[ReasonCount, ...]:
    """Return how many dead letters each reason has, the most frequent first.

    Args:
        connection: a connection in a transaction.
        source: only those of this log, as in the list.
        resolved: count also those that were replayed or dismissed since.
    """
    query = select(DeadLetterEvent.reason, func.count().label("count")).group_by(DeadLetterEvent.reason)
    if source is not None:
        query = query.where(DeadLetterEvent.source.in_(sources_of(connection, source)))
    if not resolved:
        query = query.where(DeadLetterEvent.resolved.is_(False))
    query = query.order_by(func.count().desc(), Bytewise(DeadLetterEvent.reason))
    return tuple(ReasonCount(row.reason, row._mapping["count"]) for row in connection.execute(query))


def dead_letter(connection: Connection, letter_id: int) -> WholeDeadLetter:
    """Return one dead letter with all that is stored of it.

    Args:
        connection: a connection in a transaction.
        letter_id: as the list shows it.

    Raises:
        NotFound: there is none with this id.
    """
    columns = [
        column for column in DeadLetterEvent.__table__.columns if column.name not in ("payload", "metadata_json")
    ]
    query = select(
        *columns,
        cast(DeadLetterEvent.payload, Text).label("payload"),
        DeadLetterEvent.metadata_json.label("details"),
    )
    row = connection.execute(query.where(DeadLetterEvent.id == letter_id)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"dead letter {letter_id}: there is none with this id; `dead-letters list --all` shows all")
    return WholeDeadLetter(**{**row, "payload": _decoded(row["payload"])})


def _decoded(payload: str | None) -> Any:
    """Return a stored payload; one that is no JSON as the text that it is."""
    try:
        return json.loads(payload or "")
    except json.JSONDecodeError:
        return payload
