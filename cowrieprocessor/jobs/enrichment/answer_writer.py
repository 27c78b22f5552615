"""Stores answers that cost no request, as many at a time as one short transaction can write."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from cowrieprocessor.clock import Clock
from cowrieprocessor.db.enrichment.provider_verdict import ProviderVerdict
from cowrieprocessor.db.enrichment.staged_answers import StagedAnswer, take_staged
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy
from cowrieprocessor.db.enrichment.verdict_store import lock_hashes, store_answer, store_staged
from cowrieprocessor.enrichment.expiry import Ttl
from cowrieprocessor.enrichment.verdict_repository import ReadVerdict, answer_expires_at, stored_verdict
from cowrieprocessor.jobs.runtime.throttle import TimedTransaction

MAX_ANSWERS = 100
"""The most answers that one transaction stores: their hashes are all locked before the first is stored."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An earlier answer of a source about a file.

    Attributes:
        provider: the source.
        sha256: the file.
        verdict: the answer.
        fetched_at: when it was given.
        expires_at: when it expires; None to calculate that from the verdict.
    """

    provider: str
    sha256: str
    verdict: ProviderVerdict
    fetched_at: dt.datetime
    expires_at: dt.datetime | None = None


class AnswerWriter:
    """Stores answers; storing one again changes nothing.

    Args:
        policy: the sources in use, and the decisive verdicts.
        ttl: how long answers are valid.
        clock: the current time.
        staged: write cache and queue alone (USE_NEW_ENRICHMENT=0).
    """

    def __init__(self, policy: Policy, ttl: Ttl, clock: Clock, *, staged: bool = False) -> None:
        self._policy = policy
        self._ttl = ttl
        self.clock = clock
        self.staged = staged

    def store(self, turn: TimedTransaction, answers: Sequence[Answer]) -> list[dt.datetime]:
        """Store answers in order, at least the first, until the transaction has lasted long enough.

        Args:
            turn: a write transaction that has locked no hash yet.
            answers: the answers to store.

        Returns:
            When each stored answer expires; fewer than `answers` if the transaction ended before the last.
        """
        expiries: list[dt.datetime] = []
        batch = answers[:MAX_ANSWERS]
        lock_hashes(turn.connection, [answer.sha256 for answer in batch])
        for answer in batch:
            if expiries and not turn.may_go_on():
                break
            expiries.append(self._store(turn.connection, answer))
        return expiries

    def store_staged(self, turn: TimedTransaction, hashes: Sequence[str], readers: Mapping[str, ReadVerdict]) -> int:
        """Store staged answers about hashes, at least about the first, until the transaction has lasted long enough.

        Args:
            turn: a write transaction that has locked no hash yet.
            hashes: the hashes.
            readers: read the stored responses, by source; the answers of other sources stay where they are.

        Returns:
            The number of answers.
        """
        count, now = 0, self.clock.now()
        batch = hashes[:MAX_ANSWERS]
        lock_hashes(turn.connection, list(batch))
        for sha256 in batch:
            staged = take_staged(turn.connection, sha256, sorted(readers), now)
            if staged is not None:
                answers = [(answer.provider, _verdict_of(answer, readers), answer.fetched_at) for answer in staged]
                store_staged(turn.connection, sha256, answers, self._policy, now)
                count += len(answers)
            if not turn.may_go_on():
                break
        return count

    def _store(self, connection: Connection, answer: Answer) -> dt.datetime:
        provider, sha256, verdict = answer.provider, answer.sha256, answer.verdict
        until = answer.expires_at
        if until is None:
            until = answer_expires_at(connection, provider, sha256, verdict, answer.fetched_at, self._ttl)
        store_answer(
            connection,
            sha256,
            provider,
            sha256,
            verdict,
            fetched_at=answer.fetched_at,
            expires_at=until,
            policy=self._policy,
            now=self.clock.now(),
            staged=self.staged,
        )
        return until


def _verdict_of(answer: StagedAnswer, readers: Mapping[str, ReadVerdict]) -> ProviderVerdict:
    """Return the verdict of a staged answer as it was read when it was given, whatever the settings are now."""
    return replace(stored_verdict(answer.response, readers[answer.provider]), verdict=answer.verdict)
