"""New answers of sources in a time window: files found to be malicious, and verdicts that changed.

An answer belongs to the window in which its source first gave it (`file_verdicts.fetched_at`). The file may have been
dropped long before.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, or_, select
from sqlalchemy.orm import aliased

from cowrieprocessor.db.enrichment.provider_verdict import MALICIOUS
from cowrieprocessor.db.models import FileHash, Files, FileVerdict, SessionSummary
from cowrieprocessor.reporting.queries.files import find_names
from cowrieprocessor.reporting.queries.paging import Bytewise
from cowrieprocessor.reporting.queries.sensors import file_on_sensor
from cowrieprocessor.reporting.queries.window import Window

MANY_ANSWERS = 20_000
"""With more answers than this in a window, changes are found through the index on the file instead of on the time."""

_NEW = aliased(FileVerdict, name="new_verdict")
_OLD = aliased(FileVerdict, name="old_verdict")
_BEFORE = aliased(FileVerdict, name="verdict_before")


@dataclass(frozen=True, slots=True)
class FoundMalicious:
    """A file that was first called malicious in the window.

    Attributes:
        verdict: the aggregate of all sources now.
        session_count: sessions of any date that dropped it; `first_seen` and `last_seen` are of any date, too.
        provider: the source that called it malicious first, at `found_at`.
        classification, positives, total: that source's answer.
    """

    sha256: str
    name: str | None
    size_bytes: int | None
    mime_type: str | None
    verdict: str
    family: str | None
    session_count: int
    first_seen: dt.datetime | None
    last_seen: dt.datetime | None
    provider: str
    classification: str | None
    positives: int | None
    total: int | None
    found_at: dt.datetime


@dataclass(frozen=True, slots=True)
class ChangedVerdict:
    """A source's answer in the window that differs from its previous one, which `previous_*` holds.

    Attributes:
        session_count: sessions of any date that dropped the file.
        changed_at: when the source first gave this answer.
        verdict: this source's verdict, not the aggregate.
    """

    sha256: str
    name: str | None
    session_count: int
    provider: str
    changed_at: dt.datetime
    verdict: str
    classification: str | None
    positives: int | None
    total: int | None
    previous_verdict: str
    previous_classification: str | None
    previous_positives: int | None
    previous_total: int | None


def count_found_malicious(connection: Connection, window: Window) -> int:
    """Return the number of files that were first called malicious in a window."""
    return connection.scalar(_first_malicious(window, func.count())) or 0


def count_changes(connection: Connection, window: Window, *, many_answers: int = MANY_ANSWERS) -> tuple[int, int]:
    """Return the number of changed answers in a window, and the number of these in which the verdict differs.

    Args:
        connection: a connection in a transaction.
        window: when the source first gave the answer.
        many_answers: as `MANY_ANSWERS`; it changes the query plan, not the result.
    """
    changed = case((_NEW.verdict != _OLD.verdict, 1), else_=0)
    columns = (func.count().label("answers"), func.coalesce(func.sum(changed), 0).label("verdicts"))
    row = connection.execute(_changes(connection, window, many_answers, *columns)).one()
    return int(row.answers), int(row.verdicts)


def found_malicious(connection: Connection, window: Window, limit: int) -> tuple[FoundMalicious, ...]:
    """Return the files that were first called malicious in a window, those dropped by most sessions first."""
    first = _first_malicious(window, *(getattr(_NEW, name) for name in _ANSWER), _NEW.fetched_at.label("found_at"))
    rows = connection.execute(
        _with_file(first, *_FILE)
        .order_by(func.coalesce(FileHash.session_count, 0).desc(), Bytewise(_NEW.sha256))
        .limit(limit)
    ).mappings()
    return tuple(FoundMalicious(**row) for row in _with_names(connection, rows.all()))


def changed_verdicts(
    connection: Connection, window: Window, limit: int, *, many_answers: int = MANY_ANSWERS
) -> tuple[ChangedVerdict, ...]:
    """Return the answers in a window that differ from the same source's previous answer.

    Changes to and from malicious come first, then other changed verdicts, then the same verdict with other numbers or
    another classification; the latest first within each group.

    Args:
        connection: a connection in a transaction.
        window: when the source first gave the answer.
        limit: maximum number of answers.
        many_answers: as `MANY_ANSWERS`; it changes the query plan, not the result.
    """
    rank = case(
        (_NEW.verdict == _OLD.verdict, 2),
        (or_(_NEW.verdict == MALICIOUS, _OLD.verdict == MALICIOUS), 0),
        else_=1,
    )
    changes = _changes(
        connection,
        window,
        many_answers,
        *(getattr(_NEW, name) for name in (*_ANSWER, "verdict")),
        _NEW.fetched_at.label("changed_at"),
        *(getattr(_OLD, name).label(f"previous_{name}") for name in ("verdict", *_ANSWER[2:])),
    )
    rows = connection.execute(
        _with_file(changes)
        .order_by(rank, _NEW.fetched_at.desc(), Bytewise(_NEW.sha256), Bytewise(_NEW.provider))
        .limit(limit)
    ).mappings()
    return tuple(
        ChangedVerdict(**{key: row[key] for key in ChangedVerdict.__dataclass_fields__})
        for row in _with_names(connection, rows.all())
    )


_ANSWER = ("sha256", "provider", "classification", "positives", "total")
_FILE = (
    FileHash.size_bytes,
    FileHash.mime_type,
    # Without its row the file has no verdict of all sources; this one's stands.
    func.coalesce(FileHash.verdict, _NEW.verdict).label("verdict"),
    FileHash.family,
)


def _with_file(query: Select[*tuple[Any, ...]], *columns: Any) -> Select[*tuple[Any, ...]]:
    """Return the query with columns of each answer's file added."""
    counted = func.coalesce(FileHash.session_count, 0).label("session_count")
    return query.add_columns(counted, FileHash.first_seen, FileHash.last_seen, *columns).outerjoin(
        FileHash, FileHash.sha256 == _NEW.sha256
    )


