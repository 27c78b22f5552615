"""Sessions: the list, and one session with its files, commands and events."""

from __future__ import annotations

import datetime as dt
import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    RowMapping,
    Select,
    Text,
    and_,
    case,
    cast,
    func,
    literal,
    or_,
    select,
)

from cowrieprocessor.db.enrichment.provider_verdict import MALICIOUS
from cowrieprocessor.db.enrichment.shown_verdict import file_verdict
from cowrieprocessor.db.enrichment.staged_answers import staging_providers
from cowrieprocessor.db.models import (
    CommandStat,
    FileHash,
    Files,
    RawEvent,
    SessionAttribute,
    SessionSensor,
    SessionSummary,
    TwinEvent,
)
from cowrieprocessor.errors import NotFound, UnreadableTimestamp
from cowrieprocessor.events import parse_timestamp
from cowrieprocessor.json_text import stored_fields
from cowrieprocessor.reporting.queries.addresses import from_addresses
from cowrieprocessor.reporting.queries.paging import (
    EARLIEST,
    Bytewise,
    Page,
    after_descending,
    page_of,
    parse_time_cursor,
    time_cursor,
)
from cowrieprocessor.reporting.queries.reuse import DEFAULT_GAP, Reuse, SessionPart
from cowrieprocessor.reporting.queries.sensors import SENSOR, on_sensor, require_sensor
from cowrieprocessor.reporting.queries.shown import visible

_IDS_AT_ONCE = 500
_END_OF_TIME = dt.datetime.max.replace(tzinfo=dt.UTC)
_began = SessionSummary.first_event_at.expression
_identity = Bytewise(SessionSummary.session_id)

Position = tuple[dt.datetime | None, str]
"""The time and the id of the last row of a page."""


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """Which sessions to list; None or False means no restriction.

    Attributes:
        since: began at this time or later.
        until: began before this time.
        src_ip: came from this address, however it is spelled, or from this network (CIDR).
        sensor: on this sensor.
        with_files: left at least one file.
        flagged: flagged by VirusTotal for a file, or by DShield for the address.
    """

    since: dt.datetime | None = None
    until: dt.datetime | None = None
    src_ip: str | None = None
    sensor: str | None = None
    with_files: bool = False
    flagged: bool = False


@dataclass(frozen=True, slots=True)
class SessionListing:
    """One session in a list; its times are None if no event has a readable time.

    `reused` says that its id was used more than once: what the row says is of all uses together.
    """

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
    reused: bool = False


@dataclass(frozen=True, slots=True)
class SessionFile:
    """One file that a session left."""

    sha256: str
    filename: str | None
    download_url: str | None
    file_size: int | None
    origin: str
    first_seen: dt.datetime
    verdict: str
    vt_malicious: bool
    vt_classification: str | None


@dataclass(frozen=True, slots=True)
class SessionCommand:
    """One command of a session; `times` is how often it was entered."""

    command: str
    times: int
    high_risk: bool


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """One event of a session.

    Attributes:
        at: its time in UTC; None if the timestamp is missing or unreadable (such events come last).
        event_type: Cowrie's `eventid`.
        fields: the event as it is stored.
        source: the log it was read from; `source_offset` is the 0-based number of its line.
        part: the number of the use of its session id, from 1; see `SessionDetails.parts`.
    """

    at: dt.datetime | None
    event_type: str | None
    fields: dict[str, Any]
    source: str
    source_offset: int | None
    part: int = 1


@dataclass(frozen=True, slots=True)
class SessionDetails:
    """One session: its summary, files, commands, and events in order of time.

    `parts` are the uses of its id, in order of time: one, unless it was used more than once.

    `events_total`, `files_total` and `commands_total` include those beyond the limit.
    """

    summary: SessionListing
    source_files: tuple[str, ...]
    files: tuple[SessionFile, ...]
    files_total: int
    commands: tuple[SessionCommand, ...]
    commands_total: int
    events: tuple[SessionEvent, ...]
    events_total: int
    parts: tuple[SessionPart, ...]


def _summaries() -> Select[*tuple[Any, ...]]:
    query = select(
        SessionSummary.session_id,
        SessionSummary.first_event_at,
        SessionSummary.last_event_at,
        SENSOR.label("sensor"),
        SessionAttribute.src_ip,
        SessionAttribute.protocol,
        SessionAttribute.hassh,
        visible(SessionAttribute.username).label("username"),
        SessionAttribute.login_success,
        SessionSummary.event_count,
        SessionSummary.command_count,
        SessionSummary.login_attempts,
        SessionSummary.vt_flagged,
        SessionSummary.dshield_flagged,
    ).outerjoin(SessionAttribute, SessionAttribute.session_id == SessionSummary.session_id)
    return query.outerjoin(SessionSensor, SessionSensor.session_id == SessionSummary.session_id)


