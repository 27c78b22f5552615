"""Writing down what came of asking a source: everything that follows from it, in the caller's one transaction."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from sqlalchemy import Connection, select

from cowrieprocessor.db.enrichment.provider_verdict import ProviderVerdict
from cowrieprocessor.db.enrichment.queue import (
    ANSWERED,
    FAILED,
    LEASED,
    QUEUE,
    REFUSED,
    QueueRow,
    bounded_error,
    change_row,
    insert_row,
    queue_row,
)
from cowrieprocessor.db.enrichment.response_cache import cached_answers, store_in_cache
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy, aggregate
from cowrieprocessor.db.enrichment.verdict_history import record_answer
from cowrieprocessor.db.models import HASHES

__all__ = ["defer_lookup", "lock_hashes", "queued_hashes", "store_answer", "store_failure", "store_refusal"]

LOCKED_AT_ONCE = 400


def lock_hashes(connection: Connection, hashes: list[str]) -> None:
    """Keep the rows of some hashes from changing, in the order in which loaders lock them.

    Whoever stores answers about several hashes in one transaction begins with this: on PostgreSQL two who lock the
    same rows in different orders would wait for each other for ever.

    Args:
        connection: in a write transaction that has locked no hash yet.
        hashes: in any order.
    """
    ordered = sorted(set(hashes))
    for start in range(0, len(ordered), LOCKED_AT_ONCE):
        part = ordered[start : start + LOCKED_AT_ONCE]
        query = select(HASHES.c.sha256).where(HASHES.c.sha256.in_(part)).order_by(HASHES.c.sha256)
        connection.execute(query.with_for_update()).all()


def queued_hashes(connection: Connection, after: str, limit: int) -> list[str]:
    """Return the next hashes that any source was asked about, in their order, behind one.

    Args:
        connection: in a transaction.
        after: the hash; empty for the beginning.
        limit: how many at most.
    """
    query = select(QUEUE.c.sha256).distinct().where(QUEUE.c.sha256 > after).order_by(QUEUE.c.sha256).limit(limit)
    return list(connection.scalars(query))


def store_answer(
    connection: Connection,
    sha256: str,
    provider: str,
    cache_key: str,
    finding: ProviderVerdict,
    *,
    fetched_at: dt.datetime,
    expires_at: dt.datetime,
    policy: Policy,
    now: dt.datetime,
) -> None:
    """Keep what a source said: cache, history, queue and the row of the hash, and a note that `files` has to follow.

    Answers may come in any order: an older one only adds to the history. Again is a no-op. Of a hash that is in no
    session and no folder the cache alone is written.

    Args:
        connection: in a write transaction.
        sha256: the hash.
        provider: who answered.
        cache_key: the question.
        finding: what it said; `unknown` with nothing but a response if it does not know the file.
        fetched_at: when it said so.
        expires_at: until when it need not be asked again.
        policy: which sources are asked, and when enough is known.
        now: the time.
    """
    known = _lock(connection, sha256)
    store_in_cache(connection, provider, cache_key, finding.verdict, finding.response, fetched_at, expires_at)
    if not known:
        return
    record_answer(connection, sha256, provider, finding, fetched_at)
    _note_answer(connection, sha256, provider, cache_key, fetched_at, now)
    aggregate(connection, sha256, policy, now, finding)


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
) -> None:
    """Keep that no usable answer came, and when the source is asked again.

    Args:
        connection: in a write transaction.
        sha256: the hash, which was claimed.
        provider: who was asked.
        kind: one word for counting.
        reason: what happened, for people.
        next_attempt_at: when it is asked again.
        policy: which sources are asked, and when enough is known.
        now: the time.
    """
    values = {"status": FAILED, "last_error": bounded_error(f"{kind}: {reason}"), "next_attempt_at": next_attempt_at}
    _note_no_answer(connection, sha256, provider, values, policy, now)


def store_refusal(
    connection: Connection, sha256: str, provider: str, *, reason: str, policy: Policy, now: dt.datetime
) -> None:
    """Keep that a source will not answer about a hash: it is not asked again by itself.

    Args:
        connection: in a write transaction.
        sha256: the hash, which was claimed.
        provider: who was asked.
        reason: why, for people.
        policy: which sources are asked, and when enough is known.
        now: the time.
    """
    values = {"status": REFUSED, "last_error": bounded_error(reason), "next_attempt_at": None}
    _note_no_answer(connection, sha256, provider, values, policy, now)


def defer_lookup(
    connection: Connection, sha256: str, provider: str, *, look_again_at: dt.datetime, policy: Policy, now: dt.datetime
) -> None:
    """Keep that a source has nothing to be asked about a hash now: counted as answered, without an answer.

    Args:
        connection: in a write transaction.
        sha256: the hash, which was claimed.
        provider: the source.
        look_again_at: when there may be something.
        policy: which sources are asked, and when enough is known.
        now: the time.
    """
    values = {"status": ANSWERED, "attempts": 0, "last_error": None, "next_attempt_at": look_again_at}
    _note_no_answer(connection, sha256, provider, values, policy, now)


def _lock(connection: Connection, sha256: str) -> bool:
    """Keep a hash from changing; return whether there is such a row."""
    query = select(HASHES.c.sha256).where(HASHES.c.sha256 == sha256).with_for_update()
    return connection.execute(query).first() is not None


def _note_answer(
    connection: Connection, sha256: str, provider: str, cache_key: str, fetched_at: dt.datetime, now: dt.datetime
) -> None:
    """Let the queue know of an answer, by what the cache now has."""
    entry = cached_answers(connection, provider, [cache_key])[cache_key]
    row = queue_row(connection, sha256, provider)
    answered = QueueRow(sha256, provider, ANSWERED, next_attempt_at=entry.expires_at)
    if row is None:
        insert_row(connection, answered)
        return
    is_latest = fetched_at >= entry.fetched_at
    taken_in = row.priority > 0 and row.status != LEASED
    holds = entry.expires_at > now or fetched_at >= now or row.status == ANSWERED
    # An answer from elsewhere (an imported cache, Cowrie's log) that is old says nothing to whoever is about to ask.
    if is_latest and holds and not taken_in:
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


def _note_no_answer(
    connection: Connection,
    sha256: str,
    provider: str,
    values: Mapping[str, object],
    policy: Policy,
    now: dt.datetime,
) -> None:
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
        # Somebody else, who took over when the claim was too old, got an answer meanwhile.
        return
    else:
        change_row(connection, sha256, provider, {**values, "priority": 0, "leased_until": None})
    aggregate(connection, sha256, policy, now)
