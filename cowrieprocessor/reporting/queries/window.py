"""The time window of totals, rankings and changed verdicts."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open interval, `start` included and `end` not, for one sensor or all."""

    start: dt.datetime
    end: dt.datetime
    sensor: str | None = None
