"""The sessions in which one file was seen."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from cowrieprocessor.db.models import FileHash, Files, SessionAttribute, SessionSensor, SessionSummary
from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.reporting.queries.paging import (
    Bytewise,
    Page,
    after_descending,
    page_of,
    parse_time_cursor,
    time_cursor,
)
from cowrieprocessor.reporting.queries.sensors import ARTIFACT, SENSOR, artifact_sensor
from cowrieprocessor.reporting.queries.shown import visible

_MANY_SESSIONS = 20_000
"""Above this number of sessions a page is read in the order of time instead of by hash."""

_ATTRIBUTES = ("src_ip", "protocol", "username")


@dataclass(frozen=True, slots=True)
class FileSession:
    """A session in which a file was seen, or the place of a captured file that no log names.

    In the latter case the origin is `artifact`, and `session_id` is `artifact:<sensor>`, which is no session.
    """

    session_id: str
    first_seen: dt.datetime
    sensor: str | None
    src_ip: str | None
    protocol: str | None
    username: str | None
    filename: str | None
    download_url: str | None
    origin: str


def list_file_sessions(
    connection: Connection, sha256: str, *, limit: int = 50, after: str | None = None, captured: bool = False
) -> Page[FileSession]:
    """Return one page of the sessions in which a file was seen, the latest first.

    Args:
        connection: a connection in a transaction.
        sha256: the whole hash, in lower case.
        limit: rows per page, at least 1.
        after: the cursor of an earlier page.
        captured: also return the places where the file was captured and no log names it.

    Raises:
        ConfigurationError: `after` is not a cursor of this list.
    """
    # The planner either sorts all rows of the hash, or walks all rows by time until enough are of the hash. It cannot
    # know which is cheaper, but `session_count` tells; coalesce() hides the column whose index must not be used.
    if _is_in_many_sessions(connection, sha256):
        of_file, seen = func.coalesce(Files.shasum, "") == sha256, Files.first_seen.expression
    else:
        of_file, seen = Files.shasum == sha256, func.coalesce(Files.first_seen, Files.last_updated)
    page = select(
        Files.session_id,
        Files.first_seen,
        visible(Files.filename).label("filename"),
        visible(Files.download_url).label("download_url"),
        Files.origin,
    ).where(of_file)
    if not captured:
        page = page.where(Files.origin != ARTIFACT)
    if after is not None:
        moment, session_id = parse_time_cursor(after)
        if moment is None:
            raise ConfigurationError(f"--after {after!r}: not a cursor of this list")
        page = page.where(after_descending(seen, moment, Bytewise(Files.session_id), session_id))
    files = page.order_by(seen.desc(), Bytewise(Files.session_id)).limit(limit + 1).subquery()
    query = (
        select(
            files,
            SENSOR.label("on_sensor"),
            *(visible(getattr(SessionAttribute, name)).label(name) for name in _ATTRIBUTES),
        )
        .outerjoin(SessionSummary, SessionSummary.session_id == files.c.session_id)
        .outerjoin(SessionSensor, SessionSensor.session_id == files.c.session_id)
        .outerjoin(SessionAttribute, SessionAttribute.session_id == files.c.session_id)
        .order_by(files.c.first_seen.desc(), Bytewise(files.c.session_id))
    )
    rows = [
        FileSession(
            sensor=row.on_sensor or (artifact_sensor(row.session_id) if row.origin == ARTIFACT else None),
            **{name: getattr(row, name) for name in FileSession.__dataclass_fields__ if name != "sensor"},
        )
        for row in connection.execute(query)
    ]
    return page_of(rows, limit, lambda row: time_cursor(row.first_seen, row.session_id))


def _is_in_many_sessions(connection: Connection, sha256: str) -> bool:
    count = connection.scalar(select(FileHash.session_count).where(FileHash.sha256 == sha256))
    return (count or 0) > _MANY_SESSIONS


def captured_on(connection: Connection, sha256: str) -> tuple[str, ...]:
    """Return the sensors that captured a file of which no log tells a session."""
    captured = select(Files.session_id).where(Files.shasum == sha256, Files.origin == ARTIFACT)
    return tuple(sorted({artifact_sensor(session_id) for session_id in connection.scalars(captured)}))
