"""The state of enrichment with USE_NEW_ENRICHMENT=0, when claims and answers are kept in the response cache alone."""

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
from cowrieprocessor.db.enrichment.staged_replay import count_replayable
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy
from cowrieprocessor.reporting.queries.enrichment import FailureKind, QueueCounts, sort_kinds

_FAILED = f"{FAILED}:"
_REFUSED = f"{_FAILED}{REFUSED}"


def replayable_answers(connection: Connection) -> int:
    """Return the number of cached answers about files of this database that its history does not have yet."""
    return sum(count_replayable(connection, provider) for provider in providers_in_cache(connection))


def staged_counts(connection: Connection, policy: Policy, now: dt.datetime) -> dict[str, QueueCounts]:
    """Return the counts of each source that is in use or in the cache, by its name.

    Args:
        connection: a connection in a transaction.
        policy: which sources are in use, and which verdicts are decisive.
        now: the current time.
    """
    names = sorted({*providers_in_cache(connection), *policy.providers})
    return {name: _counts(connection, name, policy, now) for name in names}


def staged_failures(connection: Connection, policy: Policy) -> tuple[FailureKind, ...]:
    """Return failures and refusals by kind, the most frequent first; the cache does not keep their full reasons."""
    kinds = []
    for provider in sorted({*providers_in_cache(connection), *policy.providers}):
        claims = select(CACHE.c.status, func.count(), func.min(CACHE.c.key)).where(
            CACHE.c.provider == provider, CACHE.c.key.startswith(CLAIM), CACHE.c.status.startswith(_FAILED)
        )
        for status, count, key in connection.execute(claims.group_by(CACHE.c.status)):
            kind = status.removeprefix(_FAILED)
            queue_status = REFUSED if kind == REFUSED else FAILED
            kinds.append(FailureKind(provider, queue_status, kind, count, key.removeprefix(CLAIM), ""))
    return sort_kinds(kinds)


def _counts(connection: Connection, provider: str, policy: Policy, now: dt.datetime) -> QueueCounts:
    of_source = CACHE.c.provider == provider
    is_live = case((claim_is_over(CACHE, now), 0), else_=1)
    claims = select(CACHE.c.status, func.count(), func.sum(is_live)).where(of_source, CACHE.c.key.startswith(CLAIM))
    leased = failed = refused = 0
    for status, count, live in connection.execute(claims.group_by(CACHE.c.status)):
        if status in IN_PROGRESS:
            leased += int(live)
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
        leased=leased,
        answered=connection.scalar(answered) or 0,
        failed=failed,
        refused=refused,
    )
