"""Claims: which process queries which provider about which hash next; no two processes claim the same.

Candidates are read without blocking other processes; each is then claimed in a short write transaction if its row of
the queue is still as it was read.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, or_, select, update

from cowrieprocessor.db.chunks import chunks
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.enrichment.candidate_cache import CacheTiming
from cowrieprocessor.db.enrichment.candidate_search import (
    DUE_ROWS,
    Candidate,
    CandidateSearch,
    ClaimRequest,
    search_candidates,
)
from cowrieprocessor.db.enrichment.candidates import (
    SKIP_REASONS,
    Order,
    Reason,
    worth_asking,
)
from cowrieprocessor.db.enrichment.queue import (
    ANSWERED,
    ASKED_FOR_AT,
    FAILED,
    LEASED,
    MAX_LEASE,
    PENDING,
    POLICY,
    QUEUE,
    SKIPPED,
    QueueRow,
    change_row,
    insert_row,
    queue_row,
    remove_row,
)
from cowrieprocessor.db.enrichment.staged_answers import staged_content
from cowrieprocessor.db.enrichment.verdict_aggregation import HASH_SKIPPED, Policy, request_propagation
from cowrieprocessor.db.enrichment.verdict_store import status_before
from cowrieprocessor.db.models import FILES, HASHES

__all__ = [
    "DEFERRED_FOR",
    "Claimed",
    "Order",
    "Reason",
    "ask_first",
    "claim",
    "note_skipped",
    "release",
    "retry_now",
]

URL_SEARCH_ROWS = 200
"""Rows of `files` that are searched for a download URL of a file; popular files have hundreds of thousands."""

TRIES = 20
"""How often other processes may claim all candidates first before a claim returns nothing; each time they progress."""

RETRIED_HASHES = 2_000
"""Hashes that one transaction lets be due."""

DEFERRED_FOR = dt.timedelta(days=7)
"""How long a due row is deferred after another provider's decisive verdict: until then no claim reads it again."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A hash about which only the claiming process queries a provider until the claim ends.

    Attributes:
        sha256: the hash.
        md5: if it is known.
        sha1: if it is known.
        size_bytes: if it is known.
        download_url: one URL that it was downloaded from, as it is stored.
        attempts: consecutive attempts without an answer, this one included.
        reason: asked-for (by hand), new (never queried), retry, expired (the answer has expired).
    """

    sha256: str
    md5: str | None
    sha1: str | None
    size_bytes: int | None
    download_url: str | None
    attempts: int
    reason: Reason


def claim(
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
    due_rows: int = DUE_ROWS,
    cache_timing: CacheTiming | None = None,
) -> list[Claimed]:
    """Claim the next hashes that a provider is queried about; two processes never get the same.

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
        due_rows: due rows of the queue that one search reads.
        cache_timing: of the candidate cache, when this claim creates it.

    Returns:
        The claimed hashes, in the order in which they are to be queried.
    """
    if limit <= 0 or (only is not None and not only):
        return []
    request = ClaimRequest(provider, limit, now, policy, tuple(earlier), order, only, due_rows, cache_timing)
    until = now + min(dt.timedelta(seconds=lease_s), MAX_LEASE)
    tries_left, repeats_only = TRIES, False
    while tries_left:
        with read_transaction(engine) as connection:
            search = search_candidates(connection, engine, request, repeats_only=repeats_only)
        claimed, deferred = _claim_and_defer(engine, request, search, until)
        if claimed or not (search.candidates or search.deferrable):
            return claimed
        repeats_only = bool(deferred)
        tries_left -= not deferred
    return []


def _claim_and_defer(
    engine: Engine, request: ClaimRequest, search: CandidateSearch, until: dt.datetime
) -> tuple[list[Claimed], int]:
    """Claim free candidates and defer rows that need no lookup; return the claims and the number of deferred rows."""
    candidates = list(search.candidates.values())[: request.limit]
    if not candidates and not search.deferrable:
        return [], 0
    with write_transaction(engine) as connection:
        in_key_order = sorted(candidates, key=lambda candidate: candidate.sha256)
        claimed = {
            candidate.sha256 for candidate in in_key_order if _claim(connection, request.provider, candidate, until)
        }
        deferred = _defer(connection, request, search.deferrable)
    with read_transaction(engine) as connection:
        return [
            _read_claimed(connection, candidate, request.now, search.staging)
            for candidate in candidates
            if candidate.sha256 in claimed
        ], deferred


def _defer(connection: Connection, request: ClaimRequest, hashes: Sequence[str]) -> int:
    """Defer due rows that need no lookup, except those that another process has locked; return their number."""
    deferred = 0
    of_provider = QUEUE.c.provider == request.provider
    columns = (QUEUE.c.sha256, QUEUE.c.status, QUEUE.c.priority, QUEUE.c.next_attempt_at)
    for chunk in chunks(sorted(hashes)):
        # Status and due time are checked here, not in the query: with them the database would scan all due rows.
        unlocked = select(*columns).where(of_provider, QUEUE.c.sha256.in_(chunk)).order_by(QUEUE.c.sha256)
        due = [
            row.sha256
            for row in connection.execute(unlocked.with_for_update(skip_locked=True))
            if row.status in (ANSWERED, FAILED) and not row.priority and row.next_attempt_at <= request.now
        ]
        if due:
            values = {"next_attempt_at": request.now + DEFERRED_FOR}
            statement = update(QUEUE).where(of_provider, QUEUE.c.sha256.in_(due)).values(**values)
            deferred += connection.execute(statement).rowcount
    return deferred


def release(engine: Engine, provider: str, hashes: Sequence[str]) -> None:
    """Return claimed hashes that were not queried to the state they had before the claim.

    Args:
        engine: the database.
        provider: the provider.
        hashes: the hashes; those that are no longer claimed are left unchanged.
    """
    with write_transaction(engine) as connection:
        for sha256 in sorted(set(hashes)):
            row = queue_row(connection, sha256, provider)
            if row is None or row.status != LEASED:
                continue
            attempts = max(row.attempts - 1, 0)
            status = status_before(connection, row)
            if status == PENDING and not row.priority:
                remove_row(connection, sha256, provider)
            else:
                values = {"status": status, "attempts": attempts, "leased_until": None}
                change_row(connection, sha256, provider, values)


def retry_now(engine: Engine, provider: str, kinds: Sequence[str] | None, now: dt.datetime) -> None:
    """Have a provider queried again at once about hashes whose last lookup failed.

    Args:
        engine: the database; each transaction is short.
        provider: the provider.
        kinds: the kinds of failure; None for all.
        now: the current time.
    """
    failed = [QUEUE.c.provider == provider, QUEUE.c.status == FAILED, QUEUE.c.next_attempt_at > now]
    if kinds is not None:
        failed.append(or_(*(QUEUE.c.last_error.startswith(f"{kind}:", autoescape=True) for kind in kinds)))
    after = ""
    while True:
        query = select(QUEUE.c.sha256).where(*failed, QUEUE.c.sha256 > after).order_by(QUEUE.c.sha256)
        with read_transaction(engine) as connection:
            hashes = connection.scalars(query.limit(RETRIED_HASHES)).all()
        if not hashes:
            return
        with write_transaction(engine) as connection:
            for chunk in chunks(hashes):
                due = update(QUEUE).where(*failed, QUEUE.c.sha256.in_(chunk))
                connection.execute(due.values(next_attempt_at=now))
        after = hashes[-1]


def ask_first(connection: Connection, hashes: Sequence[str], providers: Sequence[str]) -> None:
    """Have providers queried about hashes before all others, whatever is known about them.

    Args:
        connection: in a write transaction.
        hashes: those that are not in `file_hashes` or are skipped are ignored.
        providers: the providers.
    """
    for chunk in chunks(sorted(set(hashes))):
        known = select(HASHES.c.sha256).where(HASHES.c.sha256.in_(chunk), worth_asking()).order_by(HASHES.c.sha256)
        for sha256 in connection.scalars(known).all():
            for provider in providers:
                row = QueueRow(sha256, provider, PENDING, next_attempt_at=ASKED_FOR_AT, priority=1)
                if not insert_row(connection, row):
                    change_row(connection, sha256, provider, {"priority": 1, "next_attempt_at": ASKED_FOR_AT})


def note_skipped(connection: Connection) -> None:
    """Record in the queue why no provider is queried about the empty file and a lone newline.

    Args:
        connection: in a write transaction.
    """
    for sha256, reason in sorted(SKIP_REASONS.items()):
        columns = (HASHES.c.enrichment_status, HASHES.c.updated_at)
        row = connection.execute(select(*columns).where(HASHES.c.sha256 == sha256).with_for_update()).first()
        if row is None:
            continue
        insert_row(connection, QueueRow(sha256, POLICY, SKIPPED, last_error=reason))
        if row.enrichment_status != HASH_SKIPPED:
            skipped = {"enrichment_status": HASH_SKIPPED, "updated_at": row.updated_at}
            connection.execute(update(HASHES).where(HASHES.c.sha256 == sha256).values(skipped))
            request_propagation(connection, sha256, row.updated_at)


def _read_claimed(connection: Connection, candidate: Candidate, now: dt.datetime, staging: Sequence[str]) -> Claimed:
    """Return a claimed hash with what providers may need to know about it."""
    sha256, attempts = candidate.sha256, candidate.row.attempts + 1 if candidate.row else 1
    columns = (HASHES.c.md5, HASHES.c.sha1, HASHES.c.size_bytes)
    row = connection.execute(select(*columns).where(HASHES.c.sha256 == sha256)).one()
    content = {name: value for name, value in row._mapping.items() if value is not None}
    content = {**staged_content(connection, sha256, staging, now), **content}
    searched = select(FILES.c.download_url).where(FILES.c.shasum == sha256).limit(URL_SEARCH_ROWS).subquery()
    url = connection.scalar(select(searched.c.download_url).where(searched.c.download_url.is_not(None)).limit(1))
    md5, sha1, size_bytes = (content.get(name) for name in ("md5", "sha1", "size_bytes"))
    return Claimed(sha256, md5, sha1, size_bytes, url, attempts, candidate.reason)


def _claim(connection: Connection, provider: str, candidate: Candidate, until: dt.datetime) -> bool:
    """Claim a candidate if its row is unchanged since the search; return whether it is claimed."""
    row = candidate.row
    if row is None:
        return insert_row(connection, QueueRow(candidate.sha256, provider, LEASED, attempts=1, leased_until=until))
    unchanged = (
        QUEUE.c.status == row.status,
        QUEUE.c.attempts == row.attempts,
        QUEUE.c.leased_until.is_not_distinct_from(row.leased_until),
        QUEUE.c.next_attempt_at.is_not_distinct_from(row.next_attempt_at),
    )
    values = {"status": LEASED, "attempts": QUEUE.c.attempts + 1, "leased_until": until}
    return change_row(connection, candidate.sha256, provider, values, *unchanged)
