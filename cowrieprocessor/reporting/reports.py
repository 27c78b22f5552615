"""Reports: what happened on the honeypots in a day, a week or a month, compared with the one before."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sqlalchemy import Connection

from cowrieprocessor.errors import NotFound
from cowrieprocessor.reporting.periods import Period, PeriodKind, period_of
from cowrieprocessor.reporting.queries import activity, dead_letters, verdicts
from cowrieprocessor.reporting.queries.activity import DroppedFile, Ranking, Totals
from cowrieprocessor.reporting.queries.dead_letters import ReasonCount
from cowrieprocessor.reporting.queries.verdicts import ChangedVerdict, FoundMalicious
from cowrieprocessor.reporting.queries.window import Window

TOP_FILES = 25
TOP_VALUES = 10


@dataclass(frozen=True, slots=True)
class Change:
    """One number of the report beside that of the period before.

    Attributes:
        percent: the change, rounded to one decimal; None where there was nothing before.
    """

    current: int
    previous: int

    @property
    def percent(self) -> float | None:
        """The change in percent of the previous number; None if that is 0."""
        if not self.previous:
            return None
        return round(100 * (self.current - self.previous) / self.previous, 1)


@dataclass(frozen=True, slots=True)
class Report:
    """One report; docs/reports.md says what each number means.

    Attributes:
        files: the worst and most frequent of `totals.files` files.
        found_malicious: of `totals.files_found_malicious` files those that most sessions dropped.
        changed_verdicts: of `totals.answers_changed` answers the gravest and latest.
        dead_letters: those that wait now, of any date: what could not be read has no time of an event.
    """

    period: Period
    sensor: str | None
    totals: Totals
    previous: Totals
    files: tuple[DroppedFile, ...]
    found_malicious: tuple[FoundMalicious, ...]
    changed_verdicts: tuple[ChangedVerdict, ...]
    urls: Ranking
    addresses: Ranking
    protocols: Ranking
    usernames: Ranking
    commands: Ranking
    sensors: Ranking
    dead_letters: tuple[ReasonCount, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all happened on the honeypots in the period."""
        return not self.totals.sessions and not self.totals.files

    def changes(self) -> dict[str, Change]:
        """Return every number of the period beside that of the period before, by its name in `Totals`."""
        return {
            field.name: Change(getattr(self.totals, field.name), getattr(self.previous, field.name))
            for field in fields(Totals)
        }


def make_report(
    connection: Connection,
    period: Period,
    *,
    sensor: str | None = None,
    top_files: int = TOP_FILES,
    top_values: int = TOP_VALUES,
) -> Report:
    """Return the report on a period.

    Args:
        connection: a connection in one read transaction, so that all numbers are of one state.
        period: the days it is about.
        sensor: only this sensor.
        top_files: how many files it lists at most; so many found to be malicious, and so many changed verdicts.
        top_values: how many addresses, names, commands... it lists at most.

    Raises:
        ConfigurationError: the calendar has no period before this one.
        NotFound: the database knows no such sensor.
    """
    window = Window(period.start, period.end, sensor)
    before = period.previous()
    totals = activity.totals(connection, window)
    if sensor is not None and not totals.sessions and not totals.files:
        _require_sensor(connection, sensor)
    return Report(
        period=period,
        sensor=sensor,
        totals=totals,
        previous=activity.totals(connection, Window(before.start, before.end, sensor)),
        files=activity.dropped_files(connection, window, top_files),
        found_malicious=verdicts.found_malicious(connection, window, top_files),
        changed_verdicts=verdicts.changed_verdicts(connection, window, top_files),
        urls=activity.download_urls(connection, window, top_values),
        addresses=activity.addresses(connection, window, top_values),
        protocols=activity.protocols(connection, window, top_values),
        usernames=activity.usernames(connection, window, top_values),
        commands=activity.commands(connection, window, top_values),
        sensors=activity.sensors(connection, window, top_values),
        dead_letters=dead_letters.count_dead_letters(connection),
    )


def newest_period(connection: Connection, kind: PeriodKind, sensor: str | None = None) -> Period | None:
    """Return the newest period that has anything to report, or None if the database is empty.

    Raises:
        NotFound: the database knows no such sensor.
    """
    moment = activity.newest_moment(connection, sensor)
    if moment is None:
        if sensor is not None:
            _require_sensor(connection, sensor)
        return None
    return period_of(kind, moment)


def _require_sensor(connection: Connection, sensor: str) -> None:
    known = activity.sensor_names(connection)
    if sensor not in known:
        names = ", ".join(known[:20]) or "none yet"
        raise NotFound(f"no sensor {sensor!r} in this database; it knows: {names}")
