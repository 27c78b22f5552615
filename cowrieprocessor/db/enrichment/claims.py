"""Claims: who asks which source about which hash next, so that no two ever ask the same.

Candidates are read beside everybody else; each is then taken in a short write transaction, if it still is what it was.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, select, update

from cowrieprocessor.db.chunks import chunks
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.enrichment.candidate_search import Candidate, CandidateSearch, ClaimRequest, search_candidates
from cowrieprocessor.db.enrichment.candidates import (
    SKIP_REASONS,
    Order,
    Reason,
    worth_asking,
)
from cowrieprocessor.db.enrichment.clock_skew import correct_skew
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
from cowrieprocessor.db.enrichment.verdict_aggregation import HASH_SKIPPED, Policy, request_propagation
from cowrieprocessor.db.enrichment.verdict_history import HISTORY
from cowrieprocessor.db.models import FILES, HASHES

__all__ = [
    "DEFERRED_FOR",
    "Claimed",
    "Order",
    "Reason",
    "ask_first",
    "claim",
    "note_skipped",
    "read_claimed",
    "release",
]

ROWS_LOOKED_AT = 200
"""Rows of `files` in which an address of a file is looked for; popular files have hundreds of thousands."""

TRIES = 20
"""How often others may be faster before a claim comes back with nothing; each time they got on."""

DEFERRED_FOR = dt.timedelta(days=7)
"""When a row that was due and is settled by another source is looked at again: until then no claim walks past it."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A hash that a source is to be asked about, by nobody else until the claim ends.

    Attributes:
        sha256: the hash.
        md5: if it is known.
        sha1: if it is known.
        size_bytes: if it is known.
        download_url: one address that it was downloaded from, as it is stored.
        attempts: how often in a row it was asked without an answer, this time included.
        reason: asked-for (by hand), new (never asked), retry, expired (the answer holds no longer).
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
) -> list[Claimed]:
    """Claim the next hashes that a source is to be asked about; two processes never get the same.

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
    wanted = ClaimRequest(provider, limit, now, policy, tuple(earlier), order, only)
    until = now + min(dt.timedelta(seconds=lease_s), MAX_LEASE)
    tries, is_first = TRIES, True
    while tries:
        with read_transaction(engine) as connection:
            look = search_candidates(connection, engine, wanted, again_only=not is_first)
        if look.ahead:
            correct_skew(engine, provider, look.ahead, now)  # the next look finds them due
            if not look.found:
                is_first = False
                continue
        claimed, moved = _claim_of(engine, wanted, look, until)
        if claimed or not (look.found or look.passed):
            return claimed
        is_first = not moved
        tries -= not moved
    return []


def _claim_of(
    engine: Engine, wanted: ClaimRequest, look: CandidateSearch, until: dt.datetime
) -> tuple[list[Claimed], int]:
    """Claim what nobody else has claimed since, and put off what nobody is to ask about; return how many those were."""
    found = list(look.found.values())[: wanted.limit]
    if not found and not look.passed:
        return [], 0
    with write_transaction(engine) as connection:
        in_key_order = sorted(found, key=lambda one: one.sha256)
        taken = {one.sha256 for one in in_key_order if _take(connection, wanted.provider, one, until)}
        moved = _put_off(connection, wanted, look.passed)
    with read_transaction(engine) as connection:
        claimed = [
            read_claimed(connection, one.sha256, (one.row.attempts if one.row else 0) + 1, one.reason)
            for one in found
            if one.sha256 in taken
        ]
    return claimed, moved


def _put_off(connection: Connection, wanted: ClaimRequest, hashes: Sequence[str]) -> int:
    """Have rows that are due and settled looked at again later; those that somebody else holds are left to him."""
    moved = 0
    mine = QUEUE.c.provider == wanted.provider
    columns = (QUEUE.c.sha256, QUEUE.c.status, QUEUE.c.priority, QUEUE.c.next_attempt_at)
    for part in chunks(sorted(hashes)):
        # What else is asked of them is looked at here: by it the database would find them among all that are due.
        free = select(*columns).where(mine, QUEUE.c.sha256.in_(part)).order_by(QUEUE.c.sha256)
        due = [
            row.sha256
            for row in connection.execute(free.with_for_update(skip_locked=True))
            if row.status in (ANSWERED, FAILED) and not row.priority and row.next_attempt_at <= wanted.now
        ]
        if due:
            later = {"next_attempt_at": wanted.now + DEFERRED_FOR}
            moved += connection.execute(update(QUEUE).where(mine, QUEUE.c.sha256.in_(due)).values(**later)).rowcount
    return moved


def release(engine: Engine, provider: str, hashes: Sequence[str]) -> None:
    """Give back hashes that were claimed and not asked about: as they were before.

    Args:
        engine: the database.
        provider: the source.
        hashes: the hashes; those that are not claimed any more are left alone.
    """
    with write_transaction(engine) as connection:
        for sha256 in sorted(set(hashes)):
            row = queue_row(connection, sha256, provider)
            if row is None or row.status != LEASED:
                continue
            attempts = max(row.attempts - 1, 0)
            status = _status_before(connection, row)
            if status == PENDING and not row.priority:
                remove_row(connection, sha256, provider)
            else:
                back = {"status": status, "attempts": attempts, "leased_until": None}
                change_row(connection, sha256, provider, back)


def ask_first(connection: Connection, hashes: Sequence[str], providers: Sequence[str]) -> None:
    """Have sources asked about hashes before everything else, whatever is known of them.

    Args:
        connection: in a write transaction.
        hashes: those that are not in `file_hashes`, or are never to be asked about, are passed over.
        providers: the sources.
    """
    for part in chunks(sorted(set(hashes))):
        known = select(HASHES.c.sha256).where(HASHES.c.sha256.in_(part), worth_asking()).order_by(HASHES.c.sha256)
        for sha256 in connection.scalars(known).all():
            for provider in providers:
                row = QueueRow(sha256, provider, PENDING, next_attempt_at=ASKED_FOR_AT, priority=1)
                if not insert_row(connection, row):
                    change_row(connection, sha256, provider, {"priority": 1, "next_attempt_at": ASKED_FOR_AT})


def note_skipped(connection: Connection) -> None:
    """Say in the queue of the empty file and of a lone newline why no source is ever asked about them.

    Args:
        connection: in a write transaction.
    """
    for sha256, why in sorted(SKIP_REASONS.items()):
        columns = (HASHES.c.enrichment_status, HASHES.c.updated_at)
        row = connection.execute(select(*columns).where(HASHES.c.sha256 == sha256).with_for_update()).first()
        if row is None:
            continue
        insert_row(connection, QueueRow(sha256, POLICY, SKIPPED, last_error=why))
        if row.enrichment_status != HASH_SKIPPED:
            skipped = {"enrichment_status": HASH_SKIPPED, "updated_at": row.updated_at}
            connection.execute(update(HASHES).where(HASHES.c.sha256 == sha256).values(skipped))
            request_propagation(connection, sha256, row.updated_at)


def read_claimed(connection: Connection, sha256: str, attempts: int, reason: Reason) -> Claimed:
    """Return a hash with what a source may want to know of it."""
    columns = (HASHES.c.md5, HASHES.c.sha1, HASHES.c.size_bytes)
    row = connection.execute(select(*columns).where(HASHES.c.sha256 == sha256)).one()
    some = select(FILES.c.download_url).where(FILES.c.shasum == sha256).limit(ROWS_LOOKED_AT).subquery()
    address = connection.scalar(select(some.c.download_url).where(some.c.download_url.is_not(None)).limit(1))
    return Claimed(sha256, row.md5, row.sha1, row.size_bytes, address, attempts, reason)


def _take(connection: Connection, provider: str, one: Candidate, until: dt.datetime) -> bool:
    """Take a candidate if it still is as it was read."""
    if one.row is None:
        return insert_row(connection, QueueRow(one.sha256, provider, LEASED, attempts=1, leased_until=until))
    unchanged = (
        QUEUE.c.status == one.row.status,
        QUEUE.c.attempts == one.row.attempts,
        QUEUE.c.leased_until.is_not_distinct_from(one.row.leased_until),
        QUEUE.c.next_attempt_at.is_not_distinct_from(one.row.next_attempt_at),
    )
    values = {"status": LEASED, "attempts": QUEUE.c.attempts + 1, "leased_until": until}
    return change_row(connection, one.sha256, provider, values, *unchanged)


def _status_before(connection: Connection, row: QueueRow) -> str:
    """Return what the row was before it was claimed."""
    if row.last_error is not None:
        return FAILED
    if not row.priority:
        return PENDING if row.next_attempt_at is None else ANSWERED
    mine = (HISTORY.c.sha256 == row.sha256, HISTORY.c.provider == row.provider)
    said = connection.execute(select(HISTORY.c.id).where(*mine).limit(1)).first()
    return PENDING if said is None else ANSWERED
