"""The history: the verdicts of each provider about each hash, with the time span of each.

A row is a span during which a provider gave the same answer to every lookup: from `fetched_at` to `confirmed_at`.
Answers usually arrive in the order of their times; an older answer is inserted at its place, and the spans become what
they would be in order. The exception is a provider that answers A, B, then A again: answers that confirmed a span A
between its ends are not stored, so that a late B leaves only the ends.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Table, delete, insert, or_, select, update

from cowrieprocessor.clock import MAX_CLOCK_SKEW
from cowrieprocessor.db.enrichment.provider_verdict import UNKNOWN, VERDICTS, ProviderVerdict
from cowrieprocessor.db.models import FileVerdict

__all__ = [
    "HISTORY",
    "Content",
    "LatestVerdict",
    "Observation",
    "Span",
    "has_answered",
    "is_recorded",
    "latest_verdicts",
    "merge_history",
    "merge_spans",
    "record_answer",
]

HISTORY: Table = FileVerdict.metadata.tables["file_verdicts"]

_CONTENT = ("verdict", "classification", "positives", "total", "first_seen")
Content = tuple[str, str | None, int | None, int | None, dt.datetime | None]
"""What distinguishes answers: verdict, classification, positives, total and when the provider first saw the file."""

_STEP = dt.timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Observation:
    """One answer at one moment.

    Attributes:
        at: when it was given.
        content: what distinguishes it from other answers.
        row_id: the row with its other columns; None if it is not stored yet.
    """

    at: dt.datetime
    content: Content
    row_id: int | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A time span during which a provider gave the same answer.

    Attributes:
        fetched_at: when it was first given.
        confirmed_at: when it was last given.
        content: what distinguishes it from other answers.
        row_id: the row of its latest answer; None if that is not stored yet.
    """

    fetched_at: dt.datetime
    confirmed_at: dt.datetime
    content: Content
    row_id: int | None


@dataclass(frozen=True, slots=True)
class LatestVerdict:
    """A provider's latest verdict about a hash, as aggregation needs it.

    Attributes:
        confirmed_at: when it was last given.
        description, family: as the provider named them; they do not distinguish answers.
    """

    provider: str
    verdict: str
    confirmed_at: dt.datetime
    classification: str | None
    positives: int | None
    total: int | None
    first_seen: dt.datetime | None
    last_analysis: dt.datetime | None
    description: str | None
    family: str | None

    @property
    def is_found(self) -> bool:
        """Whether the provider knows the file at all."""
        details = (
            self.classification,
            self.positives,
            self.total,
            self.first_seen,
            self.last_analysis,
            self.description,
        )
        return self.verdict != UNKNOWN or any(detail is not None for detail in details)


def has_answered(connection: Connection, sha256: str, provider: str) -> bool:
    """Return whether the history has any answer of a provider about a hash."""
    of_row = (HISTORY.c.sha256 == sha256, HISTORY.c.provider == provider)
    return connection.execute(select(HISTORY.c.id).where(*of_row).limit(1)).first() is not None


def is_recorded(connection: Connection, sha256: str, provider: str, moment: dt.datetime) -> bool:
    """Return whether a span of the history begins or ends with an answer given at `moment`."""
    of_row = (HISTORY.c.sha256 == sha256, HISTORY.c.provider == provider)
    is_end = or_(HISTORY.c.fetched_at == moment, HISTORY.c.confirmed_at == moment)
    return connection.execute(select(HISTORY.c.id).where(*of_row, is_end).limit(1)).first() is not None


def record_answer(
    connection: Connection,
    sha256: str,
    provider: str,
    verdict: ProviderVerdict,
    fetched_at: dt.datetime,
    now: dt.datetime,
) -> None:
    """Add an answer to the history at its place in time; adding it twice changes nothing.

    Spans that a wrong clock dated in the future end just before `now`, in their order.

    Args:
        connection: in a write transaction that, on PostgreSQL, has locked the hash.
        sha256: the hash.
        provider: the provider that answered.
        verdict: its verdict.
        fetched_at: when it answered.
        now: the current time.
    """
    before = _stored(connection, sha256, provider)
    if fetched_at <= now + MAX_CLOCK_SKEW and any(span.confirmed_at > now + MAX_CLOCK_SKEW for span in before):
        before = _end_before(connection, before, now)
    writer = _AnswerWriter(connection, sha256, provider, verdict)
    stored_spans = {span.row_id: span for span in before}
    kept: set[int] = set()
    for span in merge_spans(before, Observation(fetched_at, content_of(verdict))):
        if span.row_id is None or span.row_id in kept:
            writer.insert_span(span)
        else:
            kept.add(span.row_id)
            writer.update_span(stored_spans[span.row_id], span)
    _delete_others(connection, before, kept)


