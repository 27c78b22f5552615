"""What the sources said about one file over time, and how each of them stands to it now."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from cowrieprocessor.db.models import EnrichmentQueueItem, FileHash, FileVerdict
from cowrieprocessor.errors import NotFound

_KEPT = ("verdict", "classification", "positives", "total")


@dataclass(frozen=True, slots=True)
class VerdictChange:
    """One answer of a source that differs from its answer before; `previous_*` is that one, None at the first.

    Attributes:
        provider: the source.
        fetched_at: when it first answered so.
        confirmed_at: when it last answered so.
        classification: what it calls the file.
        positives: how many engines say malicious, of `total` that said anything.
        first_seen: when the source first saw the file.
        last_analysis: when it last looked at it itself.
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
    """What one source says of a file now, and whether it is to be asked again.

    Attributes:
        provider: the source.
        verdict: of its latest answer, None where it gave none; so are the fields down to `confirmed_at`.
        fetched_at: when it first answered so; `confirmed_at` when last.
        status: of the queue: answered, failed (to be asked again), refused (it will not answer), skipped (not to be
            asked), leased (being asked); None where it is not in the queue.
        attempts: how often it was asked in a row without an answer.
        next_attempt_at: when it is to be asked again.
        last_error: why the last attempt failed, was refused or is not made.
    """

    provider: str
    verdict: str | None
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
        verdict: all sources together, now.
        changes: the latest changes over all sources, the oldest of them first; `changes_total` counts all there are.
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
    """Return what the sources said about a file over time.

    Args:
        connection: a connection in a transaction.
        sha256: the whole hash, in lower case.
        limit: how many changes to return, the latest ones.

    Raises:
        NotFound: the database has no such file.
    """
    judged = (FileHash.verdict, FileHash.family, FileHash.enrichment_status, FileHash.next_check_at)
    now = connection.execute(select(*judged).where(FileHash.sha256 == sha256)).mappings().first()
    if now is None:
        raise NotFound(f"no file with the hash {sha256} in this database; `cowrieprocessor files list` shows them")
    count = select(func.count()).select_from(FileVerdict).where(FileVerdict.sha256 == sha256)
    return FileHistory(
        sha256=sha256,
        changes=_changes(connection, sha256, limit),
        changes_total=connection.scalar(count) or 0,
        sources=source_verdicts(connection, sha256),
        **now,
    )


def _changes(connection: Connection, sha256: str, limit: int) -> tuple[VerdictChange, ...]:
    """Return the latest changes, the oldest of them first, each beside what the same source said before."""
    columns = [
        column for name, column in FileVerdict.__table__.columns.items() if name in VerdictChange.__dataclass_fields__
    ]
    previous = [
        func.lag(getattr(FileVerdict, name))
        .over(partition_by=FileVerdict.provider, order_by=(FileVerdict.fetched_at, FileVerdict.id))
        .label(f"previous_{name}")
        for name in _KEPT
    ]
    query = (
        select(*columns, *previous)
        .where(FileVerdict.sha256 == sha256)
        .order_by(FileVerdict.fetched_at.desc(), FileVerdict.id.desc())
        .limit(limit)
    )
    return tuple(VerdictChange(**row) for row in connection.execute(query).mappings().all())[::-1]


def source_verdicts(connection: Connection, sha256: str) -> tuple[SourceVerdict, ...]:
    """Return how each source stands to a file: its latest answer, and its place in the queue; by name."""
    latest = select(
        FileVerdict.provider,
        *(getattr(FileVerdict, name) for name in (*_KEPT, "fetched_at", "confirmed_at")),
        func.row_number()
        .over(
            partition_by=FileVerdict.provider,
            order_by=(FileVerdict.fetched_at.desc(), FileVerdict.id.desc()),
        )
        .label("place"),
    ).where(FileVerdict.sha256 == sha256)
    numbered = latest.subquery()
    answers = {
        row["provider"]: {name: row[name] for name in (*_KEPT, "fetched_at", "confirmed_at")}
        for row in connection.execute(select(numbered).where(numbered.c.place == 1)).mappings()
    }
    asked = select(
        EnrichmentQueueItem.provider,
        EnrichmentQueueItem.status,
        EnrichmentQueueItem.attempts,
        EnrichmentQueueItem.next_attempt_at,
        EnrichmentQueueItem.last_error,
    ).where(EnrichmentQueueItem.sha256 == sha256)
    queued = {row["provider"]: dict(row) for row in connection.execute(asked).mappings()}
    no_answer = dict.fromkeys((*_KEPT, "fetched_at", "confirmed_at"))
    not_queued = {"status": None, "attempts": 0, "next_attempt_at": None, "last_error": None}
    return tuple(
        SourceVerdict(**{"provider": provider, **answers.get(provider, no_answer), **queued.get(provider, not_queued)})
        for provider in sorted(answers.keys() | queued.keys())
    )
