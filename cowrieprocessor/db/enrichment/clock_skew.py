"""Detection and correction of rows written while a clock was ahead: their times are beyond any that we write.

An answer dated 2036 would not expire until then, and every current answer would count as older.
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

__all__ = [
    "MAX_CLOCK_SKEW",
    "MAX_RETRY_DELAY",
    "correct_cache_skew",
    "correct_skew",
    "skewed_answers",
    "skewed_failures",
]

MAX_CLOCK_SKEW = dt.timedelta(days=1)
"""Times further in the future were written by a wrong clock; smaller differences between clocks are normal."""

MAX_RETRY_DELAY = dt.timedelta(days=400)
"""No failure is retried later than this; an answer may be valid for longer if the settings say so."""

_STEP = dt.timedelta(milliseconds=1)


def skewed_failures(provider: str, now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition on the queue for failures whose retry is later than MAX_RETRY_DELAY."""
    return and_(QUEUE.c.provider == provider, QUEUE.c.status == FAILED, QUEUE.c.next_attempt_at > now + MAX_RETRY_DELAY)


def skewed_answers(provider: str, now: dt.datetime) -> ColumnElement[bool]:
    """Return the condition on the queue for answers that expire late because they are dated in the future."""
    is_future = exists().where(
        HISTORY.c.sha256 == QUEUE.c.sha256,
        HISTORY.c.provider == provider,
        HISTORY.c.confirmed_at > now + MAX_CLOCK_SKEW,
    )
    expires_late = QUEUE.c.next_attempt_at > now + MAX_RETRY_DELAY
    return and_(QUEUE.c.provider == provider, QUEUE.c.status == ANSWERED, expires_late, is_future)


def correct_skew(engine: Engine, provider: str, hashes: Sequence[str], now: dt.datetime) -> None:
    """Date a provider's future answers about hashes just before `now`, and make their queue rows due.

    Args:
        engine: the database.
        provider: the provider.
        hashes: hashes whose queue rows are too far in the future.
        now: the current time.
    """
    with write_transaction(engine) as connection:
        lock_hashes(connection, list(hashes))
        correct_cache_skew(connection, provider, hashes, now)
        for sha256 in sorted(hashes):
            _correct_history_skew(connection, provider, sha256, now)
        for chunk in chunks(sorted(hashes)):
            is_skewed = (QUEUE.c.status.in_((ANSWERED, FAILED)), QUEUE.c.next_attempt_at > now + MAX_RETRY_DELAY)
            of_chunk = (QUEUE.c.provider == provider, QUEUE.c.sha256.in_(chunk))
            connection.execute(update(QUEUE).where(*of_chunk, *is_skewed).values(next_attempt_at=now))


def correct_cache_skew(connection: Connection, provider: str, keys: Sequence[str], now: dt.datetime) -> None:
    """Date a provider's future answers in the cache just before `now`, and let them expire.

    Args:
        connection: in a write transaction.
        provider: the provider.
        keys: keys to correct; up to MAX_PARAMETERS other future answers are corrected too, because a provider may
            store answers under other keys than hashes.
        now: the current time.
    """
    is_skewed = (CACHE.c.provider == provider, CACHE.c.fetched_at > now + MAX_CLOCK_SKEW)
    found = select(CACHE.c.key).where(*is_skewed).order_by(CACHE.c.key).limit(MAX_PARAMETERS)
    for chunk in chunks(sorted({*keys, *connection.scalars(found).all()})):
        values = {"fetched_at": now - _STEP, "expires_at": now}
        connection.execute(update(CACHE).where(*is_skewed, CACHE.c.key.in_(chunk)).values(**values))


def _correct_history_skew(connection: Connection, provider: str, sha256: str, now: dt.datetime) -> None:
    """Let future spans of the history end just before `now`, in the order they had."""
    is_skewed = (HISTORY.c.sha256 == sha256, HISTORY.c.provider == provider, HISTORY.c.confirmed_at > now)
    columns = (HISTORY.c.id, HISTORY.c.fetched_at)
    latest_first = connection.execute(select(*columns).where(*is_skewed).order_by(HISTORY.c.fetched_at.desc())).all()
    for steps, row in enumerate(latest_first, start=1):
        moment = now - steps * _STEP
        values = {"confirmed_at": moment, "fetched_at": min(row.fetched_at, moment)}
        connection.execute(update(HISTORY).where(HISTORY.c.id == row.id).values(**values))
