"""Staged answers: what sources answered with USE_NEW_ENRICHMENT=0, kept in the cache until it is back at 1.

While staged, the queue and the cache are written as always, but no history, hash, file or flag. Instead, each hash and
source with an outcome has a row in the cache under `staged:SHA256`. Its response lists the answers that the history is
to get; its status is the verdict of the latest one, or NO_ANSWER if there were only failures, which change the status
of the hash. Back at 1 the rows are replayed without a request, and deleted.
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
    and_,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from cowrieprocessor.clock import MAX_CLOCK_SKEW
from cowrieprocessor.db.chunks import chunks
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.enrichment.provider_verdict import COWRIE_VIRUSTOTAL, VERDICTS, ProviderVerdict
from cowrieprocessor.db.enrichment.response_cache import CACHE, CacheEntry, entry_of, providers_in_cache
from cowrieprocessor.db.enrichment.verdict_history import HISTORY, has_answered, is_recorded
from cowrieprocessor.db.models import HASHES

__all__ = [
    "NO_ANSWER",
    "STAGED",
    "STAGED_SHA256_AT",
    "StagedAnswer",
    "has_any_answer",
    "is_staged",
    "remove_claims",
    "replayable",
    "replayable_count",
    "stage_answer",
    "stage_outcome",
    "staged_answers",
    "staged_content",
    "staged_hashes",
    "staged_key",
    "staging_providers",
    "take_staged",
]

NO_ANSWER = "no-answer"
"""The status of a row without an answer: the hash is to be aggregated, and nothing more."""

STAGED = CACHE.alias("staged_answer")

_STAGED_KEY, _CLAIM_KEY = "staged:", "claim:"

STAGED_SHA256_AT = len(_STAGED_KEY) + 1
"""Where the hash begins in the key of its staged answers, from 1."""

_CONTENT = ("md5", "sha1", "size_bytes")
"""Properties of the file that an answer may tell, and that providers may need to know."""

_REMOVED_CLAIMS = 2_000
"""Claims that are removed in one transaction."""


@dataclass(frozen=True, slots=True)
class StagedAnswer:
    """An answer that the history does not have yet.

    Attributes:
        provider: the source.
        fetched_at: when it was given.
        verdict: the verdict, as it was read then.
        response: the answer, bounded, from which the rest can be read again.
        content: known properties of the file, by name: some of `md5`, `sha1`, `size_bytes`.
    """

    provider: str
    fetched_at: dt.datetime
    verdict: str
    response: dict[str, Any]
    content: Mapping[str, Any]


def stage_answer(
    connection: Connection,
    sha256: str,
    provider: str,
    verdict: ProviderVerdict,
    fetched_at: dt.datetime,
    now: dt.datetime,
) -> None:
    """Add an answer to those that the history is to get; adding it twice changes nothing.

    Of what Cowrie logged only the latest is kept: the others are read from the log again.

    Args:
        connection: in a write transaction that, on PostgreSQL, has locked the hash.
        sha256: the hash.
        provider: the source that answered.
        verdict: its verdict.
        fetched_at: when it answered.
        now: the current time.
    """
    row = _row(connection, sha256, provider)
    kept = [] if row is None else (row.response or {}).get("answers", [])
    moment = fetched_at.isoformat()
    if any(answer["at"] == moment for answer in kept):
        return
    if is_recorded(connection, sha256, provider, fetched_at):
        stage_outcome(connection, sha256, provider, now)
        return
    is_latest = (
        row is None or row.status == NO_ANSWER or fetched_at >= row.fetched_at or row.fetched_at > now + MAX_CLOCK_SKEW
    )
    if provider == COWRIE_VIRUSTOTAL:
        kept = []
        if not is_latest:
            return
    content = {name: getattr(verdict, name) for name in _CONTENT if getattr(verdict, name) is not None}
    answer = {"at": moment, "verdict": verdict.verdict, "response": verdict.response, **content}
    values: dict[str, Any] = {"response": {"answers": [*kept, answer]}}
    if is_latest:
        values |= {"status": verdict.verdict, "fetched_at": fetched_at, "expires_at": fetched_at}
    _write(connection, sha256, provider, values, is_new=row is None)


def stage_outcome(connection: Connection, sha256: str, provider: str, now: dt.datetime) -> None:
    """Have a hash aggregated once its answers are replayed: a source failed, refused or was not asked.

    Args:
        connection: in a write transaction that, on PostgreSQL, has locked the hash.
        sha256: the hash.
        provider: the source.
        now: the current time.
    """
    if _row(connection, sha256, provider) is None:
        values = {"status": NO_ANSWER, "response": None, "fetched_at": now, "expires_at": now}
        _write(connection, sha256, provider, values, is_new=True)


def staging_providers(connection: Connection) -> tuple[str, ...]:
    """Return the sources with staged answers: none, unless enrichment is or was staged.

    An earlier release kept claims in the cache while staging; its sources count until the claims are removed.
    """
    names = providers_in_cache(connection)
    has_rows = [
        or_(*(exists().where(CACHE.c.provider == name, *_keys(prefix)) for prefix in (_STAGED_KEY, _CLAIM_KEY)))
        for name in names
    ]
    found = connection.execute(select(*has_rows)).one() if names else ()
    return tuple(name for name, is_staging in zip(names, found, strict=True) if is_staging)


def has_any_answer(connection: Connection, sha256: str, provider: str) -> bool:
    """Return whether a source has ever answered about a hash: a row that was deferred is `answered` without that."""
    row = _row(connection, sha256, provider)
    return (row is not None and row.status != NO_ANSWER) or has_answered(connection, sha256, provider)


def staged_key(sha256: ColumnElement[str]) -> ColumnElement[str]:
    """Return the expression for the key of the staged answers about a hash."""
    return literal(_STAGED_KEY) + sha256


def is_staged(sha256: ColumnElement[str], provider: str, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return the condition that there are staged answers of a source about a hash, their row as `conditions` say."""
    row = (STAGED.c.provider == provider, STAGED.c.key == staged_key(sha256), STAGED.c.status.in_(VERDICTS))
    return exists().where(*row, *conditions)


