"""Days, ISO weeks and months."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.reporting.periods import PeriodKind, parse_moment, parse_period, parse_span, period_of

NOW = dt.datetime(2026, 11, 22, 0, 30, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("kind", "text", "start", "end", "name"),
    [
        ("daily", "2026-11-21", "2026-11-21", "2026-11-22", "2026-11-21"),
        ("daily", "yesterday", "2026-11-21", "2026-11-22", "2026-11-21"),
        ("daily", " TODAY ", "2026-11-22", "2026-11-23", "2026-11-22"),
        ("weekly", "2026-W47", "2026-11-16", "2026-11-23", "2026-W47"),
        ("weekly", "2026w47", "2026-11-16", "2026-11-23", "2026-W47"),
        ("weekly", "2027-01-01", "2026-12-28", "2027-01-04", "2026-W53"),
        ("monthly", "2026-12", "2026-12-01", "2027-01-01", "2026-12"),
        ("monthly", "2024-02-29", "2024-02-01", "2024-03-01", "2024-02"),
    ],
)
def test_a_date_names_the_period_that_contains_it(kind: str, text: str, start: str, end: str, name: str) -> None:
    """A day, week or month can be given by its own name or by any date in it."""
    period = parse_period(PeriodKind(kind), text, NOW)
    assert (start, end, name) == (f"{period.start:%Y-%m-%d}", f"{period.end:%Y-%m-%d}", period.name)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("daily", "2026-W47"),
        ("daily", "2026-11"),
        ("daily", "2026-02-30"),
        ("daily", "21.11.2026"),
        ("daily", ""),
        ("weekly", "2026-W54"),
        ("weekly", "2026-11"),
        ("monthly", "2026-13"),
        ("monthly", "2026-W47"),
        ("daily", "9999-12-31"),
        ("monthly", "9999-12"),
    ],
)
def test_an_invalid_date_is_refused(kind: str, text: str) -> None:
    """A date that does not exist, or that does not fit the kind of report, is an error that says what is expected."""
    with pytest.raises(ConfigurationError):
        parse_period(PeriodKind(kind), text, NOW)


@given(
    st.sampled_from(list(PeriodKind)),
    st.datetimes(dt.datetime(2, 1, 1), dt.datetime(9998, 1, 1), timezones=st.just(dt.UTC)),
)
def test_periods_tile_time(kind: PeriodKind, moment: dt.datetime) -> None:
    """Every moment is in its period, the previous period ends where it starts, and its name parses back to it."""
    period = period_of(kind, moment)
    assert period.start <= moment < period.end
    assert period.previous().end == period.start
    assert parse_period(kind, period.name, NOW) == period
    assert period.title


def test_first_period_of_the_calendar_has_none_before() -> None:
    """The first day of the year 1 is refused with a message instead of an OverflowError."""
    with pytest.raises(ConfigurationError, match="too early"):
        parse_period(PeriodKind.DAILY, "0001-01-01", NOW).previous()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-21", dt.datetime(2026, 11, 21, tzinfo=dt.UTC)),
        ("2026-11-21T13:45", dt.datetime(2026, 11, 21, 13, 45, tzinfo=dt.UTC)),
        ("2026-11-21T13:45:00+05:30", dt.datetime(2026, 11, 21, 8, 15, tzinfo=dt.UTC)),
    ],
)
def test_moments_are_utc_unless_they_say_otherwise(text: str, moment: dt.datetime) -> None:
    """A time without a zone is UTC; one with a zone is converted."""
    assert moment == parse_moment(text)


def test_today_and_yesterday_are_moments() -> None:
    """They are the beginning of the day in UTC, as in `report --date`."""
    midnight = dt.datetime.now(dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    found = parse_moment(" Today "), parse_moment("yesterday")

    assert found[0] - found[1] == dt.timedelta(days=1)
    assert found[0] - midnight in (dt.timedelta(0), dt.timedelta(days=1))


@pytest.mark.parametrize(
    ("since", "until"), [("2026-11-22", "2026-11-21"), ("2026-11-21", "2026-11-21"), ("today", "yesterday")]
)
def test_a_span_that_holds_nothing_is_refused(since: str, until: str) -> None:
    """`--since` has to be before `--until`; the message has both."""
    with pytest.raises(ConfigurationError, match=f"--since {since} is not before --until {until}"):
        parse_span(since, until)


def test_a_span_may_be_open() -> None:
    """Either end may be missing."""
    day = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)

    assert [(None, None), (day, None), (None, day)] == [
        parse_span(None, None),
        parse_span("2026-11-21", None),
        parse_span(None, "2026-11-21"),
    ]


@pytest.mark.parametrize("text", ["", "soon", "2026-13-01", "0001-01-01T00:00:00+14:00"])
def test_an_invalid_time_is_refused(text: str) -> None:
    """A text that is not a time, or a time outside the calendar, is an error that shows the format."""
    with pytest.raises(ConfigurationError, match="2026-11-21"):
        parse_moment(text)
