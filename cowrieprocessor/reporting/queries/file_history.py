"""The sources' answers about one file over time, and each source's current state."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import Connection, and_, func, select, union

from cowrieprocessor.db.enrichment.queue import QUEUE
from cowrieprocessor.db.enrichment.shown_verdict import file_verdict, latest_answer, source_verdict
from cowrieprocessor.db.enrichment.staged_answers import staging_providers
from cowrieprocessor.db.enrichment.verdict_history import HISTORY
from cowrieprocessor.db.models import HASHES, EnrichmentQueueItem, FileHash, FileVerdict
from cowrieprocessor.errors import NotFound

_ANSWER = ("verdict", "classification", "positives", "total")


@dataclass(frozen=True, slots=True)
class VerdictChange:
    """A source's answer that differs from its previous one, which `previous_*` holds; None for its first answer.

    Attributes:
        provider: the source.
        fetched_at: when it first gave this answer.
        confirmed_at: when it last gave this answer.
        classification: its name for the file.
        positives: number of engines that say malicious, of `total` that gave a result.
        first_seen: when the source first saw the file.
        last_analysis: when the source last analysed the file.
    """

    provider: str
    fetched_at: dt.datetime
    confirmed_at: dt.datetime
    verdict: str
    classification: str | None
    positives: int | None
    total: int | None
    first_seen: dt.datetime | None
    last_analysis: dt.datetime | None
    previous_verdict: str | None
    previous_classification: str | None
    previous_positives: int | None
    previous_total: int | None


@dataclass(frozen=True, slots=True)
class SourceVerdict:
    """A source's current answer about a file, and whether it will be queried again.

    Attributes:
        provider: the source.
        verdict: the verdict of its latest answer; if it gave none, what happened instead (see `shown_verdict`), and the
            fields down to `confirmed_at` are None.
        fetched_at: when it first gave this answer; `confirmed_at` when it last did.
        status: the queue's state: answered, failed (will be retried), refused (the source will not answer), skipped
            (not queried), leased (being queried), rate-limited (it wanted fewer requests);
            None if it is not in the queue.
        attempts: consecutive attempts without an answer.
        next_attempt_at: when it will be queried again.
        last_error: why the last attempt failed or was refused, or why there is none.
    """

    provider: str
    verdict: str
    classification: str | None
    positives: int | None
    total: int | None
    fetched_at: dt.datetime | None
    confirmed_at: dt.datetime | None
    status: str | None
    attempts: int
    next_attempt_at: dt.datetime | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class FileHistory:
    """One file's verdicts over time.

    Attributes:
        verdict: the aggregate of all sources now, or why there is none.
        changes: the latest changes of all sources, oldest first; `changes_total` counts all changes.
        sources: every source that ever answered or is in the queue, by name.
    """

    sha256: str
    verdict: str
    family: str | None
    enrichment_status: str
    next_check_at: dt.datetime | None
    changes: tuple[VerdictChange, ...]
    changes_total: int
    sources: tuple[SourceVerdict, ...]


def file_history(connection: Connection, sha256: str, *, limit: int = 100) -> FileHistory:
    """Return the sources' answers about a file over time.

    Args:
        connection: a connection in a transaction.
        sha256: the whole hash, in lower case.
        limit: maximum number of changes; the latest are returned.

    Raises:
        NotFound: the database has no such file.
    """
    verdict = file_verdict(staging_providers(connection)).label("verdict")
    columns = (verdict, FileHash.family, FileHash.enrichment_status, FileHash.next_check_at)
    current = connection.execute(select(*columns).where(FileHash.sha256 == sha256)).mappings().first()
    if current is None:
        raise NotFound(f"no file with the hash {sha256} in this database; `files list` shows them")
    count = select(func.count()).select_from(FileVerdict).where(FileVerdict.sha256 == sha256)
    return FileHistory(
        sha256=sha256,
        changes=_changes(connection, sha256, limit),
        changes_total=connection.scalar(count) or 0,
        sources=source_verdicts(connection, sha256),
        **current,
    )


def _changes(connection: Connection, sha256: str, limit: int) -> tuple[VerdictChange, ...]:
    """Return the latest changes, oldest first, each with the same source's previous answer."""
    columns = [
        column for name, column in FileVerdict.__table__.columns.items() if name in VerdictChange.__dataclass_fields__
    ]
    previous = [
        func.lag(getattr(FileVerdict, name))
        .over(partition_by=FileVerdict.provider, order_by=(FileVerdict.fetched_at, FileVerdict.id))
        .label(f"previous_{name}")
        for name in _ANSWER
    ]
    query = (
        select(*columns, *previous)
        .where(FileVerdict.sha256 == sha256)
        .order_by(FileVerdict.fetched_at.desc(), FileVerdict.id.desc())
        .limit(limit)
    )
    return tuple(VerdictChange(**row) for row in connection.execute(query).mappings().all())[::-1]


def source_verdicts(connection: Connection, sha256: str) -> tuple[SourceVerdict, ...]:
    """Return each source's latest answer about a file and its queue state, by name of the source."""
    answer_columns = (*_ANSWER, "fetched_at", "confirmed_at")
    latest = select(
        FileVerdict.provider,
        *(getattr(FileVerdict, name) for name in answer_columns),
        func.row_number()
        .over(
            partition_by=FileVerdict.provider,
            order_by=(FileVerdict.fetched_at.desc(), FileVerdict.id.desc()),
        )
        .label("place"),
    ).where(FileVerdict.sha256 == sha256)
    numbered = latest.subquery()
    answers = {
        row["provider"]: {name: row[name] for name in answer_columns}
        for row in connection.execute(select(numbered).where(numbered.c.place == 1)).mappings()
    }
    queue = select(
        EnrichmentQueueItem.provider,
        EnrichmentQueueItem.status,
        EnrichmentQueueItem.attempts,
        EnrichmentQueueItem.next_attempt_at,
        EnrichmentQueueItem.last_error,
    ).where(EnrichmentQueueItem.sha256 == sha256)
    queued = {row["provider"]: dict(row) for row in connection.execute(queue).mappings()}
    words = _shown_verdicts(connection, sha256)
    no_answer = dict.fromkeys(answer_columns)
    not_queued = {"status": None, "attempts": 0, "next_attempt_at": None, "last_error": None}
    return tuple(
        SourceVerdict(
            **{
                "provider": provider,
                **answers.get(provider, no_answer),
                **queued.get(provider, not_queued),
                "verdict": words[provider],
            }
        )
        for provider in sorted(words)
    )


def _shown_verdicts(connection: Connection, sha256: str) -> dict[str, str]:
    """Return the shown verdict of every source that answered or is in the queue."""
    staging = staging_providers(connection)
    known = union(
        select(HISTORY.c.provider).where(HISTORY.c.sha256 == sha256),
        select(QUEUE.c.provider).where(QUEUE.c.sha256 == sha256),
    ).subquery()
    provider = known.c.provider
    answer = latest_answer(provider)
    query = (
        select(provider, source_verdict(answer, QUEUE, provider if staging else ()))
        .select_from(known.join(HASHES, HASHES.c.sha256 == sha256))
        .outerjoin(QUEUE, and_(QUEUE.c.sha256 == HASHES.c.sha256, QUEUE.c.provider == provider))
    )
    return {row[0]: row[1] for row in connection.execute(query)}