def merge_history(connection: Connection, sha256: str, provider: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Merge another history of the same hash and provider, as if each of its answers had been recorded here.

    Args:
        connection: in a write transaction.
        sha256: the hash.
        provider: the provider.
        rows: the columns of the table without `id`.
    """
    before = _stored(connection, sha256, provider)
    # Stored rows keep their ids, incoming rows get negative ones.
    incoming = {-number: row for number, row in enumerate(rows, start=1)}
    after = merge_spans([*before, *(_span({**row, "id": number}) for number, row in incoming.items())])
    kept: set[int] = set()
    for span in after:
        row_id = span.row_id or 0
        times = {"fetched_at": span.fetched_at, "confirmed_at": span.confirmed_at}
        if row_id > 0 and row_id not in kept:
            kept.add(row_id)
            connection.execute(update(HISTORY).where(HISTORY.c.id == row_id).values(times))
        else:
            row = incoming.get(row_id) or _row_without_id(connection, row_id)
            connection.execute(insert(HISTORY).values({**row, **times}))
    _delete_others(connection, before, kept)


def merge_spans(spans: Sequence[Span], new: Observation | None = None) -> list[Span]:
    """Return the spans that a provider's answers amount to.

    Args:
        spans: the known spans.
        new: one more answer. Of two answers given at the same moment the greater by `_rank` counts.
    """
    ends = [(at, span) for span in spans for at in (span.fetched_at, span.confirmed_at)]
    known = [Observation(at, span.content, span.row_id) for at, span in ends]
    by_moment: dict[dt.datetime, Observation] = {}
    for observation in known if new is None else (*known, new):
        other = by_moment.get(observation.at)
        # An equal new answer does not replace the stored one, which has a row.
        if other is None or _rank(observation.content) > _rank(other.content):
            by_moment[observation.at] = observation
    ordered = sorted(by_moment.values(), key=lambda observation: observation.at)
    return [_as_span(list(same)) for _, same in groupby(ordered, key=lambda observation: observation.content)]


def latest_verdicts(connection: Connection, sha256: str) -> dict[str, LatestVerdict]:
    """Return the latest verdict of each provider about a hash, by provider."""
    times = select(HISTORY.c.id, HISTORY.c.provider).where(HISTORY.c.sha256 == sha256)
    ordered = times.order_by(HISTORY.c.provider, HISTORY.c.fetched_at, HISTORY.c.id)
    latest_ids = {row.provider: row.id for row in connection.execute(ordered)}
    if not latest_ids:
        return {}
    query = select(HISTORY).where(HISTORY.c.id.in_(sorted(latest_ids.values())))
    return {row["provider"]: _latest_verdict(row) for row in connection.execute(query).mappings()}


def content_of(verdict: ProviderVerdict) -> Content:
    """Return what distinguishes a verdict from other answers."""
    return (verdict.verdict, verdict.classification, verdict.positives, verdict.total, verdict.first_seen)


class _AnswerWriter:
    """Writes the rows that one new answer changes."""

    def __init__(self, connection: Connection, sha256: str, provider: str, verdict: ProviderVerdict) -> None:
        self._connection = connection
        self._key = {"sha256": sha256, "provider": provider}
        self._verdict = verdict

    def insert_span(self, span: Span) -> None:
        """Insert a row: of the new answer, or of a stored one whose span the new answer splits."""
        details = self._details() if span.row_id is None else self._details_of(span.row_id)
        times = {"fetched_at": span.fetched_at, "confirmed_at": span.confirmed_at}
        content = dict(zip(_CONTENT, span.content, strict=True))
        self._connection.execute(insert(HISTORY).values(**self._key, **times, **content, **details))

    def update_span(self, before: Span, span: Span) -> None:
        """Update the times of a row, and its details if the new answer is now the latest of the span."""
        values: dict[str, Any] = {}
        if before.fetched_at != span.fetched_at:
            values["fetched_at"] = span.fetched_at
        if before.confirmed_at != span.confirmed_at:
            values["confirmed_at"] = span.confirmed_at
            if span.confirmed_at > before.confirmed_at:
                values |= self._details()
        if values:
            self._connection.execute(update(HISTORY).where(HISTORY.c.id == span.row_id).values(**values))

    def _details(self) -> dict[str, Any]:
        """Return the columns of the new answer that do not distinguish answers."""
        optional = {"description": self._verdict.description, "family": self._verdict.family}
        given = {name: value for name, value in optional.items() if value is not None}
        return {
            "last_analysis": self._verdict.last_analysis,
            "response": {"answer": self._verdict.response, **given},
        }

    def _details_of(self, row_id: int) -> dict[str, Any]:
        """Return the same columns of a stored row."""
        columns = (HISTORY.c.last_analysis, HISTORY.c.response)
        row = self._connection.execute(select(*columns).where(HISTORY.c.id == row_id)).one()
        return {"last_analysis": row.last_analysis, "response": row.response}


def _stored(connection: Connection, sha256: str, provider: str) -> list[Span]:
    """Return the stored spans of a hash and a provider, in order."""
    columns = [HISTORY.c[name] for name in ("id", "fetched_at", "confirmed_at", *_CONTENT)]
    query = select(*columns).where(HISTORY.c.sha256 == sha256, HISTORY.c.provider == provider)
    ordered = query.order_by(HISTORY.c.fetched_at, HISTORY.c.id)
    return [_span(row) for row in connection.execute(ordered).mappings()]


def _end_before(connection: Connection, spans: Sequence[Span], now: dt.datetime) -> list[Span]:
    """Let the spans that are after `now` end just before it, in their order; return all spans as they are then."""
    ended = []
    for steps, span in enumerate(reversed(spans), start=1):
        moment = now - steps * _STEP
        if span.confirmed_at > now:
            span = replace(span, fetched_at=min(span.fetched_at, moment), confirmed_at=moment)
            values = {"fetched_at": span.fetched_at, "confirmed_at": span.confirmed_at}
            connection.execute(update(HISTORY).where(HISTORY.c.id == span.row_id).values(**values))
        ended.append(span)
    return ended[::-1]


def _delete_others(connection: Connection, spans: Sequence[Span], kept: Set[int]) -> None:
    """Delete the rows of stored spans whose ids are not in `kept`."""
    obsolete = [span.row_id for span in spans if span.row_id not in kept]
    if obsolete:
        connection.execute(delete(HISTORY).where(HISTORY.c.id.in_(obsolete)))


def _row_without_id(connection: Connection, row_id: int) -> dict[str, Any]:
    row = connection.execute(select(HISTORY).where(HISTORY.c.id == row_id)).mappings().one()
    return {str(name): value for name, value in row.items() if name != "id"}


def _rank(content: Content) -> tuple[Any, ...]:
    """Return the sort key for answers of one moment: graver verdicts are greater, the rest makes the order total."""
    verdict, classification, positives, total, first_seen = content
    gravity = -VERDICTS.index(verdict) if verdict in VERDICTS else -len(VERDICTS)
    first_seen_s = first_seen.timestamp() if first_seen else 0.0
    is_given = tuple(value is not None for value in content)
    return (gravity, positives or 0, total or 0, classification or "", first_seen_s, *is_given, verdict)


def _span(row: Mapping[Any, Any]) -> Span:
    verdict, classification, positives, total, first_seen = (row[name] for name in _CONTENT)
    content = (verdict, classification, positives, total, first_seen)
    return Span(row["fetched_at"], row["confirmed_at"], content, row["id"])


def _as_span(same: Sequence[Observation]) -> Span:
    """Return consecutive equal answers as a span with the row of the latest stored one."""
    row_id = next((answer.row_id for answer in reversed(same) if answer.row_id is not None), None)
    return Span(same[0].at, same[-1].at, same[0].content, row_id)


def _latest_verdict(row: Mapping[Any, Any]) -> LatestVerdict:
    response = row["response"] if isinstance(row["response"], dict) else {}
    return LatestVerdict(
        provider=row["provider"],
        verdict=row["verdict"],
        confirmed_at=row["confirmed_at"],
        classification=row["classification"],
        positives=row["positives"],
        total=row["total"],
        first_seen=row["first_seen"],
        last_analysis=row["last_analysis"],
        description=_text(response.get("description")),
        family=_text(response.get("family")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
