"""How enrichment stands where USE_NEW_ENRICHMENT=0: by the cache alone, in which claims and answers are kept then."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Connection, and_, case, exists, func, literal, or_, select

from cowrieprocessor.db.enrichment_cache import CACHE
from cowrieprocessor.db.enrichment_candidates import worth_asking
from cowrieprocessor.db.enrichment_queue import FAILED, REFUSED
from cowrieprocessor.db.findings import VERDICTS
from cowrieprocessor.db.judgement import Policy
from cowrieprocessor.db.knowledge import HASHES
from cowrieprocessor.db.staged_claims import ASKING, CLAIM, count_replayable
from cowrieprocessor.reporting.queries.enrichment import FailureKind, QueueCounts

_FAILED = f"{FAILED}:"
_REFUSED = f"{_FAILED}{REFUSED}"


def cache_providers(connection: Connection) -> tuple[str, ...]:
    """Return the names of the sources that the cache has answers of, or claims for."""
    return tuple(sorted(connection.scalars(select(CACHE.c.provider).distinct())))


def replayable_answers(connection: Connection) -> int:
    """Return how many answers in the cache are about files of the database and not in its history yet."""
    return sum(count_replayable(connection, provider) for provider in cache_providers(connection))


def staged_counts(connection: Connection, policy: Policy, now: dt.datetime) -> dict[str, QueueCounts]:
    """Return how each source stands that is in use or is in the cache, by its name.

    Args:
        connection: a connection in a transaction.
        policy: which sources are in use, and what settles a hash.
        now: the present.
    """
    names = sorted({*cache_providers(connection), *policy.providers})
    return {name: _counts(connection, name, policy, now) for name in names}


def staged_failures(connection: Connection, policy: Policy) -> tuple[FailureKind, ...]:
    """Return what sources failed and refused to answer, by kind; the reasons themselves are not kept then."""
    kinds = []
    for provider in sorted({*cache_providers(connection), *policy.providers}):
        claims = select(CACHE.c.status, func.count(), func.min(CACHE.c.key)).where(
            CACHE.c.provider == provider, CACHE.c.key.startswith(CLAIM), CACHE.c.status.startswith(_FAILED)
        )
        for status, count, key in connection.execute(claims.group_by(CACHE.c.status)):
            kind = status.removeprefix(_FAILED)
            standing = REFUSED if kind == REFUSED else FAILED
            kinds.append(FailureKind(provider, standing, kind, count, key.removeprefix(CLAIM), ""))
    return tuple(sorted(kinds, key=lambda one: (-one.count, one.provider, one.status, one.kind)))


def _counts(connection: Connection, provider: str, policy: Policy, now: dt.datetime) -> QueueCounts:
    is_over = func.coalesce(func.sum(case((CACHE.c.expires_at <= now, 1), else_=0)), 0)
    of_source = CACHE.c.provider == provider
    claims = select(CACHE.c.status, func.count(), is_over).where(of_source, CACHE.c.key.startswith(CLAIM))
    asking = asking_over = failed = failed_over = refused = 0
    for status, count, over in connection.execute(claims.group_by(CACHE.c.status)):
        if status == ASKING:
            asking, asking_over = count, int(over)
        elif status == _REFUSED:
            refused = count
        elif status.startswith(_FAILED):
            failed, failed_over = failed + count, failed_over + int(over)
    answers = select(func.count(), is_over).where(of_source, CACHE.c.status.in_(VERDICTS))
    answered, expired = connection.execute(answers).one()
    in_use = provider in policy.providers
    return QueueCounts(
        waiting=_never_asked(connection, provider, policy, now) if in_use else 0,
        retries_due=failed_over + asking_over if in_use else 0,
        expired=int(expired) if in_use else 0,
        leased=asking - asking_over,
        answered=answered,
        failed=failed,
        refused=refused,
    )


def _never_asked(connection: Connection, provider: str, policy: Policy, now: dt.datetime) -> int:
    said = CACHE.alias("said")
    keys = said.c.key.in_([HASHES.c.sha256, literal(CLAIM) + HASHES.c.sha256])
    before = [name for name in policy.outrank(provider) if name != provider]
    asked = exists().where(said.c.provider == provider, keys)
    settled = exists().where(
        and_(
            said.c.key == HASHES.c.sha256,
            said.c.provider != provider,
            said.c.status.in_(sorted(policy.settled_by)),
            or_(said.c.provider.in_(before), said.c.expires_at > now),
        )
    )
    query = select(func.count()).select_from(HASHES).where(worth_asking(), ~asked, ~settled)
    return connection.scalar(query) or 0
