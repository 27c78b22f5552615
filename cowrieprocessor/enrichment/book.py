"""Where claims, answers and failures are kept: in the tables, or in the cache alone while a site stages the change.

`FullBook` is what USE_NEW_ENRICHMENT=1 does: cache, history, the row of the hash, the queue, and a note that its rows
in `files` have to follow, in one transaction each. `StagedBook` is USE_NEW_ENRICHMENT=0: the cache alone; every other
table stays as it is, and back at 1 the cache is replayed without a request.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Protocol

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.enrichment_cache import CacheEntry, cached_answers, expire_answer, store_in_cache
from cowrieprocessor.db.enrichment_claims import Claimed, Order, claim, release
from cowrieprocessor.db.enrichment_queue import bring_forward
from cowrieprocessor.db.findings import UNKNOWN, Finding
from cowrieprocessor.db.judgement import Policy
from cowrieprocessor.db.staged_claims import staged_answer, staged_claim, staged_failure, staged_release
from cowrieprocessor.db.verdict_store import pass_over, store_answer, store_failure, store_refusal
from cowrieprocessor.enrichment.clock import Clock
from cowrieprocessor.enrichment.expiry import Ttl, expires_at, retry_at

LEASE_S = 900.0
"""How long a claimed file is kept for who claimed it: one that was killed does not keep it longer."""

Counters = dict[str, int]
"""How often something happened, by what."""


class Book(Protocol):
    """Where a source finds its next files and writes down what it learned."""

    def claim(self, provider: str, *, limit: int, earlier: Sequence[str], only: Sequence[str] | None) -> list[Claimed]:
        """Claim the next files that a source is to be asked about."""
        ...

    def release(self, provider: str, hashes: Sequence[str]) -> None:
        """Give back files that the source was not asked about."""
        ...

    def cached(self, provider: str, keys: Sequence[str]) -> dict[str, CacheEntry]:
        """Return the answers in the cache that still hold, by key."""
        ...

    def keep_cached(self, provider: str, one: Claimed, entry: CacheEntry, finding: Finding) -> None:
        """Write down for a file what the cache has."""
        ...

    def answer(
        self,
        provider: str,
        one: Claimed,
        cache_key: str,
        finding: Finding | None,
        response: dict[str, Any] | None = None,
    ) -> None:
        """Write down what a source said; None: it does not know the file."""
        ...

    def fail(self, provider: str, one: Claimed, kind: str, reason: str, not_before: dt.datetime | None) -> None:
        """Write down that no usable answer came, and when the source is asked again."""
        ...

    def refuse(self, provider: str, one: Claimed, reason: str) -> None:
        """Write down that the source will not answer about this file."""
        ...

    def pass_over(self, provider: str, one: Claimed) -> None:
        """Write down that there is nothing to ask the source about this file now."""
        ...

    def ask_again(self, provider: str, one: Claimed, cache_key: str, moment: dt.datetime) -> None:
        """Write down that the source will know more at a moment, sooner than its answer would become old."""
        ...


def with_expiry(
    connection: Connection, provider: str, cache_key: str, finding: Finding, fetched_at: dt.datetime, ttl: Ttl
) -> dt.datetime:
    """Return until when an answer holds; an unknown file's doubles for each unknown in a row."""
    before = cached_answers(connection, provider, [cache_key]).get(cache_key)
    if before is not None and before.fetched_at >= fetched_at:
        before = None
    return expires_at(finding.verdict, fetched_at, before, ttl)


