"""The cache: a source's last answer to each question, and until when it need not be asked again.

Beside the answers stand the claims of a site that stages the change (`db/staged_claims.py`), under keys of their own.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Table, bindparam, func, select, text, update

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
    WHERE excluded.fetched_at >= enrichment_cache.fetched_at
    """
).bindparams(
    bindparam("response", type_=CACHE.c.response.type),
    bindparam("fetched_at", type_=CACHE.c.fetched_at.type),
    bindparam("expires_at", type_=CACHE.c.expires_at.type),
)


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One answer in the cache.

    Attributes:
        provider: the source.
        key: the question: the SHA-256 of a file, or what the source makes of an address.
        status: the verdict.
        fetched_at: when the source answered so.
        expires_at: until when it need not be asked again.
        response: the answer, bounded.
    """

    provider: str
    key: str
    status: str
    fetched_at: dt.datetime
    expires_at: dt.datetime
    response: dict[str, Any] | None = field(default=None, repr=False)


def cached_answers(connection: Connection, provider: str, keys: Sequence[str]) -> dict[str, CacheEntry]:
    """Return what the cache has of a source's answers, those that hold no longer included, by key.

    Args:
        connection: in a transaction.
        provider: the source.
        keys: the questions.
    """
    found: dict[str, CacheEntry] = {}
    for part in chunks(keys):
        query = select(CACHE).where(CACHE.c.provider == provider, CACHE.c.key.in_(part))
        for row in connection.execute(query).mappings():
            found[row["key"]] = entry_of(row)
    return found


def providers_in_cache(connection: Connection) -> tuple[str, ...]:
    """Return the names of the sources that the cache has answers of, or claims for; each is one look at its key."""
    found: list[str] = []
    while True:
        name = connection.scalar(select(func.min(CACHE.c.provider)).where(CACHE.c.provider > (found or [""])[-1]))
        if name is None:
            return tuple(found)
        found.append(name)


def store_in_cache(
    connection: Connection,
    provider: str,
    key: str,
    status: str,
    response: dict[str, Any] | None,
    fetched_at: dt.datetime,
    expires_at: dt.datetime,
) -> bool:
    """Keep an answer, unless a later one is there; return whether it is kept.

    Args:
        connection: in a write transaction.
        provider: the source.
        key: the question.
        status: the verdict.
        response: the answer, bounded.
        fetched_at: when the source answered so.
        expires_at: until when it need not be asked again.
    """
    row = {"provider": provider, "key": key, "status": status, "response": response}
    done = connection.execute(_UPSERT, row | {"fetched_at": fetched_at, "expires_at": expires_at})
    return done.rowcount == 1


def expire_answer(connection: Connection, provider: str, key: str, moment: dt.datetime) -> None:
    """Let an answer hold no longer than until a moment.

    Args:
        connection: in a write transaction.
        provider: the source.
        key: the question.
        moment: when the source will know more.
    """
    mine = (CACHE.c.provider == provider, CACHE.c.key == key, CACHE.c.expires_at > moment)
    connection.execute(update(CACHE).where(*mine).values(expires_at=moment))


def entry_of(row: Any) -> CacheEntry:
    """Return a row of the table, by the names of its columns, as an entry."""
    return CacheEntry(row["provider"], row["key"], row["status"], row["fetched_at"], row["expires_at"], row["response"])
