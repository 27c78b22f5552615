"""Claims of a site that stages the change (USE_NEW_ENRICHMENT=0): they are kept in the cache, as are the answers.

No row of any other table is written. A claim stands beside the answer of its source, under `claim:SHA256`: `asking`
until the lease ends, `failed:KIND` until the next attempt, `answered` as long as the answer holds. Back at 1 the cache
is replayed without a request.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Select,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    text,
    update,
)

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.enrichment_cache import CACHE, NAMED_AT_ONCE, CacheEntry, entry_of
from cowrieprocessor.db.enrichment_candidates import Order, Reason, in_order, worth_asking
from cowrieprocessor.db.enrichment_claims import TRIES, Claimed, claimed_of
from cowrieprocessor.db.enrichment_queue import QUEUE, REFUSED
from cowrieprocessor.db.findings import VERDICTS
from cowrieprocessor.db.judgement import Policy
from cowrieprocessor.db.knowledge import HASHES
from cowrieprocessor.db.verdict_history import HISTORY

__all__ = [
    "count_replayable",
    "replayable",
    "staged_answer",
    "staged_claim",
    "staged_failure",
    "staged_release",
]

CLAIM = "claim:"
ASKING, DONE, FAILED = "asking", "answered", "failed"
MAX_STATUS_CHARS = 32

_ANSWER = CACHE.alias("answer")
_CLAIMED = CACHE.alias("claim")
_REASONS: tuple[Reason, ...] = ("new", "retry", "expired")

_INSERT = text(
    """
    INSERT INTO enrichment_cache (provider, key, status, response, fetched_at, expires_at)
    VALUES (:provider, :key, :status, :response, :now, :until)
    ON CONFLICT (provider, key) DO UPDATE SET status = excluded.status, response = excluded.response,
        fetched_at = excluded.fetched_at, expires_at = excluded.expires_at
    WHERE enrichment_cache.expires_at <= :now
    """
).bindparams(
    bindparam("response", type_=CACHE.c.response.type),
    bindparam("now", type_=CACHE.c.fetched_at.type),
    bindparam("until", type_=CACHE.c.expires_at.type),
)


@dataclass(frozen=True, slots=True)
class _Candidate:
    sha256: str
    reason: Reason
    attempts: int


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
        lease_s: how many seconds they are kept for us.
        policy: which sources are in use, and what settles a hash.
        earlier: sources that can be asked now and have to be, before this one is asked for the first time.
        order: which come first among those never asked about.
        only: these hashes and no others.

    Returns:
        Those that were claimed, in the order in which they are to be asked about.
    """
    if limit <= 0 or (only is not None and not only):
        return []
    for _ in range(TRIES):
        with read_transaction(engine) as connection:
            found = list(_candidates(connection, provider, limit, now, policy, earlier, order, only))
        claimed = _take(engine, provider, found, now, now + dt.timedelta(seconds=lease_s))
        if claimed or not found:
            return claimed
    return []


def _take(
    engine: Engine, provider: str, found: Sequence[_Candidate], now: dt.datetime, until: dt.datetime
) -> list[Claimed]:
    """Claim those of some candidates that nobody else has claimed since they were read."""
    if not found:
        return []
    taken = set()
    with write_transaction(engine) as connection:
        for one in sorted(found, key=lambda one: one.sha256):
            values = {"provider": provider, "key": f"{CLAIM}{one.sha256}", "status": ASKING, "now": now, "until": until}
            if connection.execute(_INSERT, values | {"response": {"attempts": one.attempts}}).rowcount == 1:
                taken.add(one.sha256)
    with read_transaction(engine) as connection:
        return [claimed_of(connection, one.sha256, one.attempts, one.reason) for one in found if one.sha256 in taken]


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
            mine = (*_claim_of(provider, sha256), CACHE.c.status == ASKING)
            row = connection.execute(select(CACHE).where(*mine).with_for_update()).mappings().one_or_none()
            if row is None:
                continue
            attempts = _attempts(row["response"]) - 1
            if attempts <= 0:
                connection.execute(delete(CACHE).where(*mine))
            else:
                back = {
                    "status": f"{FAILED}:other",
                    "expires_at": row["fetched_at"],
                    "response": {"attempts": attempts},
                }
                connection.execute(update(CACHE).where(*mine).values(**back))


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


