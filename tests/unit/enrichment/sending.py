"""Counts of requests in time windows, independent of the code that granted them."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Sequence

MINUTE = dt.timedelta(seconds=60)


def most_in_any(times: Sequence[dt.datetime], length: dt.timedelta) -> int:
    """Return the most requests in any window of this length, both its ends included."""
    ordered = sorted(times)
    most, first = 0, 0
    for last, moment in enumerate(ordered):
        while moment - ordered[first] > length:
            first += 1
        most = max(most, last - first + 1)
    return most


def most_in_a_day(times: Sequence[dt.datetime]) -> int:
    """Return the most requests on one day in UTC."""
    return max(Counter(moment.astimezone(dt.UTC).date() for moment in times).values(), default=0)


def most_in_a_month(times: Sequence[dt.datetime]) -> int:
    """Return the most requests in one month in UTC."""
    return max(Counter(moment.astimezone(dt.UTC).strftime("%Y-%m") for moment in times).values(), default=0)