def list_sessions(
    connection: Connection,
    filters: SessionFilter = SessionFilter(),
    *,
    limit: int = 50,
    after: str | None = None,
    gap: dt.timedelta = DEFAULT_GAP,
) -> Page[SessionListing]:
    """Return one page of the sessions, the latest first; those without a readable time come last.

    Args:
        connection: a connection in a transaction.
        filters: which sessions to list.
        limit: rows per page, at least 1.
        after: the cursor of an earlier page.
        gap: see `Reuse`.

    Raises:
        ConfigurationError: `after` is not a cursor of this list, or `src_ip` is no address and no network.
        NotFound: the database has no such sensor.
    """
    position = None if after is None else parse_time_cursor(after)
    query = _summaries()
    if filters.src_ip is not None:
        query = query.where(from_addresses(connection, filters.src_ip))
    query = _filtered(query, filters)
    rows = _dated_rows(connection, query, position, limit + 1)
    if len(rows) <= limit and filters.since is None and filters.until is None:
        rows += _undated_rows(connection, query, position, limit + 1 - len(rows))
    if not rows and filters.sensor is not None:
        require_sensor(connection, filters.sensor)
    session_ids = [row["session_id"] for row in rows]
    files, reused = _file_counts(connection, session_ids), Reuse(connection, gap).among(session_ids)
    sessions = [
        SessionListing(files=files.get(row["session_id"], 0), reused=row["session_id"] in reused, **row) for row in rows
    ]
    return page_of(sessions, limit, lambda session: time_cursor(session.first_event_at, session.session_id))


def _dated_rows(
    connection: Connection, query: Select[*tuple[Any, ...]], position: Position | None, limit: int
) -> list[RowMapping]:
    """Return sessions with a time after a position in the list, the latest first."""
    # Times are not null here, so that both databases can walk the index backwards.
    query = query.where(_began >= EARLIEST)
    if position is not None:
        moment, session_id = position
        if moment is None:
            return []
        query = query.where(after_descending(_began, moment, _identity, session_id))
    return list(connection.execute(query.order_by(_began.desc(), _identity).limit(limit)).mappings())


def _undated_rows(
    connection: Connection, query: Select[*tuple[Any, ...]], position: Position | None, limit: int
) -> list[RowMapping]:
    """Return sessions without a time after a position in the list, by id."""
    query = query.where(_began.is_(None))
    if position is not None:
        moment, session_id = position
        if moment is None:
            query = query.where(_identity > session_id)
    return list(connection.execute(query.order_by(_identity).limit(limit)).mappings())


def _filtered(query: Select[*tuple[Any, ...]], filters: SessionFilter) -> Select[*tuple[Any, ...]]:
    if filters.since is not None:
        query = query.where(SessionSummary.first_event_at >= filters.since)
    if filters.until is not None:
        query = query.where(SessionSummary.first_event_at < filters.until)
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
        chunk = session_ids[start : start + _IDS_AT_ONCE]
        query = select(Files.session_id, func.count()).where(Files.session_id.in_(chunk)).group_by(Files.session_id)
        for session_id, count in connection.execute(query):
            counts[session_id] = count
    return counts


def session_details(
    connection: Connection, session_id: str, *, limit: int = 200, gap: dt.timedelta = DEFAULT_GAP
) -> SessionDetails:
    """Return one session with its first events, files and commands.

    Args:
        connection: a connection in a transaction.
        session_id: the whole id, as Cowrie wrote it.
        limit: maximum number of events, of files and of commands.
        gap: see `Reuse`.

    Raises:
        NotFound: the database has no such session.
    """
    row = connection.execute(_summaries().where(SessionSummary.session_id == session_id)).mappings().first()
    if row is None:
        raise NotFound(f"no session {session_id} in this database; `sessions list` shows them")
    files_total = _file_counts(connection, [session_id]).get(session_id, 0)
    events, events_total = _events(connection, session_id, limit)
    parts = Reuse(connection, gap).parts(session_id, events)
    shown = (replace(event, part=1 + parts.part_of.get(event_id, 0)) for event_id, event in events.items())
    of_session = CommandStat.session_id == session_id
    return SessionDetails(
        summary=SessionListing(files=files_total, reused=len(parts.parts) > 1, **row),
        source_files=_source_files(connection, session_id),
        files=_files(connection, session_id, limit),
        files_total=files_total,
        commands=_commands(connection, of_session, limit),
        commands_total=connection.scalar(select(func.count()).select_from(CommandStat).where(of_session)) or 0,
        events=tuple(shown),
        events_total=events_total,
        parts=parts.parts,
    )


