"""Which hashes a provider is queried about with USE_NEW_ENRICHMENT=0, according to the cache alone.

The rule is shared by staged claims and by the counts of `enrich status`. A claim is stored under `claim:SHA256`; its
status and `expires_at` mean:

    asking          claimed for the first query until then; after that the claim is void and counts as no query
    asking:again    claimed for a hash that was tried or answered before, or whose claiming processes were killed
    by-hand         asked for by hand: to be queried whatever is known; `by-hand:OUTCOME` after an earlier outcome
    asking:by-hand  claimed after it was asked for by hand
    answered        has an answer, under the key of the hash, that expires then
    answered:other  has an answer under another key, that expires then
    deferred        the provider cannot be queried about it until then
    failed:KIND     got no usable answer; to be retried then
    rate-limited    the provider wanted fewer requests; the hash keeps its place

A claim in progress keeps the outcome before it, one of the last five, as `before` in its response.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, Select, and_, case, exists, func, literal, or_, select

from cowrieprocessor.db.enrichment.candidates import Order, Reason, in_order, worth_asking
from cowrieprocessor.db.enrichment.clock_skew import MAX_CLOCK_SKEW
from cowrieprocessor.db.enrichment.queue import MAX_LEASE, QUEUE, RATE_LIMITED, REFUSED
from cowrieprocessor.db.enrichment.response_cache import CACHE
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy
from cowrieprocessor.db.models import HASHES

__all__ = [
    "ASKING",
    "ASKING_AGAIN",
    "ASKING_BY_HAND",
    "BY_HAND",
    "CLAIM",
    "DEFERRED",
    "DONE",
    "DONE_OTHER",
    "FAILED",
    "IN_PROGRESS",
    "LIMITED",
    "CandidateScope",
    "candidate_details",
    "claim_is_over",
    "is_by_hand",
    "new_candidates",
    "repeat_candidates",
    "staged_backlog",
]

CLAIM = "claim:"
ASKING, ASKING_AGAIN, ASKING_BY_HAND, BY_HAND = "asking", "asking:again", "asking:by-hand", "by-hand"
DONE, DONE_OTHER, FAILED = "answered", "answered:other", "failed"
LIMITED = RATE_LIMITED
DEFERRED = "deferred"
IN_PROGRESS = (ASKING, ASKING_AGAIN, ASKING_BY_HAND)

_ANSWER = CACHE.alias("answer")
_CLAIMED = CACHE.alias("claim")
_REASONS: tuple[Reason, ...] = ("asked-for", "new", "retry", "expired")


@dataclass(frozen=True, slots=True)
class CandidateScope:
    """The provider and the rules by which its candidates are selected.

    Attributes:
        provider: the provider.
        now: the current time.
        policy: the providers in use and the decisive verdicts.
        cached_providers: the providers that have answers in the cache.
        earlier: providers that must be queried about a new hash first.
        order: the order of never-queried hashes.
    """

    provider: str
    now: dt.datetime
    policy: Policy
    cached_providers: tuple[str, ...]
    earlier: tuple[str, ...] = ()
    order: Order = "turn"


def new_candidates(scope: CandidateScope) -> Select[Any]:
    """Return the SELECT for hashes that the provider was never queried about, in their order."""
    return _hashes(scope, HASHES.c.sha256).where(_is_new()).order_by(*in_order(scope.order))


def repeat_candidates(scope: CandidateScope) -> Select[Any]:
    """Return the SELECT for hashes asked for by hand, failures due for a retry and expired answers, in this order."""
    query = _hashes(scope, HASHES.c.sha256).where(~_is_new())
    return query.order_by(_reason_index(scope.now), *in_order(scope.order))


def candidate_details(connection: Connection, scope: CandidateScope, hashes: Sequence[str]) -> list[Any]:
    """Return those of some hashes that the provider is to be queried about, in their order.

    Args:
        connection: in a transaction.
        scope: the provider and the rules.
        hashes: at most MAX_PARAMETERS.

    Returns:
        Rows with `sha256`, `reason`, `claim` (the response of its claim), `claim_status`, `is_ahead` (a time is
        clock-skewed).
    """
    reason = _reason_index(scope.now)
    latest = scope.now + MAX_CLOCK_SKEW
    is_ahead = case((or_(_ANSWER.c.fetched_at > latest, _CLAIMED.c.fetched_at > latest), 1), else_=0).label("is_ahead")
    claim = _CLAIMED.c.response.label("claim"), _CLAIMED.c.status.label("claim_status")
    query = _hashes(scope, HASHES.c.sha256, *claim, reason.label("place"), is_ahead)
    query = query.where(HASHES.c.sha256.in_(hashes)).order_by(reason, *in_order(scope.order))
    return [{**row, "reason": _REASONS[row["place"]]} for row in connection.execute(query).mappings()]


def staged_backlog(connection: Connection, scope: CandidateScope) -> dict[Reason, int]:
    """Return the number of hashes that the provider is to be queried about, by reason.

    Args:
        connection: in a transaction.
        scope: the provider and the rules.
    """
    reason = _reason_index(scope.now).label("place")
    candidates = _hashes(scope, reason).subquery()
    query = select(candidates.c.place, func.count()).group_by(candidates.c.place)
    return {_REASONS[row[0]]: row[1] for row in connection.execute(query)}


def claim_is_over(claim: FromClause, now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition that a claim in the cache has ended or is void because of clock skew."""
    return or_(claim.c.expires_at <= now, claim.c.fetched_at > now + MAX_LEASE)


