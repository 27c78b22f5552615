"""Which sensor a log is of, by its path."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cowrieprocessor.interpret.sensors import sensor_name
from cowrieprocessor.settings.paths import is_followed
from cowrieprocessor.settings.sensors import Sensor


@dataclass(frozen=True, slots=True)
class GivenSensor:
    """The sensor that a log is given.

    Attributes:
        name: its name, as it is stored.
        others: the other sensors that the settings file names; if the log has the smaller name of one of them, because
            a copy of it lies there, it keeps that. Empty for a name that was given explicitly, which always counts.
    """

    name: str
    others: frozenset[str] = frozenset()


class SensorPaths:
    """The names that sensors give to the logs under their paths.

    Args:
        sensors: the configured sensors.
        name: the sensor of all logs, in place of the configured ones.
    """

    def __init__(self, sensors: Iterable[Sensor] = (), *, name: str | None = None) -> None:
        self._everywhere = None if name is None else GivenSensor(sensor_name(name))
        named = [sensor for sensor in sensors if sensor.is_named]
        names = frozenset(sensor_name(sensor.name) for sensor in named)
        self._paths: list[tuple[str, GivenSensor]] = []
        for sensor in named:
            given = GivenSensor(sensor_name(sensor.name), names - {sensor_name(sensor.name)})
            log = os.path.normpath(sensor.logpath)
            self._paths += [(path, given) for path in dict.fromkeys((log, os.path.realpath(log)))]

    def of(self, path: str | Path) -> GivenSensor | None:
        """Return the sensor of the log at a path, as it is named or where its links lead to; None if it has none."""
        if self._everywhere is not None or not self._paths:
            return self._everywhere
        names = dict.fromkeys((os.path.abspath(path), os.path.realpath(path)))  # noqa: PTH100 - keeps links
        return next((given for name in names for log, given in self._paths if is_followed(name, log)), None)
