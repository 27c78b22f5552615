"""What sources came to say in a window of time: files found to be malicious, and verdicts that changed.

The clock is that of the answers: when a source first said so (`file_verdicts.fetched_at`). A file can have been
dropped long before.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, or_, select
from sqlalchemy.orm import aliased

from cowrieprocessor.db.enrichment.provider_verdict import MALICIOUS, UNKNOWN
from cowrieprocessor.db.models import FileHash, Files, FileVerdict, SessionSummary
from cowrieprocessor.reporting.queries.files import find_names
from cowrieprocessor.reporting.queries.paging import Bytewise
from cowrieprocessor.reporting.queries.sensors import file_on_sensor
from cowrieprocessor.reporting.queries.window import Window

MANY_ANSWERS = 20_000
"""From so many answers in a window on, those that changed are looked for the other way round."""

_NEW = aliased(FileVerdict, name="new_verdict")
_OLD = aliased(FileVerdict, name="old_verdict")
_BEFORE = aliased(FileVerdict, name="verdict_before")


@dataclass(frozen=True, slots=True)
class FoundMalicious:
    """One file that was first called malicious in the window.

    Attributes:
        provider: the source that said so, `found_at` when; `classification`, `positives` and `total` are its words.
        verdict: of all sources together, as it is now.
        session_count: sessions that dropped it, of any date; so are `first_seen` and `last_seen`.
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
    """One answer of a source in the window that differs from its answer before, which `previous_*` is.

    Attributes:
        changed_at: when it first answered so.
        verdict: that of this source, not of all together.
        session_count: sessions that dropped the file, of any date.
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
    """Return how many files were first called malicious in a window."""
    return connection.scalar(_first_malicious(window, func.count())) or 0


def count_changes(connection: Connection, window: Window) -> tuple[int, int]:
    """Return how many answers of a window differ from the same source's before; and how many of them in the verdict."""
    changed = case((_NEW.verdict != _OLD.verdict, 1), else_=0)
    query = _changes(
        connection, window, func.count().label("answers"), func.coalesce(func.sum(changed), 0).label("verdicts")
    )
    row = connection.execute(query).one()
    return int(row.answers), int(row.verdicts)


def found_malicious(connection: Connection, window: Window, limit: int) -> tuple[FoundMalicious, ...]:
    """Return the files that were first called malicious in a window: by sessions that dropped them, then by hash."""
    first = _first_malicious(window, *(getattr(_NEW, name) for name in _ANSWER), _NEW.fetched_at.label("found_at"))
    rows = connection.execute(
        _with_file(first, *_FILE)
        .order_by(func.coalesce(FileHash.session_count, 0).desc(), Bytewise(_NEW.sha256))
        .limit(limit)
    ).mappings()
    return tuple(FoundMalicious(**row) for row in _with_names(connection, rows.all()))


def changed_verdicts(connection: Connection, window: Window, limit: int) -> tuple[ChangedVerdict, ...]:
    """Return the answers of a window that differ from the same source's before.

    To malicious and away from it first, then other verdicts, then the same verdict with other numbers or another
    name; each the latest first.
    """
    rank = case(
        (_NEW.verdict == _OLD.verdict, 2),
        (or_(_NEW.verdict == MALICIOUS, _OLD.verdict == MALICIOUS), 0),
        else_=1,
    )
    changes = _changes(
        connection,
        window,
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
    func.coalesce(FileHash.verdict, UNKNOWN).label("verdict"),
    FileHash.family,
)


def _with_file(query: Select[*tuple[Any, ...]], *columns: Any) -> Select[*tuple[Any, ...]]:
    """Return the query with what is known of each file beside its answer."""
    counted = func.coalesce(FileHash.session_count, 0).label("session_count")
    return query.add_columns(counted, FileHash.first_seen, FileHash.last_seen, *columns).outerjoin(
        FileHash, FileHash.sha256 == _NEW.sha256
    )


def _with_names(connection: Connection, rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the rows with a name of each file."""
    seen = {(row["sha256"], row["first_seen"], row["last_seen"]) for row in rows if row["first_seen"] is not None}
    names = find_names(connection, sorted(seen))
    return [{**row, "name": names.get(row["sha256"])} for row in rows]


def _in_window(window: Window) -> list[ColumnElement[bool]]:
    return [_NEW.fetched_at >= window.start, _NEW.fetched_at < window.end]


def _earlier(row: Any, than: Any) -> ColumnElement[bool]:
    """Return the condition that a row of the history is before another; written so that the index gives the range."""
    return and_(row.fetched_at <= than.fetched_at, or_(row.fetched_at < than.fetched_at, row.id < than.id))


def _first_malicious(window: Window, *columns: Any) -> Select[*tuple[Any, ...]]:
    """Return the query for the first answers `malicious` about files, of whatever source, that lie in the window."""
    earlier = select(_BEFORE.id).where(
        _BEFORE.sha256 == _NEW.sha256, _BEFORE.verdict == MALICIOUS, _earlier(_BEFORE, _NEW)
    )
    query = select(*columns).select_from(_NEW).where(*_in_window(window), _NEW.verdict == MALICIOUS, ~earlier.exists())
    return _on_sensor(query, window)


def _changes(connection: Connection, window: Window, *columns: Any) -> Select[*tuple[Any, ...]]:
    """Return the query for the answers in the window, each beside the same source's answer before; none without one."""
    before = (
        select(_BEFORE.id)
        .where(_BEFORE.sha256 == _NEW.sha256, _BEFORE.provider == _NEW.provider, _earlier(_BEFORE, _NEW))
        .order_by(_BEFORE.fetched_at.desc(), _BEFORE.id.desc())
        .limit(1)
        .correlate(_NEW)
        .scalar_subquery()
    )
    query = select(*columns).select_from(_NEW).join(_OLD, _OLD.id == before)
    if not _has_many_answers(connection, window):
        return _on_sensor(query.where(*_in_window(window)), window)
    # Most of very many answers are a source's first about their file. Which are not, the index on the file tells all
    # at once; coalesce() keeps the planner from the one on the time.
    repeated = (
        select(FileVerdict.sha256, FileVerdict.provider)
        .group_by(FileVerdict.sha256, FileVerdict.provider)
        .having(func.count() > 1)
        .subquery()
    )
    query = query.join(repeated, and_(repeated.c.sha256 == _NEW.sha256, repeated.c.provider == _NEW.provider))
    answered = func.coalesce(_NEW.fetched_at, _NEW.confirmed_at)
    return _on_sensor(query.where(answered >= window.start, answered < window.end), window)


def _has_many_answers(connection: Connection, window: Window) -> bool:
    beyond = select(_NEW.id).where(*_in_window(window)).order_by(_NEW.fetched_at).offset(MANY_ANSWERS).limit(1)
    return connection.scalar(beyond) is not None


def _on_sensor(query: Select[*tuple[Any, ...]], window: Window) -> Select[*tuple[Any, ...]]:
    """Return the query for files that the window's sensor ever saw."""
    if window.sensor is None:
        return query
    seen = (
        select(Files.id)
        .outerjoin(SessionSummary, SessionSummary.session_id == Files.session_id)
        .where(Files.shasum == _NEW.sha256, file_on_sensor(window.sensor))
    )
    return query.where(seen.exists())
