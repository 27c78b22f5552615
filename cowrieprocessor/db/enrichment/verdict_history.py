"""The history: what each source said about each hash, and from when to when it said so.

A row is a span in which a source said the same whenever it was asked: from `fetched_at` to `confirmed_at`. Answers
usually arrive in the order of their times; one that is older than what is known finds its place, and the spans come out
as they would have in order. Only where a source said A, B, A again is that not possible in full: which answers between
the ends of a span A confirmed it is not kept, so that a B that arrives late leaves the ends.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Table, delete, insert, select, update

from cowrieprocessor.db.enrichment.provider_verdict import UNKNOWN, VERDICTS, ProviderVerdict
from cowrieprocessor.db.models import FileVerdict

__all__ = [
    "HISTORY",
    "Content",
    "LatestVerdict",
    "Observation",
    "Span",
    "latest_verdicts",
    "merge_history",
    "merge_spans",
    "record_answer",
]

HISTORY: Table = FileVerdict.metadata.tables["file_verdicts"]

_CONTENT = ("verdict", "classification", "positives", "total", "first_seen")
Content = tuple[str, str | None, int | None, int | None, dt.datetime | None]
"""What makes an answer another one: verdict, classification, positives, total and when the source saw it first."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One answer at one moment.

    Attributes:
        at: when it was given.
        content: what it says.
        row_id: the row that the rest of it is in; None for one that has none yet.
    """

    at: dt.datetime
    content: Content
    row_id: int | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """Some time in which a source said the same.

    Attributes:
        fetched_at: when it first said so.
        confirmed_at: when it last said so.
        content: what it said.
        row_id: the row that keeps its last answer; None if that is the new one.
    """

    fetched_at: dt.datetime
    confirmed_at: dt.datetime
    content: Content
    row_id: int | None


@dataclass(frozen=True, slots=True)
class LatestVerdict:
    """The latest that a source said of a hash, as judgement needs it.

    Attributes:
        confirmed_at: when it last said so.
        description, family: as the source named them; not part of what makes an answer another one.
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
        """Whether the source knows the file at all."""
        said = (self.classification, self.positives, self.total, self.first_seen, self.last_analysis, self.description)
        return self.verdict != UNKNOWN or any(one is not None for one in said)


def record_answer(
    connection: Connection, sha256: str, provider: str, finding: ProviderVerdict, fetched_at: dt.datetime
) -> None:
    """Write an answer into the history: again is a no-op, and an older one finds its place.

    Args:
        connection: in a write transaction; on PostgreSQL it holds the row of the hash.
        sha256: the hash.
        provider: who answered.
        finding: what it said.
        fetched_at: when.
    """
    before = _stored(connection, sha256, provider)
    told = _Told(connection, sha256, provider, finding)
    after = merge_spans(before, Observation(fetched_at, content_of(finding)))
    kept: set[int] = set()
    for span in after:
        if span.row_id is None or span.row_id in kept:
            told.add(span)
        else:
            kept.add(span.row_id)
            told.change(next(one for one in before if one.row_id == span.row_id), span)
    gone = [span.row_id for span in before if span.row_id not in kept]
    if gone:
        connection.execute(delete(HISTORY).where(HISTORY.c.id.in_(gone)))


