"""Conditions that pick a sensor's rows: its sessions, and the files it captured that no log names."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select
from sqlalchemy.orm import aliased

from cowrieprocessor.db.ingest.sensor_names import names_in_use, renamed
from cowrieprocessor.db.models import Files, SessionSensor, SessionSummary
from cowrieprocessor.errors import NotFound
from cowrieprocessor.interpret.sensors import matcher
from cowrieprocessor.reporting.queries.backfill import SENSORS_JOB, not_yet
from cowrieprocessor.sanitize import restore

ARTIFACT = "artifact"
"""The origin of a captured file that no log names; its session is `artifact:<sensor>`."""

_CUT_MARK = "…"
_NAMES_SHOWN = 20

SENSOR: ColumnElement[str | None] = func.coalesce(
    SessionSensor.given_sensor, SessionSensor.logged_sensor, SessionSummary.matcher
)
"""The full name of a session's sensor, where sessions are outer-joined with `SessionSensor`."""


def on_sensor(sensor: str) -> ColumnElement[bool]:
    """Return the condition that a session is of a sensor, given the sensor's name as lists show it."""
    short = matcher(sensor)
    sensors = aliased(SessionSensor)  # the query may be joined with it already
    exactly = select(sensors.session_id).where(
        sensors.session_id == SessionSummary.session_id,
        func.coalesce(sensors.given_sensor, sensors.logged_sensor) == sensor,
    )
    # Version 3 named no sensor of some sessions; the backfill leaves that as it is, for a rollback.
    is_named_elsewhere = and_(SessionSummary.matcher.is_(None), exactly.exists())
    if short == sensor and not sensor.endswith(_CUT_MARK):
        return or_(SessionSummary.matcher == sensor, is_named_elsewhere)
    known = select(sensors.session_id).where(sensors.session_id == SessionSummary.session_id)
    # Of a session of version 3 that is not backfilled only the name in its summary is known, cut or not.
    is_cut_alike = and_(SessionSummary.matcher == short, or_(exactly.exists(), ~known.exists()))
    return or_(SessionSummary.matcher == sensor, is_cut_alike, is_named_elsewhere)


def file_on_sensor(sensor: str) -> ColumnElement[bool]:
    """Return the condition that a row of `files`, outer-joined with its session, is of a sensor."""
    from cowrieprocessor.analysis.downloads_scan import artifact_session

    return or_(on_sensor(sensor), Files.session_id == artifact_session(restore(sensor)))


def artifact_sensor(session_id: str) -> str:
    """Return the sensor in the session id `artifact:<sensor>` of a captured file that no log names."""
    return session_id.partition(":")[2]


def sensor_names(connection: Connection) -> tuple[str, ...]:
    """Return the names of all sensors. Reads every session, so it is meant for error messages only."""
    artifacts = connection.scalars(select(Files.session_id).where(Files.origin == ARTIFACT).distinct())
    return tuple(sorted(names_in_use(connection) | {artifact_sensor(session_id) for session_id in artifacts}))


def require_sensor(connection: Connection, sensor: str) -> None:
    """Raise NotFound, naming the sensors that exist, unless the database has this one."""
    from cowrieprocessor.analysis.downloads_scan import artifact_session

    known = sensor_names(connection)
    if sensor in known or artifact_sensor(artifact_session(restore(sensor))) in known:
        return
    now = renamed(connection).get(sensor)
    if now is not None:
        raise NotFound(f"no sensor {sensor!r} in this database: it was renamed to {now!r}")
    names = ", ".join(known[:_NAMES_SHOWN]) or "none yet"
    more = f" and {len(known) - _NAMES_SHOWN:,} more" if len(known) > _NAMES_SHOWN else ""
    missing = not_yet(connection, [SENSORS_JOB])
    raise NotFound(f"no sensor {sensor!r} in this database; it has: {names}{more} (`sensors list`){missing}")
