"""Files counted by shown verdict: all sources together, and each source. Every total is the number of files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Select, and_, exists, func, literal, or_, select

from cowrieprocessor.db.enrichment.candidates import worth_asking
from cowrieprocessor.db.enrichment.provider_verdict import UNKNOWN, VERDICTS
from cowrieprocessor.db.enrichment.queue import ANSWERED, QUEUE, SKIPPED
from cowrieprocessor.db.enrichment.shown_verdict import (
    NOT_ASKED,
    file_verdict,
    latest_answer,
    source_verdict,
)
from cowrieprocessor.db.enrichment.staged_answers import staging_providers
from cowrieprocessor.db.enrichment.verdict_history import HISTORY
from cowrieprocessor.db.models import HASHES


def verdict_counts(connection: Connection) -> dict[str, int]:
    """Return the number of hashes by shown verdict."""
    stored = select(HASHES.c.verdict, func.count()).where(HASHES.c.verdict != UNKNOWN).group_by(HASHES.c.verdict)
    verdict = file_verdict(staging_providers(connection)).label("verdict")
    return _counted(connection, stored) | _by_verdict(connection, select(verdict).where(HASHES.c.verdict == UNKNOWN))


def source_verdict_counts(connection: Connection, providers: Collection[str]) -> dict[str, Mapping[str, int]]:
    """Return the number of hashes by the shown verdict of each source, by its name.

    Answers are counted in one pass over the history, and the expression for the verdict is evaluated only for hashes
    whose row of the queue has no answer; the rest were not asked about. Of a source that is staged every hash is read.
    """
    staging = staging_providers(connection)
    total = connection.scalar(select(func.count()).select_from(HASHES)) or 0
    skipped = connection.scalar(select(func.count()).select_from(HASHES).where(~worth_asking())) or 0
    answers = _answers(connection)
    counts: dict[str, Mapping[str, int]] = {}
    for provider in providers:
        if provider in staging:
            counts[provider] = _by_verdict(connection, _verdicts_of(provider, is_staged=True))
            continue
        is_open = and_(worth_asking(), QUEUE.c.status != ANSWERED)
        words = _by_verdict(connection, _verdicts_of(provider).where(QUEUE.c.provider == provider, is_open))
        found = Counter(answers.get(provider, {}))
        found.update({word: count for word, count in words.items() if word not in (*VERDICTS, NOT_ASKED)})
        found[SKIPPED] = skipped - _answered_and_skipped(connection, provider)
        found[NOT_ASKED] = total - sum(found.values())
        counts[provider] = dict(+found)
    return counts


def _verdicts_of(provider: str, *, is_staged: bool = False) -> Select[Any]:
    """Return the query for the shown verdict of a source about each hash."""
    name = literal(provider)
    verdict = source_verdict(latest_answer(name), QUEUE, [provider] if is_staged else ()).label("verdict")
    queued = and_(QUEUE.c.sha256 == HASHES.c.sha256, QUEUE.c.provider == name)
    return select(verdict).select_from(HASHES.outerjoin(QUEUE, queued))


def _answers(connection: Connection) -> dict[str, dict[str, int]]:
    """Return the number of hashes by source and the verdict of its latest answer."""
    later = HISTORY.alias("later")
    is_later = or_(
        later.c.fetched_at > HISTORY.c.fetched_at,
        and_(later.c.fetched_at == HISTORY.c.fetched_at, later.c.id > HISTORY.c.id),
    )
    same = (later.c.sha256 == HISTORY.c.sha256, later.c.provider == HISTORY.c.provider)
    is_listed = exists().where(HASHES.c.sha256 == HISTORY.c.sha256)
    query = select(HISTORY.c.provider, HISTORY.c.verdict, func.count()).where(
        ~exists().where(*same, is_later), is_listed
    )
    answers: dict[str, dict[str, int]] = {}
    for provider, verdict, count in connection.execute(query.group_by(HISTORY.c.provider, HISTORY.c.verdict)):
        answers.setdefault(provider, {})[verdict] = count
    return answers


def _answered_and_skipped(connection: Connection, provider: str) -> int:
    """Return the number of hashes that no source is asked about now and that a source has answered about."""
    answered = exists().where(HISTORY.c.sha256 == HASHES.c.sha256, HISTORY.c.provider == provider)
    query = select(func.count()).select_from(HASHES).where(~worth_asking(), answered)
    return connection.scalar(query) or 0


def _by_verdict(connection: Connection, verdicts: Select[Any]) -> dict[str, int]:
    """Return how often each verdict is in the result of a query."""
    shown = verdicts.subquery()
    return _counted(connection, select(shown.c.verdict, func.count()).group_by(shown.c.verdict))


def _counted(connection: Connection, query: Select[Any]) -> dict[str, int]:
    return {row[0]: row[1] for row in connection.execute(query)}
