"""Claims of a site that stages the change (USE_NEW_ENRICHMENT=0): stored in the cache, as are the answers.

No row of any other table is written. A claim is stored under `claim:SHA256`, next to its provider's answer; see
`db/enrichment/staged_candidates.py`. Back at 1 the cache is replayed without a request, and the claims are removed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    Select,
    bindparam,
    delete,
    select,
    text,
    update,
)

from cowrieprocessor.db.chunks import chunks
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.enrichment.candidate_cache import CacheTiming, CandidateCache, candidate_cache_of
from cowrieprocessor.db.enrichment.candidates import Order, Reason, worth_asking
from cowrieprocessor.db.enrichment.claims import TRIES, Claimed, read_claimed
from cowrieprocessor.db.enrichment.clock_skew import correct_cache_skew
from cowrieprocessor.db.enrichment.queue import ASKED_FOR_AT, MAX_LEASE, MAX_LOST_CLAIMS
from cowrieprocessor.db.enrichment.response_cache import CACHE, providers_in_cache
from cowrieprocessor.db.enrichment.staged_candidates import (
    ASKING,
    ASKING_AGAIN,
    ASKING_BY_HAND,
    BY_HAND,
    CLAIM,
    DEFERRED,
    DONE,
    DONE_OTHER,
    FAILED,
    IN_PROGRESS,
    LIMITED,
    CandidateScope,
    candidate_details,
    new_candidates,
    repeat_candidates,
)
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy
from cowrieprocessor.db.models import HASHES

__all__ = [
    "note_staged_answer",
    "staged_answer",
    "staged_ask_first",
    "staged_claim",
    "staged_defer",
    "staged_failure",
    "staged_rate_limit",
    "staged_release",
    "staged_retry_now",
]

MAX_STATUS_CHARS = 32
RETRIED_CLAIMS = 2_000
"""Claims that one transaction lets be due."""

_INSERT = """
    INSERT INTO enrichment_cache (provider, key, status, response, fetched_at, expires_at)
    VALUES (:provider, :key, :status, :response, :now, :until)
    """
_PUT = f"""{_INSERT}
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
_CLAIM = text(_PUT).bindparams(*_BINDS)
_IS_IDLE = "enrichment_cache.status NOT IN (:asking, :again, :asking_by_hand)"
_ASK_FIRST = text(f"{_PUT} OR {_IS_IDLE}").bindparams(*_BINDS)
_NOTE = text(
    f"""{_INSERT}
    ON CONFLICT (provider, key) DO UPDATE SET status = excluded.status, response = excluded.response,
        fetched_at = excluded.fetched_at, expires_at = excluded.expires_at
    WHERE excluded.expires_at > :now
        AND ({_IS_IDLE} OR enrichment_cache.expires_at <= :now OR enrichment_cache.fetched_at > :ahead)
        AND enrichment_cache.status <> :asking_by_hand
        AND enrichment_cache.status <> :by_hand AND enrichment_cache.status NOT LIKE :by_hand_after
        AND (enrichment_cache.status <> :status OR enrichment_cache.expires_at < excluded.expires_at)
    """
).bindparams(*_BINDS)
_STATUSES = {"asking": ASKING, "again": ASKING_AGAIN, "asking_by_hand": ASKING_BY_HAND}


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A hash that may be claimed; `attempts` includes this one, `is_ahead` tells that a time is clock-skewed.

    `before` is the outcome before the claim, as `_outcome` returns it.
    """

    sha256: str
    reason: Reason
    attempts: int
    before: str | None
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
    cache_timing: CacheTiming | None = None,
) -> list[Claimed]:
    """Claim the next hashes without a current answer in the cache; two processes never get the same.

    Args:
        engine: the database.
        provider: the provider.
        limit: largest number of hashes.
        now: the current time.
        lease_s: seconds until the claim ends; at most MAX_LEASE.
        policy: the providers in use and the decisive verdicts.
        earlier: providers that are available now and must be queried about a new hash first.
        order: the order of never-queried hashes.
        only: claim no hashes but these.
        cache_timing: of the candidate cache, when this claim creates it.

    Returns:
        The claimed hashes, in the order in which they are to be queried.
    """
    if limit <= 0 or (only is not None and not only):
        return []
    until = now + min(dt.timedelta(seconds=lease_s), MAX_LEASE)
    for _ in range(TRIES):
        with read_transaction(engine) as connection:
            scope = CandidateScope(provider, now, policy, providers_in_cache(connection), tuple(earlier), order)
            if only is not None:
                candidates = _with_details(connection, scope, sorted(set(only)))[:limit]
            else:
                hashes = _search(connection, engine, scope, limit, cache_timing)
                candidates = _with_details(connection, scope, hashes)
        claimed = _claim(engine, provider, candidates, now, until)
        if claimed or not candidates:
            return claimed
    return []


def _search(
    connection: Connection, engine: Engine, scope: CandidateScope, limit: int, timing: CacheTiming | None
) -> list[str]:
    """Return the next hashes in their order, cached ones included."""
    hashes: list[str] = []
    for kind, query in (("new", new_candidates), ("again", repeat_candidates)):
        if len(hashes) < limit:
            search_key = ("staged", kind, scope.provider, scope.policy, scope.earlier, scope.order)
            cache = candidate_cache_of(engine, search_key, timing)
            hashes += _next_cached(connection, cache, query(scope), limit - len(hashes))
    return hashes


def _next_cached(connection: Connection, cache: CandidateCache, query: Select[Any], limit: int) -> list[str]:
    def search(count: int) -> list[str]:
        return list(connection.scalars(query.limit(count)).all())

    def still_valid(hashes: Sequence[str]) -> set[str]:
        return {
            sha256
            for chunk in chunks(hashes)
            for sha256 in connection.scalars(query.where(HASHES.c.sha256.in_(chunk))).all()
        }

    return cache.next(limit, search, still_valid)


def _with_details(connection: Connection, scope: CandidateScope, hashes: Sequence[str]) -> list[_Candidate]:
    """Return those of some hashes that are to be queried, by reason, then in their order."""
    candidates = [
        _Candidate(
            row["sha256"],
            row["reason"],
            1 if row["reason"] == "expired" else _attempts(row["claim"]) + 1,
            _outcome(row["claim_status"], row["claim"]),
            bool(row["is_ahead"]),
        )
        for chunk in chunks(hashes)
        for row in candidate_details(connection, scope, chunk)
    ]
    rank = {reason: number for number, reason in enumerate(("asked-for", "new", "retry", "expired"))}
    return sorted(candidates, key=lambda candidate: rank[candidate.reason])


def _claim(
    engine: Engine, provider: str, candidates: Sequence[_Candidate], now: dt.datetime, until: dt.datetime
) -> list[Claimed]:
    """Claim those candidates that no other process has claimed since they were read."""
    if not candidates:
        return []
    claimed = set()
    with write_transaction(engine) as connection:
        for candidate in sorted(candidates, key=lambda candidate: candidate.sha256):
            status = _claim_status(candidate)
            response = {"attempts": candidate.attempts, "before": candidate.before}
            values = _claim_values(provider, candidate.sha256, status, response, now, until)
            if connection.execute(_CLAIM, values).rowcount == 1:
                claimed.add(candidate.sha256)
        skewed = [candidate.sha256 for candidate in candidates if candidate.is_ahead]
        if skewed:
            correct_cache_skew(connection, provider, skewed, now)
    with read_transaction(engine) as connection:
        return [
            read_claimed(connection, candidate.sha256, candidate.attempts, candidate.reason)
            for candidate in candidates
            if candidate.sha256 in claimed
        ]


def _claim_status(candidate: _Candidate) -> str:
    """Return the status of a candidate's claim, which decides what the hash becomes if this process is killed."""
    if candidate.attempts >= MAX_LOST_CLAIMS or candidate.reason in ("retry", "expired"):
        return ASKING_AGAIN
    return ASKING_BY_HAND if candidate.reason == "asked-for" else ASKING


