"""Read-only search for the hashes that a provider is queried about next, without blocking other processes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, and_, case, select

from cowrieprocessor.db.chunks import chunks
from cowrieprocessor.db.enrichment.candidate_cache import CacheTiming, candidate_cache_of
from cowrieprocessor.db.enrichment.candidates import (
    CandidateScope,
    Order,
    Reason,
    RepeatRows,
    asked_for,
    expired,
    in_order,
    never_asked,
    retries,
)
from cowrieprocessor.db.enrichment.queue import ASKED_FOR_AT, QUEUE, QueueRow
from cowrieprocessor.db.enrichment.staged_answers import staging_providers
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy
from cowrieprocessor.db.models import HASHES

__all__ = ["DUE_ROWS", "Candidate", "CandidateSearch", "ClaimRequest", "search_candidates"]

DUE_ROWS = 1_000
"""Due rows of the queue that one search reads; a decisive verdict may have made some of them unnecessary."""


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """The arguments of `claim`."""

    provider: str
    limit: int
    now: dt.datetime
    policy: Policy
    earlier: tuple[str, ...]
    order: Order
    only: Sequence[str] | None
    due_rows: int = DUE_ROWS
    cache_timing: CacheTiming | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A hash that may be claimed; `row` is its row of the queue as it was read, None if it has none."""

    sha256: str
    reason: Reason
    row: QueueRow | None


@dataclass(slots=True)
class CandidateSearch:
    """The result of a search.

    Attributes:
        candidates: what may be claimed, by hash, in the order of claims.
        deferrable: hashes that are due in the queue, but about which no lookup is needed now.
        staging: the providers with staged answers.
    """

    candidates: dict[str, Candidate] = field(default_factory=dict)
    deferrable: list[str] = field(default_factory=list)
    staging: tuple[str, ...] = ()

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Append candidates; the first reason found for a hash counts."""
        for candidate in candidates:
            self.candidates.setdefault(candidate.sha256, candidate)


def search_candidates(
    connection: Connection, engine: Engine, request: ClaimRequest, *, repeats_only: bool
) -> CandidateSearch:
    """Search the next hashes in the order of claims, until there are enough.

    Args:
        connection: in a transaction.
        engine: the database; its candidate cache is used.
        request: what is to be claimed.
        repeats_only: skip hashes that were asked for by hand or never queried; a moment ago there were none.
    """
    scope = CandidateScope(request.provider, request.policy, request.now, staging_providers(connection))
    result = CandidateSearch(staging=scope.staging)
    if not repeats_only:
        result.add(_queued(connection, request, [("asked-for", asked_for(request.provider, request.now))]))
        if len(result.candidates) < request.limit:
            result.add(_new(connection, engine, request, scope))
    if len(result.candidates) < request.limit:
        _add_repeats(connection, request, "retry", retries(scope), result)
    if len(result.candidates) < request.limit:
        _add_repeats(connection, request, "expired", expired(scope), result)
    return result


def _new(connection: Connection, engine: Engine, request: ClaimRequest, scope: CandidateScope) -> list[Candidate]:
    """Return the next hashes that the provider was never queried about."""
    condition = never_asked(scope, earlier=request.earlier)
    query = select(HASHES.c.sha256).where(condition)

    def search(limit: int) -> list[str]:
        first = query.order_by(*in_order(request.order)).limit(limit)
        return [row.sha256 for row in _restricted(connection, first, request.only)]

    def still_valid(hashes: Sequence[str]) -> set[str]:
        return {row.sha256 for row in _restricted(connection, query, hashes)}

    if request.only is not None:
        hashes = search(request.limit)
    else:
        search_key = (request.provider, request.policy, request.earlier, request.order)
        cache = candidate_cache_of(engine, search_key, request.cache_timing)
        hashes = cache.next(request.limit, search, still_valid)
    claimed_before = select(QUEUE).join(HASHES, HASHES.c.sha256 == QUEUE.c.sha256)
    claimed_before = claimed_before.where(QUEUE.c.provider == request.provider)
    rows = {row.sha256: _queue_row(row) for row in _restricted(connection, claimed_before, hashes)}
    return [Candidate(sha256, "new", rows.get(sha256)) for sha256 in hashes]


def _add_repeats(
    connection: Connection, request: ClaimRequest, reason: Reason, repeat: RepeatRows, result: CandidateSearch
) -> None:
    """Add rows of the queue that are due again, last those that a wrong clock wrote; collect those to be deferred."""
    abandoned = [] if repeat.abandoned is None else [(reason, and_(repeat.abandoned, repeat.needed))]
    if request.only is not None:
        candidates = _queued(connection, request, [(reason, and_(repeat.due, repeat.needed)), *abandoned])
    else:
        candidates = _queued(connection, request, abandoned)
        is_kept = case((repeat.needed, 1), else_=0).label("is_kept")
        query = select(QUEUE, is_kept).outerjoin(HASHES, HASHES.c.sha256 == QUEUE.c.sha256).where(repeat.due)
        due = connection.execute(query.order_by(QUEUE.c.next_attempt_at).limit(request.due_rows)).all()
        result.deferrable += [row.sha256 for row in due if not row.is_kept]
        candidates += [Candidate(row.sha256, reason, _queue_row(row)) for row in due if row.is_kept]
    result.add(sorted(candidates, key=_due_at))
    if len(result.candidates) < request.limit:
        result.add(_queued(connection, request, [(reason, and_(repeat.skewed, repeat.needed))]))


def _queued(
    connection: Connection, request: ClaimRequest, conditions: Sequence[tuple[Reason, ColumnElement[bool]]]
) -> list[Candidate]:
    """Return rows of the queue that meet any of the conditions, longest due first."""
    candidates = []
    for reason, condition in conditions:
        query = select(QUEUE).join(HASHES, HASHES.c.sha256 == QUEUE.c.sha256).where(condition)
        query = query.order_by(QUEUE.c.next_attempt_at).limit(request.limit)
        for row in _restricted(connection, query, request.only):
            candidates.append(Candidate(row.sha256, "asked-for" if row.priority else reason, _queue_row(row)))
    return sorted(candidates, key=_due_at)


def _queue_row(row: Any) -> QueueRow:
    return QueueRow(**{name: getattr(row, name) for name in QueueRow.__dataclass_fields__})


def _due_at(candidate: Candidate) -> tuple[dt.datetime, str]:
    due = candidate.row.next_attempt_at if candidate.row else None
    return due or ASKED_FOR_AT, candidate.sha256


def _restricted(connection: Connection, query: Select[Any], only: Sequence[str] | None) -> list[Any]:
    """Return the rows of a query on hashes, restricted to `only` if it is given."""
    if only is None:
        return list(connection.execute(query).all())
    return [
        row
        for chunk in chunks(sorted(set(only)))
        for row in connection.execute(query.where(HASHES.c.sha256.in_(chunk))).all()
    ]