def _candidates(
    connection: Connection,
    provider: str,
    limit: int,
    now: dt.datetime,
    policy: Policy,
    earlier: Sequence[str],
    order: Order,
    only: Sequence[str] | None,
) -> Iterator[_Candidate]:
    query = _query(provider, limit, now, policy, earlier, order)
    left = limit
    for part in _runs(only):
        asked = query if part is None else query.where(HASHES.c.sha256.in_(part))
        for row in connection.execute(asked.limit(left)).mappings():
            left -= 1
            reason = _REASONS[row["place"]]
            yield _Candidate(row["sha256"], reason, _attempts(row["response"]) + 1 if reason == "retry" else 1)
        if left <= 0:
            return


def _query(
    provider: str, limit: int, now: dt.datetime, policy: Policy, earlier: Sequence[str], order: Order
) -> Select[Any]:
    """Return the query for hashes that a source is to be asked about: never asked ones, retries, expired answers."""
    tried = and_(
        _CLAIMED.c.key.is_not(None),
        _CLAIMED.c.status != DONE,
        or_(_ANSWER.c.key.is_(None), _CLAIMED.c.fetched_at > _ANSWER.c.fetched_at),
    )
    answered = or_(_ANSWER.c.key.is_not(None), _CLAIMED.c.status == DONE)
    place = case((tried, 1), (answered, 2), else_=0).label("place")
    refused = exists().where(QUEUE.c.sha256 == HASHES.c.sha256, QUEUE.c.provider == provider, QUEUE.c.status == REFUSED)
    joined = HASHES.outerjoin(
        _ANSWER, and_(_ANSWER.c.provider == provider, _ANSWER.c.key == HASHES.c.sha256)
    ).outerjoin(_CLAIMED, and_(_CLAIMED.c.provider == provider, _CLAIMED.c.key == literal(CLAIM) + HASHES.c.sha256))
    over = [or_(one.c.expires_at.is_(None), one.c.expires_at <= now) for one in (_ANSWER, _CLAIMED)]
    asked = [or_(tried, answered, _was_asked(name, now)) for name in earlier]
    return (
        select(HASHES.c.sha256, _CLAIMED.c.response, place)
        .select_from(joined)
        .where(worth_asking(), ~refused, *over, *asked, ~_settled(provider, policy, now))
        .order_by(place, *in_order(order))
        .limit(limit)
    )


def _was_asked(provider: str, now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition on `file_hashes` that a source was asked about it, and is not being asked."""
    answer, claim = CACHE.alias("earlier_answer"), CACHE.alias("earlier_claim")
    return or_(
        exists().where(answer.c.provider == provider, answer.c.key == HASHES.c.sha256),
        exists().where(
            claim.c.provider == provider,
            claim.c.key == literal(CLAIM) + HASHES.c.sha256,
            or_(claim.c.status != ASKING, claim.c.expires_at <= now),
        ),
    )


def _settled(provider: str, policy: Policy, now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition on `file_hashes` that another source said enough, by the cache alone.

    A source in use asks again by itself and settles a hash also when its answer is old; only those before this one in
    the order do, or two would wait for each other.
    """
    said = CACHE.alias("settling")
    before = [name for name in policy.outrank(provider) if name != provider]
    return exists().where(
        said.c.key == HASHES.c.sha256,
        said.c.provider != provider,
        said.c.status.in_(sorted(policy.settled_by)),
        or_(said.c.provider.in_(before), said.c.expires_at > now),
    )


def _claim_of(provider: str, sha256: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return CACHE.c.provider == provider, CACHE.c.key == f"{CLAIM}{sha256}"


def _attempts(response: object) -> int:
    attempts = response.get("attempts") if isinstance(response, dict) else None
    return attempts if isinstance(attempts, int) else 0


def _runs(only: Sequence[str] | None) -> Iterator[Sequence[str] | None]:
    """Yield the hashes that a run is bound to in parts that one statement can name; None for no bound."""
    if only is None:
        yield None
        return
    ordered = sorted(set(only))
    for start in range(0, len(ordered), NAMED_AT_ONCE):
        yield ordered[start : start + NAMED_AT_ONCE]
