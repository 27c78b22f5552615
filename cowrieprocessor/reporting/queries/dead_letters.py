"""Dead letters: log values that could not be stored as events, and why."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, Text, cast, func, select

from cowrieprocessor.db.dead_letters.statements import line_of, sources_of
from cowrieprocessor.db.models import DeadLetterEvent
from cowrieprocessor.errors import ConfigurationError, NotFound
from cowrieprocessor.reporting.queries.paging import Bytewise, Page, page_of

SUSPECTED_BY_V3 = frozenset({"quarantined", "validation"})
"""Reasons that only version 3 wrote: it suspected these events and, as a rule, stored them as well."""

EXCERPT_CHARS = 4096
"""Characters of each stored payload that a list reads: dead letters can be large."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter in a list.

    Attributes:
        source: the log it came from.
        source_offset: the number of the value in the log: that of its line, counted from 0, or the next free one.
        line: the line of the log on which it begins, counted from 1.
        excerpt: the beginning of the stored payload as JSON text, at most `EXCERPT_CHARS`.
        payload_chars: length of the whole payload as JSON text.
    """

    id: int
    reason: str
    source: str | None
    source_offset: int | None
    line: int | None
    created_at: dt.datetime
    resolved: bool
    resolved_at: dt.datetime | None
    details: Mapping[str, Any] | None
    excerpt: str
    payload_chars: int


@dataclass(frozen=True, slots=True)
class DeadLetterDetails:
    """One dead letter with everything that is stored about it.

    Attributes:
        ingest_id: the load that found it.
        source: the log it came from.
        source_offset: the number of the value in the log: that of its line, counted from 0, or the next free one.
        line: the line of the log on which it begins, counted from 1.
        details: the position of its bytes in the log, and the result of replaying it.
        payload: its bytes as `text` or `base64`; above 1 MiB only the first 64 KiB, with `length` and `sha256`.
    """

    id: int
    ingest_id: str | None
    reason: str
    source: str | None
    source_offset: int | None
    line: int | None
    created_at: dt.datetime
    resolved: bool
    resolved_at: dt.datetime | None
    details: Mapping[str, Any] | None
    payload: Any


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """The number of dead letters with one reason."""

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
        reason: list only dead letters with this reason.
        source: list only those of this log, given by its path or by its value in the column `source`.
        resolved: also list those that have been replayed or dismissed.
        limit: rows per page, at least 1.
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
    rows = [DeadLetter(**row, line=_line(row)) for row in connection.execute(query).mappings()]
    return page_of(rows, limit, lambda row: str(row.id))


def count_dead_letters(
    connection: Connection, *, source: str | None = None, resolved: bool = False
) -> tuple[ReasonCount, ...]:
    """Return the number of dead letters by reason, the most frequent reason first.

    Args:
        connection: a connection in a transaction.
        source: count only those of this log, as in `list_dead_letters`.
        resolved: also count those that have been replayed or dismissed.
    """
    query = select(DeadLetterEvent.reason, func.count().label("count")).group_by(DeadLetterEvent.reason)
    if source is not None:
        query = query.where(DeadLetterEvent.source.in_(sources_of(connection, source)))
    if not resolved:
        query = query.where(DeadLetterEvent.resolved.is_(False))
    query = query.order_by(func.count().desc(), Bytewise(DeadLetterEvent.reason))
    return tuple(ReasonCount(row.reason, row._mapping["count"]) for row in connection.execute(query))


def dead_letter(connection: Connection, letter_id: int) -> DeadLetterDetails:
    """Return one dead letter with everything that is stored about it.

    Args:
        connection: a connection in a transaction.
        letter_id: the id that the list shows.

    Raises:
        NotFound: no dead letter has this id.
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
    return DeadLetterDetails(**{**row, "line": _line(row), "payload": _decode_payload(row["payload"])})


def _line(row: RowMapping) -> int | None:
    return line_of(row["source_offset"], row["details"])


def _decode_payload(payload: str | None) -> Any:
    """Return a stored payload decoded from JSON, or as it is if it is not valid JSON."""
    try:
        return json.loads(payload or "")
    except json.JSONDecodeError:
        return payload
