"""What was written while a clock was ahead: found by what we never write, and brought back to the present.

An answer of the year 2036 would hold until then, and every answer of today would count as older than it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, Engine, and_, exists, select, update

from cowrieprocessor.db.chunks import MAX_PARAMETERS, chunks
from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.enrichment.queue import ANSWERED, FAILED, QUEUE
from cowrieprocessor.db.enrichment.response_cache import CACHE
from cowrieprocessor.db.enrichment.verdict_history import HISTORY
from cowrieprocessor.db.enrichment.verdict_store import lock_hashes

__all__ = ["CLOCKS_DIFFER", "FURTHEST_AHEAD", "answered_ahead", "bring_back", "bring_cache_back", "failed_ahead"]

CLOCKS_DIFFER = dt.timedelta(days=1)
"""What is this far in the future was written by a clock that was wrong, not by one that is a little ahead."""

FURTHEST_AHEAD = dt.timedelta(days=400)
"""No failure is tried again later than this; an answer may hold longer, if the settings say so."""

_STEP = dt.timedelta(milliseconds=1)


def failed_ahead(provider: str, now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition on the queue for failures that are to be tried again later than any is."""
    return and_(QUEUE.c.provider == provider, QUEUE.c.status == FAILED, QUEUE.c.next_attempt_at > now + FURTHEST_AHEAD)


def answered_ahead(provider: str, now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition on the queue for answers that hold very long because they came from the future."""
    said = exists().where(
        HISTORY.c.sha256 == QUEUE.c.sha256,
        HISTORY.c.provider == provider,
        HISTORY.c.confirmed_at > now + CLOCKS_DIFFER,
    )
    late = QUEUE.c.next_attempt_at > now + FURTHEST_AHEAD
    return and_(QUEUE.c.provider == provider, QUEUE.c.status == ANSWERED, late, said)


def bring_back(engine: Engine, provider: str, hashes: Sequence[str], now: dt.datetime) -> None:
    """Let what a source said of hashes in the future have been said just now, and be due.

    Args:
        engine: the database.
        provider: the source.
        hashes: those whose rows in the queue are too far ahead.
        now: the time.
    """
    with write_transaction(engine) as connection:
        lock_hashes(connection, list(hashes))
        bring_cache_back(connection, provider, hashes, now)
        for sha256 in sorted(hashes):
            _bring_history_back(connection, provider, sha256, now)
        for part in chunks(sorted(hashes)):
            far = (QUEUE.c.status.in_((ANSWERED, FAILED)), QUEUE.c.next_attempt_at > now + FURTHEST_AHEAD)
            mine = (QUEUE.c.provider == provider, QUEUE.c.sha256.in_(part))
            connection.execute(update(QUEUE).where(*mine, *far).values(next_attempt_at=now))


def bring_cache_back(connection: Connection, provider: str, keys: Sequence[str], now: dt.datetime) -> None:
    """Let answers in the cache that came from the future have come just now, and hold no longer.

    Args:
        connection: in a write transaction.
        provider: the source.
        keys: these, and as many others as one statement names: a source may keep answers under other keys.
        now: the time.
    """
    ahead = (CACHE.c.provider == provider, CACHE.c.fetched_at > now + CLOCKS_DIFFER)
    others = connection.scalars(select(CACHE.c.key).where(*ahead).order_by(CACHE.c.key).limit(MAX_PARAMETERS)).all()
    for part in chunks(sorted({*keys, *others})):
        back = {"fetched_at": now - _STEP, "expires_at": now}
        connection.execute(update(CACHE).where(*ahead, CACHE.c.key.in_(part)).values(**back))


def _bring_history_back(connection: Connection, provider: str, sha256: str, now: dt.datetime) -> None:
    """Let what was said in the future end just now, one before the other as they were."""
    mine = (HISTORY.c.sha256 == sha256, HISTORY.c.provider == provider, HISTORY.c.confirmed_at > now)
    columns = (HISTORY.c.id, HISTORY.c.fetched_at)
    said = connection.execute(select(*columns).where(*mine).order_by(HISTORY.c.fetched_at.desc())).all()
    for place, row in enumerate(said, start=1):
        moment = now - place * _STEP
        back = {"confirmed_at": moment, "fetched_at": min(row.fetched_at, moment)}
        connection.execute(update(HISTORY).where(HISTORY.c.id == row.id).values(**back))