def _source_files(connection: Connection, session_id: str) -> tuple[str, ...]:
    stored = connection.scalar(select(SessionSummary.source_files).where(SessionSummary.session_id == session_id))
    return tuple(str(path) for path in stored) if isinstance(stored, list) else ()


def _file_verdict(connection: Connection) -> ColumnElement[str]:
    """Return the expression for the shown verdict of a row of `files`, outer-joined with its hash.

    Until the backfill has reached a hash, the row alone has what a pre-release version found.
    """
    is_malicious = and_(FileHash.sha256.is_(None), Files.vt_malicious)
    return case((is_malicious, literal(MALICIOUS)), else_=file_verdict(staging_providers(connection)))


def _files(connection: Connection, session_id: str, limit: int) -> tuple[SessionFile, ...]:
    query = (
        select(
            Files.shasum.label("sha256"),
            visible(Files.filename).label("filename"),
            visible(Files.download_url).label("download_url"),
            Files.file_size,
            Files.origin,
            Files.first_seen,
            _file_verdict(connection).label("verdict"),
            Files.vt_malicious,
            Files.vt_classification,
        )
        .outerjoin(FileHash, FileHash.sha256 == Files.shasum)
        .where(Files.session_id == session_id)
        .order_by(Files.first_seen, Bytewise(Files.shasum))
        .limit(limit)
    )
    return tuple(SessionFile(**row) for row in connection.execute(query).mappings())


def _commands(connection: Connection, of_session: ColumnElement[bool], limit: int) -> tuple[SessionCommand, ...]:
    query = (
        select(
            visible(CommandStat.command_normalized).label("command"),
            CommandStat.occurrences.label("times"),
            CommandStat.high_risk,
        )
        .where(of_session)
        .order_by(CommandStat.occurrences.desc(), Bytewise(CommandStat.command_normalized))
        .limit(limit)
    )
    return tuple(SessionCommand(**row) for row in connection.execute(query).mappings())


def _events(connection: Connection, session_id: str, limit: int) -> tuple[dict[int, SessionEvent], int]:
    """Return the earliest events of a session in order of time, by id, and the number of all its events.

    Timestamps are text in several zones and formats, so the events are sorted here. Payloads are fetched only for the
    events that are returned, so that a session of a million events needs little memory.
    """
    total = 0

    def sort_keys() -> Iterator[tuple[dt.datetime, int, str, str, int, int]]:
        nonlocal total
        for row in connection.execute(positions):
            total += 1
            yield (_moment(row.event_timestamp) or _END_OF_TIME, *_log_position(row))

    is_twin = select(TwinEvent.event_id).where(TwinEvent.event_id == RawEvent.id).exists()
    positions = (
        select(
            RawEvent.id,
            RawEvent.event_timestamp,
            RawEvent.source,
            RawEvent.source_inode,
            RawEvent.source_generation,
            RawEvent.source_offset,
        )
        .where(RawEvent.session_id == session_id, ~is_twin)
        .execution_options(yield_per=_IDS_AT_ONCE)
    )
    earliest = heapq.nsmallest(limit, sort_keys())
    events: dict[int, SessionEvent] = {}
    for start in range(0, len(earliest), _IDS_AT_ONCE):
        moments = {key[-1]: key[0] for key in earliest[start : start + _IDS_AT_ONCE]}
        query = select(
            RawEvent.id,
            RawEvent.event_type,
            cast(RawEvent.payload, Text).label("payload"),
            RawEvent.source,
            RawEvent.source_offset,
        ).where(RawEvent.id.in_(list(moments)))
        for row in connection.execute(query):
            at = moments[row.id]
            events[row.id] = SessionEvent(
                None if at == _END_OF_TIME else at,
                row.event_type,
                stored_fields(row.payload),
                row.source,
                row.source_offset,
            )
    return {key[-1]: events[key[-1]] for key in earliest}, total


def _log_position(row: Row[*tuple[Any, ...]]) -> tuple[int, str, str, int, int]:
    """Return the position in the log, which orders events of the same time independently of the loading order."""
    offset = -1 if row.source_offset is None else row.source_offset
    return offset, row.source, row.source_inode or "", row.source_generation, row.id


def _moment(timestamp: object) -> dt.datetime | None:
    """Return an event's time in UTC; None if it is missing or unreadable."""
    try:
        return parse_timestamp(timestamp)
    except UnreadableTimestamp:
        return None
