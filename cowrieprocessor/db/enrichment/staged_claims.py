"""Claims of a site that stages the change (USE_NEW_ENRICHMENT=0): they are kept in the cache, as are the answers.

No row of any other table is written. A claim stands beside the answer of its source, under `claim:SHA256`, as
`db/staged_candidates.py` says. Back at 1 the cache is replayed without a request, and the claims are removed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    func,
    or_,
    select,
    text,
    update,
)

from cowrieprocessor.db.chunks import chunks
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.enrichment.candidate_cache import candidate_cache_of
from cowrieprocessor.db.enrichment.candidates import Order, Reason, worth_asking
from cowrieprocessor.db.enrichment.claims import TRIES, Claimed, read_claimed
from cowrieprocessor.db.enrichment.clock_skew import correct_cache_skew
from cowrieprocessor.db.enrichment.provider_verdict import VERDICTS
from cowrieprocessor.db.enrichment.queue import ASKED_FOR_AT, MAX_LEASE, MAX_LOST_CLAIMS
from cowrieprocessor.db.enrichment.response_cache import CACHE, CacheEntry, entry_of, providers_in_cache
from cowrieprocessor.db.enrichment.staged_candidates import (
    ASKING,
    ASKING_AGAIN,
    ASKING_BY_HAND,
    BY_HAND,
    CLAIM,
    DONE,
    FAILED,
    IN_PROGRESS,
    CandidateQuery,
    candidate_details,
    claim_is_over,
    new_candidates,
    repeat_candidates,
)
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy
from cowrieprocessor.db.enrichment.verdict_history import HISTORY
from cowrieprocessor.db.models import HASHES

__all__ = [
    "count_replayable",
    "remove_claims",
    "replayable",
    "staged_answer",
    "staged_ask_first",
    "staged_claim",
    "staged_failure",
    "staged_release",
]

MAX_STATUS_CHARS = 32
REMOVED_AT_ONCE = 2_000
"""Claims that are removed in one transaction."""

_PUT = """
    INSERT INTO enrichment_cache (provider, key, status, response, fetched_at, expires_at)
    VALUES (:provider, :key, :status, :response, :now, :until)
    ON CONFLICT (provider, key) DO UPDATE SET status = excluded.status, response = excluded.response,
        fetched_at = excluded.fetched_at, expires_at = excluded.expires_at
    WHERE enrichment_cache.expires_at <= :now OR enrichment_cache.fetched_at > :ahead
    """
_BINDS = (
    bindparam("response", type_=CACHE.c.response.type),
    bindparam("now", type_=CACHE.c.fetched_at.type),
    bindparam("until", type_=CACHE.c.expires_at.type),
    bindparam("ahead", type_=CACHE.c.fetched_at.type),
)
_TAKE = text(_PUT).bindparams(*_BINDS)
_WISH = text(f"{_PUT} OR enrichment_cache.status NOT IN (:asking, :again, :by_hand)").bindparams(*_BINDS)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A hash that may be claimed; `attempts` counts this time, `is_ahead` says that a clock was wrong."""

    sha256: str
    reason: Reason
    attempts: int
    is_ahead: bool


def staged_claim(
    engine: Engine,
    provider: str,
    *,
    limit: int,
    now: dt.datetime,
    lease_s: float,
    policy: Policy,
    earlier: Sequence[str] = (),
    order: Order = "turn",
    only: Sequence[str] | None = None,
) -> list[Claimed]:
    """Claim the next hashes of which the cache has no answer that holds; two processes never get the same.

    Args:
        engine: the database.
        provider: the source.
        limit: how many at most.
        now: the time.
        lease_s: how many seconds they are kept for us; a longer time than LONGEST_LEASE is cut to it.
        policy: which sources are in use, and what settles a hash.
        earlier: sources that can be asked now and have to be, before this one is asked for the first time.
        order: which come first among those never asked about.
        only: these hashes and no others.

    Returns:
        Those that were claimed, in the order in which they are to be asked about.
    """
    if limit <= 0 or (only is not None and not only):
        return []
    until = now + min(dt.timedelta(seconds=lease_s), MAX_LEASE)
    for _ in range(TRIES):
        with read_transaction(engine) as connection:
            question = CandidateQuery(provider, now, policy, providers_in_cache(connection), tuple(earlier), order)
            found = _candidates(connection, engine, question, limit, only)
        claimed = _take(engine, provider, found, now, until)
        if claimed or not found:
            return claimed
    return []


