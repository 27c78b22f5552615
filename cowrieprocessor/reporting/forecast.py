"""Forecast when a backlog of requests will have been sent under a key's limits per minute, day and month."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from cowrieprocessor.enrichment.quota.rate_limit import MARGIN

LONGEST_DAYS = 3660
"""Days that a forecast looks ahead, about ten years; a later date is of no use for planning."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """The limits of one key, in requests, and what is used of them; a limit of None means unlimited.

    Attributes:
        used_day, used_month: requests already sent today and this month (UTC).
        not_before: no request may be sent before this time.
    """

    per_minute: int | None = None
    per_day: int | None = None
    per_month: int | None = None
    used_day: int = 0
    used_month: int = 0
    not_before: dt.datetime | None = None


def done_at(requests: int, allowance: Allowance, now: dt.datetime) -> dt.datetime | None:
    """Return when this many requests will have been sent if each is sent as soon as the limits allow.

    New files, failures and renewals to come are not included.

    Args:
        requests: the size of the backlog.
        allowance: the key's limits and use.
        now: the current time, aware, in UTC.

    Returns:
        The time of the last request; `now` for an empty backlog; None if it is more than ten years away.
    """
    if requests <= 0:
        return now
    moment = max(now, allowance.not_before or now)
    for _ in range(LONGEST_DAYS):
        remaining = _remaining_quota(allowance, moment, now)
        next_day = _midnight(moment) + dt.timedelta(days=1)
        interval_s = 60 * MARGIN / allowance.per_minute if allowance.per_minute else 0.0
        if interval_s:
            until_midnight = int((next_day - moment).total_seconds() / interval_s)
            remaining = until_midnight if remaining is None else min(remaining, until_midnight)
        if remaining is None or requests <= remaining:
            return moment + dt.timedelta(seconds=requests * interval_s)
        requests -= remaining
        allowance = _spend(allowance, remaining, moment, now)
        moment, now = next_day, moment
    return None


def _remaining_quota(allowance: Allowance, moment: dt.datetime, used_at: dt.datetime) -> int | None:
    """Return how many requests may still be sent on the day of `moment`; None if there is no limit.

    `allowance.used_*` was counted at `used_at`: it applies only if that lies in the same day or month.
    """
    used_day = allowance.used_day if moment.date() == used_at.date() else 0
    used_month = allowance.used_month if _month(moment) == _month(used_at) else 0
    remaining = [
        max(0, allowed - used)
        for allowed, used in ((allowance.per_day, used_day), (allowance.per_month, used_month))
        if allowed is not None
    ]
    return min(remaining, default=None)


def _spend(allowance: Allowance, sent: int, moment: dt.datetime, used_at: dt.datetime) -> Allowance:
    """Return the allowance after `sent` requests on the day of `moment`; `used_at` as in `_remaining_quota`."""
    used_month = allowance.used_month if _month(moment) == _month(used_at) else 0
    return Allowance(allowance.per_minute, allowance.per_day, allowance.per_month, sent, used_month + sent)


def _month(moment: dt.datetime) -> tuple[int, int]:
    return moment.year, moment.month


def _midnight(moment: dt.datetime) -> dt.datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)