def _with_names(connection: Connection, rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the rows with each file's name added."""
    seen = {(row["sha256"], row["first_seen"], row["last_seen"]) for row in rows if row["first_seen"] is not None}
    names = find_names(connection, sorted(seen))
    return [{**row, "name": names.get(row["sha256"])} for row in rows]


def _in_window(window: Window) -> list[ColumnElement[bool]]:
    return [_NEW.fetched_at >= window.start, _NEW.fetched_at < window.end]


def _is_before(row: Any, other: Any) -> ColumnElement[bool]:
    """Return the condition that a history row precedes another; written so that the index can be range-scanned."""
    return and_(row.fetched_at <= other.fetched_at, or_(row.fetched_at < other.fetched_at, row.id < other.id))


def _first_malicious(window: Window, *columns: Any) -> Select[*tuple[Any, ...]]:
    """Return the query for each file's first `malicious` answer of any source, if it lies in the window."""
    earlier = select(_BEFORE.id).where(
        _BEFORE.sha256 == _NEW.sha256, _BEFORE.verdict == MALICIOUS, _is_before(_BEFORE, _NEW)
    )
    query = select(*columns).select_from(_NEW).where(*_in_window(window), _NEW.verdict == MALICIOUS, ~earlier.exists())
    return _on_sensor(query, window)


def _changes(connection: Connection, window: Window, many_answers: int, *columns: Any) -> Select[*tuple[Any, ...]]:
    """Return the query for answers in the window joined with the same source's previous answer, if there is one."""
    before = (
        select(_BEFORE.id)
        .where(_BEFORE.sha256 == _NEW.sha256, _BEFORE.provider == _NEW.provider, _is_before(_BEFORE, _NEW))
        .order_by(_BEFORE.fetched_at.desc(), _BEFORE.id.desc())
        .limit(1)
        .correlate(_NEW)
        .scalar_subquery()
    )
    query = select(*columns).select_from(_NEW).join(_OLD, _OLD.id == before)
    if not _has_more_answers(connection, window, many_answers):
        return _on_sensor(query.where(*_in_window(window)), window)
    # Among very many answers, most are a source's first about their file. One pass over the index on the file finds
    # the others; coalesce() keeps the planner from the index on the time.
    repeated = (
        select(FileVerdict.sha256, FileVerdict.provider)
        .group_by(FileVerdict.sha256, FileVerdict.provider)
        .having(func.count() > 1)
        .subquery()
    )
    query = query.join(repeated, and_(repeated.c.sha256 == _NEW.sha256, repeated.c.provider == _NEW.provider))
    answered = func.coalesce(_NEW.fetched_at, _NEW.confirmed_at)
    return _on_sensor(query.where(answered >= window.start, answered < window.end), window)


def _has_more_answers(connection: Connection, window: Window, count: int) -> bool:
    """Return whether the window has more than this number of answers."""
    beyond = select(_NEW.id).where(*_in_window(window)).order_by(_NEW.fetched_at).offset(count).limit(1)
    return connection.scalar(beyond) is not None


def _on_sensor(query: Select[*tuple[Any, ...]], window: Window) -> Select[*tuple[Any, ...]]:
    """Return the query restricted to files that the window's sensor ever saw."""
    if window.sensor is None:
        return query
    seen = (
        select(Files.id)
        .outerjoin(SessionSummary, SessionSummary.session_id == Files.session_id)
        .where(Files.shasum == _NEW.sha256, file_on_sensor(window.sensor))
    )
    return query.where(seen.exists())
