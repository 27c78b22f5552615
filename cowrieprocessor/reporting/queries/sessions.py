"""Sessions: the list, and one session with what it did."""

from __future__ import annotations

import datetime as dt
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, func, or_, select

from cowrieprocessor.db.models import CommandStat, Files, RawEvent, SessionAttribute, SessionSummary
from cowrieprocessor.errors import NotFound, UnreadableTimestamp
from cowrieprocessor.events import parse_timestamp
from cowrieprocessor.reporting.queries.paging import (
    EARLIEST,
    Bytewise,
    Page,
    after_descending,
    page_of,
    parse_time_cursor,
    time_cursor,
)
from cowrieprocessor.reporting.queries.sensors import on_sensor

_IDS_AT_ONCE = 500
_END_OF_TIME = dt.datetime.max.replace(tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """Which sessions to list; what is None or False does not filter.

    Attributes:
        since: began then or later.
        until: began before then.
        src_ip: came from that address.
        sensor: on that sensor.
        with_files: left at least one file.
        flagged: flagged by VirusTotal's verdict on a file, or by DShield's on the address.
    """

    since: dt.datetime | None = None
    until: dt.datetime | None = None
    src_ip: str | None = None
    sensor: str | None = None
    with_files: bool = False
    flagged: bool = False


@dataclass(frozen=True, slots=True)
class SessionListing:
    """One session in a list. Its times are of its first and last event, None where none was readable."""

    session_id: str
    first_event_at: dt.datetime | None
    last_event_at: dt.datetime | None
    sensor: str | None
    src_ip: str | None
    protocol: str | None
    hassh: str | None
    username: str | None
    login_success: bool | None
    event_count: int
    command_count: int
    login_attempts: int
    files: int
    vt_flagged: bool
    dshield_flagged: bool


@dataclass(frozen=True, slots=True)
class SessionFile:
    """One file that a session left."""

    sha256: str
    filename: str | None
    download_url: str | None
    file_size: int | None
    origin: str
    first_seen: dt.datetime
    vt_malicious: bool
    vt_classification: str | None


@dataclass(frozen=True, slots=True)
class SessionCommand:
    """One command of a session, and how often it was given."""

    command: str
    times: int
    high_risk: bool


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """One event of a session.

    Attributes:
        at: when, in UTC; None where the timestamp is missing or unreadable (such events come last).
        event_type: Cowrie's name of it.
        fields: the event as it is stored.
        source: the log it was read from; `source_offset` is the 0-based number of its line.
    """

    at: dt.datetime | None
    event_type: str | None
    fields: dict[str, Any]
    source: str
    source_offset: int | None


@dataclass(frozen=True, slots=True)
class SessionDetails:
    """One session: its summary, its files and commands, and its events in order.

    `events_total`, `files_total` and `commands_total` count all of them, also those beyond the limit.
    """

    summary: SessionListing
    source_files: tuple[str, ...]
    files: tuple[SessionFile, ...]
    files_total: int
    commands: tuple[SessionCommand, ...]
    commands_total: int
    events: tuple[SessionEvent, ...]
    events_total: int


def _summaries() -> Select[*tuple[Any, ...]]:
    return select(
        SessionSummary.session_id,
        SessionSummary.first_event_at,
        SessionSummary.last_event_at,
        SessionSummary.matcher.label("sensor"),
        SessionAttribute.src_ip,
        SessionAttribute.protocol,
        SessionAttribute.hassh,
        SessionAttribute.username,
        SessionAttribute.login_success,
        SessionSummary.event_count,
        SessionSummary.command_count,
        SessionSummary.login_attempts,
        SessionSummary.vt_flagged,
        SessionSummary.dshield_flagged,
    ).outerjoin(SessionAttribute, SessionAttribute.session_id == SessionSummary.session_id)


def list_sessions(
    connection: Connection,
    filters: SessionFilter = SessionFilter(),
    *,
    limit: int = 50,
    after: str | None = None,
) -> Page[SessionListing]:
    """Return one page of the sessions, the latest first; those without a readable time come last.

    Args:
        connection: a connection in a transaction.
        filters: which sessions.
        limit: rows on the page, at least 1.
        after: the cursor of an earlier page.

    Raises:
        ConfigurationError: `after` is not a cursor of this list.
    """
    began = SessionSummary.first_event_at.expression
    identity = Bytewise(SessionSummary.session_id)
    moment, last_id = parse_time_cursor(after) if after is not None else (None, "")
    rows: list[Any] = []
    if after is None or moment is not None:
        # Times are not null here, so that both databases can walk the index backwards.
        dated = _filtered(_summaries(), filters).where(began >= EARLIEST)
        if moment is not None:
            dated = dated.where(after_descending(began, moment, identity, last_id))
        rows += connection.execute(dated.order_by(began.desc(), identity).limit(limit + 1)).mappings()
    if len(rows) <= limit and filters.since is None and filters.until is None:
        undated = _filtered(_summaries(), filters).where(began.is_(None))
        if after is not None and moment is None:
            undated = undated.where(identity > last_id)
        rows += connection.execute(undated.order_by(identity).limit(limit + 1 - len(rows))).mappings()
    files = _file_counts(connection, [row["session_id"] for row in rows])
    listed = [SessionListing(files=files.get(row["session_id"], 0), **row) for row in rows]
    return page_of(listed, limit, lambda row: time_cursor(row.first_event_at, row.session_id))


def _filtered(query: Select[*tuple[Any, ...]], filters: SessionFilter) -> Select[*tuple[Any, ...]]:
    if filters.since is not None:
        query = query.where(SessionSummary.first_event_at >= filters.since)
    if filters.until is not None:
        query = query.where(SessionSummary.first_event_at < filters.until)
    if filters.src_ip is not None:
        query = query.where(SessionAttribute.src_ip == filters.src_ip)
    if filters.sensor is not None:
        query = query.where(on_sensor(filters.sensor))
    if filters.with_files:
        query = query.where(select(Files.id).where(Files.session_id == SessionSummary.session_id).exists())
    if filters.flagged:
        query = query.where(or_(SessionSummary.vt_flagged, SessionSummary.dshield_flagged))
    return query


def _file_counts(connection: Connection, session_ids: list[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for start in range(0, len(session_ids), _IDS_AT_ONCE):
        some = session_ids[start : start + _IDS_AT_ONCE]
        query = select(Files.session_id, func.count()).where(Files.session_id.in_(some)).group_by(Files.session_id)
        for session_id, count in connection.execute(query):
            counts[session_id] = count
    return counts


def session_details(connection: Connection, session_id: str, *, limit: int = 200) -> SessionDetails:
    """Return one session with its first events, files and commands.

    Args:
        connection: a connection in a transaction.
        session_id: the whole id, as Cowrie wrote it.
        limit: how many events, files and commands at most (each).

    Raises:
        NotFound: the database has no such session.
    """
    row = connection.execute(_summaries().where(SessionSummary.session_id == session_id)).mappings().first()
    if row is None:
        raise NotFound(f"no session {session_id} in this database; `cowrieprocessor sessions list` shows them")
    files_total = _file_counts(connection, [session_id]).get(session_id, 0)
    events, events_total = _events(connection, session_id, limit)
    of_session = CommandStat.session_id == session_id
    return SessionDetails(
        summary=SessionListing(files=files_total, **row),
        source_files=_source_files(connection, session_id),
        files=_files(connection, session_id, limit),
        files_total=files_total,
        commands=_commands(connection, of_session, limit),
        commands_total=connection.scalar(select(func.count()).select_from(CommandStat).where(of_session)) or 0,
        events=events,
        events_total=events_total,
    )


def _source_files(connection: Connection, session_id: str) -> tuple[str, ...]:
    stored = connection.scalar(select(SessionSummary.source_files).where(SessionSummary.session_id == session_id))
    return tuple(str(path) for path in stored) if isinstance(stored, list) else ()


def _files(connection: Connection, session_id: str, limit: int) -> tuple[SessionFile, ...]:
    query = (
        select(
            Files.shasum.label("sha256"),
            Files.filename,
            Files.download_url,
            Files.file_size,
            Files.origin,
            Files.first_seen,
            Files.vt_malicious,
            Files.vt_classification,
        )
        .where(Files.session_id == session_id)
        .order_by(Files.first_seen, Bytewise(Files.shasum))
        .limit(limit)
    )
    return tuple(SessionFile(**row) for row in connection.execute(query).mappings())


def _commands(connection: Connection, of_session: ColumnElement[bool], limit: int) -> tuple[SessionCommand, ...]:
    query = (
        select(
            CommandStat.command_normalized.label("command"),
            CommandStat.occurrences.label("times"),
            CommandStat.high_risk,
        )
        .where(of_session)
        .order_by(CommandStat.occurrences.desc(), Bytewise(CommandStat.command_normalized))
        .limit(limit)
    )
    return tuple(SessionCommand(**row) for row in connection.execute(query).mappings())


def _events(connection: Connection, session_id: str, limit: int) -> tuple[tuple[SessionEvent, ...], int]:
    """Return the earliest events of a session in order, and how many it has.

    Timestamps are text in several zones and forms, so the order is found here. Payloads are fetched only for
    the events that are shown: a session of a million events takes no memory.
    """
    seen = 0

    def keys() -> Iterator[tuple[dt.datetime, int, str, str, int, int]]:
        nonlocal seen
        for row in connection.execute(places):
            seen += 1
            yield (_moment(row.event_timestamp) or _END_OF_TIME, *_place(row))

    places = (
        select(
            RawEvent.id,
            RawEvent.event_timestamp,
            RawEvent.source,
            RawEvent.source_inode,
            RawEvent.source_generation,
            RawEvent.source_offset,
        )
        .where(RawEvent.session_id == session_id)
        .execution_options(yield_per=_IDS_AT_ONCE)
    )
    first = heapq.nsmallest(limit, keys())
    events: dict[int, SessionEvent] = {}
    for start in range(0, len(first), _IDS_AT_ONCE):
        moments = {key[-1]: key[0] for key in first[start : start + _IDS_AT_ONCE]}
        query = select(
            RawEvent.id, RawEvent.event_type, RawEvent.payload, RawEvent.source, RawEvent.source_offset
        ).where(RawEvent.id.in_(list(moments)))
        for row in connection.execute(query):
            at = moments[row.id]
            fields = row.payload if isinstance(row.payload, dict) else {}
            events[row.id] = SessionEvent(
                None if at == _END_OF_TIME else at, row.event_type, fields, row.source, row.source_offset
            )
    return tuple(events[key[-1]] for key in first), seen


def _place(row: Row[*tuple[Any, ...]]) -> tuple[int, str, str, int, int]:
    """Return what orders events of one moment: the place in the log, the same whatever was loaded first."""
    offset = -1 if row.source_offset is None else row.source_offset
    return offset, row.source, row.source_inode or "", row.source_generation, row.id


def _moment(timestamp: object) -> dt.datetime | None:
    try:
        return parse_timestamp(timestamp)
    except UnreadableTimestamp:
        return None
