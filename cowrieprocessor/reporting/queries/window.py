"""The window of time that totals, rankings and changed verdicts are asked for."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """From `start` (included) to `end` (not), of one sensor or all."""

    start: dt.datetime
    end: dt.datetime
    sensor: str | None = None
