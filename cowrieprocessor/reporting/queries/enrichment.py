"""How enrichment stands: the queue of each source, what failed, what waits to be spread or replayed, and the job."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, exists, func, or_, select

from cowrieprocessor.db.enrichment.candidates import asked_for, expired, lost_claims, never_asked, retries
from cowrieprocessor.db.enrichment.provider_verdict import VERDICTS
from cowrieprocessor.db.enrichment.queue import ANSWERED, FAILED, LEASED, POLICY, QUEUE, REFUSED, lease_is_over
from cowrieprocessor.db.enrichment.verdict_aggregation import HASH_SKIPPED, Policy
from cowrieprocessor.db.models import HASHES, EnrichmentQueueItem, FileHash, Job, VerdictPropagation

ENRICH_JOB = "enrich"
POLICY_JOB = "enrich-policy"
OTHER_KIND = "other"
MAX_KINDS = 200
"""Kinds of failure that are told apart (a kind is the word before the colon of a reason); what is beyond is `other`."""


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """How many hashes one source was asked about, or is to be.

    Attributes:
        waiting: never asked about, and to be; those included that sources before it may settle.
        asked_for: named by hand, not asked about yet.
        retries_due: to be asked about again now, after a failure or because whoever asked was killed.
        expired: whose answer is to be renewed now.
        leased: being asked about.
        answered: with an answer, also one that is to be renewed.
        failed: whose last attempt failed, also those that are not due yet.
        refused: that the source will not answer about.
    """

    waiting: int = 0
    asked_for: int = 0
    retries_due: int = 0
    expired: int = 0
    leased: int = 0
    answered: int = 0
    failed: int = 0
    refused: int = 0

    @property
    def backlog(self) -> int:
        """How many hashes the source is to be asked about now."""
        return self.waiting + self.asked_for + self.retries_due + self.expired


@dataclass(frozen=True, slots=True)
class FailureKind:
    """Hashes that one source failed or refused to answer about, for one kind of reason.

    Attributes:
        status: failed (to be asked again) or refused (not asked again).
        kind: timeout, connection, server-error...; the words before the colon of the reason.
        example: the whole reason of one of them, `example_sha256`: that which was tried most often.
    """

    provider: str
    status: str
    kind: str
    count: int
    example_sha256: str
    example: str


@dataclass(frozen=True, slots=True)
class PropagationBacklog:
    """Hashes whose new verdict is still to reach their rows in `files`, and since when the oldest of them waits."""

    hashes: int
    since: dt.datetime | None


@dataclass(frozen=True, slots=True)
class EnrichJob:
    """The job as it last reported.

    Attributes:
        state: running, waiting, paused, done, failed or stopped; `reason` says why.
        counters: of all its runs together.
    """

    state: str
    reason: str | None
    started_at: dt.datetime
    updated_at: dt.datetime
    finished_at: dt.datetime | None
    counters: Mapping[str, Any] = field(default_factory=dict)


def queue_counts(connection: Connection, policy: Policy, now: dt.datetime) -> dict[str, QueueCounts]:
    """Return how each source stands that is in use or was ever asked, by its name.

    What is to be asked is found by the conditions by which it is claimed; of a source that is not in use it is nothing.

    Args:
        connection: a connection in a transaction.
        policy: which sources are in use, and what settles a hash.
        now: the present.
    """
    item = EnrichmentQueueItem
    query = select(item.provider, item.status, func.count()).group_by(item.provider, item.status)
    statuses: dict[tuple[str, str], int] = {(row[0], row[1]): row[2] for row in connection.execute(query)}
    leased = select(item.provider, func.count()).where(item.status == LEASED, ~lease_is_over(now))
    asking: dict[str, int] = {row[0]: row[1] for row in connection.execute(leased.group_by(item.provider))}
    names = {provider for provider, _ in statuses if provider != POLICY}
    return {
        name: QueueCounts(
            **(_to_be_asked(connection, name, policy, now) if name in policy.providers else {}),
            leased=asking.get(name, 0),
            answered=statuses.get((name, ANSWERED), 0),
            failed=statuses.get((name, FAILED), 0),
            refused=statuses.get((name, REFUSED), 0),
        )
        for name in sorted(names | set(policy.providers))
    }


def _to_be_asked(connection: Connection, provider: str, policy: Policy, now: dt.datetime) -> dict[str, int]:
    """Return how many hashes a source is to be asked about now, by reason, as claims would find them.

    What is most, hashes never asked about and answers that are old, is counted from indexes; by the whole rule are
    counted only those that it may except.
    """
    excepted = _may_be_excepted(policy)
    queued = QUEUE.join(HASHES, HASHES.c.sha256 == QUEUE.c.sha256)
    no_row = ~exists().where(QUEUE.c.sha256 == HASHES.c.sha256, QUEUE.c.provider == provider)
    by_hand = QUEUE.c.priority > 0
    again = retries(provider, policy, now).conditions()
    old = expired(provider, policy, now)

    def count(source: FromClause, *conditions: ColumnElement[bool]) -> int:
        return connection.scalar(select(func.count()).select_from(source).where(*conditions)) or 0

    # `sha256 >= ''` speaks of the index on the hash: walked in its order, the queue is found page by page.
    never = (HASHES.c.sha256 >= "", no_row)
    return {
        "waiting": count(HASHES, *never)
        - count(HASHES, excepted, no_row, ~never_asked(provider, policy, now))
        + count(queued, lost_claims(provider, policy, now)),
        "asked_for": count(queued, asked_for(provider, now)) + sum(count(queued, one, by_hand) for one in again),
        "retries_due": sum(count(queued, one, ~by_hand) for one in again),
        "expired": count(QUEUE, old.due)
        - count(queued, excepted, old.due, ~old.needed)
        + count(queued, old.skewed, old.needed),
    }


def _may_be_excepted(policy: Policy) -> ColumnElement[bool]:
    """Return the condition on `file_hashes` for those that may be skipped or settled.

    The verdict of a hash is the first in VERDICTS that any source gives: behind the last one that settles, none does.
    """
    places = [VERDICTS.index(verdict) for verdict in policy.settled_by if verdict in VERDICTS]
    settling = VERDICTS[: max(places) + 1] if places else ()
    return or_(HASHES.c.enrichment_status == HASH_SKIPPED, HASHES.c.verdict.in_(settling))


def failure_kinds(connection: Connection, providers: Iterable[str]) -> tuple[FailureKind, ...]:
    """Return what these sources failed and refused to answer, by kind of reason: the most frequent first."""
    item = EnrichmentQueueItem
    counts: Counter[tuple[str, str, str]] = Counter()
    examples: dict[tuple[str, str, str], tuple[int, str, str]] = {}
    for provider in providers:
        for status in (FAILED, REFUSED):
            rows = select(item.sha256, item.attempts, item.last_error).where(
                item.provider == provider, item.status == status
            )
            for sha256, attempts, reason in connection.execute(rows.execution_options(yield_per=1000)):
                key = provider, status, _kind(reason) if status == FAILED else REFUSED
                if key not in counts and len(counts) >= MAX_KINDS:
                    key = provider, status, OTHER_KIND
                counts[key] += 1
                example = -attempts, sha256, reason or ""
                examples[key] = min(example, examples.get(key, example))
    kinds = [FailureKind(*key, count, *examples[key][1:]) for key, count in counts.items()]
    return tuple(sorted(kinds, key=lambda one: (-one.count, one.provider, one.status, one.kind)))


def _kind(reason: str | None) -> str:
    return (reason or "").partition(":")[0].strip()[:40] or OTHER_KIND


def verdict_counts(connection: Connection) -> dict[str, int]:
    """Return how many hashes have each verdict."""
    query = select(FileHash.verdict, func.count()).group_by(FileHash.verdict)
    return {row[0]: row[1] for row in connection.execute(query)}


def skipped(connection: Connection) -> int:
    """Return how many hashes no source is ever asked about."""
    return connection.scalar(select(func.count()).where(FileHash.enrichment_status == HASH_SKIPPED)) or 0


def spreading(connection: Connection) -> PropagationBacklog:
    """Return how many new verdicts are still to reach rows of `files`."""
    row = connection.execute(select(func.count(), func.min(VerdictPropagation.requested_at))).one()
    return PropagationBacklog(row[0], row[1])


def last_used(connection: Connection) -> tuple[str, ...]:
    """Return the sources that the last run had in use; none if it never ran."""
    cursor = connection.scalar(select(Job.cursor).where(Job.name == POLICY_JOB)) or {}
    policy = cursor.get("policy") if isinstance(cursor, dict) else None
    names = policy.get("providers", []) if isinstance(policy, dict) else []
    return tuple(str(name) for name in names)


def enrich_job(connection: Connection) -> EnrichJob | None:
    """Return the job as it last reported, or None if it never ran."""
    names = [name for name in EnrichJob.__dataclass_fields__ if name != "counters"]
    columns = [*(getattr(Job, name) for name in names), Job.counters]
    row = connection.execute(select(*columns).where(Job.name == ENRICH_JOB)).mappings().first()
    return None if row is None else EnrichJob(**{**row, "counters": row["counters"] or {}})
