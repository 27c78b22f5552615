"""Which rows are of a sensor: of its sessions, and of files it captured that no log names."""

from __future__ import annotations

from sqlalchemy import ColumnElement, or_

from cowrieprocessor.db.models import Files, SessionSummary
from cowrieprocessor.sanitize import inert_cut

ARTIFACT = "artifact"
"""The origin of a captured file that no log names; its session is `artifact:<sensor>`."""


def on_sensor(sensor: str) -> ColumnElement[bool]:
    """Return the condition that a session is of a sensor, by the name that the log gave it."""
    from cowrieprocessor.loader.rows.session_aggregates import MAX_SENSOR_CHARS

    return SessionSummary.matcher == (
        sensor if len(sensor) <= MAX_SENSOR_CHARS else inert_cut(sensor, MAX_SENSOR_CHARS)
    )


def file_on_sensor(sensor: str) -> ColumnElement[bool]:
    """Return the condition that a row of `files`, outer-joined with its session, is of a sensor."""
    from cowrieprocessor.analysis.downloads_scan import artifact_session

    return or_(on_sensor(sensor), Files.session_id == artifact_session(sensor))


def artifact_sensor(session_id: str) -> str:
    """Return the sensor that captured a file which no log names."""
    return session_id.partition(":")[2]
