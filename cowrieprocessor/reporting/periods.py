"""The periods that reports cover: UTC days, ISO weeks (Monday first) and months."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from enum import StrEnum

from cowrieprocessor.errors import ConfigurationError

UTC = dt.UTC
_WEEK = re.compile(r"(\d{4})-?W(\d{2})", re.IGNORECASE | re.ASCII)
_MONTH = re.compile(r"(\d{4})-(\d{2})", re.ASCII)
_DAYS_AGO = {"today": 0, "yesterday": 1}
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class PeriodKind(StrEnum):
    """The length of a period."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


@dataclass(frozen=True, slots=True)
class Period:
    """A half-open interval: `start` is included, `end` is not; both are UTC midnights."""

    kind: PeriodKind
    start: dt.datetime
    end: dt.datetime

    @property
    def name(self) -> str:
        """The period as `--date` takes it: `2026-11-21`, `2026-W47` or `2026-11`."""
        if self.kind is PeriodKind.DAILY:
            return self.start.date().isoformat()
        if self.kind is PeriodKind.WEEKLY:
            year, week, _ = self.start.isocalendar()
            return f"{year:04d}-W{week:02d}"
        return self.start.date().isoformat()[:7]

    @property
    def title(self) -> str:
        """The period in words: `Saturday 21 November 2026`."""
        if self.kind is PeriodKind.DAILY:
            return f"{self.start:%A} {_long_date(self.start)}"
        if self.kind is PeriodKind.WEEKLY:
            year, week, _ = self.start.isocalendar()
            last = self.end - dt.timedelta(days=1)
            return f"week {week} of {year:04d}, {_long_date(self.start)} to {_long_date(last)}"
        return f"{self.start:%B} {self.start.year:04d}"

    def previous(self) -> Period:
        """Return the period of the same kind that ends where this one starts.

        Raises:
            ConfigurationError: the period before is outside the calendar.
        """
        try:
            return period_of(self.kind, self.start - dt.timedelta(days=1))
        except OverflowError:
            raise ConfigurationError(
                f"{self.name}: too early for a report, which compares with the period before"
            ) from None


def _long_date(moment: dt.datetime) -> str:
    return f"{moment.day} {moment:%B} {moment.year:04d}"


def period_of(kind: PeriodKind, moment: dt.datetime) -> Period:
    """Return the period that contains a moment.

    Raises:
        ConfigurationError: the period ends outside the calendar.
    """
    moment = moment.astimezone(UTC)
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    try:
        if kind is PeriodKind.DAILY:
            return Period(kind, day, day + dt.timedelta(days=1))
        if kind is PeriodKind.WEEKLY:
            monday = day - dt.timedelta(days=day.weekday())
            return Period(kind, monday, monday + dt.timedelta(days=7))
        first = day.replace(day=1)
        return Period(kind, first, (first + dt.timedelta(days=32)).replace(day=1))
    except OverflowError:
        raise ConfigurationError(f"{day.date()}: outside the calendar; give an earlier date") from None


def parse_period(kind: PeriodKind, text: str, now: dt.datetime) -> Period:
    """Return the period that `--date` names.

    Args:
        kind: the length of the period.
        text: `YYYY-MM-DD`, `today` or `yesterday` (the period that contains the day); for a week also
            `YYYY-Www`, for a month also `YYYY-MM`.
        now: the current time, for `today` and `yesterday`.

    Raises:
        ConfigurationError: the text is none of these, or there is no such date.
    """
    word = text.strip().lower()
    if word in _DAYS_AGO:
        return period_of(kind, now - dt.timedelta(days=_DAYS_AGO[word]))
    try:
        if _DAY.fullmatch(word):
            return period_of(kind, dt.datetime.fromisoformat(word).replace(tzinfo=UTC))
        if kind is PeriodKind.WEEKLY and (week := _WEEK.fullmatch(word)):
            monday = dt.date.fromisocalendar(int(week.group(1)), int(week.group(2)), 1)
            return period_of(kind, dt.datetime(monday.year, monday.month, monday.day, tzinfo=UTC))
        if kind is PeriodKind.MONTHLY and (month := _MONTH.fullmatch(word)):
            return period_of(kind, dt.datetime(int(month.group(1)), int(month.group(2)), 1, tzinfo=UTC))
    except ValueError:
        raise ConfigurationError(f"{text!r}: there is no such date") from None
    example = {
        PeriodKind.DAILY: "2026-11-21",
        PeriodKind.WEEKLY: "2026-W47 (or any date in the week)",
        PeriodKind.MONTHLY: "2026-11 (or any date in the month)",
    }[kind]
    raise ConfigurationError(f"{text!r} is not a date for a {kind} report: give it as {example}, today or yesterday")


def parse_moment(text: str) -> dt.datetime:
    """Return the moment that a flag such as `--since` names; without a zone it is UTC.

    `today` and `yesterday` are the beginning of the day, in UTC.

    Raises:
        ConfigurationError: the text is neither, and not an ISO 8601 date or time.
    """
    try:
        if text.strip().lower() in _DAYS_AGO:
            midnight = dt.datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
            return midnight - dt.timedelta(days=_DAYS_AGO[text.strip().lower()])
        moment = dt.datetime.fromisoformat(text.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{text!r} is not a time: give it as 2026-11-21, 2026-11-21T13:45:00Z (UTC if it has no zone), "
            "today or yesterday"
        ) from None


def parse_span(since: str | None, until: str | None) -> tuple[dt.datetime | None, dt.datetime | None]:
    """Return the moments of `--since` and `--until`, None for one that is not given.

    Raises:
        ConfigurationError: one is no time, or nothing lies between them.
    """
    first, end = (parse_moment(text) if text is not None else None for text in (since, until))
    if first is not None and end is not None and first >= end:
        raise ConfigurationError(f"--since {since} is not before --until {until}: nothing lies between them")
    return first, end