def _candidates(
    connection: Connection, engine: Engine, question: CandidateQuery, limit: int, only: Sequence[str] | None
) -> list[_Candidate]:
    """Return the next hashes in their order; those read ahead are looked at once more."""
    if only is not None:
        return _detailed(connection, question, sorted(set(only)))[:limit]
    found = _ahead(connection, engine, question, "new", new_candidates(question), limit)
    if len(found) < limit:
        found += _ahead(connection, engine, question, "again", repeat_candidates(question), limit - len(found))
    return _detailed(connection, question, found)


def _ahead(
    connection: Connection, engine: Engine, question: CandidateQuery, which: str, query: Select[Any], limit: int
) -> list[str]:
    def read(count: int) -> list[str]:
        return list(connection.scalars(query.limit(count)).all())

    def still(hashes: Sequence[str]) -> set[str]:
        return {
            sha256
            for part in chunks(hashes)
            for sha256 in connection.scalars(query.where(HASHES.c.sha256.in_(part))).all()
        }

    kept = ("staged", which, question.provider, question.policy, question.earlier, question.order)
    return candidate_cache_of(engine, kept).next(limit, read, still)


def _detailed(connection: Connection, question: CandidateQuery, hashes: Sequence[str]) -> list[_Candidate]:
    """Return of some hashes those that are to be asked about, by reason, then in their order."""
    found = [
        _Candidate(
            row["sha256"],
            row["reason"],
            1 if row["reason"] == "expired" else _attempts(row["claim"]) + 1,
            bool(row["is_ahead"]),
        )
        for part in chunks(hashes)
        for row in candidate_details(connection, question, part)
    ]
    place = {reason: number for number, reason in enumerate(("asked-for", "new", "retry", "expired"))}
    return sorted(found, key=lambda one: place[one.reason])


def _take(
    engine: Engine, provider: str, found: Sequence[_Candidate], now: dt.datetime, until: dt.datetime
) -> list[Claimed]:
    """Claim those of some candidates that nobody else has claimed since they were read."""
    if not found:
        return []
    taken = set()
    with write_transaction(engine) as connection:
        for one in sorted(found, key=lambda one: one.sha256):
            values = _claim_values(provider, one.sha256, _asking(one), one.attempts, now, until)
            if connection.execute(_TAKE, values).rowcount == 1:
                taken.add(one.sha256)
        ahead = [one.sha256 for one in found if one.is_ahead]
        if ahead:
            correct_cache_skew(connection, provider, ahead, now)
    with read_transaction(engine) as connection:
        return [read_claimed(connection, one.sha256, one.attempts, one.reason) for one in found if one.sha256 in taken]


def _asking(one: _Candidate) -> str:
    """Return the status under which a hash is claimed: what it becomes if we are killed depends on it."""
    if one.attempts >= MAX_LOST_CLAIMS or one.reason in ("retry", "expired"):
        return ASKING_AGAIN
    return ASKING_BY_HAND if one.reason == "asked-for" else ASKING


def _claim_values(
    provider: str, sha256: str, status: str, attempts: int, now: dt.datetime, until: dt.datetime
) -> dict[str, object]:
    return {
        "provider": provider,
        "key": f"{CLAIM}{sha256}",
        "status": status,
        "response": {"attempts": attempts},
        "now": now,
        "until": until,
        "ahead": now + MAX_LEASE,
    }


def staged_ask_first(connection: Connection, hashes: Sequence[str], providers: Sequence[str], now: dt.datetime) -> None:
    """Have sources asked about hashes whatever the cache has; a claim that names them gets them first.

    Args:
        connection: in a write transaction.
        hashes: those that are not in `file_hashes`, or are never to be asked about, are passed over; so are those that
            are being asked about.
        providers: the sources.
        now: the time.
    """
    in_hand = {"asking": ASKING, "again": ASKING_AGAIN, "by_hand": ASKING_BY_HAND}
    for part in chunks(sorted(set(hashes))):
        known = select(HASHES.c.sha256).where(HASHES.c.sha256.in_(part), worth_asking()).order_by(HASHES.c.sha256)
        for sha256 in connection.scalars(known).all():
            for provider in providers:
                values = _claim_values(provider, sha256, BY_HAND, 0, now, ASKED_FOR_AT)
                connection.execute(_WISH, values | in_hand)


def staged_answer(connection: Connection, provider: str, sha256: str, until: dt.datetime) -> None:
    """Keep that a claimed hash has its answer in the cache, under whatever key, and how long it holds.

    Args:
        connection: in a write transaction.
        provider: the source.
        sha256: the hash.
        until: until when it need not be asked about again.
    """
    done = {"status": DONE, "expires_at": until, "response": {"attempts": 0}}
    connection.execute(update(CACHE).where(*_claim_of(provider, sha256)).values(**done))