def _claim_values(
    provider: str, sha256: str, status: str, response: Mapping[str, object], now: dt.datetime, until: dt.datetime
) -> dict[str, object]:
    return {
        "provider": provider,
        "key": f"{CLAIM}{sha256}",
        "status": status,
        "response": {name: value for name, value in response.items() if value is not None},
        "now": now,
        "until": until,
        "ahead": now + MAX_LEASE,
    }


def staged_ask_first(connection: Connection, hashes: Sequence[str], providers: Sequence[str], now: dt.datetime) -> None:
    """Have providers queried about hashes first, whatever the cache has; the next claim that names them gets them.

    Args:
        connection: in a write transaction.
        hashes: those that are not in `file_hashes`, are skipped, or are claimed now, are ignored.
        providers: the providers.
        now: the current time.
    """
    for chunk in chunks(sorted(set(hashes))):
        known = select(HASHES.c.sha256).where(HASHES.c.sha256.in_(chunk), worth_asking()).order_by(HASHES.c.sha256)
        for sha256 in connection.scalars(known).all():
            for provider in providers:
                row = connection.execute(select(CACHE).where(*_is_claim(provider, sha256))).mappings().one_or_none()
                status = _by_hand(_outcome(row["status"], row["response"]) if row else None)
                values = _claim_values(provider, sha256, status, {"attempts": 0}, now, ASKED_FOR_AT)
                connection.execute(_ASK_FIRST, values | _STATUSES)


