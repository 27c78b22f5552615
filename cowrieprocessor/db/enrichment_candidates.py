"""Which hashes a source is to be asked about: the one rule that claims, and the numbers of `enrich status`, go by.

In this order: what was asked for by hand; what the source was never asked about; what is to be tried again; answers
that hold no longer. Nothing that is skipped, and unless it was asked for by hand nothing that another source settled.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import ColumnElement, FromClause, and_, exists, or_, select

from cowrieprocessor.db.enrichment_cache import CACHE
from cowrieprocessor.db.enrichment_queue import ANSWERED, ASKED_FOR_AT, FAILED, LEASED, PENDING, QUEUE, REFUSED
from cowrieprocessor.db.judgement import HASH_SKIPPED, Policy
from cowrieprocessor.db.knowledge import HASHES
from cowrieprocessor.db.verdict_history import HISTORY

__all__ = [
    "WORTHLESS",
    "Order",
    "Reason",
    "asked_for",
    "expired",
    "in_order",
    "never_asked",
    "retries",
    "settled",
    "worth_asking",
]

WORTHLESS = {
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

    Args:
        provider: the source.
        policy: which sources are in use, and what settles a hash.
        now: the time.
        earlier: sources that have to be asked about a hash before.
    """
    mine = exists().where(QUEUE.c.sha256 == HASHES.c.sha256, QUEUE.c.provider == provider)
    asked = [_was_asked(name, now) for name in earlier]
    return and_(worth_asking(), ~mine, *asked, ~settled(provider, policy, now))


def asked_for(provider: str) -> ColumnElement[bool]:
    """Return the condition on `enrichment_queue`, joined with `file_hashes`, for what was asked for by hand."""
    states = (PENDING, ANSWERED, FAILED, REFUSED)
    due = QUEUE.c.next_attempt_at <= ASKED_FOR_AT
    return and_(QUEUE.c.provider == provider, QUEUE.c.status.in_(states), due, worth_asking())


def retries(provider: str, policy: Policy, now: dt.datetime) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Return the conditions on the queue for failures to be tried again, and for claims of somebody who is gone."""
    mine = and_(QUEUE.c.provider == provider, worth_asking(), ~settled(provider, policy, now))
    failed = and_(QUEUE.c.status == FAILED, QUEUE.c.next_attempt_at <= now)
    left = and_(QUEUE.c.status == LEASED, or_(QUEUE.c.leased_until.is_(None), QUEUE.c.leased_until <= now))
    return and_(mine, failed), and_(mine, left)


def expired(provider: str, policy: Policy, now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition on the queue for answers that hold no longer."""
    old = and_(QUEUE.c.provider == provider, QUEUE.c.status == ANSWERED, QUEUE.c.next_attempt_at <= now)
    return and_(old, worth_asking(), ~settled(provider, policy, now, has_answered=True))


def in_order(order: Order) -> tuple[ColumnElement[Any], ...]:
    """Return by what hashes never asked about are ordered."""
    if order == "oldest":
        return HASHES.c.first_seen.asc(), HASHES.c.sha256.asc()
    return HASHES.c.session_count.desc(), HASHES.c.last_seen.desc(), HASHES.c.sha256.asc()


def settled(provider: str, policy: Policy, now: dt.datetime, *, has_answered: bool = False) -> ColumnElement[bool]:
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
    return and_(HASHES.c.enrichment_status != HASH_SKIPPED, HASHES.c.sha256.not_in(sorted(WORTHLESS)))


def _was_asked(provider: str, now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition on `file_hashes` that a source was asked about it, and is not being asked."""
    is_asked_now = and_(QUEUE.c.status == LEASED, QUEUE.c.leased_until > now)
    return exists(
        select(QUEUE.c.sha256).where(
            QUEUE.c.sha256 == HASHES.c.sha256,
            QUEUE.c.provider == provider,
            QUEUE.c.status != PENDING,
            ~is_asked_now,
        )
    )