def staged_failure(
    engine: Engine, provider: str, sha256: str, *, kind: str, now: dt.datetime, not_before: dt.datetime
) -> None:
    """Keep that no usable answer came, and when the source is asked again.

    Args:
        engine: the database.
        provider: who was asked.
        sha256: the hash, which was claimed.
        kind: one word for counting.
        now: the time.
        not_before: when it is asked again.
    """
    values = {"status": f"{FAILED}:{kind}"[:MAX_STATUS_CHARS], "fetched_at": now, "expires_at": not_before}
    with write_transaction(engine) as connection:
        connection.execute(update(CACHE).where(*_claim_of(provider, sha256)).values(**values))


def staged_release(engine: Engine, provider: str, hashes: Sequence[str]) -> None:
    """Give back hashes that were claimed and not asked about; those that are not claimed any more are left alone."""
    with write_transaction(engine) as connection:
        for sha256 in sorted(set(hashes)):
            mine = (*_claim_of(provider, sha256), CACHE.c.status.in_(IN_PROGRESS))
            row = connection.execute(select(CACHE).where(*mine).with_for_update()).mappings().one_or_none()
            if row is None:
                continue
            attempts = _attempts(row["response"]) - 1
            by_hand = row["status"] == ASKING_BY_HAND
            if row["status"] == ASKING or (attempts <= 0 and not by_hand):
                connection.execute(delete(CACHE).where(*mine))
                continue
            back = {
                "status": BY_HAND if by_hand else f"{FAILED}:other",
                "expires_at": ASKED_FOR_AT if by_hand else row["fetched_at"],
                "response": {"attempts": attempts},
            }
            connection.execute(update(CACHE).where(*mine).values(**back))


def remove_claims(engine: Engine, provider: str, now: dt.datetime) -> int:
    """Remove the claims of a source once its answers are replayed, but those of somebody who is asking.

    Args:
        engine: the database; each transaction is short.
        provider: the source.
        now: the time.

    Returns:
        How many were removed.
    """
    idle = or_(CACHE.c.status.not_in(IN_PROGRESS), claim_is_over(CACHE, now))
    claims = (CACHE.c.provider == provider, CACHE.c.key.startswith(CLAIM), idle)
    removed, after = 0, ""
    while True:
        some = select(CACHE.c.key).where(*claims, CACHE.c.key > after).order_by(CACHE.c.key).limit(REMOVED_AT_ONCE)
        with read_transaction(engine) as connection:
            keys = connection.scalars(some).all()
        if not keys:
            return removed
        with write_transaction(engine) as connection:
            for part in chunks(keys):
                removed += connection.execute(delete(CACHE).where(*claims, CACHE.c.key.in_(part))).rowcount
        after = keys[-1]


def replayable(connection: Connection, provider: str, after_key: str, limit: int) -> list[CacheEntry]:
    """Return the next answers in the cache that the history lacks, about hashes that are in `file_hashes`, by key.

    Args:
        connection: in a transaction; it may read the whole cache of the source, so better not one that writes.
        provider: the source.
        after_key: those behind this key.
        limit: how many at most.
    """
    query = select(CACHE).where(_is_replayable(provider), CACHE.c.key > after_key).order_by(CACHE.c.key).limit(limit)
    return [entry_of(row) for row in connection.execute(query).mappings()]


def count_replayable(connection: Connection, provider: str) -> int:
    """Return how many answers of a source `replayable` would give in all."""
    query = select(func.count()).select_from(CACHE).where(_is_replayable(provider))
    return int(connection.execute(query).scalar_one())


def _is_replayable(provider: str) -> ColumnElement[bool]:
    known = exists().where(HASHES.c.sha256 == CACHE.c.key)
    remembered = exists().where(
        HISTORY.c.sha256 == CACHE.c.key,
        HISTORY.c.provider == CACHE.c.provider,
        HISTORY.c.confirmed_at >= CACHE.c.fetched_at,
    )
    return and_(CACHE.c.provider == provider, CACHE.c.status.in_(VERDICTS), known, ~remembered)


def _claim_of(provider: str, sha256: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return CACHE.c.provider == provider, CACHE.c.key == f"{CLAIM}{sha256}"


def _attempts(response: object) -> int:
    attempts = response.get("attempts") if isinstance(response, dict) else None
    return attempts if isinstance(attempts, int) else 0