def staged_answer(connection: Connection, provider: str, sha256: str, cache_key: str, until: dt.datetime) -> None:
    """Record that a claimed hash has an answer in the cache, and when it expires.

    Args:
        connection: in a write transaction.
        provider: the provider.
        sha256: the hash.
        cache_key: the key of the answer.
        until: when the answer expires.
    """
    _end_claim(connection, provider, sha256, DONE if cache_key == sha256 else DONE_OTHER, until)


def staged_defer(connection: Connection, provider: str, sha256: str, until: dt.datetime) -> None:
    """Record that a provider cannot be queried about a claimed hash yet, and when that may change.

    Args:
        connection: in a write transaction.
        provider: the provider.
        sha256: the hash.
        until: when it may become possible.
    """
    _end_claim(connection, provider, sha256, DEFERRED, until)


def note_staged_answer(
    connection: Connection, provider: str, sha256: str, now: dt.datetime, until: dt.datetime
) -> None:
    """Record that the cache got an answer about a hash that this process has not claimed.

    A claim in progress or by hand stays; nor does an answer that has expired end a failure.

    Args:
        connection: in a write transaction.
        provider: the provider that answered.
        sha256: the hash.
        now: the current time.
        until: when the answer expires.
    """
    values = _claim_values(provider, sha256, DONE, {"attempts": 0}, now, until)
    connection.execute(_NOTE, values | _STATUSES | {"by_hand": BY_HAND, "by_hand_after": f"{BY_HAND}:%"})


def staged_failure(
    engine: Engine, provider: str, sha256: str, *, kind: str, now: dt.datetime, not_before: dt.datetime
) -> None:
    """Record that no usable answer came, and when the lookup is retried.

    Args:
        engine: the database.
        provider: the provider that was queried.
        sha256: the hash, which was claimed.
        kind: one word, for statistics.
        now: the current time.
        not_before: when the lookup is retried.
    """
    values = {"status": f"{FAILED}:{kind}"[:MAX_STATUS_CHARS], "fetched_at": now, "expires_at": not_before}
    with write_transaction(engine) as connection:
        connection.execute(update(CACHE).where(*_is_claim(provider, sha256)).values(**values))


def staged_rate_limit(engine: Engine, provider: str, sha256: str, now: dt.datetime) -> None:
    """Record that a provider wanted fewer requests; a hash without a first answer or failure keeps its place.

    Args:
        engine: the database.
        provider: the provider.
        sha256: the hash, which was claimed.
        now: the current time.
    """
    with write_transaction(engine) as connection:
        row = _in_progress(connection, provider, sha256)
        if row is not None and _has_no_outcome(row):
            status = _by_hand(LIMITED) if row["status"] == ASKING_BY_HAND else LIMITED
            until = ASKED_FOR_AT if row["status"] == ASKING_BY_HAND else now
            values = {"status": status, "response": {"attempts": 0}, "fetched_at": now, "expires_at": until}
            connection.execute(update(CACHE).where(*_is_claim(provider, sha256)).values(**values))
        elif row is not None:
            _release(connection, provider, sha256, row)


