"""What becomes of the cache when a site no longer stages the change: answers to replay, and claims to remove."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import ColumnElement, Connection, Engine, and_, delete, exists, func, or_, select

from cowrieprocessor.db.chunks import chunks
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.enrichment.provider_verdict import VERDICTS
from cowrieprocessor.db.enrichment.response_cache import CACHE, CacheEntry, entry_of
from cowrieprocessor.db.enrichment.staged_candidates import CLAIM, IN_PROGRESS, claim_is_over
from cowrieprocessor.db.enrichment.verdict_history import HISTORY
from cowrieprocessor.db.models import HASHES

__all__ = ["count_replayable", "remove_claims", "replayable"]

REMOVED_CLAIMS = 2_000
"""Claims that are removed in one transaction."""


def remove_claims(engine: Engine, provider: str, now: dt.datetime) -> int:
    """Remove the claims of a provider after its answers were replayed, except those that are in progress.

    Args:
        engine: the database; each transaction is short.
        provider: the provider.
        now: the current time.

    Returns:
        The number of removed claims.
    """
    is_idle = or_(CACHE.c.status.not_in(IN_PROGRESS), claim_is_over(CACHE, now))
    claims = (CACHE.c.provider == provider, CACHE.c.key.startswith(CLAIM), is_idle)
    removed, after = 0, ""
    while True:
        query = select(CACHE.c.key).where(*claims, CACHE.c.key > after).order_by(CACHE.c.key).limit(REMOVED_CLAIMS)
        with read_transaction(engine) as connection:
            keys = connection.scalars(query).all()
        if not keys:
            return removed
        with write_transaction(engine) as connection:
            for chunk in chunks(keys):
                removed += connection.execute(delete(CACHE).where(*claims, CACHE.c.key.in_(chunk))).rowcount
        after = keys[-1]


def replayable(connection: Connection, provider: str, after_key: str, limit: int) -> list[CacheEntry]:
    """Return the next cached answers, by key, about hashes in `file_hashes` that the history lacks.

    Args:
        connection: in a transaction, preferably a read transaction: it may read the provider's whole cache.
        provider: the provider.
        after_key: start after this key.
        limit: largest number of answers.
    """
    query = select(CACHE).where(_is_replayable(provider), CACHE.c.key > after_key).order_by(CACHE.c.key).limit(limit)
    return [entry_of(row) for row in connection.execute(query).mappings()]


def count_replayable(connection: Connection, provider: str) -> int:
    """Return the total number of a provider's answers that `replayable` returns."""
    query = select(func.count()).select_from(CACHE).where(_is_replayable(provider))
    return int(connection.execute(query).scalar_one())


def _is_replayable(provider: str) -> ColumnElement[bool]:
    known = exists().where(HASHES.c.sha256 == CACHE.c.key)
    is_recorded = exists().where(
        HISTORY.c.sha256 == CACHE.c.key,
        HISTORY.c.provider == CACHE.c.provider,
        HISTORY.c.confirmed_at >= CACHE.c.fetched_at,
    )
    return and_(CACHE.c.provider == provider, CACHE.c.status.in_(VERDICTS), known, ~is_recorded)
