"""Which hashes a source is to be asked about: the one rule that claims, and the numbers of `enrich status`, go by.

In this order: what was asked for by hand; what the source was never asked about; what is to be tried again; answers
that hold no longer. Nothing that is skipped, and unless it was asked for by hand nothing that another source settled.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, FromClause, and_, exists, or_, select

from cowrieprocessor.db.enrichment.clock_skew import skewed_answers, skewed_failures
from cowrieprocessor.db.enrichment.queue import (
    ANSWERED,
    ASKED_FOR_AT,
    FAILED,
    LEASED,
    MAX_LOST_CLAIMS,
    PENDING,
    QUEUE,
    REFUSED,
    lease_is_over,
)
from cowrieprocessor.db.enrichment.response_cache import CACHE
from cowrieprocessor.db.enrichment.verdict_aggregation import HASH_SKIPPED, Policy
from cowrieprocessor.db.enrichment.verdict_history import HISTORY
from cowrieprocessor.db.models import HASHES

__all__ = [
    "SKIP_REASONS",
    "Order",
    "Reason",
    "RepeatRows",
    "asked_for",
    "expired",
    "has_decisive_verdict",
    "in_order",
    "lost_claims",
    "never_asked",
    "retries",
    "worth_asking",
]

SKIP_REASONS = {
    hashlib.sha256(b"").hexdigest(): "the empty file: nothing can be learned about it",
    hashlib.sha256(b"\n").hexdigest(): "a lone newline: nothing can be learned about it",
}
"""The files that every honeypot captures by the thousand, with why no source is asked about them."""

Order = Literal["turn", "oldest"]
"""Of hashes never asked about: those of most sessions first, then the latest; or in the order in which they came."""

Reason = Literal["asked-for", "new", "retry", "expired"]
"""Why a hash is claimed."""


def never_asked(provider: str, policy: Policy, now: dt.datetime, *, earlier: Sequence[str] = ()) -> ColumnElement[bool]:
    """Return the condition on `file_hashes` for those that a source was never asked about and is to be.

    Who claimed a hash and was killed before it had an answer has not asked.

    Args:
        provider: the source.
        policy: which sources are in use, and what settles a hash.
        now: the time.
        earlier: sources that have to be asked about a hash before.
    """
    mine = exists().where(QUEUE.c.sha256 == HASHES.c.sha256, QUEUE.c.provider == provider, ~_is_lost(now))
    asked = [_was_asked(name, now) for name in earlier]
    return and_(worth_asking(), ~mine, *asked, ~has_decisive_verdict(provider, policy, now))


def lost_claims(provider: str, policy: Policy, now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition on the queue, joined with `file_hashes`, for those of `never_asked` that were claimed."""
    return and_(
        QUEUE.c.provider == provider, _is_lost(now), worth_asking(), ~has_decisive_verdict(provider, policy, now)
    )


