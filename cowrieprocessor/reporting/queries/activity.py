"""Totals and rankings of a time window.

Everything goes by event time, never by the time of loading. A session belongs to the window of its first event, a
session's file to the window in which the session first named it, a source's answer to the window in which the source
first gave it. All numbers are read from the normalized tables through the indexes on these times; the events
themselves are not read again.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, distinct, func, select, true
from sqlalchemy.orm import aliased

from cowrieprocessor.db.enrichment.shown_verdict import SHOWN_VERDICTS, file_verdict
from cowrieprocessor.db.enrichment.staged_answers import staging_providers
from cowrieprocessor.db.models import (
    CommandStat,
    FileHash,
    FileMention,
    Files,
    SessionAttribute,
    SessionLogin,
    SessionSensor,
    SessionSummary,
)
from cowrieprocessor.loader.rows.file_mentions import NO_FILE, URL
from cowrieprocessor.reporting.queries.backfill import FILES_JOB, awaits_backfill
from cowrieprocessor.reporting.queries.files import find_names
from cowrieprocessor.reporting.queries.paging import Bytewise
from cowrieprocessor.reporting.queries.reuse import DEFAULT_GAP, Reuse
from cowrieprocessor.reporting.queries.sensors import ARTIFACT, SENSOR, file_on_sensor, on_sensor
from cowrieprocessor.reporting.queries.shown import visible
from cowrieprocessor.reporting.queries.verdicts import count_changes, count_found_malicious
from cowrieprocessor.reporting.queries.window import Window

_BAD = ("malicious", "suspicious")
_HAS_FILE = select(Files.id).where(Files.session_id == SessionSummary.session_id).exists()


@dataclass(frozen=True, slots=True)
class Totals:
    """The numbers of a window.

    Attributes:
        sessions: sessions that began in the window.
        sessions_logged_in: of these, sessions with a successful login.
        sessions_with_files: sessions, whenever they began, that left a file in the window.
        sessions_begun_earlier: of these, sessions that began before the window.
        sessions_without_attributes: sessions whose address is not known: in a migrated database, those that the
            second backfill has not reached.
        sessions_without_their_files: sessions with counted downloads but no recorded file: the downloads were empty,
            or the files of a migrated database are not backfilled yet.
        sessions_without_sensor: sessions of which neither their events nor the operator named the sensor.
        sessions_reused: sessions whose id was used more than once; each counts as one session.
        addresses, sensors: distinct source addresses and sensors of the sessions.
        events, commands, login_attempts: sums over the sessions.
        files: distinct hashes; `files_new` of these were never seen before the window, None while the backfill of
            files has not ended, as it may bring earlier sightings. `files_malicious` and the following count them by
            their shown verdict as it is now (`SHOWN_VERDICTS`): their sum is `files`.
        downloads, uploads: (session, hash) pairs.
        artifacts: captured files that no log names.
        files_found_malicious: hashes, whenever seen, that a source called malicious in the window and none before.
        answers_changed: answers in the window that differ from the same source's previous answer about the hash;
            in `verdicts_changed` of these the verdict differs.
    """

    sessions: int = 0
    sessions_logged_in: int = 0
    sessions_with_files: int = 0
    sessions_begun_earlier: int = 0
    sessions_without_attributes: int = 0
    sessions_without_their_files: int = 0
    sessions_without_sensor: int = 0
    sessions_reused: int = 0
    addresses: int = 0
    sensors: int = 0
    events: int = 0
    commands: int = 0
    login_attempts: int = 0
    files: int = 0
    files_new: int | None = 0
    files_malicious: int = 0
    files_known_good: int = 0
    files_suspicious: int = 0
    files_clean: int = 0
    files_unknown: int = 0
    files_staged: int = 0
    files_skipped: int = 0
    files_failed: int = 0
    files_rate_limited: int = 0
    files_refused: int = 0
    files_not_asked: int = 0
    downloads: int = 0
    uploads: int = 0
    artifacts: int = 0
    files_found_malicious: int = 0
    answers_changed: int = 0
    verdicts_changed: int = 0


@dataclass(frozen=True, slots=True)
class DroppedFile:
    """One hash that was dropped in the window.

    Attributes:
        name: what every view calls it (see `find_names`), not only in this window.
        sessions: sessions that left it in the window; 0 for a captured file that no log names.
        new: whether it was never seen before the window; None while the backfill of files has not ended.
        first_in_window: when it was first seen in the window; `first_seen` is the first time ever.
    """

    sha256: str
    name: str | None
    size_bytes: int | None
    mime_type: str | None
    verdict: str
    family: str | None
    vt_positives: int | None
    vt_total: int | None
    enrichment_status: str
    sessions: int
    downloads: int
    uploads: int
    new: bool | None
    first_in_window: dt.datetime
    first_seen: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Ranked:
    """A value, the number of sessions it occurs in, and its total count."""

    value: str
    sessions: int
    times: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """The most frequent values, and the number of distinct values."""

    top: tuple[Ranked, ...]
    distinct: int


def totals(connection: Connection, window: Window, session_gap: dt.timedelta = DEFAULT_GAP) -> Totals:
    """Return the numbers of a window; for `session_gap` see `Reuse`."""
    sessions = connection.execute(
        _select_sessions(
            window,
            func.count().label("sessions"),
            _sum(case((SessionAttribute.login_success.is_(True), 1), else_=0)).label("sessions_logged_in"),
            (func.count() - func.count(SessionAttribute.session_id)).label("sessions_without_attributes"),
            _sum(case((and_(SessionSummary.file_downloads > 0, ~_HAS_FILE), 1), else_=0)).label(
                "sessions_without_their_files"
            ),
            func.count(distinct(SessionAttribute.src_ip)).label("addresses"),
            func.count(distinct(SENSOR)).label("sensors"),
            (func.count() - func.count(SENSOR)).label("sessions_without_sensor"),
            _sum(SessionSummary.event_count).label("events"),
            _sum(SessionSummary.command_count).label("commands"),
            _sum(SessionSummary.login_attempts).label("login_attempts"),
        )
    ).mappings()
    began_earlier = _began_before(window, Files.session_id)
    pairs = connection.execute(
        _select_files(
            window,
            func.count(distinct(case((Files.origin != ARTIFACT, Files.session_id)))).label("sessions_with_files"),
            func.count(distinct(case((and_(Files.origin != ARTIFACT, began_earlier), Files.session_id)))).label(
                "sessions_begun_earlier"
            ),
            _sum(case((Files.origin == "download", 1), else_=0)).label("downloads"),
            _sum(case((Files.origin == "upload", 1), else_=0)).label("uploads"),
            _sum(case((Files.origin == ARTIFACT, 1), else_=0)).label("artifacts"),
        )
    ).mappings()
    hashes = _select_files(window, Files.shasum).distinct().subquery()
    is_new = case((FileHash.first_seen >= window.start, 1), else_=0).label("is_new")
    verdict = file_verdict(staging_providers(connection)).label("verdict")
    seen = select(is_new, verdict).select_from(hashes).outerjoin(FileHash, FileHash.sha256 == hashes.c.shasum)
    files_seen = seen.subquery()
    by_verdict = (
        _sum(case((files_seen.c.verdict == word, 1), else_=0)).label(total_of(word)) for word in SHOWN_VERDICTS
    )
    files = connection.execute(
        select(func.count().label("files"), _sum(files_seen.c.is_new).label("files_new"), *by_verdict).select_from(
            files_seen
        )
    ).mappings()
    answers_changed, verdicts_changed = count_changes(connection, window)
    result = Totals(
        **{key: int(value) for row in (sessions, pairs, files) for key, value in row.one().items()},
        sessions_reused=Reuse(connection, session_gap).count(
            select(SessionSummary.session_id).where(*_in_window(window))
        ),
        files_found_malicious=count_found_malicious(connection, window),
        answers_changed=answers_changed,
        verdicts_changed=verdicts_changed,
    )
    return replace(result, files_new=None) if awaits_backfill(connection, [FILES_JOB]) else result


def total_of(shown_verdict: str) -> str:
    """Return the name in `Totals` of the number of files with a shown verdict."""
    return f"files_{shown_verdict.replace('-', '_')}"


def has_sessions_with_files(connection: Connection, window: Window) -> bool:
    """Return whether a session that began in the window left a file, in the window or after it."""
    session = select(SessionSummary.session_id).where(*_in_window(window), _HAS_FILE)
    return connection.execute(session.limit(1)).first() is not None


def session_from_before(connection: Connection, window: Window) -> str | None:
    """Return the session begun before the window that last left a file or named a URL in it; None if there is none."""
    for table, counts in ((Files, Files.origin != ARTIFACT), (FileMention, FileMention.kind == URL)):
        query = select(table.session_id).where(counts, _began_before(window, table.session_id))
        query = query.where(table.first_seen >= window.start, table.first_seen < window.end)
        if window.sensor is not None:
            query = query.join(SessionSummary, SessionSummary.session_id == table.session_id)
            query = query.where(on_sensor(window.sensor))
        row = connection.execute(query.order_by(table.first_seen.desc(), table.session_id).limit(1)).first()
        if row is not None:
            return str(row.session_id)
    return None


def dropped_files(connection: Connection, window: Window, limit: int) -> tuple[DroppedFile, ...]:
    """Return the files of a window: malicious ones first, then suspicious ones, then by number of sessions."""
    dropped = (
        _select_files(
            window,
            Files.shasum,
            visible(func.min(Bytewise(Files.filename))).label("name_here"),
            func.max(Files.file_size).label("file_size"),
            _sum(case((Files.origin != ARTIFACT, 1), else_=0)).label("sessions"),
            _sum(case((Files.origin == "download", 1), else_=0)).label("downloads"),
            _sum(case((Files.origin == "upload", 1), else_=0)).label("uploads"),
            func.min(Files.first_seen).label("first_in_window"),
        )
        .group_by(Files.shasum)
        .subquery()
    )
    severity = case({verdict: rank for rank, verdict in enumerate(_BAD)}, value=FileHash.verdict, else_=len(_BAD))
    query = (
        select(
            dropped,
            func.coalesce(FileHash.size_bytes, dropped.c.file_size).label("size_bytes"),
            FileHash.mime_type,
            file_verdict(staging_providers(connection)).label("verdict"),
            FileHash.family,
            FileHash.vt_positives,
            FileHash.vt_total,
            func.coalesce(FileHash.enrichment_status, "pending").label("enrichment_status"),
            FileHash.first_seen,
            FileHash.last_seen,
        )
        .outerjoin(FileHash, FileHash.sha256 == dropped.c.shasum)
        .order_by(severity, dropped.c.sessions.desc(), Bytewise(dropped.c.shasum))
        .limit(limit)
    )
    rows = connection.execute(query).mappings().all()
    seen = [(row["shasum"], row["first_seen"], row["last_seen"]) for row in rows if row["first_seen"] is not None]
    names = find_names(connection, seen)
    may_be_older = awaits_backfill(connection, [FILES_JOB])
    return tuple(
        DroppedFile(
            sha256=row["shasum"],
            name=names.get(row["shasum"], row["name_here"]),
            new=None if may_be_older else row["first_seen"] is not None and row["first_seen"] >= window.start,
            sessions=int(row["sessions"]),
            downloads=int(row["downloads"]),
            uploads=int(row["uploads"]),
            **{key: row[key] for key in _COPIED_COLUMNS},
        )
        for row in rows
    )


_COPIED_COLUMNS = (
    "size_bytes",
    "mime_type",
    "verdict",
    "family",
    "vt_positives",
    "vt_total",
    "enrichment_status",
    "first_in_window",
    "first_seen",
)


def addresses(connection: Connection, window: Window, limit: int) -> Ranking:
    """Return the source addresses by sessions; `times` counts their events."""
    return _rank_sessions(connection, window, SessionAttribute.src_ip, SessionSummary.event_count, limit)


def usernames(connection: Connection, window: Window, limit: int) -> Ranking:
    """Return the user names by sessions that tried them; `times` counts the attempts under the name."""
    query = (
        select(
            SessionLogin.username.label("value"),
            func.count(distinct(SessionLogin.session_id)).label("sessions"),
            _sum(SessionLogin.attempts).label("times"),
        )
        .select_from(SessionSummary)
        .join(SessionLogin, SessionLogin.session_id == SessionSummary.session_id)
        .where(*_in_window(window))
        .group_by(SessionLogin.username)
    )
    return _rank(connection, query, limit)


def sensors(connection: Connection, window: Window, limit: int) -> Ranking:
    """Return the sensors by sessions; `times` counts their events."""
    return _rank_sessions(connection, window, SENSOR, SessionSummary.event_count, limit)


def protocols(connection: Connection, window: Window, limit: int) -> Ranking:
    """Return the protocols by sessions; `times` counts their events."""
    return _rank_sessions(connection, window, SessionAttribute.protocol, SessionSummary.event_count, limit)


def commands(connection: Connection, window: Window, limit: int) -> Ranking:
    """Return the commands by sessions; `times` counts their occurrences."""
    query = (
        select(
            CommandStat.command_normalized.label("value"),
            func.count().label("sessions"),
            _sum(CommandStat.occurrences).label("times"),
        )
        .select_from(SessionSummary)
        .join(CommandStat, CommandStat.session_id == SessionSummary.session_id)
        .where(*_in_window(window))
        .group_by(CommandStat.command_normalized)
    )
    return _rank(connection, query, limit)


def download_urls(connection: Connection, window: Window, limit: int) -> Ranking:
    """Return the URLs of downloads by sessions; `times` counts distinct files, 0 if no download brought one."""
    query = select(
        FileMention.value,
        func.count(distinct(FileMention.session_id)).label("sessions"),
        func.count(distinct(func.nullif(FileMention.shasum, NO_FILE))).label("times"),
    ).where(
        FileMention.kind == URL,
        FileMention.first_seen >= window.start,
        FileMention.first_seen < window.end,
    )
    if window.sensor is not None:
        query = query.join(SessionSummary, SessionSummary.session_id == FileMention.session_id)
        query = query.where(on_sensor(window.sensor))
    return _rank(connection, query.group_by(FileMention.value), limit)


def newest_moment(
    connection: Connection, sensor: str | None, since: dt.datetime, until: dt.datetime
) -> dt.datetime | None:
    """Return the newest moment of a span of time at which something happened, or None.

    Something happened when a session began, when a session first named a file or URL, and at the time of a captured
    file that no log names.
    """
    began = SessionSummary.first_event_at
    session = select(began.label("at")).where(true() if sensor is None else on_sensor(sensor))
    file = select(Files.first_seen.label("at"))
    url = select(FileMention.first_seen.label("at")).where(FileMention.kind == URL)
    if sensor is not None:
        file = file.outerjoin(SessionSummary, SessionSummary.session_id == Files.session_id)
        file = file.where(file_on_sensor(sensor))
        url = url.join(SessionSummary, SessionSummary.session_id == FileMention.session_id).where(on_sensor(sensor))
    moments = []
    for query in (session, file, url):
        column = query.selected_columns["at"]
        newest = query.where(column >= since, column < until).order_by(column.desc()).limit(1)
        moments += [row.at for row in connection.execute(newest)]
    return max(moments, default=None)


def _sum(value: ColumnElement[Any] | Any) -> ColumnElement[int]:
    return func.coalesce(func.sum(value), 0)


def _in_window(window: Window) -> list[ColumnElement[bool]]:
    began = SessionSummary.first_event_at
    conditions = [began >= window.start, began < window.end]
    if window.sensor is not None:
        conditions.append(on_sensor(window.sensor))
    return conditions


def _began_before(window: Window, session_id: Any) -> ColumnElement[bool]:
    """Return the condition that a row's session began before the window."""
    session = aliased(SessionSummary)  # the row may be joined with its session already
    earlier = select(session.session_id).where(session.session_id == session_id)
    return earlier.where(session.first_event_at < window.start).exists()


