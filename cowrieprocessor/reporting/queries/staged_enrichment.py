"""How enrichment stands where USE_NEW_ENRICHMENT=0: by the cache alone, in which claims and answers are kept then."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Connection, case, func, select

from cowrieprocessor.db.enrichment.candidates import Reason
from cowrieprocessor.db.enrichment.provider_verdict import VERDICTS
from cowrieprocessor.db.enrichment.queue import FAILED, REFUSED
from cowrieprocessor.db.enrichment.response_cache import CACHE, providers_in_cache
from cowrieprocessor.db.enrichment.staged_candidates import (
    CLAIM,
    IN_PROGRESS,
    CandidateScope,
    claim_is_over,
    staged_backlog,
)
from cowrieprocessor.db.enrichment.staged_claims import count_replayable
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy
from cowrieprocessor.reporting.queries.enrichment import FailureKind, QueueCounts

_FAILED = f"{FAILED}:"
_REFUSED = f"{_FAILED}{REFUSED}"


def replayable_answers(connection: Connection) -> int:
    """Return how many answers in the cache are about files of the database and not in its history yet."""
    return sum(count_replayable(connection, provider) for provider in providers_in_cache(connection))


def staged_counts(connection: Connection, policy: Policy, now: dt.datetime) -> dict[str, QueueCounts]:
    """Return how each source stands that is in use or is in the cache, by its name.

    Args:
        connection: a connection in a transaction.
        policy: which sources are in use, and what settles a hash.
        now: the present.
    """
    names = sorted({*providers_in_cache(connection), *policy.providers})
    return {name: _counts(connection, name, policy, now) for name in names}


def staged_failures(connection: Connection, policy: Policy) -> tuple[FailureKind, ...]:
    """Return what sources failed and refused to answer, by kind; the reasons themselves are not kept then."""
    kinds = []
    for provider in sorted({*providers_in_cache(connection), *policy.providers}):
        claims = select(CACHE.c.status, func.count(), func.min(CACHE.c.key)).where(
            CACHE.c.provider == provider, CACHE.c.key.startswith(CLAIM), CACHE.c.status.startswith(_FAILED)
        )
        for status, count, key in connection.execute(claims.group_by(CACHE.c.status)):
            kind = status.removeprefix(_FAILED)
            standing = REFUSED if kind == REFUSED else FAILED
            kinds.append(FailureKind(provider, standing, kind, count, key.removeprefix(CLAIM), ""))
    return tuple(sorted(kinds, key=lambda one: (-one.count, one.provider, one.status, one.kind)))


def _counts(connection: Connection, provider: str, policy: Policy, now: dt.datetime) -> QueueCounts:
    of_source = CACHE.c.provider == provider
    over = case((claim_is_over(CACHE, now), 0), else_=1)
    claims = select(CACHE.c.status, func.count(), func.sum(over)).where(of_source, CACHE.c.key.startswith(CLAIM))
    asking = failed = refused = 0
    for status, count, live in connection.execute(claims.group_by(CACHE.c.status)):
        if status in IN_PROGRESS:
            asking += int(live)
        elif status == _REFUSED:
            refused = count
        elif status.startswith(_FAILED):
            failed += count
    answered = select(func.count()).where(of_source, CACHE.c.status.in_(VERDICTS))
    backlog: dict[Reason, int] = {}
    if provider in policy.providers:
        backlog = staged_backlog(connection, CandidateScope(provider, now, policy, providers_in_cache(connection)))
    return QueueCounts(
        waiting=backlog.get("new", 0),
        asked_for=backlog.get("asked-for", 0),
        retries_due=backlog.get("retry", 0),
        expired=backlog.get("expired", 0),
        leased=asking,
        answered=connection.scalar(answered) or 0,
        failed=failed,
        refused=refused,
    )
