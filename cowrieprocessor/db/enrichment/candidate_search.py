"""Looking for the hashes that a source is to be asked about next, beside everybody else; nothing is changed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, and_, case, select

from cowrieprocessor.db.chunks import chunks
from cowrieprocessor.db.enrichment.candidate_cache import candidate_cache_of
from cowrieprocessor.db.enrichment.candidates import (
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
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy
from cowrieprocessor.db.models import HASHES

__all__ = ["Candidate", "CandidateSearch", "ClaimRequest", "search_candidates"]

DUE_AT_ONCE = 1_000
"""Rows that are due, and may be settled by now, that are looked at in one go."""

AHEAD_AT_ONCE = 100
"""Rows that a clock hid which are brought back in one transaction."""


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """What is asked for: the arguments of `claim`."""

    provider: str
    limit: int
    now: dt.datetime
    policy: Policy
    earlier: tuple[str, ...]
    order: Order
    only: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A hash that may be claimed; `row` is how it stands in the queue, None where it does not."""

    sha256: str
    reason: Reason
    row: QueueRow | None


@dataclass(slots=True)
class CandidateSearch:
    """What was found, in its order, and what was met on the way.

    Attributes:
        found: by hash what may be claimed.
        passed: hashes that are due in the queue, which nobody is to ask about now.
        ahead: hashes that are not due because a clock was wrong.
    """

    found: dict[str, Candidate] = field(default_factory=dict)
    passed: list[str] = field(default_factory=list)
    ahead: list[str] = field(default_factory=list)


def search_candidates(
    connection: Connection, engine: Engine, wanted: ClaimRequest, *, again_only: bool
) -> CandidateSearch:
    """Look for the next hashes in their order, until there are enough.

    Args:
        connection: in a transaction.
        engine: the database, through which it may have been looked before.
        wanted: what is asked for.
        again_only: pass over what was asked for by hand, or never asked about: there was nothing a moment ago.
    """
    provider, policy, now = wanted.provider, wanted.policy, wanted.now
    look = CandidateSearch()
    if not again_only:
        _add(look, _queued(connection, wanted, [("asked-for", asked_for(provider, now))]))
        if len(look.found) < wanted.limit:
            _add(look, _new(connection, engine, wanted))
    if len(look.found) < wanted.limit:
        _again(connection, wanted, "retry", retries(provider, policy, now), look)
    if len(look.found) < wanted.limit:
        _again(connection, wanted, "expired", expired(provider, policy, now), look)
    return look


def _add(look: CandidateSearch, found: Sequence[Candidate]) -> None:
    for one in found:
        look.found.setdefault(one.sha256, one)


def _new(connection: Connection, engine: Engine, wanted: ClaimRequest) -> list[Candidate]:
    """Return the next hashes that the source was never asked about."""
    meant = never_asked(wanted.provider, wanted.policy, wanted.now, earlier=wanted.earlier)
    query = select(HASHES.c.sha256).where(meant)

    def read(limit: int) -> list[str]:
        first = query.order_by(*in_order(wanted.order)).limit(limit)
        return [row.sha256 for row in _narrowed(connection, first, wanted.only)]

    def still(hashes: Sequence[str]) -> set[str]:
        return {row.sha256 for row in _narrowed(connection, query, hashes)}

    if wanted.only is not None:
        found = read(wanted.limit)
    else:
        question = (wanted.provider, wanted.policy, wanted.earlier, wanted.order)
        found = candidate_cache_of(engine, question).next(wanted.limit, read, still)
    claimed_before = select(QUEUE).join(HASHES, HASHES.c.sha256 == QUEUE.c.sha256)
    claimed_before = claimed_before.where(QUEUE.c.provider == wanted.provider)
    rows = {row.sha256: _kept(row) for row in _narrowed(connection, claimed_before, found)}
    return [Candidate(sha256, "new", rows.get(sha256)) for sha256 in found]


def _again(
    connection: Connection, wanted: ClaimRequest, reason: Reason, again: RepeatRows, look: CandidateSearch
) -> None:
    """Add rows of the queue that are due again; note those on the way that are not to be asked about."""
    others = [(reason, and_(again.left, again.kept))] if again.left is not None else []
    if wanted.only is not None:
        found = _queued(connection, wanted, [(reason, and_(again.due, again.kept)), *others])
    else:
        found = _queued(connection, wanted, others)
        is_kept = case((again.kept, 1), else_=0).label("is_kept")
        query = select(QUEUE, is_kept).outerjoin(HASHES, HASHES.c.sha256 == QUEUE.c.sha256).where(again.due)
        due = connection.execute(query.order_by(QUEUE.c.next_attempt_at).limit(DUE_AT_ONCE)).all()
        look.passed += [row.sha256 for row in due if not row.is_kept]
        found += [Candidate(row.sha256, reason, _kept(row)) for row in due if row.is_kept]
    _add(look, sorted(found, key=_due_at))
    if len(look.found) < wanted.limit:
        query = select(QUEUE.c.sha256).join(HASHES, HASHES.c.sha256 == QUEUE.c.sha256)
        ahead = query.where(again.ahead, again.kept).limit(AHEAD_AT_ONCE)
        look.ahead += [row.sha256 for row in _narrowed(connection, ahead, wanted.only)]


def _queued(
    connection: Connection, wanted: ClaimRequest, conditions: Sequence[tuple[Reason, ColumnElement[bool]]]
) -> list[Candidate]:
    """Return rows of the queue that meet one of some conditions, the one that is due longest first."""
    found = []
    for reason, condition in conditions:
        query = select(QUEUE).join(HASHES, HASHES.c.sha256 == QUEUE.c.sha256).where(condition)
        query = query.order_by(QUEUE.c.next_attempt_at).limit(wanted.limit)
        for row in _narrowed(connection, query, wanted.only):
            found.append(Candidate(row.sha256, "asked-for" if row.priority else reason, _kept(row)))
    return sorted(found, key=_due_at)


def _kept(row: Any) -> QueueRow:
    return QueueRow(**{name: getattr(row, name) for name in QueueRow.__dataclass_fields__})


def _due_at(one: Candidate) -> tuple[dt.datetime, str]:
    due = one.row.next_attempt_at if one.row else None
    return due or ASKED_FOR_AT, one.sha256


def _narrowed(connection: Connection, query: Select[Any], only: Sequence[str] | None) -> list[Any]:
    """Return what a query on hashes gives, of some hashes alone if there are any named."""
    if only is None:
        return list(connection.execute(query).all())
    return [
        row
        for part in chunks(sorted(set(only)))
        for row in connection.execute(query.where(HASHES.c.sha256.in_(part))).all()
    ]
