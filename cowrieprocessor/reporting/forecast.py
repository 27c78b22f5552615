"""When a number of requests will have been sent: by what a key may send a minute, a day and a month, from now on."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from cowrieprocessor.enrichment.quota.rate_limit import MARGIN

LONGEST_DAYS = 3660
"""A forecast that reaches further says nothing that anybody could plan by."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What may be sent under one key; None where there is no bound.

    Attributes:
        used_day: sent today (UTC); `used_month` this month.
        not_before: nothing may be sent before then.
    """

    per_minute: int | None = None
    per_day: int | None = None
    per_month: int | None = None
    used_day: int = 0
    used_month: int = 0
    not_before: dt.datetime | None = None


def done_at(requests: int, allowance: Allowance, now: dt.datetime) -> dt.datetime | None:
    """Return when so many requests will have been sent, sending whenever it is allowed.

    What comes in meanwhile, fails or grows too old is not in it.

    Args:
        requests: how many.
        allowance: what may be sent.
        now: the present, aware, in UTC.

    Returns:
        The moment; `now` where there is nothing to send; None if it is more than ten years away.
    """
    if requests <= 0:
        return now
    moment = max(now, allowance.not_before or now)
    for _ in range(LONGEST_DAYS):
        room = _room(allowance, moment, now)
        next_day = _midnight(moment) + dt.timedelta(days=1)
        seconds_each = 60 * MARGIN / allowance.per_minute if allowance.per_minute else 0.0
        if seconds_each:
            in_time = int((next_day - moment).total_seconds() / seconds_each)
            room = in_time if room is None else min(room, in_time)
        if room is None or requests <= room:
            return moment + dt.timedelta(seconds=requests * seconds_each)
        requests -= room
        allowance = _after(allowance, room, moment, now)
        moment, now = next_day, moment
    return None


def _room(allowance: Allowance, moment: dt.datetime, counted: dt.datetime) -> int | None:
    """Return how many requests the day of a moment has left; what was sent counts if it was in that day and month."""
    used_day = allowance.used_day if moment.date() == counted.date() else 0
    used_month = allowance.used_month if _month(moment) == _month(counted) else 0
    left = [
        max(0, allowed - used)
        for allowed, used in ((allowance.per_day, used_day), (allowance.per_month, used_month))
        if allowed is not None
    ]
    return min(left, default=None)


def _after(allowance: Allowance, sent: int, moment: dt.datetime, counted: dt.datetime) -> Allowance:
    """Return the allowance with what was sent in the day of a moment counted."""
    used_month = allowance.used_month if _month(moment) == _month(counted) else 0
    return Allowance(allowance.per_minute, allowance.per_day, allowance.per_month, sent, used_month + sent)


def _month(moment: dt.datetime) -> tuple[int, int]:
    return moment.year, moment.month


def _midnight(moment: dt.datetime) -> dt.datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)
