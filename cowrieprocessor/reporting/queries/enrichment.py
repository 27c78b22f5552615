"""The state of enrichment: each source's queue, failures, verdicts waiting for propagation, and the job."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, exists, func, or_, select

from cowrieprocessor.db.enrichment.candidates import (
    CandidateScope,
    asked_for,
    expired,
    lost_claims,
    never_asked,
    retries,
)
from cowrieprocessor.db.enrichment.provider_verdict import VERDICTS
from cowrieprocessor.db.enrichment.queue import ANSWERED, FAILED, LEASED, POLICY, QUEUE, REFUSED, lease_is_over
from cowrieprocessor.db.enrichment.staged_answers import STAGED, staged_key, staging_providers
from cowrieprocessor.db.enrichment.verdict_aggregation import HASH_SKIPPED, Policy
from cowrieprocessor.db.models import HASHES, EnrichmentQueueItem, Job, VerdictPropagation

ENRICH_JOB = "enrich"
POLICY_JOB = "enrich-policy"
OTHER_KIND = "other"
MAX_KINDS = 200
"""Kinds of failure that are counted separately; further ones count as `other`. A kind is a reason's part before the
colon."""


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """One source's hashes by state.

    Attributes:
        waiting: hashes never sent to the source and still to be sent, including those for which an earlier source may
            give a decisive verdict first.
        asked_for: requested by hand and not sent yet.
        retries_due: due for a retry after a failure, or because the process that claimed them was killed.
        expired: answers due for renewal.
        leased: claimed by a running process.
        answered: hashes with an answer, expired or not.
        failed: hashes whose last attempt failed, due for a retry or not.
        refused: hashes that the source will not answer about.
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
        """The number of hashes to send to the source now."""
        return self.waiting + self.asked_for + self.retries_due + self.expired


@dataclass(frozen=True, slots=True)
class FailureKind:
    """Hashes that one source failed on or refused, for one kind of reason.

    Attributes:
        status: `failed` (will be retried) or `refused` (will not).
        kind: timeout, connection, server-error, ...: the part of the reason before the colon.
        example: the whole reason for `example_sha256`, the hash that was tried most often.
    """

    provider: str
    status: str
    kind: str
    count: int
    example_sha256: str
    example: str


@dataclass(frozen=True, slots=True)
class PropagationBacklog:
    """The number of hashes whose new verdict has not reached all rows of `files`; `since` when the oldest waits."""

    hashes: int
    since: dt.datetime | None


@dataclass(frozen=True, slots=True)
class EnrichJob:
    """The `enrich` job as last reported.

    Attributes:
        state: running, waiting, paused, done, failed or stopped; `reason` says why.
        counters: totals over all its runs.
    """

    state: str
    reason: str | None
    started_at: dt.datetime
    updated_at: dt.datetime
    finished_at: dt.datetime | None
    counters: Mapping[str, Any] = field(default_factory=dict)


def queue_counts(connection: Connection, policy: Policy, now: dt.datetime) -> dict[str, QueueCounts]:
    """Return the counts of each source that is in use or was ever queried, by its name.

    The backlog is counted by the conditions under which hashes are claimed; a source not in use has no backlog.

    Args:
        connection: a connection in a transaction.
        policy: which sources are in use, and which verdicts are decisive.
        now: the current time.
    """
    item = EnrichmentQueueItem
    query = select(item.provider, item.status, func.count()).group_by(item.provider, item.status)
    statuses: dict[tuple[str, str], int] = {(row[0], row[1]): row[2] for row in connection.execute(query)}
    leased = select(item.provider, func.count()).where(item.status == LEASED, ~lease_is_over(now))
    leases: dict[str, int] = {row[0]: row[1] for row in connection.execute(leased.group_by(item.provider))}
    names = {provider for provider, _ in statuses if provider != POLICY}
    staging = staging_providers(connection)
    scopes = {name: CandidateScope(name, policy, now, staging) for name in policy.providers}
    return {
        name: QueueCounts(
            **(_count_backlog(connection, scopes[name]) if name in scopes else {}),
            leased=leases.get(name, 0),
            answered=statuses.get((name, ANSWERED), 0),
            failed=statuses.get((name, FAILED), 0),
            refused=statuses.get((name, REFUSED), 0),
        )
        for name in sorted(names | set(policy.providers))
    }


