"""Claims: who asks which source about which hash next, so that no two ever ask the same.

Candidates are read beside everybody else; each is then taken in a short write transaction, if it still is what it was.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Engine, Select, select, update

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.enrichment_candidates import (
    WORTHLESS,
    Order,
    Reason,
    asked_for,
    expired,
    in_order,
    never_asked,
    retries,
    worth_asking,
)
from cowrieprocessor.db.enrichment_lookahead import look_ahead_of
from cowrieprocessor.db.enrichment_queue import (
    ANSWERED,
    ASKED_FOR_AT,
    FAILED,
    LEASED,
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
from cowrieprocessor.db.judgement import HASH_SKIPPED, Policy, request_propagation
from cowrieprocessor.db.knowledge import FILES, HASHES
from cowrieprocessor.db.verdict_history import HISTORY

__all__ = ["Claimed", "Order", "Reason", "ask_first", "claim", "claimed_of", "note_skipped", "release"]

T = TypeVar("T")
NAMED_AT_ONCE = 400
"""Values that one statement names: SQLite may be built for 999 parameters. Source: sqlite.org/limits.html."""

ROWS_LOOKED_AT = 200
"""Rows of `files` in which an address of a file is looked for; popular files have hundreds of thousands."""


TRIES = 20
"""How often others may be faster before a claim comes back with nothing; each time they got on."""


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


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is asked for: the arguments of `claim`."""

    provider: str
    limit: int
    now: dt.datetime
    policy: Policy
    earlier: tuple[str, ...]
    order: Order
    only: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A hash that may be claimed; `row` is how it stands in the queue, None where it does not."""

    sha256: str
    reason: Reason
    row: QueueRow | None


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
    wanted = _Wanted(provider, limit, now, policy, tuple(earlier), order, only)
    for _ in range(TRIES):
        with read_transaction(engine) as connection:
            found = _candidates(connection, engine, wanted)
        claimed = _claim_of(engine, provider, found, now + dt.timedelta(seconds=lease_s))
        if claimed or not found:
            return claimed
    return []


def _claim_of(engine: Engine, provider: str, found: Sequence[_Candidate], until: dt.datetime) -> list[Claimed]:
    """Claim those of some candidates that nobody else has claimed since they were read."""
    if not found:
        return []
    with write_transaction(engine) as connection:
        in_key_order = sorted(found, key=lambda one: one.sha256)
        taken = {one.sha256 for one in in_key_order if _take(connection, provider, one, until)}
    with read_transaction(engine) as connection:
        return [
            claimed_of(connection, one.sha256, (one.row.attempts if one.row else 0) + 1, one.reason)
            for one in found
            if one.sha256 in taken
        ]


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
    for part in _runs(sorted(set(hashes))):
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
    for sha256, why in sorted(WORTHLESS.items()):
        columns = (HASHES.c.enrichment_status, HASHES.c.updated_at)
        row = connection.execute(select(*columns).where(HASHES.c.sha256 == sha256).with_for_update()).first()
        if row is None:
            continue
        insert_row(connection, QueueRow(sha256, POLICY, SKIPPED, last_error=why))
        if row.enrichment_status != HASH_SKIPPED:
            skipped = {"enrichment_status": HASH_SKIPPED, "updated_at": row.updated_at}
            connection.execute(update(HASHES).where(HASHES.c.sha256 == sha256).values(skipped))
            request_propagation(connection, sha256, row.updated_at)


def claimed_of(connection: Connection, sha256: str, attempts: int, reason: Reason) -> Claimed:
    """Return a hash with what a source may want to know of it."""
    columns = (HASHES.c.md5, HASHES.c.sha1, HASHES.c.size_bytes)
    row = connection.execute(select(*columns).where(HASHES.c.sha256 == sha256)).one()
    some = select(FILES.c.download_url).where(FILES.c.shasum == sha256).limit(ROWS_LOOKED_AT).subquery()
    address = connection.scalar(select(some.c.download_url).where(some.c.download_url.is_not(None)).limit(1))
    return Claimed(sha256, row.md5, row.sha1, row.size_bytes, address, attempts, reason)


def _candidates(connection: Connection, engine: Engine, wanted: _Wanted) -> list[_Candidate]:
    """Return the next hashes in their order, none twice."""
    provider, policy, now = wanted.provider, wanted.policy, wanted.now
    again: list[tuple[Reason, ColumnElement[bool]]] = [("retry", one) for one in retries(provider, policy, now)]
    steps: tuple[Callable[[], Sequence[_Candidate]], ...] = (
        lambda: _queued(connection, wanted, [("asked-for", asked_for(provider))]),
        lambda: _new(connection, engine, wanted),
        lambda: _queued(connection, wanted, again),
        lambda: _queued(connection, wanted, [("expired", expired(provider, policy, now))]),
    )
    found: dict[str, _Candidate] = {}
    for step in steps:
        for one in step():
            found.setdefault(one.sha256, one)
        if len(found) >= wanted.limit:
            break
    return list(found.values())[: wanted.limit]


def _new(connection: Connection, engine: Engine, wanted: _Wanted) -> list[_Candidate]:
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
        found = look_ahead_of(engine, question).next(wanted.limit, read, still)
    return [_Candidate(sha256, "new", None) for sha256 in found]


def _queued(
    connection: Connection, wanted: _Wanted, conditions: Sequence[tuple[Reason, ColumnElement[bool]]]
) -> list[_Candidate]:
    """Return rows of the queue that meet one of some conditions, the one that is due longest first."""
    found: list[tuple[dt.datetime, _Candidate]] = []
    for reason, condition in conditions:
        query = select(QUEUE).join(HASHES, HASHES.c.sha256 == QUEUE.c.sha256).where(condition)
        query = query.order_by(QUEUE.c.next_attempt_at).limit(wanted.limit)
        for row in _narrowed(connection, query, wanted.only):
            due = row.next_attempt_at or ASKED_FOR_AT
            kept = QueueRow(**{name: getattr(row, name) for name in QueueRow.__dataclass_fields__})
            why: Reason = "asked-for" if kept.priority else reason
            found.append((due, _Candidate(kept.sha256, why, kept)))
    found.sort(key=lambda one: (one[0], one[1].sha256))
    return [one for _, one in found]


def _narrowed(connection: Connection, query: Select[Any], only: Sequence[str] | None) -> list[Any]:
    """Return what a query on hashes gives, of some hashes alone if there are any named."""
    if only is None:
        return list(connection.execute(query).all())
    return [
        row
        for part in _runs(sorted(set(only)))
        for row in connection.execute(query.where(HASHES.c.sha256.in_(part))).all()
    ]


def _take(connection: Connection, provider: str, one: _Candidate, until: dt.datetime) -> bool:
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


def _runs(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield values in runs that one statement can name."""
    for start in range(0, len(values), NAMED_AT_ONCE):
        yield values[start : start + NAMED_AT_ONCE]
