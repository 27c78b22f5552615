"""The repository of verdicts: claims files, and stores answers and failures.

`TableVerdictRepository` (USE_NEW_ENRICHMENT=1) writes cache, history, the row of the hash and the queue in one
transaction, and queues the propagation to `files`. `StagedVerdictRepository` (USE_NEW_ENRICHMENT=0) writes the cache
alone and changes no other table; back at 1 the cache is replayed without a request.
"""

from __future__ import annotations

import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from sqlalchemy import Connection, Engine

from cowrieprocessor.clock import Clock
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.enrichment.claims import Claimed, Order, claim, release, retry_now
from cowrieprocessor.db.enrichment.provider_verdict import UNKNOWN, ProviderVerdict
from cowrieprocessor.db.enrichment.queue import bring_forward
from cowrieprocessor.db.enrichment.response_cache import CacheEntry, cached_answers, expire_answer, store_in_cache
from cowrieprocessor.db.enrichment.staged_claims import (
    staged_answer,
    staged_claim,
    staged_defer,
    staged_failure,
    staged_rate_limit,
    staged_release,
    staged_retry_now,
)
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy
from cowrieprocessor.db.enrichment.verdict_store import (
    defer_lookup,
    store_answer,
    store_failure,
    store_rate_limit,
    store_refusal,
)
from cowrieprocessor.enrichment.expiry import Ttl, expires_at, retry_at

LEASE_S = 900.0
"""How long a file stays claimed at most, in case the process that claimed it is killed."""

MAX_RETRY_DELAY = dt.timedelta(days=1)
"""The longest that a file waits for its next attempt because a source asked for it."""

NOT_FOUND = "not_found"
"""Marks a stored response as that of a source that does not know the file."""

Counters = dict[str, int]
"""How often something happened, by event."""


class VerdictRepository(ABC):
    """Claims the next files for a source, and stores what the source answers.

    Args:
        engine: the database, at the current schema version.
        policy: the sources in use, and the decisive verdicts.
        ttl: how long answers are valid.
        clock: the current time.
        order: which files come first among those that were never asked about.
    """

    _claim_files: ClassVar[Callable[..., list[Claimed]]]
    _release_files: ClassVar[Callable[..., None]]

    def __init__(self, engine: Engine, policy: Policy, ttl: Ttl, clock: Clock, order: Order = "turn") -> None:
        self._engine = engine
        self._policy = policy
        self._ttl = ttl
        self._clock = clock
        self._order = order

    def claim(self, provider: str, *, limit: int, earlier: Sequence[str], only: Sequence[str] | None) -> list[Claimed]:
        """Claim the next files to ask a source about; no two processes claim the same one.

        Args:
            provider: the source.
            limit: the most files.
            earlier: sources that have to be asked about a file first.
            only: the SHA-256 of the only files to consider; None for all.
        """
        return type(self)._claim_files(
            self._engine,
            provider,
            limit=limit,
            now=self._clock.now(),
            lease_s=LEASE_S,
            policy=self._policy,
            earlier=earlier,
            order=self._order,
            only=only,
        )

    def release(self, provider: str, hashes: Sequence[str]) -> None:
        """Release claimed files that the source was not asked about; they are as they were before the claim."""
        type(self)._release_files(self._engine, provider, hashes)

    def cached(self, provider: str, keys: Sequence[str]) -> dict[str, CacheEntry]:
        """Return the valid answers in the cache, by key."""
        with read_transaction(self._engine) as connection:
            entries = cached_answers(connection, provider, keys)
        now = self._clock.now()
        return {key: entry for key, entry in entries.items() if entry.expires_at > now}

    @abstractmethod
    def store_cached(self, provider: str, file: Claimed, entry: CacheEntry, verdict: ProviderVerdict) -> None:
        """Store for a file the answer that the cache has."""

    @abstractmethod
    def store_answer(self, provider: str, file: Claimed, cache_key: str, verdict: ProviderVerdict) -> None:
        """Store the verdict of a source; `unknown_verdict` of its response if it does not know the file."""

    @abstractmethod
    def store_failure(
        self, provider: str, file: Claimed, kind: str, reason: str, not_before: dt.datetime | None
    ) -> None:
        """Store that no usable answer came; each failure in a row doubles the time to the next attempt.

        Args:
            provider: the source.
            file: the file.
            kind: as `Failed.kind`.
            reason: for people, without any key.
            not_before: when the source wants to be asked again, a day ahead at most; None if it did not say.
        """

    @abstractmethod
    def store_refusal(self, provider: str, file: Claimed, reason: str) -> None:
        """Store that the source will not answer about this file."""

    @abstractmethod
    def store_rate_limit(self, provider: str, file: Claimed, reason: str) -> None:
        """Store that the source wanted fewer requests; the file keeps its place, and its attempts do not count it."""

    @abstractmethod
    def retry_now(self, provider: str, kinds: Sequence[str] | None) -> None:
        """Let files whose last request failed be due at once.

        Args:
            provider: the source.
            kinds: the kinds of failure (`Failed.kind`); None for all.
        """

    @abstractmethod
    def defer(self, provider: str, file: Claimed) -> None:
        """Defer a file that the source cannot be asked about, for the longest time that `unknown` is valid."""

    @abstractmethod
    def expire_at(self, provider: str, file: Claimed, cache_key: str, moment: dt.datetime) -> None:
        """Let an answer expire at a moment, when the source will know more, unless it expires earlier."""

    def _retry_at(self, file: Claimed, not_before: dt.datetime | None) -> dt.datetime:
        next_attempt = retry_at(file.attempts, self._clock.now(), file.sha256)
        return max(next_attempt, min(not_before or next_attempt, self._clock.now() + MAX_RETRY_DELAY))

    def _deferred_until(self) -> dt.datetime:
        return self._clock.now() + dt.timedelta(seconds=self._ttl.unknown_max_s)


