"""Storage of a lookup's outcome with all its consequences, in the caller's transaction.

While staged, an outcome is stored in cache and queue, and what it means for history and hash is staged.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, select

from cowrieprocessor.db.chunks import chunks
from cowrieprocessor.db.enrichment.provider_verdict import ProviderVerdict
from cowrieprocessor.db.enrichment.queue import (
    ANSWERED,
    FAILED,
    LEASED,
    PENDING,
    QUEUE,
    RATE_LIMITED,
    REFUSED,
    QueueRow,
    bounded_error,
    change_row,
    insert_row,
    is_rate_limit,
    queue_row,
)
from cowrieprocessor.db.enrichment.response_cache import cached_answers, store_in_cache
from cowrieprocessor.db.enrichment.staged_answers import has_any_answer, stage_answer, stage_outcome
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy, aggregate
from cowrieprocessor.db.enrichment.verdict_history import record_answer
from cowrieprocessor.db.models import HASHES

__all__ = [
    "defer_lookup",
    "lock_hashes",
    "queued_hashes",
    "status_before",
    "store_answer",
    "store_failure",
    "store_rate_limit",
    "store_refusal",
    "store_staged",
]

LOCKED_HASHES = 400
"""Hashes that one statement locks."""


def lock_hashes(connection: Connection, hashes: list[str]) -> None:
    """Lock the rows of hashes until the transaction ends, in the order in which loaders lock them.

    A transaction that stores answers about several hashes begins with this: on PostgreSQL two transactions that lock
    the same rows in different orders would deadlock.

    Args:
        connection: in a write transaction that has locked no hash yet.
        hashes: in any order.
    """
    ordered = sorted(set(hashes))
    for chunk in chunks(ordered, LOCKED_HASHES):
        query = select(HASHES.c.sha256).where(HASHES.c.sha256.in_(chunk)).order_by(HASHES.c.sha256)
        connection.execute(query.with_for_update()).all()


def queued_hashes(connection: Connection, after: str, limit: int) -> list[str]:
    """Return the next hashes that have a row in the queue, in their order.

    Args:
        connection: in a transaction.
        after: start after this hash; empty for the beginning.
        limit: largest number of hashes.
    """
    query = select(QUEUE.c.sha256).distinct().where(QUEUE.c.sha256 > after).order_by(QUEUE.c.sha256).limit(limit)
    return list(connection.scalars(query))


def store_answer(
    connection: Connection,
    sha256: str,
    provider: str,
    cache_key: str,
    verdict: ProviderVerdict,
    *,
    fetched_at: dt.datetime,
    expires_at: dt.datetime,
    policy: Policy,
    now: dt.datetime,
    staged: bool = False,
) -> None:
    """Store a provider's answer in cache, history, queue and the row of the hash, and request its propagation.

    Answers may arrive in any order: an older answer only adds to the history. Storing an answer twice changes nothing.
    For a hash that is not in `file_hashes` only the cache is written.

    Args:
        connection: in a write transaction.
        sha256: the hash.
        provider: the provider that answered.
        cache_key: what was looked up.
        verdict: its verdict; `unknown` with only a response if it does not know the file.
        fetched_at: when it answered.
        expires_at: when the answer expires.
        policy: the providers in use and the decisive verdicts.
        now: the current time.
        staged: write neither history nor hash (USE_NEW_ENRICHMENT=0).
    """
    known = _lock(connection, sha256)
    store_in_cache(connection, provider, cache_key, verdict.verdict, verdict.response, fetched_at, expires_at, now=now)
    if not known:
        return
    if staged:
        stage_answer(connection, sha256, provider, verdict, fetched_at, now)
    else:
        record_answer(connection, sha256, provider, verdict, fetched_at, now)
    _queue_answer(connection, sha256, provider, cache_key, fetched_at, now)
    if not staged:
        aggregate(connection, sha256, policy, now, verdict)


def store_staged(
    connection: Connection,
    sha256: str,
    answers: Sequence[tuple[str, ProviderVerdict, dt.datetime]],
    policy: Policy,
    now: dt.datetime,
) -> None:
    """Store staged answers about a hash in the history and its row, and request its propagation.

    The cache and the queue have them already.

    Args:
        connection: in a write transaction.
        sha256: the hash; nothing is stored if it is not in `file_hashes` any more.
        answers: provider, verdict and time of each answer, in order.
        policy: the providers in use and the decisive verdicts.
        now: the current time.
    """
    if not _lock(connection, sha256):
        return
    for provider, verdict, fetched_at in answers:
        record_answer(connection, sha256, provider, verdict, fetched_at, now)
        aggregate(connection, sha256, policy, now, verdict)
    aggregate(connection, sha256, policy, now)


def store_failure(
    connection: Connection,
    sha256: str,
    provider: str,
    *,
    kind: str,
    reason: str,
    next_attempt_at: dt.datetime,
    policy: Policy,
    now: dt.datetime,
    staged: bool = False,
) -> None:
    """Store that no usable answer came, and when the lookup is retried.

    Args:
        connection: in a write transaction.
        sha256: the hash, which was claimed.
        provider: the provider that was queried.
        kind: one word, for statistics.
        reason: what happened, for display.
        next_attempt_at: when the lookup is retried.
        policy: the providers in use and the decisive verdicts.
        now: the current time.
        staged: write neither history nor hash (USE_NEW_ENRICHMENT=0).
    """
    values = {"status": FAILED, "last_error": bounded_error(f"{kind}: {reason}"), "next_attempt_at": next_attempt_at}
    _store_outcome(connection, sha256, provider, values, policy, now, staged)


def store_refusal(
    connection: Connection,
    sha256: str,
    provider: str,
    *,
    reason: str,
    policy: Policy,
    now: dt.datetime,
    staged: bool = False,
) -> None:
    """Store that a provider will not answer about a hash, which is then queried again only by hand.

    Args:
        connection: in a write transaction.
        sha256: the hash, which was claimed.
        provider: the provider that was queried.
        reason: why, for display.
        policy: the providers in use and the decisive verdicts.
        now: the current time.
        staged: write neither history nor hash (USE_NEW_ENRICHMENT=0).
    """
    values = {"status": REFUSED, "last_error": bounded_error(reason), "next_attempt_at": None}
    _store_outcome(connection, sha256, provider, values, policy, now, staged)


def store_rate_limit(
    connection: Connection,
    sha256: str,
    provider: str,
    *,
    reason: str,
    policy: Policy,
    now: dt.datetime,
    staged: bool = False,
) -> None:
    """Store that a provider wanted fewer requests when it was queried about a hash; it does not count as an attempt.

    Args:
        connection: in a write transaction.
        sha256: the hash, which was claimed. One that had an answer or a failure before is as it was then.
        provider: the provider that was queried.
        reason: what it says, for display.
        policy: the providers in use and the decisive verdicts.
        now: the current time.
        staged: write neither history nor hash (USE_NEW_ENRICHMENT=0).
    """
    row = queue_row(connection, sha256, provider) if _lock(connection, sha256) else None
    if row is None or row.status != LEASED:
        return
    before = status_before(connection, row)
    values: dict[str, object] = {"status": before, "attempts": max(row.attempts - 1, 0), "leased_until": None}
    if before in (PENDING, RATE_LIMITED) or not (before == FAILED or has_any_answer(connection, sha256, provider)):
        values |= {"status": RATE_LIMITED, "last_error": bounded_error(f"{RATE_LIMITED}: {reason}")}
        if not row.priority:
            values["next_attempt_at"] = None  # of a lookup that was deferred
    change_row(connection, sha256, provider, values)
    _aggregate(connection, sha256, provider, policy, now, staged)


def status_before(connection: Connection, row: QueueRow) -> str:
    """Return the status that a row had before it was claimed."""
    if is_rate_limit(row.last_error):
        return RATE_LIMITED
    if row.last_error is not None:
        return FAILED
    if not row.priority:
        return PENDING if row.next_attempt_at is None else ANSWERED
    return ANSWERED if has_any_answer(connection, row.sha256, row.provider) else PENDING


def defer_lookup(
    connection: Connection,
    sha256: str,
    provider: str,
    *,
    next_attempt_at: dt.datetime,
    policy: Policy,
    now: dt.datetime,
    staged: bool = False,
) -> None:
    """Store that a provider cannot be queried about a hash yet: it counts as answered, without an answer.

    Args:
        connection: in a write transaction.
        sha256: the hash, which was claimed.
        provider: the provider.
        next_attempt_at: when it may become possible.
        policy: the providers in use and the decisive verdicts.
        now: the current time.
        staged: write neither history nor hash (USE_NEW_ENRICHMENT=0).
    """
    values = {"status": ANSWERED, "attempts": 0, "last_error": None, "next_attempt_at": next_attempt_at}
    _store_outcome(connection, sha256, provider, values, policy, now, staged)


def _lock(connection: Connection, sha256: str) -> bool:
    """Lock the row of a hash; return whether it exists."""
    query = select(HASHES.c.sha256).where(HASHES.c.sha256 == sha256).with_for_update()
    return connection.execute(query).first() is not None


def _queue_answer(
    connection: Connection, sha256: str, provider: str, cache_key: str, fetched_at: dt.datetime, now: dt.datetime
) -> None:
    """Update the queue after an answer, according to the answer that the cache has now."""
    entry = cached_answers(connection, provider, [cache_key])[cache_key]
    row = queue_row(connection, sha256, provider)
    answered = QueueRow(sha256, provider, ANSWERED, next_attempt_at=entry.expires_at)
    if row is None:
        insert_row(connection, answered)
        return
    is_latest = fetched_at >= entry.fetched_at
    awaits_claim = row.priority > 0 and row.status != LEASED
    is_current = entry.expires_at > now or fetched_at >= now or row.status == ANSWERED
    # An expired answer from elsewhere (an imported cache, Cowrie's log) must not end a pending lookup.
    if is_latest and is_current and not awaits_claim:
        change_row(
            connection,
            sha256,
            provider,
            {
                "status": ANSWERED,
                "attempts": 0,
                "next_attempt_at": entry.expires_at,
                "priority": 0,
                "last_error": None,
                "leased_until": None,
            },
        )


def _store_outcome(
    connection: Connection,
    sha256: str,
    provider: str,
    values: Mapping[str, object],
    policy: Policy,
    now: dt.datetime,
    staged: bool,
) -> None:
    """Store an outcome without an answer in the queue, and update the row of the hash."""
    if not _lock(connection, sha256):
        return
    row = queue_row(connection, sha256, provider)
    if row is None:
        status, error, due = values["status"], values["last_error"], values["next_attempt_at"]
        insert_row(
            connection,
            QueueRow(
                sha256,
                provider,
                str(status),
                attempts=1,
                next_attempt_at=due if isinstance(due, dt.datetime) else None,
                last_error=str(error),
            ),
        )
    elif row.status == ANSWERED and row.next_attempt_at is not None and row.next_attempt_at > now:
        # Another process claimed the hash when this claim had ended, and got an answer.
        return
    else:
        change_row(connection, sha256, provider, {**values, "priority": 0, "leased_until": None})
    _aggregate(connection, sha256, provider, policy, now, staged)


def _aggregate(
    connection: Connection, sha256: str, provider: str, policy: Policy, now: dt.datetime, staged: bool
) -> None:
    """Update the row of a hash after an outcome without an answer, or have that done later."""
    if staged:
        stage_outcome(connection, sha256, provider, now)
    else:
        aggregate(connection, sha256, policy, now)
