"""Where enrichment keeps claims, answers and failures.

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
from cowrieprocessor.db.enrichment.claims import Claimed, Order, claim, release
from cowrieprocessor.db.enrichment.provider_verdict import UNKNOWN, ProviderVerdict
from cowrieprocessor.db.enrichment.queue import bring_forward
from cowrieprocessor.db.enrichment.response_cache import CacheEntry, cached_answers, expire_answer, store_in_cache
from cowrieprocessor.db.enrichment.staged_claims import staged_answer, staged_claim, staged_failure, staged_release
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy
from cowrieprocessor.db.enrichment.verdict_store import defer_lookup, store_answer, store_failure, store_refusal
from cowrieprocessor.enrichment.expiry import Ttl, expires_at, retry_at

LEASE_S = 900.0
"""How long a claimed file is kept for who claimed it: one that was killed does not keep it longer."""

LONGEST_WAIT = dt.timedelta(days=1)
"""How long at most one file waits for its next attempt because a source said so."""

NOT_FOUND = "not_found"
"""Marks a kept response as one of a source that does not know the file."""

Counters = dict[str, int]
"""How often something happened, by what."""


class VerdictRepository(ABC):
    """Where a source finds its next files and writes down what it learned.

    Args:
        engine: the database, at our version.
        policy: the sources in use, and what settles a file.
        ttl: how long answers hold.
        clock: the time.
        order: which files come first among those that were never asked about.
    """

    _claims: ClassVar[Callable[..., list[Claimed]]]
    _releases: ClassVar[Callable[..., None]]

    def __init__(self, engine: Engine, policy: Policy, ttl: Ttl, clock: Clock, order: Order = "turn") -> None:
        self._engine = engine
        self._policy = policy
        self._ttl = ttl
        self._clock = clock
        self._order = order

    def claim(self, provider: str, *, limit: int, earlier: Sequence[str], only: Sequence[str] | None) -> list[Claimed]:
        """Claim the next files that a source is to be asked about; two processes never get the same.

        Args:
            provider: the source.
            limit: how many at most.
            earlier: sources that have to be asked about a file before.
            only: these files and no others, if any are named.
        """
        return type(self)._claims(
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
        """Give back files that the source was not asked about, as they were before they were claimed."""
        type(self)._releases(self._engine, provider, hashes)

    def cached(self, provider: str, keys: Sequence[str]) -> dict[str, CacheEntry]:
        """Return the answers in the cache that still hold, by key."""
        with read_transaction(self._engine) as connection:
            found = cached_answers(connection, provider, keys)
        now = self._clock.now()
        return {key: entry for key, entry in found.items() if entry.expires_at > now}

    @abstractmethod
    def keep_cached(self, provider: str, one: Claimed, entry: CacheEntry, finding: ProviderVerdict) -> None:
        """Write down for a file what the cache has."""

    @abstractmethod
    def answer(self, provider: str, one: Claimed, cache_key: str, finding: ProviderVerdict) -> None:
        """Write down what a source said; the verdict `unknown` with its response: it does not know the file."""

    @abstractmethod
    def fail(self, provider: str, one: Claimed, kind: str, reason: str, not_before: dt.datetime | None) -> None:
        """Write down that no usable answer came; each in a row doubles the time until the source is asked again."""

    @abstractmethod
    def refuse(self, provider: str, one: Claimed, reason: str) -> None:
        """Write down that the source will not answer about this file."""

    @abstractmethod
    def pass_over(self, provider: str, one: Claimed) -> None:
        """Look again whether there is something to ask when an unknown file would be asked about at the latest."""

    @abstractmethod
    def ask_again(self, provider: str, one: Claimed, cache_key: str, moment: dt.datetime) -> None:
        """Let an answer hold no longer than until a moment, when the source will know more."""

    def _retry_at(self, one: Claimed, not_before: dt.datetime | None) -> dt.datetime:
        next_attempt = retry_at(one.attempts, self._clock.now(), one.sha256)
        return max(next_attempt, min(not_before or next_attempt, self._clock.now() + LONGEST_WAIT))

    def _look_again_at(self) -> dt.datetime:
        return self._clock.now() + dt.timedelta(seconds=self._ttl.unknown_max_s)


class TableVerdictRepository(VerdictRepository):
    """Keeps everything."""

    _claims = staticmethod(claim)
    _releases = staticmethod(release)

    def keep_cached(self, provider: str, one: Claimed, entry: CacheEntry, finding: ProviderVerdict) -> None:
        """Write the answer of the cache into history, hash and queue, with the times it has there."""
        with write_transaction(self._engine) as connection:
            self._store(connection, provider, one, entry.key, finding, entry.fetched_at, entry.expires_at)

    def answer(self, provider: str, one: Claimed, cache_key: str, finding: ProviderVerdict) -> None:
        """Write down what a source said, everywhere, in one transaction."""
        now = self._clock.now()
        with write_transaction(self._engine) as connection:
            until = with_expiry(connection, provider, cache_key, finding, now, self._ttl)
            self._store(connection, provider, one, cache_key, finding, now, until)

    def fail(self, provider: str, one: Claimed, kind: str, reason: str, not_before: dt.datetime | None) -> None:
        """Write down a failure in the queue, and in the status of the hash."""
        again = self._retry_at(one, not_before)
        rest: dict[str, Any] = {"kind": kind, "reason": reason, "next_attempt_at": again}
        with write_transaction(self._engine) as connection:
            store_failure(connection, one.sha256, provider, **rest, policy=self._policy, now=self._clock.now())

    def refuse(self, provider: str, one: Claimed, reason: str) -> None:
        """Write down in the queue that the source will not answer about this file."""
        now = self._clock.now()
        with write_transaction(self._engine) as connection:
            store_refusal(connection, one.sha256, provider, reason=reason, policy=self._policy, now=now)

    def pass_over(self, provider: str, one: Claimed) -> None:
        """Write down in the queue when there may be something to ask."""
        again, now = self._look_again_at(), self._clock.now()
        with write_transaction(self._engine) as connection:
            defer_lookup(connection, one.sha256, provider, next_attempt_at=again, policy=self._policy, now=now)

    def ask_again(self, provider: str, one: Claimed, cache_key: str, moment: dt.datetime) -> None:
        """Let the answer hold no longer than until a moment, in cache and queue."""
        with write_transaction(self._engine) as connection:
            expire_answer(connection, provider, cache_key, moment)
            bring_forward(connection, one.sha256, provider, moment)

    def _store(
        self,
        connection: Connection,
        provider: str,
        one: Claimed,
        cache_key: str,
        finding: ProviderVerdict,
        fetched_at: dt.datetime,
        until: dt.datetime,
    ) -> None:
        store_answer(
            connection,
            one.sha256,
            provider,
            cache_key,
            finding,
            fetched_at=fetched_at,
            expires_at=until,
            policy=self._policy,
            now=self._clock.now(),
        )


class StagedVerdictRepository(VerdictRepository):
    """Keeps answers in the cache and nothing anywhere else."""

    _claims = staticmethod(staged_claim)
    _releases = staticmethod(staged_release)

    def keep_cached(self, provider: str, one: Claimed, entry: CacheEntry, finding: ProviderVerdict) -> None:
        """Write down that the cache has it."""
        with write_transaction(self._engine) as connection:
            staged_answer(connection, provider, one.sha256, entry.expires_at)

    def answer(self, provider: str, one: Claimed, cache_key: str, finding: ProviderVerdict) -> None:
        """Write down in the cache what a source said."""
        now = self._clock.now()
        with write_transaction(self._engine) as connection:
            until = with_expiry(connection, provider, cache_key, finding, now, self._ttl)
            store_in_cache(connection, provider, cache_key, finding.verdict, finding.response, now, until)
            staged_answer(connection, provider, one.sha256, until)

    def fail(self, provider: str, one: Claimed, kind: str, reason: str, not_before: dt.datetime | None) -> None:
        """Write down in the cache when the source is asked again."""
        again = self._retry_at(one, not_before)
        staged_failure(self._engine, provider, one.sha256, kind=kind, now=self._clock.now(), not_before=again)

    def refuse(self, provider: str, one: Claimed, reason: str) -> None:
        """Write down in the cache that the source is not asked about this file for long."""
        now = self._clock.now()
        until = now + dt.timedelta(seconds=self._ttl.malicious_s)
        staged_failure(self._engine, provider, one.sha256, kind="refused", now=now, not_before=until)

    def pass_over(self, provider: str, one: Claimed) -> None:
        """Write down in the cache when there may be something to ask."""
        with write_transaction(self._engine) as connection:
            staged_answer(connection, provider, one.sha256, self._look_again_at())

    def ask_again(self, provider: str, one: Claimed, cache_key: str, moment: dt.datetime) -> None:
        """Let the answer in the cache hold no longer than until a moment."""
        with write_transaction(self._engine) as connection:
            expire_answer(connection, provider, cache_key, moment)
            staged_answer(connection, provider, one.sha256, moment)


def with_expiry(
    connection: Connection, provider: str, cache_key: str, finding: ProviderVerdict, fetched_at: dt.datetime, ttl: Ttl
) -> dt.datetime:
    """Return until when an answer holds; an unknown file's time doubles for each unknown in a row.

    Args:
        connection: in a transaction.
        provider: who answered.
        cache_key: the question.
        finding: the answer.
        fetched_at: when it was given.
        ttl: how long answers hold.
    """
    before = cached_answers(connection, provider, [cache_key]).get(cache_key)
    if before is not None and before.fetched_at >= fetched_at:
        before = None
    return expires_at(finding.verdict, fetched_at, before, ttl)


def unknown(response: dict[str, Any]) -> ProviderVerdict:
    """Return the finding of an answer that a file is not known."""
    return ProviderVerdict(UNKNOWN, response={NOT_FOUND: True, **response})


def finding_in(entry: CacheEntry, read: Callable[[Mapping[str, Any]], ProviderVerdict]) -> ProviderVerdict:
    """Return the finding that the cache kept.

    Args:
        entry: what it kept.
        read: reads a response of its source that knows the file.
    """
    response = entry.response or {}
    return unknown(response) if response.get(NOT_FOUND) is True else read(response)
