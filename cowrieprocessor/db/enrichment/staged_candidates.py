"""Which hashes a source is to be asked about where USE_NEW_ENRICHMENT=0: by the cache alone.

It is the one rule that staged claims, and the numbers of `enrich status`, go by. A claim stands under `claim:SHA256`:

    asking          being asked about for the first time, until it ends; after that whoever it was has not asked
    asking:again    the same of a hash that was tried or answered before, or over which process after process died
    by-hand         to be asked about whatever is known
    asking:by-hand  being asked about so
    answered        there is an answer, under whatever key, that holds until then
    failed:KIND     no usable answer came; to be tried again then
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, Select, and_, case, exists, func, literal, or_, select

from cowrieprocessor.db.enrichment.candidates import Order, Reason, in_order, worth_asking
from cowrieprocessor.db.enrichment.clock_skew import MAX_CLOCK_SKEW
from cowrieprocessor.db.enrichment.queue import MAX_LEASE, QUEUE, REFUSED
from cowrieprocessor.db.enrichment.response_cache import CACHE
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy
from cowrieprocessor.db.models import HASHES

__all__ = [
    "ASKING",
    "ASKING_AGAIN",
    "ASKING_BY_HAND",
    "BY_HAND",
    "CLAIM",
    "DONE",
    "FAILED",
    "IN_PROGRESS",
    "CandidateQuery",
    "candidate_details",
    "claim_is_over",
    "new_candidates",
    "repeat_candidates",
    "staged_backlog",
]

CLAIM = "claim:"
ASKING, ASKING_AGAIN, ASKING_BY_HAND, BY_HAND = "asking", "asking:again", "asking:by-hand", "by-hand"
DONE, FAILED = "answered", "failed"
IN_PROGRESS = (ASKING, ASKING_AGAIN, ASKING_BY_HAND)

_ANSWER = CACHE.alias("answer")
_CLAIMED = CACHE.alias("claim")
_REASONS: tuple[Reason, ...] = ("asked-for", "new", "retry", "expired")


@dataclass(frozen=True, slots=True)
class CandidateQuery:
    """What is to be asked of a source.

    Attributes:
        provider: the source.
        now: the time.
        policy: which sources are in use, and what settles a hash.
        sources: all that the cache has answers of.
        earlier: sources that have to be asked about a hash before.
        order: which come first among those never asked about.
    """

    provider: str
    now: dt.datetime
    policy: Policy
    sources: tuple[str, ...]
    earlier: tuple[str, ...] = ()
    order: Order = "turn"


def new_candidates(question: CandidateQuery) -> Select[Any]:
    """Return the query for hashes that the source was never asked about, in their order."""
    return _hashes(question, HASHES.c.sha256).where(_is_new()).order_by(*in_order(question.order))


def repeat_candidates(question: CandidateQuery) -> Select[Any]:
    """Return the query for hashes that were asked for by hand, that are to be tried again, and whose answer is old."""
    query = _hashes(question, HASHES.c.sha256).where(~_is_new())
    return query.order_by(_place(question.now), *in_order(question.order))


def candidate_details(connection: Connection, question: CandidateQuery, hashes: Sequence[str]) -> list[Any]:
    """Return of some hashes those that the source is to be asked about, in their order.

    Args:
        connection: in a transaction.
        question: what is asked.
        hashes: as many as one statement may name.

    Returns:
        Rows with `sha256`, `reason`, `claim` (the response of its claim), `is_ahead` (a clock was wrong).
    """
    place = _place(question.now)
    ahead = question.now + MAX_CLOCK_SKEW
    is_ahead = case((or_(_ANSWER.c.fetched_at > ahead, _CLAIMED.c.fetched_at > ahead), 1), else_=0).label("is_ahead")
    query = _hashes(question, HASHES.c.sha256, _CLAIMED.c.response.label("claim"), place.label("place"), is_ahead)
    query = query.where(HASHES.c.sha256.in_(hashes)).order_by(place, *in_order(question.order))
    return [{**row, "reason": _REASONS[row["place"]]} for row in connection.execute(query).mappings()]


def staged_backlog(connection: Connection, question: CandidateQuery) -> dict[Reason, int]:
    """Return how many hashes the source is to be asked about, by reason.

    Args:
        connection: in a transaction.
        question: what is asked.
    """
    place = _place(question.now).label("place")
    found = _hashes(question, place).subquery()
    query = select(found.c.place, func.count()).group_by(found.c.place)
    return {_REASONS[row[0]]: row[1] for row in connection.execute(query)}


def claim_is_over(claim: FromClause, now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition on claims in the cache that they hold no longer, or were made while a clock was ahead."""
    return or_(claim.c.expires_at <= now, claim.c.fetched_at > now + MAX_LEASE)


