"""The list of sensors."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select, text

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.ingest.sensor_names import count_marked, logs_given, renamed
from cowrieprocessor.db.models import Files, SessionSensor, SessionSummary
from cowrieprocessor.reporting.queries.sensors import ARTIFACT, SENSOR, artifact_sensor
from cowrieprocessor.sanitize import restore

GIVEN, LOGGED, CAPTURED = "given", "logs", "captured files"


@dataclass(frozen=True, slots=True)
class SensorListing:
    """One sensor.

    Attributes:
        sensor: its name, in full; None for the sessions whose events say none.
        named_by: `given` (by the operator, for at least one of its logs), `logs` (its events say it), or
            `captured files` if it has only these.
        logs: the number of logs that were given this sensor, or whose events say it.
        sessions: its sessions; each is on one sensor.
        captured_files: its captured files that no log names.
        first_event_at: the time of the first event of its sessions.
        last_event_at: that of the last one.
        renamed_from: the names that it had before.
    """

    sensor: str | None
    named_by: str
    logs: int
    sessions: int
    captured_files: int
    first_event_at: dt.datetime | None
    last_event_at: dt.datetime | None
    renamed_from: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SensorList:
    """All sensors by name, and the number of sessions that still have to be brought to a new name."""

    sensors: tuple[SensorListing, ...]
    sessions_to_rename: int


def list_sensors(connection: Connection) -> SensorList:
    """Return all sensors. Reads every session once, not their events."""
    sessions = {row["sensor"]: row for row in _sessions(connection)}
    given, stored = logs_given(connection), _logs(connection)
    captured = _captured_files(connection, {*sessions, *given})
    former: dict[str, list[str]] = {}
    for old, new in sorted(renamed(connection).items()):
        former.setdefault(new, []).append(old)
    sensors = [
        _listing(
            name,
            sessions.get(name, {}),
            named_by=GIVEN if name in given else LOGGED if name in sessions else CAPTURED,
            logs=max(given.get(name or "", 0), stored.get(name, 0)),
            captured_files=captured.get(name or "", 0),
            renamed_from=tuple(former.get(name or "", ())),
        )
        for name in sorted({*sessions, *given, *captured}, key=lambda name: (name is None, name or ""))
    ]
    return SensorList(tuple(sensors), count_marked(connection))


def _listing(name: str | None, sessions: Mapping[Any, Any], **more: Any) -> SensorListing:
    return SensorListing(
        sensor=name,
        sessions=int(sessions.get("sessions", 0)),
        first_event_at=sessions.get("first_event_at"),
        last_event_at=sessions.get("last_event_at"),
        **more,
    )


def _sessions(connection: Connection) -> list[Mapping[Any, Any]]:
    query = (
        select(
            SENSOR.label("sensor"),
            func.count().label("sessions"),
            func.min(SessionSummary.first_event_at).label("first_event_at"),
            func.max(SessionSummary.last_event_at).label("last_event_at"),
        )
        .select_from(SessionSummary)
        .outerjoin(SessionSensor, SessionSensor.session_id == SessionSummary.session_id)
        .group_by(SENSOR)
    )
    return list(connection.execute(query).mappings())


def _logs(connection: Connection) -> dict[str | None, int]:
    """Return the number of logs that events were stored from, by sensor."""
    paths = dialect_of(connection).sql.list_values("s.source_files")
    query = f"""
        SELECT coalesce(n.given_sensor, n.logged_sensor, s.matcher), count(DISTINCT paths.value)
        FROM session_summaries AS s LEFT JOIN session_sensors AS n ON n.session_id = s.session_id
        CROSS JOIN {paths} GROUP BY 1
    """  # noqa: S608 - made of constants
    return {row[0]: int(row[1]) for row in connection.execute(text(query))}


def _captured_files(connection: Connection, known: set[str | None]) -> dict[str, int]:
    """Return the number of captured files that no log names, by sensor; `known` are the sensors of logs."""
    from cowrieprocessor.analysis.downloads_scan import artifact_session

    names = {artifact_session(restore(name)): name for name in known if name}
    query = select(Files.session_id, func.count()).where(Files.origin == ARTIFACT).group_by(Files.session_id)
    return {
        names.get(session_id) or artifact_sensor(session_id): int(count)
        for session_id, count in connection.execute(query)
    }