class TableVerdictRepository(VerdictRepository):
    """Writes all tables of enrichment."""

    _claim_files = staticmethod(claim)
    _release_files = staticmethod(release)

    def store_cached(self, provider: str, file: Claimed, entry: CacheEntry, verdict: ProviderVerdict) -> None:
        """Write the cached answer into history, hash and queue, with the times of the cache."""
        with write_transaction(self._engine) as connection:
            self._store(connection, provider, file, entry.key, verdict, entry.fetched_at, entry.expires_at)

    def store_answer(self, provider: str, file: Claimed, cache_key: str, verdict: ProviderVerdict) -> None:
        """Write the verdict of a source into cache, history, hash and queue, in one transaction."""
        now = self._clock.now()
        with write_transaction(self._engine) as connection:
            until = answer_expires_at(connection, provider, cache_key, verdict, now, self._ttl)
            self._store(connection, provider, file, cache_key, verdict, now, until)

    def store_failure(
        self, provider: str, file: Claimed, kind: str, reason: str, not_before: dt.datetime | None
    ) -> None:
        """Write a failure into the queue, and into the status of the hash."""
        again = self._retry_at(file, not_before)
        with write_transaction(self._engine) as connection:
            store_failure(
                connection,
                file.sha256,
                provider,
                kind=kind,
                reason=reason,
                next_attempt_at=again,
                policy=self._policy,
                now=self._clock.now(),
            )

    def store_refusal(self, provider: str, file: Claimed, reason: str) -> None:
        """Write into the queue that the source will not answer about this file."""
        now = self._clock.now()
        with write_transaction(self._engine) as connection:
            store_refusal(connection, file.sha256, provider, reason=reason, policy=self._policy, now=now)

    def store_rate_limit(self, provider: str, file: Claimed, reason: str) -> None:
        """Write the rate limit into the queue, unless the source answered or failed before."""
        now = self._clock.now()
        with write_transaction(self._engine) as connection:
            store_rate_limit(connection, file.sha256, provider, reason=reason, policy=self._policy, now=now)

    def retry_now(self, provider: str, kinds: Sequence[str] | None) -> None:
        """Let failed rows of the queue be due."""
        retry_now(self._engine, provider, kinds, self._clock.now())

    def defer(self, provider: str, file: Claimed) -> None:
        """Write into the queue when to consider the file again."""
        again, now = self._deferred_until(), self._clock.now()
        with write_transaction(self._engine) as connection:
            defer_lookup(connection, file.sha256, provider, next_attempt_at=again, policy=self._policy, now=now)

    def expire_at(self, provider: str, file: Claimed, cache_key: str, moment: dt.datetime) -> None:
        """Let the answer expire in cache and queue."""
        with write_transaction(self._engine) as connection:
            expire_answer(connection, provider, cache_key, moment)
            bring_forward(connection, file.sha256, provider, moment)

    def _store(
        self,
        connection: Connection,
        provider: str,
        file: Claimed,
        cache_key: str,
        verdict: ProviderVerdict,
        fetched_at: dt.datetime,
        until: dt.datetime,
    ) -> None:
        store_answer(
            connection,
            file.sha256,
            provider,
            cache_key,
            verdict,
            fetched_at=fetched_at,
            expires_at=until,
            policy=self._policy,
            now=self._clock.now(),
        )