def _hashes(question: CandidateQuery, *columns: ColumnElement[Any]) -> Select[Any]:
    """Return the query for all hashes that the source is to be asked about."""
    provider, now = question.provider, question.now
    joined = HASHES.outerjoin(
        _ANSWER, and_(_ANSWER.c.provider == provider, _ANSWER.c.key == HASHES.c.sha256)
    ).outerjoin(_CLAIMED, and_(_CLAIMED.c.provider == provider, _CLAIMED.c.key == literal(CLAIM) + HASHES.c.sha256))
    refused = exists().where(QUEUE.c.sha256 == HASHES.c.sha256, QUEUE.c.provider == provider, QUEUE.c.status == REFUSED)
    old = or_(_ANSWER.c.key.is_(None), _ANSWER.c.expires_at <= now, _ANSWER.c.fetched_at > now + MAX_CLOCK_SKEW)
    over = or_(_CLAIMED.c.key.is_(None), claim_is_over(_CLAIMED, now))
    asked = [or_(~_is_new(), _was_asked(name, now)) for name in question.earlier]
    due = and_(~refused, old, over, *asked, ~_settled(question))
    return select(*columns).select_from(joined).where(worth_asking(), or_(_is_by_hand(now), due))


def _is_new() -> ColumnElement[bool]:
    """Return the condition that the source was not asked: whoever was about to is asking, or was killed."""
    return and_(_ANSWER.c.key.is_(None), or_(_CLAIMED.c.key.is_(None), _CLAIMED.c.status == ASKING))


def _is_by_hand(now: dt.datetime) -> ColumnElement[bool]:
    return and_(
        _CLAIMED.c.key.is_not(None),
        _CLAIMED.c.status.in_((BY_HAND, ASKING_BY_HAND)),
        claim_is_over(_CLAIMED, now),
    )


def _place(now: dt.datetime) -> ColumnElement[int]:
    """Return by which reason a hash is asked about, as its place in _REASONS."""
    tried = and_(
        _CLAIMED.c.key.is_not(None),
        _CLAIMED.c.status.not_in((DONE, ASKING)),
        or_(_ANSWER.c.key.is_(None), _CLAIMED.c.fetched_at > _ANSWER.c.fetched_at),
    )
    return case((_is_by_hand(now), 0), (_is_new(), 1), (tried, 2), else_=3)


def _was_asked(provider: str, now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition on `file_hashes` that a source was asked about it, and is not being asked."""
    answer, claim = CACHE.alias("earlier_answer"), CACHE.alias("earlier_claim")
    was = or_(
        claim.c.status.not_in((*IN_PROGRESS, BY_HAND)), and_(claim.c.status == ASKING_AGAIN, claim_is_over(claim, now))
    )
    return or_(
        exists().where(answer.c.provider == provider, answer.c.key == HASHES.c.sha256),
        exists().where(claim.c.provider == provider, claim.c.key == literal(CLAIM) + HASHES.c.sha256, was),
    )


def _settled(question: CandidateQuery) -> ColumnElement[bool]:
    """Return the condition on `file_hashes` that another source said enough, by the cache alone.

    A source in use asks again by itself and settles a hash also when its answer is old; only those before this one in
    the order do, or two would wait for each other. The sources are named, so that each is found by its key.
    """
    said = CACHE.alias("settling")
    provider, policy = question.provider, question.policy
    others = [name for name in question.sources if name != provider]
    before = [name for name in policy.outrank(provider) if name != provider]
    return exists().where(
        said.c.provider.in_(others),
        said.c.key == HASHES.c.sha256,
        said.c.status.in_(sorted(policy.settled_by)),
        or_(said.c.provider.in_(before), said.c.expires_at > question.now),
    )
