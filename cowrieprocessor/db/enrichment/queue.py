"""The queue: for each hash and provider the outcome of the last lookup, and when the next is due.

A hash that a provider was never queried about has no row. `attempts` counts consecutive lookups without an answer. A
claimed row keeps its `next_attempt_at`, so that releasing the claim restores it.

    pending       asked for by hand, not queried yet
    leased        claimed until `leased_until`; after that the claim is void
    answered      `next_attempt_at` is when the answer expires
    failed        `next_attempt_at` is when the lookup is retried, `last_error` is "kind: reason"
    rate-limited  the provider wanted fewer requests instead of a first answer, `last_error` is "rate-limited: reason";
                  the hash keeps its place among those never queried
    refused       not queried again unless by hand, `last_error` is the reason
    skipped       no provider is queried about the hash: the row of `POLICY`
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, Table, and_, bindparam, delete, or_, select, text, update

from cowrieprocessor.db.models import EnrichmentQueueItem

__all__ = [
    "ANSWERED",
    "ASKED_FOR_AT",
    "FAILED",
    "LEASED",
    "MAX_LEASE",
    "MAX_LOST_CLAIMS",
    "PENDING",
    "POLICY",
    "QUEUE",
    "RATE_LIMITED",
    "REFUSED",
    "SKIPPED",
    "QueueRow",
    "bounded_error",
    "bring_forward",
    "change_row",
    "has_failed_before",
    "insert_row",
    "is_rate_limit",
    "lease_is_over",
    "queue_row",
    "queue_rows",
    "remove_row",
]

QUEUE: Table = EnrichmentQueueItem.metadata.tables["enrichment_queue"]
PENDING, LEASED, ANSWERED, FAILED, REFUSED, SKIPPED = "pending", "leased", "answered", "failed", "refused", "skipped"
RATE_LIMITED = "rate-limited"

POLICY = "policy"
"""The provider name of a row that records why no provider is queried about a hash."""

ASKED_FOR_AT = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
"""The `next_attempt_at` of hashes asked for by hand: they sort before everything else that is due."""

MAX_LEASE = dt.timedelta(minutes=30)
"""Longest claim; a claim that ends later than this was made while a clock was ahead, and is void."""

MAX_LOST_CLAIMS = 3
"""A hash whose claiming processes were killed this many times loses its precedence: it may be the cause."""

MAX_ERROR_CHARS = 500

_INSERT = text(
    """
    INSERT INTO enrichment_queue (sha256, provider, status, attempts, next_attempt_at, priority, last_error,
        leased_until)
    VALUES (:sha256, :provider, :status, :attempts, :next_attempt_at, :priority, :last_error, :leased_until)
    ON CONFLICT (sha256, provider) DO NOTHING
    """
).bindparams(
    bindparam("next_attempt_at", type_=QUEUE.c.next_attempt_at.type),
    bindparam("leased_until", type_=QUEUE.c.leased_until.type),
)


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One row of the queue."""

    sha256: str
    provider: str
    status: str
    attempts: int = 0
    next_attempt_at: dt.datetime | None = None
    priority: int = 0
    last_error: str | None = None
    leased_until: dt.datetime | None = None


def lease_is_over(now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition on the queue that the lease of a claimed row has ended."""
    until = QUEUE.c.leased_until
    return or_(until.is_(None), until <= now, until > now + MAX_LEASE)


def has_failed_before(queue: FromClause = QUEUE) -> ColumnElement[bool]:
    """Return the condition on the queue that the last query failed: `last_error` is no rate limit."""
    error = queue.c.last_error
    return and_(error.is_not(None), ~error.startswith(f"{RATE_LIMITED}:"))


def is_rate_limit(last_error: str | None) -> bool:
    """Return whether a `last_error` says that the provider wanted fewer requests."""
    return last_error is not None and last_error.startswith(f"{RATE_LIMITED}:")


def queue_row(connection: Connection, sha256: str, provider: str) -> QueueRow | None:
    """Return the row of a hash and a provider, locked until the transaction ends."""
    query = select(QUEUE).where(QUEUE.c.sha256 == sha256, QUEUE.c.provider == provider).with_for_update()
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _row(row)


def queue_rows(connection: Connection, sha256: str) -> dict[str, QueueRow]:
    """Return the rows of a hash by provider."""
    rows = connection.execute(select(QUEUE).where(QUEUE.c.sha256 == sha256)).mappings()
    return {row["provider"]: _row(row) for row in rows}


def insert_row(connection: Connection, row: QueueRow) -> bool:
    """Insert a row; return False if it exists already."""
    values = {
        "sha256": row.sha256,
        "provider": row.provider,
        "status": row.status,
        "attempts": row.attempts,
        "next_attempt_at": row.next_attempt_at,
        "priority": row.priority,
        "last_error": row.last_error,
        "leased_until": row.leased_until,
    }
    return connection.execute(_INSERT, values).rowcount == 1


def change_row(connection: Connection, sha256: str, provider: str, values: Mapping[str, Any], *conditions: Any) -> bool:
    """Update a row if it exists and meets the conditions; return whether it was updated."""
    statement = update(QUEUE).where(QUEUE.c.sha256 == sha256, QUEUE.c.provider == provider, *conditions)
    return connection.execute(statement.values(**values)).rowcount == 1


def bring_forward(connection: Connection, sha256: str, provider: str, moment: dt.datetime) -> None:
    """Have a provider queried again about a hash at `moment` if its answer would expire later."""
    change_row(
        connection,
        sha256,
        provider,
        {"next_attempt_at": moment},
        QUEUE.c.status == ANSWERED,
        QUEUE.c.next_attempt_at > moment,
    )


def remove_row(connection: Connection, sha256: str, provider: str) -> None:
    """Delete a row."""
    connection.execute(delete(QUEUE).where(QUEUE.c.sha256 == sha256, QUEUE.c.provider == provider))


def bounded_error(reason: str) -> str:
    """Return a reason as it is stored: at most MAX_ERROR_CHARS characters, without NUL and lone surrogates."""
    stored = reason.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
    return stored if len(stored) <= MAX_ERROR_CHARS else f"{stored[: MAX_ERROR_CHARS - 1]}…"


def _row(row: Mapping[Any, Any]) -> QueueRow:
    return QueueRow(
        row["sha256"],
        row["provider"],
        row["status"],
        row["attempts"],
        row["next_attempt_at"],
        row["priority"],
        row["last_error"],
        row["leased_until"],
    )
