"""The repository of verdicts: claims files, and stores answers and failures.

It writes cache, history, the row of the hash and the queue in one transaction, and queues the propagation to `files`.
With USE_NEW_ENRICHMENT=0 it writes cache and queue alone; back at 1 the rest follows without a request.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine

from cowrieprocessor.clock import Clock
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.enrichment.claims import Claimed, Order, claim, release, retry_now
from cowrieprocessor.db.enrichment.provider_verdict import UNKNOWN, ProviderVerdict
from cowrieprocessor.db.enrichment.queue import bring_forward
from cowrieprocessor.db.enrichment.response_cache import CacheEntry, cached_answers, expire_answer
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

ReadVerdict = Callable[[Mapping[str, Any]], ProviderVerdict]


class VerdictRepository:
    """Claims the next files for a source, and stores what the source answers.

    Args:
        engine: the database, at the current schema version.
        policy: the sources in use, and the decisive verdicts.
        ttl: how long answers are valid.
        clock: the current time.
        order: which files come first among those that were never asked about.
        staged: write cache and queue alone (USE_NEW_ENRICHMENT=0).
    """

    def __init__(
        self,
        engine: Engine,
        policy: Policy,
        ttl: Ttl,
        clock: Clock,
        order: Order = "turn",
        *,
        staged: bool = False,
    ) -> None:
        self._engine = engine
        self._policy = policy
        self._ttl = ttl
        self._clock = clock
        self._order = order
        self._staged = staged

    def claim(self, provider: str, *, limit: int, earlier: Sequence[str], only: Sequence[str] | None) -> list[Claimed]:
        """Claim the next files to ask a source about; no two processes claim the same one.

        Args:
            provider: the source.
            limit: the most files.
            earlier: sources that have to be asked about a file first.
            only: the SHA-256 of the only files to consider; None for all.
        """
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
        """Release claimed files that the source was not asked about; they are as they were before the claim."""
        release(self._engine, provider, hashes)

    def cached(self, provider: str, keys: Sequence[str]) -> dict[str, CacheEntry]:
        """Return the valid answers in the cache, by key."""
        with read_transaction(self._engine) as connection:
            entries = cached_answers(connection, provider, keys)
        now = self._clock.now()
        return {key: entry for key, entry in entries.items() if entry.is_current(now)}

    def store_cached(self, provider: str, file: Claimed, entry: CacheEntry, verdict: ProviderVerdict) -> None:
        """Store for a file the answer that the cache has, with its times."""
        with write_transaction(self._engine) as connection:
            self._store(connection, provider, file, entry.key, verdict, entry.fetched_at, entry.expires_at)

    def store_answer(self, provider: str, file: Claimed, cache_key: str, verdict: ProviderVerdict) -> None:
        """Store the verdict of a source; `unknown_verdict` of its response if it does not know the file."""
        now = self._clock.now()
        with write_transaction(self._engine) as connection:
            until = answer_expires_at(connection, provider, cache_key, verdict, now, self._ttl)
            self._store(connection, provider, file, cache_key, verdict, now, until)

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
        now = self._clock.now()
        next_attempt = retry_at(file.attempts, now, file.sha256)
        again = max(next_attempt, min(not_before or next_attempt, now + MAX_RETRY_DELAY))
        failure: dict[str, Any] = {"kind": kind, "reason": reason, "next_attempt_at": again}
        with write_transaction(self._engine) as connection:
            store_failure(connection, file.sha256, provider, **failure, **self._how(now))

    def store_refusal(self, provider: str, file: Claimed, reason: str) -> None:
        """Store that the source will not answer about this file."""
        with write_transaction(self._engine) as connection:
            store_refusal(connection, file.sha256, provider, reason=reason, **self._how(self._clock.now()))

    def store_rate_limit(self, provider: str, file: Claimed, reason: str) -> None:
        """Store that the source wanted fewer requests; the file keeps its place, and its attempts do not count it."""
        with write_transaction(self._engine) as connection:
            store_rate_limit(connection, file.sha256, provider, reason=reason, **self._how(self._clock.now()))

    def retry_now(self, provider: str, kinds: Sequence[str] | None) -> None:
        """Let files whose last request failed be due at once.

        Args:
            provider: the source.
            kinds: the kinds of failure (`Failed.kind`); None for all.
        """
        retry_now(self._engine, provider, kinds, self._clock.now())

    def defer(self, provider: str, file: Claimed) -> None:
        """Defer a file that the source cannot be asked about, for the longest time that `unknown` is valid."""
        now = self._clock.now()
        again = now + dt.timedelta(seconds=self._ttl.unknown_max_s)
        with write_transaction(self._engine) as connection:
            defer_lookup(connection, file.sha256, provider, next_attempt_at=again, **self._how(now))

    def expire_at(self, provider: str, file: Claimed, cache_key: str, moment: dt.datetime) -> None:
        """Let an answer expire at a moment, when the source will know more, unless it expires earlier."""
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
        times: dict[str, Any] = {"fetched_at": fetched_at, "expires_at": until}
        store_answer(connection, file.sha256, provider, cache_key, verdict, **times, **self._how(self._clock.now()))

    def _how(self, now: dt.datetime) -> dict[str, Any]:
        """Return the arguments that every outcome is stored with."""
        return {"policy": self._policy, "now": now, "staged": self._staged}


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


def unknown_verdict(response: Mapping[str, Any]) -> ProviderVerdict:
    """Return the verdict of a source that answers that it does not know a file."""
    return ProviderVerdict(UNKNOWN, response={NOT_FOUND: True, **response})


def stored_verdict(response: Mapping[str, Any] | None, read: ReadVerdict) -> ProviderVerdict:
    """Return the verdict in a stored response.

    Args:
        response: the response.
        read: reads a response of its source that knows the file, as `Provider.verdict` does.
    """
    response = response or {}
    return unknown_verdict(response) if response.get(NOT_FOUND) is True else read(response)