def staged_release(engine: Engine, provider: str, hashes: Sequence[str]) -> None:
    """Release claimed hashes that were not queried; those that are no longer claimed are left unchanged."""
    with write_transaction(engine) as connection:
        for sha256 in sorted(set(hashes)):
            row = _in_progress(connection, provider, sha256)
            if row is not None:
                _release(connection, provider, sha256, row)


def _in_progress(connection: Connection, provider: str, sha256: str) -> RowMapping | None:
    """Return a claim that is in progress, locked until the transaction ends."""
    claim = (*_is_claim(provider, sha256), CACHE.c.status.in_(IN_PROGRESS))
    return connection.execute(select(CACHE).where(*claim).with_for_update()).mappings().one_or_none()


def _release(connection: Connection, provider: str, sha256: str, row: RowMapping) -> None:
    """Let a claim in progress be what it was before, and due."""
    attempts, before = _attempts(row["response"]) - 1, _outcome(row["status"], row["response"])
    by_hand = row["status"] == ASKING_BY_HAND
    if before is None and not by_hand:
        connection.execute(delete(CACHE).where(*_is_claim(provider, sha256)))
        return
    values = {
        "status": _by_hand(before) if by_hand else before,
        "expires_at": ASKED_FOR_AT if by_hand else row["fetched_at"],
        "response": {"attempts": attempts},
    }
    connection.execute(update(CACHE).where(*_is_claim(provider, sha256)).values(**values))


def _has_no_outcome(row: RowMapping) -> bool:
    """Return whether a provider had neither answered nor failed before a claim in progress."""
    before = _outcome(row["status"], row["response"])
    return before in (LIMITED, DEFERRED) or (before is None and row["status"] != ASKING_AGAIN)


def staged_retry_now(engine: Engine, provider: str, kinds: Sequence[str] | None, now: dt.datetime) -> None:
    """Have a provider queried again at once about hashes whose last lookup failed.

    Args:
        engine: the database; each transaction is short.
        provider: the provider.
        kinds: the kinds of failure; None for all.
        now: the current time.
    """
    failed = [CACHE.c.provider == provider, CACHE.c.key.startswith(CLAIM), CACHE.c.expires_at > now]
    if kinds is None:
        failed.append(CACHE.c.status.startswith(f"{FAILED}:"))
    else:
        failed.append(CACHE.c.status.in_([f"{FAILED}:{kind}"[:MAX_STATUS_CHARS] for kind in kinds]))
    after = ""
    while True:
        query = select(CACHE.c.key).where(*failed, CACHE.c.key > after).order_by(CACHE.c.key).limit(RETRIED_CLAIMS)
        with read_transaction(engine) as connection:
            keys = connection.scalars(query).all()
        if not keys:
            return
        with write_transaction(engine) as connection:
            for chunk in chunks(keys):
                connection.execute(update(CACHE).where(*failed, CACHE.c.key.in_(chunk)).values(expires_at=now))
        after = keys[-1]


def _end_claim(connection: Connection, provider: str, sha256: str, status: str, until: dt.datetime) -> None:
    values = {"status": status, "expires_at": until, "response": {"attempts": 0}}
    connection.execute(update(CACHE).where(*_is_claim(provider, sha256)).values(**values))


def _is_claim(provider: str, sha256: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return CACHE.c.provider == provider, CACHE.c.key == f"{CLAIM}{sha256}"


def _by_hand(before: str | None) -> str:
    """Return the status of an idle claim by hand after an outcome."""
    return BY_HAND if before is None else f"{BY_HAND}:{before}"[:MAX_STATUS_CHARS]


def _outcome(status: str | None, response: object) -> str | None:
    """Return the last outcome that a claim has, or had when it began; None if there is none."""
    if status in IN_PROGRESS:
        before = response.get("before") if isinstance(response, dict) else None
        if before is None and status == ASKING_AGAIN and _attempts(response) > 1:
            return f"{FAILED}:other"  # its processes were killed
        return before if isinstance(before, str) else None
    outcome = (status or "").removeprefix(BY_HAND).removeprefix(":")
    return outcome or None


def _attempts(response: object) -> int:
    attempts = response.get("attempts") if isinstance(response, dict) else None
    return attempts if isinstance(attempts, int) else 0
