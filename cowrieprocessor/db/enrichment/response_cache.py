"""The cache: each provider's last answer to each lookup, and when it expires.

A site that stages the change keeps what its history lacks here as well, under keys of its own
(`db/enrichment/staged_answers.py`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Table, bindparam, func, select, text, update

from cowrieprocessor.clock import MAX_CLOCK_SKEW
from cowrieprocessor.db.chunks import chunks
from cowrieprocessor.db.models import EnrichmentCacheEntry

__all__ = [
    "CACHE",
    "CacheEntry",
    "cached_answers",
    "entry_of",
    "expire_answer",
    "providers_in_cache",
    "store_in_cache",
]

CACHE: Table = EnrichmentCacheEntry.metadata.tables["enrichment_cache"]
_UPSERT = text(
    """
    INSERT INTO enrichment_cache (provider, key, status, response, fetched_at, expires_at)
    VALUES (:provider, :key, :status, :response, :fetched_at, :expires_at)
    ON CONFLICT (provider, key) DO UPDATE SET status = excluded.status, response = excluded.response,
        fetched_at = excluded.fetched_at, expires_at = excluded.expires_at
    WHERE excluded.fetched_at >= enrichment_cache.fetched_at OR enrichment_cache.fetched_at > :latest
    """
).bindparams(
    bindparam("response", type_=CACHE.c.response.type),
    bindparam("fetched_at", type_=CACHE.c.fetched_at.type),
    bindparam("expires_at", type_=CACHE.c.expires_at.type),
    bindparam("latest", type_=CACHE.c.fetched_at.type),
)


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One answer in the cache.

    Attributes:
        provider: the provider.
        key: what was looked up: the SHA-256 of a file, or the provider's key for an address.
        status: the verdict.
        fetched_at: when the provider answered.
        expires_at: when the answer expires.
        response: the answer, bounded in size.
    """

    provider: str
    key: str
    status: str
    fetched_at: dt.datetime
    expires_at: dt.datetime
    response: dict[str, Any] | None = field(default=None, repr=False)

    def is_current(self, now: dt.datetime) -> bool:
        """Return whether the answer has not expired, and is not dated in the future by a wrong clock."""
        return self.expires_at > now and self.fetched_at <= now + MAX_CLOCK_SKEW


def cached_answers(connection: Connection, provider: str, keys: Sequence[str]) -> dict[str, CacheEntry]:
    """Return a provider's cached answers by key, expired ones included.

    Args:
        connection: in a transaction.
        provider: the provider.
        keys: the keys to look up.
    """
    entries: dict[str, CacheEntry] = {}
    for chunk in chunks(keys):
        query = select(CACHE).where(CACHE.c.provider == provider, CACHE.c.key.in_(chunk))
        for row in connection.execute(query).mappings():
            entries[row["key"]] = entry_of(row)
    return entries


def providers_in_cache(connection: Connection) -> tuple[str, ...]:
    """Return the providers that have answers in the cache; each takes one index lookup."""
    names: list[str] = []
    while True:
        name = connection.scalar(select(func.min(CACHE.c.provider)).where(CACHE.c.provider > (names or [""])[-1]))
        if name is None:
            return tuple(names)
        names.append(name)


def store_in_cache(
    connection: Connection,
    provider: str,
    key: str,
    status: str,
    response: dict[str, Any] | None,
    fetched_at: dt.datetime,
    expires_at: dt.datetime,
    *,
    now: dt.datetime,
) -> bool:
    """Store an answer unless the cache has a later one; return whether it is stored.

    An answer that is dated in the future by a wrong clock is not later.

    Args:
        connection: in a write transaction.
        provider: the provider.
        key: what was looked up.
        status: the verdict.
        response: the answer, bounded in size.
        fetched_at: when the provider answered.
        expires_at: when the answer expires.
        now: the current time.
    """
    row = {"provider": provider, "key": key, "status": status, "response": response}
    times = {"fetched_at": fetched_at, "expires_at": expires_at, "latest": now + MAX_CLOCK_SKEW}
    upserted = connection.execute(_UPSERT, row | times)
    return upserted.rowcount == 1


def expire_answer(connection: Connection, provider: str, key: str, moment: dt.datetime) -> None:
    """Let an answer expire at `moment` at the latest.

    Args:
        connection: in a write transaction.
        provider: the provider.
        key: what was looked up.
        moment: when the provider is expected to know more.
    """
    expires_later = (CACHE.c.provider == provider, CACHE.c.key == key, CACHE.c.expires_at > moment)
    connection.execute(update(CACHE).where(*expires_later).values(expires_at=moment))


def entry_of(row: Any) -> CacheEntry:
    """Return the entry of a table row, a mapping by column name."""
    return CacheEntry(row["provider"], row["key"], row["status"], row["fetched_at"], row["expires_at"], row["response"])