def staged_answers() -> ColumnElement[bool]:
    """Return the condition on the cache that a row has staged answers."""
    return and_(*_keys(_STAGED_KEY), CACHE.c.status.in_(VERDICTS))


def staged_hashes(connection: Connection, provider: str, limit: int) -> list[str]:
    """Return the first hashes that a source has staged outcomes about."""
    query = select(CACHE.c.key).where(CACHE.c.provider == provider, *_keys(_STAGED_KEY)).order_by(CACHE.c.key)
    return [key.removeprefix(_STAGED_KEY) for key in connection.scalars(query.limit(limit))]


def take_staged(
    connection: Connection, sha256: str, providers: Sequence[str], now: dt.datetime
) -> list[StagedAnswer] | None:
    """Delete the staged outcomes of sources about a hash, and return its answers in the order in which they were given.

    Args:
        connection: in a write transaction that, on PostgreSQL, has locked the hash.
        sha256: the hash.
        providers: the sources.
        now: the current time.

    Returns:
        None if nothing is staged, not even an outcome without an answer.
    """
    answers = _answers(connection, sha256, providers, now)
    of_hash = (CACHE.c.provider.in_(providers), CACHE.c.key == f"{_STAGED_KEY}{sha256}")
    return answers if connection.execute(delete(CACHE).where(*of_hash)).rowcount else None


def staged_content(
    connection: Connection, sha256: str, providers: Sequence[str], now: dt.datetime
) -> Mapping[str, Any]:
    """Return the properties of a file that staged answers tell: the first answer with a property counts."""
    content: dict[str, Any] = {}
    for answer in _answers(connection, sha256, providers, now) if providers else ():
        content = {**answer.content, **content}
    return content


