"""Which hashes a provider is queried about: the rule shared by claims and by the counts of `enrich status`.

In this order: hashes asked for by hand; hashes the provider was never queried about; failures that are due for a retry;
answers that have expired. Skipped hashes never qualify, and a decisive verdict of another provider excludes all but
those asked for by hand. Staged answers count like those of the history.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, and_, exists, false, func, or_, select

from cowrieprocessor.clock import MAX_CLOCK_SKEW
from cowrieprocessor.db.enrichment.provider_verdict import VERDICTS
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
from cowrieprocessor.db.enrichment.staged_answers import STAGED, STAGED_SHA256_AT, is_staged, staged_key
from cowrieprocessor.db.enrichment.verdict_aggregation import HASH_SKIPPED, Policy
from cowrieprocessor.db.enrichment.verdict_history import HISTORY
from cowrieprocessor.db.models import HASHES

__all__ = [
    "SKIP_REASONS",
    "CandidateScope",
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

MAX_RETRY_DELAY = dt.timedelta(days=400)
"""No failure is retried later than this; an answer may be valid for longer if the settings say so."""

Order = Literal["turn", "oldest"]
"""Order of never-queried hashes: by number of sessions, then latest first; or by when they were first seen."""

Reason = Literal["asked-for", "new", "retry", "expired"]
"""Why a hash is claimed."""


@dataclass(frozen=True, slots=True)
class CandidateScope:
    """The provider and the rules by which its candidates are selected.

    Attributes:
        provider: the provider.
        policy: the providers in use and the decisive verdicts.
        now: the current time.
        staging: the providers with staged answers, as `staging_providers` returns them.
    """

    provider: str
    policy: Policy
    now: dt.datetime
    staging: tuple[str, ...] = ()


def never_asked(scope: CandidateScope, *, earlier: Sequence[str] = ()) -> ColumnElement[bool]:
    """Return the condition on `file_hashes` for hashes that a provider was never queried about and should be.

    A claim whose process was killed before an answer came does not count as a query.

    Args:
        scope: the provider and the rules.
        earlier: providers that must be queried about a hash first.
    """
    of_provider = (QUEUE.c.sha256 == HASHES.c.sha256, QUEUE.c.provider == scope.provider)
    claimed = exists().where(*of_provider, ~_is_lost(scope.now))
    asked = [_was_asked(name, scope) for name in earlier]
    return and_(worth_asking(), ~claimed, *asked, ~has_decisive_verdict(scope))


def lost_claims(scope: CandidateScope) -> ColumnElement[bool]:
    """Return the condition on the queue, joined with `file_hashes`, for `never_asked` hashes that have a row."""
    of_provider = QUEUE.c.provider == scope.provider
    return and_(of_provider, _is_lost(scope.now), worth_asking(), ~has_decisive_verdict(scope))


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
        skewed: on the queue: rows that are due, because a wrong clock wrote a time later than any that is right.
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


def retries(scope: CandidateScope) -> RepeatRows:
    """Return which failures are retried, abandoned claims included."""
    of_provider = QUEUE.c.provider == scope.provider
    abandoned = and_(
        of_provider,
        QUEUE.c.status == LEASED,
        lease_is_over(scope.now),
        or_(
            QUEUE.c.attempts >= MAX_LOST_CLAIMS,
            and_(QUEUE.c.priority == 0, or_(has_failed_before(), QUEUE.c.next_attempt_at.is_not(None))),
        ),
    )
    needed = and_(worth_asking(), or_(QUEUE.c.priority > 0, ~has_decisive_verdict(scope)))
    has_failed = and_(of_provider, QUEUE.c.status == FAILED)
    skewed = and_(has_failed, QUEUE.c.next_attempt_at > scope.now + MAX_RETRY_DELAY)
    return RepeatRows(and_(has_failed, _is_due(scope.now)), skewed, abandoned, needed)


def expired(scope: CandidateScope) -> RepeatRows:
    """Return which answers have expired."""
    answered = and_(QUEUE.c.provider == scope.provider, QUEUE.c.status == ANSWERED)
    needed = and_(worth_asking(), ~has_decisive_verdict(scope, has_answered=True))
    expires_late = QUEUE.c.next_attempt_at > scope.now + MAX_RETRY_DELAY
    skewed = and_(answered, expires_late, _is_answer_ahead(scope))
    return RepeatRows(and_(answered, _is_due(scope.now)), skewed, None, needed)


def in_order(order: Order) -> tuple[ColumnElement[Any], ...]:
    """Return the ORDER BY columns for never-queried hashes."""
    if order == "oldest":
        return HASHES.c.first_seen.asc(), HASHES.c.sha256.asc()
    return HASHES.c.session_count.desc(), HASHES.c.last_seen.desc(), HASHES.c.sha256.asc()


def has_decisive_verdict(scope: CandidateScope, *, has_answered: bool = False) -> ColumnElement[bool]:
    """Return the condition on `file_hashes` that another provider's latest verdict about a hash is decisive.

    The verdict of a provider that is not in use counts until it expires; providers in use refresh theirs. If
    `provider` has answered before, only the providers ahead of it count: otherwise two would wait for each other.

    Args:
        scope: the provider whose lookup becomes unnecessary, and the rules.
        has_answered: whether this is about a repeated lookup.
    """
    later = HISTORY.alias("later_verdict")
    is_latest = ~exists().where(
        later.c.sha256 == HISTORY.c.sha256,
        later.c.provider == HISTORY.c.provider,
        later.c.fetched_at > HISTORY.c.fetched_at,
    )
    in_history = [
        HISTORY.c.sha256 == HASHES.c.sha256,
        HISTORY.c.verdict.in_(sorted(scope.policy.settled_by)),
        _decides(scope, HISTORY.c.provider, HISTORY.c.sha256, has_answered=has_answered),
        is_latest,
    ]
    if not scope.staging:
        return exists().where(*in_history)
    return or_(exists().where(*in_history, ~_has_later_staged_answer()), _is_decided_by_staged(scope, has_answered))


def _decides(
    scope: CandidateScope, provider: ColumnElement[str], sha256: ColumnElement[str], *, has_answered: bool
) -> ColumnElement[bool]:
    """Return the condition on the provider of a verdict that it may be decisive."""
    in_use = [name for name in scope.policy.providers if name != scope.provider]
    ahead = [name for name in scope.policy.outrank(scope.provider) if name != scope.provider]
    is_current = exists().where(CACHE.c.provider == provider, CACHE.c.key == sha256, CACHE.c.expires_at > scope.now)
    not_in_use = provider.not_in([*in_use, scope.provider])
    return or_(provider.in_(ahead if has_answered else in_use), and_(not_in_use, is_current))


def _has_later_staged_answer() -> ColumnElement[bool]:
    """Return the condition on the history that its provider has a later staged answer about the hash."""
    return exists().where(
        STAGED.c.provider == HISTORY.c.provider,
        STAGED.c.key == staged_key(HISTORY.c.sha256),
        STAGED.c.status.in_(VERDICTS),
        STAGED.c.fetched_at > HISTORY.c.confirmed_at,
    )


def _is_decided_by_staged(scope: CandidateScope, has_answered: bool) -> ColumnElement[bool]:
    """Return the condition on `file_hashes` that a staged answer, later than the history, is decisive."""
    later = HISTORY.alias("later_than_staged")
    sha256 = func.substr(STAGED.c.key, STAGED_SHA256_AT)
    is_latest = ~exists().where(
        later.c.sha256 == sha256, later.c.provider == STAGED.c.provider, later.c.confirmed_at > STAGED.c.fetched_at
    )
    return exists().where(
        STAGED.c.provider.in_(scope.staging),
        STAGED.c.key == staged_key(HASHES.c.sha256),
        STAGED.c.status.in_(sorted(scope.policy.settled_by)),
        _decides(scope, STAGED.c.provider, sha256, has_answered=has_answered),
        is_latest,
    )


def worth_asking() -> ColumnElement[bool]:
    """Return the condition on `file_hashes` for hashes that providers may be queried about at all."""
    return and_(HASHES.c.enrichment_status != HASH_SKIPPED, HASHES.c.sha256.not_in(sorted(SKIP_REASONS)))


def _is_answer_ahead(scope: CandidateScope) -> ColumnElement[bool]:
    """Return the condition on the queue that a wrong clock dated the provider's answer about the hash in the future."""
    latest = scope.now + MAX_CLOCK_SKEW
    of_row = (HISTORY.c.sha256 == QUEUE.c.sha256, HISTORY.c.provider == scope.provider)
    return or_(
        exists().where(*of_row, HISTORY.c.confirmed_at > latest), _has_staged_answer(scope, scope.provider, latest)
    )