class StagedVerdictRepository(VerdictRepository):
    """Writes the cache alone."""

    _claim_files = staticmethod(staged_claim)
    _release_files = staticmethod(staged_release)

    def store_cached(self, provider: str, file: Claimed, entry: CacheEntry, verdict: ProviderVerdict) -> None:
        """Mark the claim as answered by the cache."""
        with write_transaction(self._engine) as connection:
            staged_answer(connection, provider, file.sha256, entry.key, entry.expires_at)

    def store_answer(self, provider: str, file: Claimed, cache_key: str, verdict: ProviderVerdict) -> None:
        """Write the verdict of a source into the cache."""
        now = self._clock.now()
        with write_transaction(self._engine) as connection:
            until = answer_expires_at(connection, provider, cache_key, verdict, now, self._ttl)
            store_in_cache(connection, provider, cache_key, verdict.verdict, verdict.response, now, until)
            staged_answer(connection, provider, file.sha256, cache_key, until)

    def store_failure(
        self, provider: str, file: Claimed, kind: str, reason: str, not_before: dt.datetime | None
    ) -> None:
        """Write into the cache when the source is asked again."""
        again = self._retry_at(file, not_before)
        staged_failure(self._engine, provider, file.sha256, kind=kind, now=self._clock.now(), not_before=again)

    def store_refusal(self, provider: str, file: Claimed, reason: str) -> None:
        """Write into the cache that the source is not asked about this file as long as a malicious verdict is valid."""
        now = self._clock.now()
        until = now + dt.timedelta(seconds=self._ttl.malicious_s)
        staged_failure(self._engine, provider, file.sha256, kind="refused", now=now, not_before=until)

    def store_rate_limit(self, provider: str, file: Claimed, reason: str) -> None:
        """Write the rate limit into the claim, without its reason."""
        staged_rate_limit(self._engine, provider, file.sha256, self._clock.now())

    def retry_now(self, provider: str, kinds: Sequence[str] | None) -> None:
        """Let failed claims in the cache be due."""
        staged_retry_now(self._engine, provider, kinds, self._clock.now())

    def defer(self, provider: str, file: Claimed) -> None:
        """Write into the cache when to consider the file again."""
        with write_transaction(self._engine) as connection:
            staged_defer(connection, provider, file.sha256, self._deferred_until())

    def expire_at(self, provider: str, file: Claimed, cache_key: str, moment: dt.datetime) -> None:
        """Let the answer expire in the cache."""
        with write_transaction(self._engine) as connection:
            expire_answer(connection, provider, cache_key, moment)
            staged_answer(connection, provider, file.sha256, cache_key, moment)


def answer_expires_at(
    connection: Connection, provider: str, cache_key: str, verdict: ProviderVerdict, fetched_at: dt.datetime, ttl: Ttl
) -> dt.datetime:
    """Return when an answer expires; each `unknown` in a row doubles the time.

    Args:
        connection: in a transaction.
        provider: the source that answered.
        cache_key: the question.
        verdict: the answer.
        fetched_at: when it was given.
        ttl: how long answers are valid.
    """
    previous = cached_answers(connection, provider, [cache_key]).get(cache_key)
    if previous is not None and previous.fetched_at >= fetched_at:
        previous = None
    return expires_at(verdict.verdict, fetched_at, previous, ttl)


def unknown_verdict(response: dict[str, Any]) -> ProviderVerdict:
    """Return the verdict of a source that answers that it does not know a file."""
    return ProviderVerdict(UNKNOWN, response={NOT_FOUND: True, **response})


def cached_verdict(entry: CacheEntry, read: Callable[[Mapping[str, Any]], ProviderVerdict]) -> ProviderVerdict:
    """Return the verdict in a cache entry.

    Args:
        entry: the entry.
        read: reads a response of its source that knows the file, as `Provider.verdict` does.
    """
    response = entry.response or {}
    return unknown_verdict(response) if response.get(NOT_FOUND) is True else read(response)
