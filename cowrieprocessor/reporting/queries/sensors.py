"""Conditions that pick a sensor's rows: its sessions, and the files it captured that no log names."""

from __future__ import annotations

from sqlalchemy import ColumnElement, or_

from cowrieprocessor.db.models import Files, SessionSummary
from cowrieprocessor.sanitize import inert_cut

ARTIFACT = "artifact"
"""The origin of a captured file that no log names; its session is `artifact:<sensor>`."""


def on_sensor(sensor: str) -> ColumnElement[bool]:
    """Return the condition that a session is of a sensor, given the sensor's name in the log."""
    from cowrieprocessor.loader.rows.session_aggregates import MAX_SENSOR_CHARS

    return SessionSummary.matcher == (
        sensor if len(sensor) <= MAX_SENSOR_CHARS else inert_cut(sensor, MAX_SENSOR_CHARS)
    )


def file_on_sensor(sensor: str) -> ColumnElement[bool]:
    """Return the condition that a row of `files`, outer-joined with its session, is of a sensor."""
    from cowrieprocessor.analysis.downloads_scan import artifact_session

    return or_(on_sensor(sensor), Files.session_id == artifact_session(sensor))


def artifact_sensor(session_id: str) -> str:
    """Return the sensor in the session id `artifact:<sensor>` of a captured file that no log names."""
    return session_id.partition(":")[2]