def _select_sessions(window: Window, *columns: Any) -> Select[*tuple[Any, ...]]:
    return (
        select(*columns)
        .select_from(SessionSummary)
        .outerjoin(SessionAttribute, SessionAttribute.session_id == SessionSummary.session_id)
        .outerjoin(SessionSensor, SessionSensor.session_id == SessionSummary.session_id)
        .where(*_in_window(window))
    )


def _select_files(window: Window, *columns: Any) -> Select[*tuple[Any, ...]]:
    query = select(*columns).select_from(Files)
    if window.sensor is not None:
        query = query.outerjoin(SessionSummary, SessionSummary.session_id == Files.session_id)
        query = query.where(file_on_sensor(window.sensor))
    return query.where(Files.first_seen >= window.start, Files.first_seen < window.end)


def _rank_sessions(connection: Connection, window: Window, value: Any, times: Any, limit: int) -> Ranking:
    """Rank the values of a column of the window's sessions; `times` is the column to sum."""
    query = _select_sessions(window, value.label("value"), func.count().label("sessions"), _sum(times).label("times"))
    return _rank(connection, query.where(value.is_not(None)).group_by(value), limit)


def _rank(connection: Connection, grouped: Select[*tuple[Any, ...]], limit: int) -> Ranking:
    """Run a query for `value`, `sessions` and `times`, and return the most frequent values."""
    counted = grouped.subquery()
    ranked = (
        select(
            visible(counted.c.value).label("value"),
            counted.c.sessions,
            counted.c.times,
            func.count().over().label("distinct_values"),
        )
        .order_by(counted.c.sessions.desc(), counted.c.times.desc(), Bytewise(counted.c.value))
        .limit(limit)
    )
    rows = connection.execute(ranked).all()
    top = tuple(Ranked(row.value, int(row.sessions), int(row.times)) for row in rows)
    return Ranking(top, rows[0].distinct_values if rows else 0)