def _has_staged_answer(scope: CandidateScope, provider: str, after: dt.datetime | None = None) -> ColumnElement[bool]:
    """Return the condition on the queue that a provider has a staged answer about the hash, given after a time."""
    if provider not in scope.staging:
        return false()
    return is_staged(QUEUE.c.sha256, provider, *(() if after is None else (STAGED.c.fetched_at > after,)))


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


def _was_asked(provider: str, scope: CandidateScope) -> ColumnElement[bool]:
    """Return the condition on `file_hashes` that a provider was queried about it, and no query is under way.

    A claim alone is no query, unless MAX_LOST_CLAIMS processes were killed during it.
    """
    has_outcome = or_(
        has_failed_before(),
        QUEUE.c.next_attempt_at > ASKED_FOR_AT,
        QUEUE.c.attempts >= MAX_LOST_CLAIMS,
        exists().where(HISTORY.c.sha256 == QUEUE.c.sha256, HISTORY.c.provider == QUEUE.c.provider),
        _has_staged_answer(scope, provider),
    )
    return exists(
        select(QUEUE.c.sha256).where(
            QUEUE.c.sha256 == HASHES.c.sha256,
            QUEUE.c.provider == provider,
            QUEUE.c.status.not_in((PENDING, RATE_LIMITED)),
            or_(QUEUE.c.status != LEASED, and_(lease_is_over(scope.now), has_outcome)),
        )
    )
