"""When a backlog will be done: what is allowed a minute, a day and a month, sent as soon as it may be."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cowrieprocessor.enrichment.quota.rate_limit import MARGIN
from cowrieprocessor.reporting.forecast import Allowance, done_at

NOW = dt.datetime(2026, 11, 22, 6, 30, tzinfo=dt.UTC)
PUBLIC = Allowance(per_minute=4, per_day=500, per_month=15_500)


def _recount(requests: int, allowance: Allowance, now: dt.datetime) -> dt.datetime:
    """Send one request after the other, each as soon as the minute's pace, the day and the month let it."""
    each = dt.timedelta(seconds=60 * MARGIN / allowance.per_minute) if allowance.per_minute else dt.timedelta()
    moment = max(now, allowance.not_before or now)
    day, used_day = now.date(), allowance.used_day
    month, used_month = (now.year, now.month), allowance.used_month
    while requests:
        if moment.date() != day:
            day, used_day = moment.date(), 0
        if (moment.year, moment.month) != month:
            month, used_month = (moment.year, moment.month), 0
        next_day = (moment + dt.timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        is_used_up = used_day >= (allowance.per_day or 10**9) or used_month >= (allowance.per_month or 10**9)
        if is_used_up or moment + each > next_day:
            moment = next_day
            continue
        requests, used_day, used_month, moment = requests - 1, used_day + 1, used_month + 1, moment + each
    return moment


@settings(max_examples=60)
@given(
    requests=st.integers(0, 400),
    per_minute=st.one_of(st.none(), st.integers(1, 9)),
    per_day=st.one_of(st.none(), st.integers(1, 60)),
    per_month=st.one_of(st.none(), st.integers(20, 300)),
    used_day=st.integers(0, 60),
    used_month=st.integers(0, 300),
    wait_h=st.integers(-5, 900),
    hours=st.integers(0, 24 * 400),
)
def test_forecast_equals_sending_one_by_one(
    requests: int,
    per_minute: int | None,
    per_day: int | None,
    per_month: int | None,
    used_day: int,
    used_month: int,
    wait_h: int,
    hours: int,
) -> None:
    """The moment is the one at which a sender that obeys every limit has sent its last request."""
    now = NOW + dt.timedelta(hours=hours)
    not_before = now + dt.timedelta(hours=wait_h) if wait_h else None
    allowance = Allowance(per_minute, per_day, per_month, used_day, used_month, not_before)
    told = done_at(requests, allowance, now)
    assert told is not None
    expected = _recount(requests, allowance, now) if requests else now
    assert abs((expected - told).total_seconds()) < 1


@pytest.mark.parametrize(
    ("requests", "allowance", "days"),
    [
        (50_000, PUBLIC, 100),
        (500, PUBLIC, 1),
        (1, Allowance(4, 500, 15_500, used_day=500), 2),
        (1, Allowance(4, 500, 15_500, used_month=15_500), 10),
    ],
)
def test_public_key_in_days(requests: int, allowance: Allowance, days: int) -> None:
    """50,000 files take a hundred days at 500 a day; a month that is used up goes on the first of the next."""
    told = done_at(requests, allowance, NOW)
    assert told is not None
    assert days == (told.date() - NOW.date()).days + 1


def test_what_nobody_lives_to_see_is_not_told() -> None:
    """A backlog of more than ten years has no date; one without any limit is done at once."""
    assert done_at(10**9, PUBLIC, NOW) is None
    assert done_at(10**9, Allowance(), NOW) == NOW
