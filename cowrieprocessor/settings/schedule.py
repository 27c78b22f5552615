"""When something that runs by itself is due: at an interval, or at a time of the day."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cowrieprocessor.settings.values import DAY_S, HOUR_S, MINUTE_S, duration

OFF_WORD = "off"

_TASK_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_TIME_OF_DAY = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_EXPECTED = "a duration of at least 1s such as 15min, a time of day (UTC) such as 03:15, or off"


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a task is due. With neither an interval nor a time of day it never is.

    Attributes:
        every_s: the seconds from one start to the next, 1 or more; None if it is not due at an interval.
        at: the time of day in UTC at which it is due; None if it is not due by the clock.
    """

    every_s: float | None = None
    at: dt.time | None = None

    @property
    def is_off(self) -> bool:
        """Whether it is never due."""
        return self.every_s is None and self.at is None

    def __str__(self) -> str:
        """Return it as it is written in the settings: `15min`, `03:15` or `off`."""
        if self.at is not None:
            return f"{self.at:%H:%M}"
        if self.every_s is None:
            return OFF_WORD
        for unit_s, unit in ((DAY_S, "d"), (HOUR_S, "h"), (MINUTE_S, "min")):
            if self.every_s % unit_s == 0:
                return f"{self.every_s / unit_s:g}{unit}"
        return f"{self.every_s:g}s"


OFF = Schedule()

Schedules = tuple[tuple[str, Schedule], ...]
"""Schedules by the names of tasks, sorted by name."""


def schedule(value: object) -> Schedule:
    """Return a schedule, given as a duration, a time of day in UTC, or `off`.

    Raises:
        ValueError: it is none of these; the message says what is expected.
    """
    if isinstance(value, dt.time):
        value = value.isoformat("minutes") if not value.second else None
    text = str(value).strip().lower()
    if text == OFF_WORD or value is False:
        return OFF
    if match := _TIME_OF_DAY.fullmatch(text):
        return Schedule(at=dt.time(int(match[1]), int(match[2])))
    try:
        every_s = duration(value)
    except ValueError:
        every_s = 0.0
    if every_s < 1:
        raise ValueError(_EXPECTED)
    return Schedule(every_s=every_s)


def schedules(value: object) -> Schedules:
    """Return schedules by task, given as a table or as text: `enrichment=15min, propagation=off`.

    Raises:
        ValueError: a name or a schedule is not one; the message says what is expected.
    """
    entries = value.items() if isinstance(value, Mapping) else _entries(str(value))
    found: dict[str, Schedule] = {}
    for name, given in entries:
        if not isinstance(name, str) or not _TASK_NAME.fullmatch(name) or name in found:
            raise ValueError("the name of each task once, such as enrichment=15min")
        try:
            found[name] = schedule(given)
        except ValueError as error:
            raise ValueError(f"for {name} {error}") from None
    return tuple(sorted(found.items()))


def _entries(text: str) -> list[tuple[str, str]]:
    parts = [part.partition("=") for part in text.split(",")]
    return [(name.strip(), given) for name, _, given in parts]
