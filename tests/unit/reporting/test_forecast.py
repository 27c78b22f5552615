"""Forecasts: a backlog sent as fast as the limits per minute, day and month allow."""

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
    """Send the requests one by one, each as soon as the limits per minute, day and month allow."""
    interval = dt.timedelta(seconds=60 * MARGIN / allowance.per_minute) if allowance.per_minute else dt.timedelta()
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
        if is_used_up or moment + interval > next_day:
            moment = next_day
            continue
        requests, used_day, used_month, moment = requests - 1, used_day + 1, used_month + 1, moment + interval
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
    """The forecast is the time at which a sender that obeys every limit has sent its last request."""
    now = NOW + dt.timedelta(hours=hours)
    not_before = now + dt.timedelta(hours=wait_h) if wait_h else None
    allowance = Allowance(per_minute, per_day, per_month, used_day, used_month, not_before)
    forecast = done_at(requests, allowance, now)
    assert forecast is not None
    expected = _recount(requests, allowance, now) if requests else now
    assert abs((expected - forecast).total_seconds()) < 1


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
    """50,000 files take 100 days at 500 a day; a month that is used up ends on the first of the next."""
    forecast = done_at(requests, allowance, NOW)
    assert forecast is not None
    assert days == (forecast.date() - NOW.date()).days + 1


def test_a_backlog_of_more_than_ten_years_has_no_date() -> None:
    """The forecast ends after ten years; without any limit a backlog is done immediately."""
    assert done_at(10**9, PUBLIC, NOW) is None
    assert done_at(10**9, Allowance(), NOW) == NOW
