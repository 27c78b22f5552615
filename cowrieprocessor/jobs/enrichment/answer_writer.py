"""Answers that were had without a request are stored: as many at a time as can be written in a moment."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from cowrieprocessor.clock import Clock
from cowrieprocessor.db.enrichment.provider_verdict import ProviderVerdict
from cowrieprocessor.db.enrichment.response_cache import store_in_cache
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy
from cowrieprocessor.db.enrichment.verdict_store import lock_hashes, store_answer
from cowrieprocessor.enrichment.expiry import Ttl
from cowrieprocessor.enrichment.verdict_repository import with_expiry
from cowrieprocessor.jobs.runtime.throttle import TimedTransaction

MOST_ANSWERS = 100
"""Answers that one transaction may store, however fast: their hashes are locked before the first is."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a source said about a file, some time ago.

    Attributes:
        provider: the source.
        sha256: the file.
        finding: what it said.
        fetched_at: when.
        expires_at: until when it holds; None: as long as such an answer does.
    """

    provider: str
    sha256: str
    finding: ProviderVerdict
    fetched_at: dt.datetime
    expires_at: dt.datetime | None = None


class AnswerWriter:
    """Stores answers; again is a no-op.

    Args:
        policy: the sources in use, and what settles a file.
        ttl: how long answers hold.
        clock: the time.
        staged: write the cache alone (USE_NEW_ENRICHMENT=0).
    """

    def __init__(self, policy: Policy, ttl: Ttl, clock: Clock, *, staged: bool = False) -> None:
        self._policy = policy
        self._ttl = ttl
        self.clock = clock
        self.staged = staged

    def store(self, turn: TimedTransaction, answers: Sequence[Answer]) -> list[dt.datetime]:
        """Store answers in their order, the first in any case, until the transaction has lasted long enough.

        Args:
            turn: a write transaction that has locked no hash yet.
            answers: what is to be stored.

        Returns:
            Of each that was stored, until when it holds.
        """
        until: list[dt.datetime] = []
        some = answers[:MOST_ANSWERS]
        lock_hashes(turn.connection, [answer.sha256 for answer in some])
        for answer in some:
            if until and not turn.may_go_on():
                break
            until.append(self._store(turn.connection, answer))
        return until

    def _store(self, connection: Connection, answer: Answer) -> dt.datetime:
        provider, sha256, finding = answer.provider, answer.sha256, answer.finding
        until = answer.expires_at
        if until is None:
            until = with_expiry(connection, provider, sha256, finding, answer.fetched_at, self._ttl)
        if self.staged:
            store_in_cache(connection, provider, sha256, finding.verdict, finding.response, answer.fetched_at, until)
            return until
        store_answer(
            connection,
            sha256,
            provider,
            sha256,
            finding,
            fetched_at=answer.fetched_at,
            expires_at=until,
            policy=self._policy,
            now=self.clock.now(),
        )
        return until