class FullBook:
    """Keeps everything.

    Args:
        engine: the database, at our version.
        policy: the sources in use, and what settles a file.
        ttl: how long answers hold.
        clock: the time.
        order: which files come first among those that were never asked about.
    """

    def __init__(self, engine: Engine, policy: Policy, ttl: Ttl, clock: Clock, order: Order = "turn") -> None:
        self._engine = engine
        self._policy = policy
        self._ttl = ttl
        self._clock = clock
        self._order = order

    def claim(self, provider: str, *, limit: int, earlier: Sequence[str], only: Sequence[str] | None) -> list[Claimed]:
        """Claim the next files; two processes never get the same."""
        return claim(
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
        """Give back files as they were before they were claimed."""
        release(self._engine, provider, hashes)

    def cached(self, provider: str, keys: Sequence[str]) -> dict[str, CacheEntry]:
        """Return the answers in the cache that still hold, by key."""
        return _still_valid(self._engine, provider, keys, self._clock.now())

    def keep_cached(self, provider: str, one: Claimed, entry: CacheEntry, finding: Finding) -> None:
        """Write the answer of the cache into history, hash and queue, with the times it has there."""
        with write_transaction(self._engine) as connection:
            store_answer(
                connection,
                one.sha256,
                provider,
                entry.key,
                finding,
                fetched_at=entry.fetched_at,
                expires_at=entry.expires_at,
                policy=self._policy,
                now=self._clock.now(),
            )

    def answer(
        self,
        provider: str,
        one: Claimed,
        cache_key: str,
        finding: Finding | None,
        response: dict[str, Any] | None = None,
    ) -> None:
        """Write down what a source said, everywhere, in one transaction."""
        said = finding or Finding(UNKNOWN, response=response or {})
        now = self._clock.now()
        with write_transaction(self._engine) as connection:
            store_answer(
                connection,
                one.sha256,
                provider,
                cache_key,
                said,
                fetched_at=now,
                expires_at=with_expiry(connection, provider, cache_key, said, now, self._ttl),
                policy=self._policy,
                now=now,
            )

    def fail(self, provider: str, one: Claimed, kind: str, reason: str, not_before: dt.datetime | None) -> None:
        """Write down a failure; each in a row doubles the time until the next attempt."""
        now = self._clock.now()
        next_attempt = retry_at(one.attempts, now, one.sha256)
        with write_transaction(self._engine) as connection:
            store_failure(
                connection,
                one.sha256,
                provider,
                kind=kind,
                reason=reason,
                next_attempt_at=max(next_attempt, not_before or next_attempt),
                policy=self._policy,
                now=now,
            )

    def refuse(self, provider: str, one: Claimed, reason: str) -> None:
        """Write down that the source will not answer about this file."""
        with write_transaction(self._engine) as connection:
            store_refusal(connection, one.sha256, provider, reason=reason, policy=self._policy, now=self._clock.now())

    def pass_over(self, provider: str, one: Claimed) -> None:
        """Look again whether there is something to ask when an unknown file would be asked about at the latest."""
        now = self._clock.now()
        again = now + dt.timedelta(seconds=self._ttl.unknown_max_s)
        with write_transaction(self._engine) as connection:
            pass_over(connection, one.sha256, provider, look_again_at=again, policy=self._policy, now=now)

    def ask_again(self, provider: str, one: Claimed, cache_key: str, moment: dt.datetime) -> None:
        """Let the answer hold no longer than until a moment, in cache and queue."""
        with write_transaction(self._engine) as connection:
            expire_answer(connection, provider, cache_key, moment)
            bring_forward(connection, one.sha256, provider, moment)


class StagedBook:
    """Keeps answers in the cache and nothing anywhere else.

    Args:
        engine: the database, at our version.
        policy: the sources in use, and what settles a file.
        ttl: how long answers hold.
        clock: the time.
        order: which files come first.
    """

    def __init__(self, engine: Engine, policy: Policy, ttl: Ttl, clock: Clock, order: Order = "turn") -> None:
        self._engine = engine
        self._policy = policy
        self._ttl = ttl
        self._clock = clock
        self._order = order

    def claim(self, provider: str, *, limit: int, earlier: Sequence[str], only: Sequence[str] | None) -> list[Claimed]:
        """Claim the next files of which the cache has no answer that holds."""
        return staged_claim(
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
        """Give back files that were claimed."""
        staged_release(self._engine, provider, hashes)

    def cached(self, provider: str, keys: Sequence[str]) -> dict[str, CacheEntry]:
        """Return the answers in the cache that still hold, by key."""
        return _still_valid(self._engine, provider, keys, self._clock.now())

    def keep_cached(self, provider: str, one: Claimed, entry: CacheEntry, finding: Finding) -> None:
        """Write down that the cache has it."""
        with write_transaction(self._engine) as connection:
            staged_answer(connection, provider, one.sha256, entry.expires_at)

    def answer(
        self,
        provider: str,
        one: Claimed,
        cache_key: str,
        finding: Finding | None,
        response: dict[str, Any] | None = None,
    ) -> None:
        """Write down in the cache what a source said."""
        said = finding or Finding(UNKNOWN, response=response or {})
        now = self._clock.now()
        with write_transaction(self._engine) as connection:
            until = with_expiry(connection, provider, cache_key, said, now, self._ttl)
            store_in_cache(connection, provider, cache_key, said.verdict, said.response, now, until)
            staged_answer(connection, provider, one.sha256, until)

    def fail(self, provider: str, one: Claimed, kind: str, reason: str, not_before: dt.datetime | None) -> None:
        """Write down in the cache when the source is asked again."""
        now = self._clock.now()
        next_attempt = retry_at(one.attempts, now, one.sha256)
        staged_failure(
            self._engine, provider, one.sha256, kind=kind, now=now, not_before=max(next_attempt, not_before or now)
        )

    def refuse(self, provider: str, one: Claimed, reason: str) -> None:
        """Write down in the cache that the source is not asked about this file for long."""
        now = self._clock.now()
        until = now + dt.timedelta(seconds=self._ttl.malicious_s)
        staged_failure(self._engine, provider, one.sha256, kind="refused", now=now, not_before=until)

    def pass_over(self, provider: str, one: Claimed) -> None:
        """Look again whether there is something to ask when an unknown file would be asked about at the latest."""
        again = self._clock.now() + dt.timedelta(seconds=self._ttl.unknown_max_s)
        with write_transaction(self._engine) as connection:
            staged_answer(connection, provider, one.sha256, again)

    def ask_again(self, provider: str, one: Claimed, cache_key: str, moment: dt.datetime) -> None:
        """Let the answer in the cache hold no longer than until a moment."""
        with write_transaction(self._engine) as connection:
            expire_answer(connection, provider, cache_key, moment)
            staged_answer(connection, provider, one.sha256, moment)


def _still_valid(engine: Engine, provider: str, keys: Sequence[str], now: dt.datetime) -> dict[str, CacheEntry]:
    with read_transaction(engine) as connection:
        found = cached_answers(connection, provider, keys)
    return {key: entry for key, entry in found.items() if entry.expires_at > now}
