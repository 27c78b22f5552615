"""Which hashes a provider is queried about: the rule shared by claims and by the counts of `enrich status`.

In this order: hashes asked for by hand; hashes the provider was never queried about; failures that are due for a retry;
answers that have expired. Skipped hashes never qualify, and a decisive verdict of another provider excludes all but
those asked for by hand.
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
    RATE_LIMITED,
    REFUSED,
    has_failed_before,
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
"""The files that every honeypot captures by the thousand, with the reason why no provider is queried about them."""

Order = Literal["turn", "oldest"]
"""Order of never-queried hashes: by number of sessions, then latest first; or by when they were first seen."""

Reason = Literal["asked-for", "new", "retry", "expired"]
"""Why a hash is claimed."""


def never_asked(provider: str, policy: Policy, now: dt.datetime, *, earlier: Sequence[str] = ()) -> ColumnElement[bool]:
    """Return the condition on `file_hashes` for hashes that a provider was never queried about and should be.

    A claim whose process was killed before an answer came does not count as a query.

    Args:
        provider: the provider.
        policy: the providers in use and the decisive verdicts.
        now: the current time.
        earlier: providers that must be queried about a hash first.
    """
    claimed = exists().where(QUEUE.c.sha256 == HASHES.c.sha256, QUEUE.c.provider == provider, ~_is_lost(now))
    asked = [_was_asked(name, now) for name in earlier]
    return and_(worth_asking(), ~claimed, *asked, ~has_decisive_verdict(provider, policy, now))


def lost_claims(provider: str, policy: Policy, now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition on the queue, joined with `file_hashes`, for `never_asked` hashes that have a row."""
    return and_(
        QUEUE.c.provider == provider, _is_lost(now), worth_asking(), ~has_decisive_verdict(provider, policy, now)
    )