def replayable(connection: Connection, provider: str, after_key: str, limit: int) -> list[CacheEntry]:
    """Return the next cached answers, by key, about hashes in `file_hashes` that the history lacks and nobody staged.

    Args:
        connection: in a transaction, preferably a read transaction: it may read the provider's whole cache.
        provider: the provider.
        after_key: start after this key.
        limit: largest number of answers.
    """
    query = select(CACHE).where(_is_replayable(provider), CACHE.c.key > after_key).order_by(CACHE.c.key).limit(limit)
    return [entry_of(row) for row in connection.execute(query).mappings()]


def replayable_count(connection: Connection) -> int:
    """Return the number of hashes and sources with an answer that the history lacks."""
    total = 0
    for provider in providers_in_cache(connection):
        staged = and_(CACHE.c.provider == provider, staged_answers())
        count = select(func.count()).select_from(CACHE).where(or_(staged, _is_replayable(provider)))
        total += connection.scalar(count) or 0
    return total


def remove_claims(engine: Engine, provider: str) -> None:
    """Remove the claims that an earlier release kept in the cache while staging; answers stay.

    Args:
        engine: the database; each transaction is short.
        provider: the provider.
    """
    claims = (CACHE.c.provider == provider, *_keys(_CLAIM_KEY))
    while True:
        with read_transaction(engine) as connection:
            keys = connection.scalars(select(CACHE.c.key).where(*claims).limit(_REMOVED_CLAIMS)).all()
        if not keys:
            return
        with write_transaction(engine) as connection:
            for chunk in chunks(keys):
                connection.execute(delete(CACHE).where(CACHE.c.provider == provider, CACHE.c.key.in_(chunk)))


def _keys(prefix: str) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions on the cache for keys of a prefix and a hash, in any collation, by the primary key."""
    return CACHE.c.key >= prefix, CACHE.c.key < f"{prefix[:-1]}z", CACHE.c.key.startswith(prefix)


def _is_replayable(provider: str) -> ColumnElement[bool]:
    known = exists().where(HASHES.c.sha256 == CACHE.c.key)
    in_history = exists().where(
        HISTORY.c.sha256 == CACHE.c.key,
        HISTORY.c.provider == CACHE.c.provider,
        HISTORY.c.confirmed_at >= CACHE.c.fetched_at,
    )
    staged = is_staged(CACHE.c.key, provider, STAGED.c.fetched_at >= CACHE.c.fetched_at)
    return and_(CACHE.c.provider == provider, CACHE.c.status.in_(VERDICTS), known, ~in_history, ~staged)


def _row(connection: Connection, sha256: str, provider: str) -> CacheEntry | None:
    query = select(CACHE).where(CACHE.c.provider == provider, CACHE.c.key == f"{_STAGED_KEY}{sha256}")
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else entry_of(row)


def _write(connection: Connection, sha256: str, provider: str, values: Mapping[str, Any], *, is_new: bool) -> None:
    key = f"{_STAGED_KEY}{sha256}"
    if is_new:
        connection.execute(insert(CACHE).values(provider=provider, key=key, **values))
    else:
        connection.execute(update(CACHE).where(CACHE.c.provider == provider, CACHE.c.key == key).values(**values))


def _answers(connection: Connection, sha256: str, providers: Sequence[str], now: dt.datetime) -> list[StagedAnswer]:
    """Return the staged answers about a hash in the order in which they were given."""
    of_hash = (CACHE.c.provider.in_(providers), CACHE.c.key == f"{_STAGED_KEY}{sha256}")
    answers = [
        _answer(row.provider, answer)
        for row in connection.execute(select(CACHE.c.provider, CACHE.c.response).where(*of_hash))
        for answer in (row.response or {}).get("answers", ())
    ]
    latest = now + MAX_CLOCK_SKEW
    # An answer dated in the future was given before the clock was set back.
    return sorted(answers, key=lambda answer: (answer.fetched_at <= latest, answer.fetched_at))


def _answer(provider: str, stored: Mapping[str, Any]) -> StagedAnswer:
    content = {name: stored[name] for name in _CONTENT if name in stored}
    fetched_at = dt.datetime.fromisoformat(stored["at"])
    return StagedAnswer(provider, fetched_at, stored["verdict"], stored["response"], content)