def merge_history(connection: Connection, sha256: str, provider: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Merge rows of another history of the same hash and source, as if each of their answers had been given here.

    Args:
        connection: in a write transaction.
        sha256: the hash.
        provider: the source.
        rows: the columns of the table without `id`.
    """
    before = _stored(connection, sha256, provider)
    # What is here has its number, what comes has one below zero.
    given = {-number: row for number, row in enumerate(rows, start=1)}
    after = merge_spans([*before, *(_span({**row, "id": number}) for number, row in given.items())])
    kept: set[int] = set()
    for span in after:
        row_id = span.row_id or 0
        if row_id > 0 and row_id not in kept:
            kept.add(row_id)
            times = {"fetched_at": span.fetched_at, "confirmed_at": span.confirmed_at}
            connection.execute(update(HISTORY).where(HISTORY.c.id == row_id).values(times))
        else:
            whole = given.get(row_id) or _whole(connection, row_id)
            times = {"fetched_at": span.fetched_at, "confirmed_at": span.confirmed_at}
            connection.execute(insert(HISTORY).values({**whole, **times}))
    gone = [span.row_id for span in before if span.row_id not in kept]
    if gone:
        connection.execute(delete(HISTORY).where(HISTORY.c.id.in_(gone)))


def merge_spans(spans: Sequence[Span], new: Observation | None = None) -> list[Span]:
    """Return the spans that a source's answers amount to.

    Args:
        spans: those that are known.
        new: one answer more. Of two that were given at the same moment the greater counts, in the order of `_rank`.
    """
    ends = [(at, span) for span in spans for at in (span.fetched_at, span.confirmed_at)]
    known = [Observation(at, span.content, span.row_id) for at, span in ends]
    at_moment: dict[dt.datetime, Observation] = {}
    for one in known if new is None else (*known, new):
        other = at_moment.get(one.at)
        # The new answer wins against an equal one only at the end: there it is the latest of its span anyway.
        if other is None or _rank(one.content) > _rank(other.content):
            at_moment[one.at] = one
    ordered = sorted(at_moment.values(), key=lambda one: one.at)
    return [_as_span(list(same)) for _, same in groupby(ordered, key=lambda one: one.content)]


def latest_verdicts(connection: Connection, sha256: str) -> dict[str, LatestVerdict]:
    """Return the latest that each source said about a hash, by source."""
    times = select(HISTORY.c.id, HISTORY.c.provider).where(HISTORY.c.sha256 == sha256)
    ordered = times.order_by(HISTORY.c.provider, HISTORY.c.fetched_at, HISTORY.c.id)
    last = {row.provider: row.id for row in connection.execute(ordered)}
    if not last:
        return {}
    found = connection.execute(select(HISTORY).where(HISTORY.c.id.in_(sorted(last.values())))).mappings()
    return {row["provider"]: _spoken(row) for row in found}


def content_of(finding: ProviderVerdict) -> Content:
    """Return what of a finding makes an answer another one."""
    return (finding.verdict, finding.classification, finding.positives, finding.total, finding.first_seen)


class _Told:
    """Writes rows for one answer."""

    def __init__(self, connection: Connection, sha256: str, provider: str, finding: ProviderVerdict) -> None:
        self._connection = connection
        self._key = {"sha256": sha256, "provider": provider}
        self._finding = finding

    def add(self, span: Span) -> None:
        """Add a row: of the new answer, or (a span that falls apart) of the same answer as another row."""
        rest = self._rest() if span.row_id is None else self._rest_of(span.row_id)
        times = {"fetched_at": span.fetched_at, "confirmed_at": span.confirmed_at}
        content = dict(zip(_CONTENT, span.content, strict=True))
        self._connection.execute(insert(HISTORY).values(**self._key, **times, **content, **rest))

    def change(self, before: Span, span: Span) -> None:
        """Change the times of a row; the rest becomes the new answer's where that is the latest of the span."""
        values: dict[str, Any] = {}
        if before.fetched_at != span.fetched_at:
            values["fetched_at"] = span.fetched_at
        if before.confirmed_at != span.confirmed_at:
            values["confirmed_at"] = span.confirmed_at
            if span.confirmed_at > before.confirmed_at:
                values |= self._rest()
        if values:
            self._connection.execute(update(HISTORY).where(HISTORY.c.id == span.row_id).values(**values))

    def _rest(self) -> dict[str, Any]:
        finding = self._finding
        extras = {"description": finding.description, "family": finding.family}
        response = {"answer": finding.response, **{name: said for name, said in extras.items() if said is not None}}
        return {"last_analysis": finding.last_analysis, "response": response}

    def _rest_of(self, row_id: int) -> dict[str, Any]:
        columns = (HISTORY.c.last_analysis, HISTORY.c.response)
        row = self._connection.execute(select(*columns).where(HISTORY.c.id == row_id)).one()
        return {"last_analysis": row.last_analysis, "response": row.response}


def _stored(connection: Connection, sha256: str, provider: str) -> list[Span]:
    columns = [HISTORY.c[name] for name in ("id", "fetched_at", "confirmed_at", *_CONTENT)]
    mine = select(*columns).where(HISTORY.c.sha256 == sha256, HISTORY.c.provider == provider)
    ordered = mine.order_by(HISTORY.c.fetched_at, HISTORY.c.id)
    return [_span(row) for row in connection.execute(ordered).mappings()]


def _whole(connection: Connection, row_id: int) -> dict[str, Any]:
    """Return a row without its number."""
    row = connection.execute(select(HISTORY).where(HISTORY.c.id == row_id)).mappings().one()
    return {str(name): value for name, value in row.items() if name != "id"}


def _rank(content: Content) -> tuple[Any, ...]:
    """Return what answers of one moment are compared by: the graver first, then whatever makes the order total."""
    verdict, classification, positives, total, first_seen = content
    grave = -VERDICTS.index(verdict) if verdict in VERDICTS else -len(VERDICTS)
    seen = first_seen.timestamp() if first_seen else 0.0
    given = tuple(one is not None for one in content)
    return (grave, positives or 0, total or 0, classification or "", seen, *given, verdict)


def _span(row: Mapping[Any, Any]) -> Span:
    verdict, classification, positives, total, first_seen = (row[name] for name in _CONTENT)
    content = (verdict, classification, positives, total, first_seen)
    return Span(row["fetched_at"], row["confirmed_at"], content, row["id"])


def _as_span(same: Sequence[Observation]) -> Span:
    """Return equal answers, one behind the other, as a span; it keeps the latest row that there is of them."""
    row_id = next((one.row_id for one in reversed(same) if one.row_id is not None), None)
    return Span(same[0].at, same[-1].at, same[0].content, row_id)


def _spoken(row: Mapping[Any, Any]) -> LatestVerdict:
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