def asked_for(provider: str, now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition on `enrichment_queue`, joined with `file_hashes`, for what was asked for by hand."""
    states = (PENDING, ANSWERED, FAILED, REFUSED, LEASED)
    due = QUEUE.c.next_attempt_at <= ASKED_FOR_AT
    again = and_(QUEUE.c.priority > 0, QUEUE.c.attempts < MAX_LOST_CLAIMS, lease_is_over(now))
    is_free = or_(QUEUE.c.status != LEASED, again)
    return and_(QUEUE.c.provider == provider, QUEUE.c.status.in_(states), due, is_free, worth_asking())


@dataclass(frozen=True, slots=True)
class RepeatRows:
    """Rows of the queue that a source is to be asked about once more.

    Attributes:
        due: the condition on the queue for those that are to be asked about in the order of `next_attempt_at`.
        ahead: the same for those that only a clock that was wrong keeps from being due.
        left: claims of somebody who is gone, where the source has failed or answered before.
        kept: the condition on the queue, joined with `file_hashes`, that nothing speaks against it.
    """

    due: ColumnElement[bool]
    ahead: ColumnElement[bool]
    left: ColumnElement[bool] | None
    kept: ColumnElement[bool]

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the conditions on the queue, joined with `file_hashes`, for all of them; no row meets two."""
        return [and_(one, self.kept) for one in (self.due, self.ahead, self.left) if one is not None]


def retries(provider: str, policy: Policy, now: dt.datetime) -> RepeatRows:
    """Return which failures are to be tried again, and which claims of somebody who is gone."""
    mine = QUEUE.c.provider == provider
    left = and_(
        mine,
        QUEUE.c.status == LEASED,
        lease_is_over(now),
        or_(
            QUEUE.c.attempts >= MAX_LOST_CLAIMS,
            and_(QUEUE.c.priority == 0, or_(QUEUE.c.last_error.is_not(None), QUEUE.c.next_attempt_at.is_not(None))),
        ),
    )
    kept = and_(worth_asking(), or_(QUEUE.c.priority > 0, ~has_decisive_verdict(provider, policy, now)))
    return RepeatRows(and_(mine, QUEUE.c.status == FAILED, _is_due(now)), skewed_failures(provider, now), left, kept)


def expired(provider: str, policy: Policy, now: dt.datetime) -> RepeatRows:
    """Return which answers hold no longer."""
    old = and_(QUEUE.c.provider == provider, QUEUE.c.status == ANSWERED, _is_due(now))
    kept = and_(worth_asking(), ~has_decisive_verdict(provider, policy, now, has_answered=True))
    return RepeatRows(old, skewed_answers(provider, now), None, kept)


def in_order(order: Order) -> tuple[ColumnElement[Any], ...]:
    """Return by what hashes never asked about are ordered."""
    if order == "oldest":
        return HASHES.c.first_seen.asc(), HASHES.c.sha256.asc()
    return HASHES.c.session_count.desc(), HASHES.c.last_seen.desc(), HASHES.c.sha256.asc()


def has_decisive_verdict(
    provider: str, policy: Policy, now: dt.datetime, *, has_answered: bool = False
) -> ColumnElement[bool]:
    """Return the condition on `file_hashes` that another source said enough about a hash.

    A source that is not asked (any more) settles a hash as long as its answer holds: one in use asks again by itself.
    Where the source has answered before, only those in use before it settle: two would otherwise wait for each other.

    Args:
        provider: the source that is not to be asked then.
        policy: which sources are in use, and what settles a hash.
        now: the time.
        has_answered: whether this is about asking the source again.
    """
    later = HISTORY.alias("later_verdict")
    is_latest = ~exists().where(
        later.c.sha256 == HISTORY.c.sha256,
        later.c.provider == HISTORY.c.provider,
        later.c.fetched_at > HISTORY.c.fetched_at,
    )
    return exists().where(
        HISTORY.c.sha256 == HASHES.c.sha256,
        HISTORY.c.verdict.in_(sorted(policy.settled_by)),
        or_(*_settling(HISTORY, provider, policy, now, has_answered=has_answered)),
        is_latest,
    )


def _settling(
    said: FromClause, provider: str, policy: Policy, now: dt.datetime, *, has_answered: bool
) -> list[ColumnElement[bool]]:
    """Return of which sources an answer settles a hash, on rows of the history."""
    asked = [name for name in policy.providers if name != provider]
    before = [name for name in policy.outrank(provider) if name != provider]
    holds = exists().where(CACHE.c.provider == said.c.provider, CACHE.c.key == said.c.sha256, CACHE.c.expires_at > now)
    not_asked = said.c.provider.not_in([*asked, provider])
    return [said.c.provider.in_(before if has_answered else asked), and_(not_asked, holds)]


def worth_asking() -> ColumnElement[bool]:
    """Return the condition on `file_hashes` for those that may ever be asked about."""
    return and_(HASHES.c.enrichment_status != HASH_SKIPPED, HASHES.c.sha256.not_in(sorted(SKIP_REASONS)))


def _is_due(now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition on the queue that a row is due by itself, not by hand."""
    return and_(QUEUE.c.next_attempt_at <= now, QUEUE.c.next_attempt_at > ASKED_FOR_AT)


def _is_lost(now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition on the queue that somebody was killed before a source said anything about a hash."""
    return and_(
        QUEUE.c.status == LEASED,
        QUEUE.c.priority == 0,
        QUEUE.c.last_error.is_(None),
        QUEUE.c.next_attempt_at.is_(None),
        QUEUE.c.attempts < MAX_LOST_CLAIMS,
        lease_is_over(now),
    )


def _was_asked(provider: str, now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition on `file_hashes` that a source was asked about it, and is not being asked.

    A claim alone is no question, unless process after process was killed over it.
    """
    said = or_(
        QUEUE.c.last_error.is_not(None),
        QUEUE.c.next_attempt_at > ASKED_FOR_AT,
        QUEUE.c.attempts >= MAX_LOST_CLAIMS,
        exists().where(HISTORY.c.sha256 == QUEUE.c.sha256, HISTORY.c.provider == QUEUE.c.provider),
    )
    return exists(
        select(QUEUE.c.sha256).where(
            QUEUE.c.sha256 == HASHES.c.sha256,
            QUEUE.c.provider == provider,
            QUEUE.c.status != PENDING,
            or_(QUEUE.c.status != LEASED, and_(lease_is_over(now), said)),
        )
    )
