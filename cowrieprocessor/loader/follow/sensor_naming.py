"""Gives known logs the sensors that are configured now: a file that did not change is not read again."""

from __future__ import annotations

from collections.abc import Callable, Collection

from sqlalchemy import Engine

from cowrieprocessor.db.ingest.followed_files import SeenFile
from cowrieprocessor.loader.log_loading import KNOWN, FileResult
from cowrieprocessor.loader.log_sensor import bring_to_names, give_sensors
from cowrieprocessor.settings.sensor_paths import SensorPaths


class SensorNaming:
    """Names the logs of a host once; begins again if it was stopped before its end.

    Args:
        engine: a database at the current version.
        sensors: which sensor a log is given, by its path.
        states: the files that the database knows.
        stop: called after each transaction; ends the work once it returns True.
    """

    def __init__(
        self, engine: Engine, sensors: SensorPaths, states: Collection[SeenFile], stop: Callable[[], bool]
    ) -> None:
        self._engine = engine
        self._sensors = sensors
        self._states = states
        self._stop = stop
        self._is_done = False

    def run(self, host: str) -> list[FileResult]:
        """Give the known logs of a host their sensors, the first time; return a note on each that keeps another one."""
        if self._is_done:
            return []
        given = {
            seen.log: (seen.path, sensor)
            for seen in self._states
            if seen.log and seen.host == host and (sensor := self._sensors.of(seen.path))
        }
        notes = give_sensors(self._engine, {log: sensor for log, (_, sensor) in given.items()})
        bring_to_names(self._engine, stop=self._stop)  # also what a killed program left
        self._is_done = not self._stop()
        if self._is_done:
            self._states = ()
        return [FileResult(given[log][0], KNOWN, warnings=[f"{given[log][0]}: {note}"]) for log, note in notes.items()]