def asked_for(provider: str, now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition on the queue, joined with `file_hashes`, for hashes asked for by hand."""
    states = (PENDING, ANSWERED, FAILED, RATE_LIMITED, REFUSED, LEASED)
    due = QUEUE.c.next_attempt_at <= ASKED_FOR_AT
    is_abandoned = and_(QUEUE.c.priority > 0, QUEUE.c.attempts < MAX_LOST_CLAIMS, lease_is_over(now))
    is_free = or_(QUEUE.c.status != LEASED, is_abandoned)
    return and_(QUEUE.c.provider == provider, QUEUE.c.status.in_(states), due, is_free, worth_asking())


@dataclass(frozen=True, slots=True)
class RepeatRows:
    """Conditions for the rows of the queue about which a provider is queried again.

    Attributes:
        due: on the queue: rows that are due, in the order of `next_attempt_at`.
        skewed: on the queue: rows that are not due only because of clock skew.
        abandoned: on the queue: claims of processes that have ended, where the provider failed or answered before;
            None if there are none of this kind.
        needed: on the queue, joined with `file_hashes`: nothing makes the lookup unnecessary.
    """

    due: ColumnElement[bool]
    skewed: ColumnElement[bool]
    abandoned: ColumnElement[bool] | None
    needed: ColumnElement[bool]

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the disjoint conditions on the queue, joined with `file_hashes`, that together select all rows."""
        kinds = (self.due, self.skewed, self.abandoned)
        return [and_(condition, self.needed) for condition in kinds if condition is not None]


def retries(provider: str, policy: Policy, now: dt.datetime) -> RepeatRows:
    """Return which failures are retried, abandoned claims included."""
    of_provider = QUEUE.c.provider == provider
    abandoned = and_(
        of_provider,
        QUEUE.c.status == LEASED,
        lease_is_over(now),
        or_(
            QUEUE.c.attempts >= MAX_LOST_CLAIMS,
            and_(QUEUE.c.priority == 0, or_(has_failed_before(), QUEUE.c.next_attempt_at.is_not(None))),
        ),
    )
    needed = and_(worth_asking(), or_(QUEUE.c.priority > 0, ~has_decisive_verdict(provider, policy, now)))
    due = and_(of_provider, QUEUE.c.status == FAILED, _is_due(now))
    return RepeatRows(due, skewed_failures(provider, now), abandoned, needed)


def expired(provider: str, policy: Policy, now: dt.datetime) -> RepeatRows:
    """Return which answers have expired."""
    due = and_(QUEUE.c.provider == provider, QUEUE.c.status == ANSWERED, _is_due(now))
    needed = and_(worth_asking(), ~has_decisive_verdict(provider, policy, now, has_answered=True))
    return RepeatRows(due, skewed_answers(provider, now), None, needed)


def in_order(order: Order) -> tuple[ColumnElement[Any], ...]:
    """Return the ORDER BY columns for never-queried hashes."""
    if order == "oldest":
        return HASHES.c.first_seen.asc(), HASHES.c.sha256.asc()
    return HASHES.c.session_count.desc(), HASHES.c.last_seen.desc(), HASHES.c.sha256.asc()


def has_decisive_verdict(
    provider: str, policy: Policy, now: dt.datetime, *, has_answered: bool = False
) -> ColumnElement[bool]:
    """Return the condition on `file_hashes` that another provider's latest verdict about a hash is decisive.

    The verdict of a provider that is not in use counts until it expires; providers in use refresh theirs. If
    `provider` has answered before, only the providers ahead of it count: otherwise two would wait for each other.

    Args:
        provider: the provider whose lookup becomes unnecessary.
        policy: the providers in use and the decisive verdicts.
        now: the current time.
        has_answered: whether this is about a repeated lookup.
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
        or_(*_deciding_providers(HISTORY, provider, policy, now, has_answered=has_answered)),
        is_latest,
    )


def _deciding_providers(
    history: FromClause, provider: str, policy: Policy, now: dt.datetime, *, has_answered: bool
) -> list[ColumnElement[bool]]:
    """Return the alternative conditions on the history for providers whose verdict may be decisive."""
    in_use = [name for name in policy.providers if name != provider]
    ahead = [name for name in policy.outrank(provider) if name != provider]
    is_current = exists().where(
        CACHE.c.provider == history.c.provider, CACHE.c.key == history.c.sha256, CACHE.c.expires_at > now
    )
    not_in_use = history.c.provider.not_in([*in_use, provider])
    return [history.c.provider.in_(ahead if has_answered else in_use), and_(not_in_use, is_current)]


def worth_asking() -> ColumnElement[bool]:
    """Return the condition on `file_hashes` for hashes that providers may be queried about at all."""
    return and_(HASHES.c.enrichment_status != HASH_SKIPPED, HASHES.c.sha256.not_in(sorted(SKIP_REASONS)))


def _is_due(now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition on the queue that a row is due on schedule, not by hand."""
    return and_(QUEUE.c.next_attempt_at <= now, QUEUE.c.next_attempt_at > ASKED_FOR_AT)


def _is_lost(now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition on the queue for hashes without a first answer or error, and without a process that asks.

    Their claim was lost with its process, or the provider wanted fewer requests.
    """
    is_lost = and_(QUEUE.c.status == LEASED, QUEUE.c.attempts < MAX_LOST_CLAIMS, lease_is_over(now))
    return and_(
        or_(is_lost, QUEUE.c.status == RATE_LIMITED),
        QUEUE.c.priority == 0,
        ~has_failed_before(),
        QUEUE.c.next_attempt_at.is_(None),
    )


def _was_asked(provider: str, now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition on `file_hashes` that a provider was queried about it, and no query is under way.

    A claim alone is no query, unless MAX_LOST_CLAIMS processes were killed during it.
    """
    has_outcome = or_(
        has_failed_before(),
        QUEUE.c.next_attempt_at > ASKED_FOR_AT,
        QUEUE.c.attempts >= MAX_LOST_CLAIMS,
        exists().where(HISTORY.c.sha256 == QUEUE.c.sha256, HISTORY.c.provider == QUEUE.c.provider),
    )
    return exists(
        select(QUEUE.c.sha256).where(
            QUEUE.c.sha256 == HASHES.c.sha256,
            QUEUE.c.provider == provider,
            QUEUE.c.status.not_in((PENDING, RATE_LIMITED)),
            or_(QUEUE.c.status != LEASED, and_(lease_is_over(now), has_outcome)),
        )
    )