def is_by_hand(claim: FromClause) -> ColumnElement[bool]:
    """Return the condition that an idle claim in the cache was asked for by hand."""
    return or_(claim.c.status == BY_HAND, claim.c.status.startswith(f"{BY_HAND}:"))


def _hashes(scope: CandidateScope, *columns: ColumnElement[Any]) -> Select[Any]:
    """Return the SELECT for all hashes that the provider is to be queried about."""
    provider, now = scope.provider, scope.now
    joined = HASHES.outerjoin(
        _ANSWER, and_(_ANSWER.c.provider == provider, _ANSWER.c.key == HASHES.c.sha256)
    ).outerjoin(_CLAIMED, and_(_CLAIMED.c.provider == provider, _CLAIMED.c.key == literal(CLAIM) + HASHES.c.sha256))
    refused = exists().where(QUEUE.c.sha256 == HASHES.c.sha256, QUEUE.c.provider == provider, QUEUE.c.status == REFUSED)
    has_expired = or_(_ANSWER.c.key.is_(None), _ANSWER.c.expires_at <= now, _ANSWER.c.fetched_at > now + MAX_CLOCK_SKEW)
    is_free = or_(_CLAIMED.c.key.is_(None), claim_is_over(_CLAIMED, now))
    asked = [or_(~_is_new(), _was_asked(name, now)) for name in scope.earlier]
    due = and_(~refused, has_expired, is_free, *asked, ~_has_decisive_verdict(scope))
    return select(*columns).select_from(joined).where(worth_asking(), or_(_is_by_hand(now), due))


def _is_new() -> ColumnElement[bool]:
    """Return the condition that the provider was not queried: there is no answer, and at most a first claim."""
    return and_(_ANSWER.c.key.is_(None), or_(_CLAIMED.c.key.is_(None), _CLAIMED.c.status.in_((ASKING, LIMITED))))


def _is_by_hand(now: dt.datetime) -> ColumnElement[bool]:
    return and_(
        _CLAIMED.c.key.is_not(None),
        or_(_CLAIMED.c.status == ASKING_BY_HAND, is_by_hand(_CLAIMED)),
        claim_is_over(_CLAIMED, now),
    )


def _reason_index(now: dt.datetime) -> ColumnElement[int]:
    """Return the expression for the index in _REASONS of the reason to query a hash."""
    has_failed = and_(
        _CLAIMED.c.key.is_not(None),
        _CLAIMED.c.status.not_in((DONE, DONE_OTHER, DEFERRED, ASKING, LIMITED)),
        or_(_ANSWER.c.key.is_(None), _CLAIMED.c.fetched_at > _ANSWER.c.fetched_at),
    )
    return case((_is_by_hand(now), 0), (_is_new(), 1), (has_failed, 2), else_=3)


def _was_asked(provider: str, now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition on `file_hashes` that a provider was queried about it, and no query is under way."""
    answer, claim = CACHE.alias("earlier_answer"), CACHE.alias("earlier_claim")
    has_outcome = or_(
        and_(claim.c.status.not_in((*IN_PROGRESS, LIMITED)), ~is_by_hand(claim)),
        and_(claim.c.status == ASKING_AGAIN, claim_is_over(claim, now)),
    )
    return or_(
        exists().where(answer.c.provider == provider, answer.c.key == HASHES.c.sha256),
        exists().where(claim.c.provider == provider, claim.c.key == literal(CLAIM) + HASHES.c.sha256, has_outcome),
    )


def _has_decisive_verdict(scope: CandidateScope) -> ColumnElement[bool]:
    """Return the condition on `file_hashes` that another provider's verdict in the cache is decisive.

    Providers in use refresh their answers, so that an expired verdict of theirs counts too, but only of those ahead of
    this provider: otherwise two would wait for each other. The providers are listed so that the primary key is used.
    """
    other = CACHE.alias("settling")
    provider, policy = scope.provider, scope.policy
    others = [name for name in scope.cached_providers if name != provider]
    ahead = [name for name in policy.outrank(provider) if name != provider]
    return exists().where(
        other.c.provider.in_(others),
        other.c.key == HASHES.c.sha256,
        other.c.status.in_(sorted(policy.settled_by)),
        or_(other.c.provider.in_(ahead), other.c.expires_at > scope.now),
    )