def _count_backlog(connection: Connection, scope: CandidateScope) -> dict[str, int]:
    """Return the number of hashes that could be claimed for a source now, by reason.

    The large groups, hashes never queried and expired answers, are counted from indexes. The full rule is evaluated
    only for hashes that it may exclude, and the excluded ones are subtracted.
    """
    provider, now = scope.provider, scope.now
    may_be_excluded = _skipped_or_decided(scope)
    queued = QUEUE.join(HASHES, HASHES.c.sha256 == QUEUE.c.sha256)
    no_row = ~exists().where(QUEUE.c.sha256 == HASHES.c.sha256, QUEUE.c.provider == provider)
    by_hand = QUEUE.c.priority > 0
    retry_conditions = retries(scope).conditions()
    renewals = expired(scope)

    def count(source: FromClause, *conditions: ColumnElement[bool]) -> int:
        return connection.scalar(select(func.count()).select_from(source).where(*conditions)) or 0

    # `sha256 >= ''` makes the planner walk the index on the hash, so that lookups in the queue go page by page.
    never_queried = (HASHES.c.sha256 >= "", no_row)
    return {
        "waiting": count(HASHES, *never_queried)
        - count(HASHES, may_be_excluded, no_row, ~never_asked(scope))
        + count(queued, lost_claims(scope)),
        "asked_for": count(queued, asked_for(provider, now))
        + sum(count(queued, condition, by_hand) for condition in retry_conditions),
        "retries_due": sum(count(queued, condition, ~by_hand) for condition in retry_conditions),
        "expired": count(QUEUE, renewals.due)
        - count(queued, may_be_excluded, renewals.due, ~renewals.needed)
        + count(queued, renewals.skewed, renewals.needed),
    }


def _skipped_or_decided(scope: CandidateScope) -> ColumnElement[bool]:
    """Return the condition on `file_hashes` for hashes that may be skipped or have a decisive verdict, staged or not.

    A hash's verdict is the first in VERDICTS that any source gives, so a verdict after the last decisive one in that
    order means that no source gave a decisive one.
    """
    settled_by = scope.policy.settled_by
    positions = [VERDICTS.index(verdict) for verdict in settled_by if verdict in VERDICTS]
    up_to_last_decisive = VERDICTS[: max(positions) + 1] if positions else ()
    conditions = [HASHES.c.enrichment_status == HASH_SKIPPED, HASHES.c.verdict.in_(up_to_last_decisive)]
    if scope.staging:
        staged = (STAGED.c.provider.in_(scope.staging), STAGED.c.key == staged_key(HASHES.c.sha256))
        conditions.append(exists().where(*staged, STAGED.c.status.in_(sorted(settled_by))))
    return or_(*conditions)


def failure_kinds(connection: Connection, providers: Iterable[str]) -> tuple[FailureKind, ...]:
    """Return the failures and refusals of these sources by kind of reason, the most frequent first."""
    item = EnrichmentQueueItem
    counts: Counter[tuple[str, str, str]] = Counter()
    examples: dict[tuple[str, str, str], tuple[int, str, str]] = {}
    for provider in providers:
        for status in (FAILED, REFUSED):
            rows = select(item.sha256, item.attempts, item.last_error).where(
                item.provider == provider, item.status == status
            )
            for sha256, attempts, reason in connection.execute(rows.execution_options(yield_per=1000)):
                key = provider, status, _failure_kind(reason) if status == FAILED else REFUSED
                if key not in counts and len(counts) >= MAX_KINDS:
                    key = provider, status, OTHER_KIND
                counts[key] += 1
                example = -attempts, sha256, reason or ""
                examples[key] = min(example, examples.get(key, example))
    kinds = [FailureKind(*key, count, *examples[key][1:]) for key, count in counts.items()]
    return sort_kinds(kinds)


def sort_kinds(kinds: Iterable[FailureKind]) -> tuple[FailureKind, ...]:
    """Return kinds of failure in the order of lists: the most frequent first, then by source, status and kind."""
    return tuple(sorted(kinds, key=lambda kind: (-kind.count, kind.provider, kind.status, kind.kind)))


def _failure_kind(reason: str | None) -> str:
    """Return the part of a reason before the colon, at most 40 characters."""
    return (reason or "").partition(":")[0].strip()[:40] or OTHER_KIND


def propagation_backlog(connection: Connection) -> PropagationBacklog:
    """Return the new verdicts that have not reached all their rows in `files`."""
    row = connection.execute(select(func.count(), func.min(VerdictPropagation.requested_at))).one()
    return PropagationBacklog(row[0], row[1])


def last_run_providers(connection: Connection) -> tuple[str, ...]:
    """Return the sources that the last run used; empty if the job never ran."""
    cursor = connection.scalar(select(Job.cursor).where(Job.name == POLICY_JOB)) or {}
    policy = cursor.get("policy") if isinstance(cursor, dict) else None
    names = policy.get("providers", []) if isinstance(policy, dict) else []
    return tuple(str(name) for name in names)


def enrich_job(connection: Connection) -> EnrichJob | None:
    """Return the `enrich` job as last reported, or None if it never ran."""
    names = [name for name in EnrichJob.__dataclass_fields__ if name != "counters"]
    columns = [*(getattr(Job, name) for name in names), Job.counters]
    row = connection.execute(select(*columns).where(Job.name == ENRICH_JOB)).mappings().first()
    return None if row is None else EnrichJob(**{**row, "counters": row["counters"] or {}})
