"""Renaming of a sensor: everything derived gets the new name, and later loads give it.

The new name is recorded and all its sessions are marked in one transaction; they are then computed again in short ones.
A killed renaming is finished by the same command, or by whichever program loads logs next.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from cowrieprocessor.analysis.downloads_scan import artifact_session
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.ingest import sensor_names
from cowrieprocessor.db.migrations import require_current
from cowrieprocessor.errors import ConfigurationError, NotFound
from cowrieprocessor.events import utc_text
from cowrieprocessor.interpret.sensors import sensor_name
from cowrieprocessor.loader.log_sensor import bring_to_names
from cowrieprocessor.sanitize import restore


@dataclass(frozen=True, slots=True)
class RenameResult:
    """Result of a renaming.

    Attributes:
        old: the name that the sensor had.
        new: the name that it has now.
        sessions: sessions that were looked at again.
        captured_files: captured files that no log names, and that are the sensor's.
        merged: whether there was a sensor of the new name, with which it is one now.
    """

    old: str
    new: str
    sessions: int
    captured_files: int
    merged: bool


def rename_sensor(
    engine: Engine,
    old: str,
    new: str,
    *,
    merge: bool = False,
    on_sessions: Callable[[int], None] = lambda _count: None,
) -> RenameResult:
    """Give a sensor another name, now and for all that is loaded later; payloads stay as they came.

    Args:
        engine: a database at the current version.
        old: its name, as `sensors list` shows it.
        new: the new one.
        merge: allow that there is a sensor of the new name already; the two become one.
        on_sessions: called after each transaction with the number of sessions so far.

    Raises:
        NotFound: there is no such sensor.
        ConfigurationError: the names are the same, or there is a sensor of the new name.
        DatabaseError: see `write_transaction`; the next call resumes.
    """
    require_current(engine)
    stored_new = sensor_name(new)
    if old == stored_new:
        raise ConfigurationError(f"the sensor is called {old!r} already; give another name")
    captured, merged = 0, False
    with read_transaction(engine) as connection:
        is_recorded = sensor_names.renamed(connection).get(old) == stored_new and not _exists(connection, old)
        if not is_recorded:
            merged = _check(connection, old, new, merge=merge)
    if not is_recorded:
        with write_transaction(engine) as connection:
            sensor_names.lock(connection, to_change=True)
            sensor_names.rename(connection, old, stored_new, utc_text(dt.datetime.now(dt.UTC)))
            sensor_names.mark_sessions_of_sensor(connection, old)
            sessions_of_files = artifact_session(restore(old)), artifact_session(new)
            captured = sensor_names.move_captured_files(connection, *sessions_of_files)
    sessions = bring_to_names(engine, on_sessions=on_sessions)
    return RenameResult(old, stored_new, sessions, captured, merged)


def _check(connection: Connection, old: str, new: str, *, merge: bool) -> bool:
    """Return whether there is a sensor of the new name already."""
    if not _exists(connection, old):
        now = sensor_names.renamed(connection).get(old)
        why = f"it was renamed to {now!r}" if now else "`sensors list` shows them"
        raise NotFound(f"no sensor {old!r} in this database: {why}")
    merged = _exists(connection, sensor_name(new))
    if merged and not merge:
        raise ConfigurationError(
            f"there is a sensor {new!r} already; with --merge the two become one, which cannot be undone by renaming"
        )
    return merged


def _exists(connection: Connection, name: str) -> bool:
    return name in sensor_names.names_in_use(connection) or sensor_names.has_captured_files(
        connection, artifact_session(restore(name))
    )
