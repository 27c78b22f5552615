"""Reports: what happened on the honeypots in a day, a week or a month, compared with the period before."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, fields

from sqlalchemy import Connection

from cowrieprocessor.reporting.periods import Period, PeriodKind, period_of
from cowrieprocessor.reporting.queries import activity, dead_letters, verdicts
from cowrieprocessor.reporting.queries.activity import DroppedFile, Ranking, Totals
from cowrieprocessor.reporting.queries.backfill import ALL_JOBS, Completeness, completeness
from cowrieprocessor.reporting.queries.dead_letters import ReasonCount
from cowrieprocessor.reporting.queries.reuse import DEFAULT_GAP
from cowrieprocessor.reporting.queries.sensors import require_sensor
from cowrieprocessor.reporting.queries.verdicts import ChangedVerdict, FoundMalicious
from cowrieprocessor.reporting.queries.window import Window

RANKINGS = ("urls", "addresses", "protocols", "usernames", "commands", "sensors")
TOP_FILES = 25
TOP_VALUES = 10
_CLOCKS_DIFFER = dt.timedelta(days=1)
_FIRST = dt.datetime(1, 3, 1, tzinfo=dt.UTC)
_LAST = dt.datetime(9999, 11, 30, tzinfo=dt.UTC)
"""The calendar without its first and last months: every period between has one before it and one after it."""


@dataclass(frozen=True, slots=True)
class Change:
    """A number of the report and the same number in the period before; None for one that is not known yet."""

    current: int | None
    previous: int | None

    @property
    def percent(self) -> float | None:
        """The change in percent of the previous number, rounded to one decimal; None if that is 0 or one is None."""
        if self.current is None or not self.previous:
            return None
        return round(100 * (self.current - self.previous) / self.previous, 1)


@dataclass(frozen=True, slots=True)
class Report:
    """One report; docs/reports.md explains each number.

    Attributes:
        files: of `totals.files` files, malicious ones and those of most sessions first.
        found_malicious: of `totals.files_found_malicious` files, those dropped by most sessions first.
        changed_verdicts: of `totals.answers_changed` answers, the most severe and latest first.
        lists_files: whether a session of the period left a file, then or later: `sessions list --with-files` shows it.
        earlier_session: the session begun before the period that last left a file or fetched a URL in it; None if there
            is none. `sessions list` of the period does not show it.
        newest: where the period is empty, the newest one that is not; None if there is none, or it is not.
        is_to_come: whether the period had not begun when the report was made.
        completeness: whether the backfills that the numbers depend on have ended.
        dead_letters: all that are unresolved now, of any date: an unreadable line has no event time.
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
    lists_files: bool
    earlier_session: str | None
    newest: Period | None
    is_to_come: bool
    dead_letters: tuple[ReasonCount, ...]
    completeness: Completeness

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all happened on the honeypots in the period; verdicts may have changed all the same."""
        return _is_empty(self.totals, self.urls)

    @property
    def has_news(self) -> bool:
        """Whether a source has said something new about a file in the period."""
        return bool(self.totals.files_found_malicious or self.totals.answers_changed)

    def left_out(self) -> dict[str, int]:
        """Return how many rows of each list are not in the report; lists that are whole are not named."""
        whole = {
            "files": (self.totals.files, self.files),
            "found_malicious": (self.totals.files_found_malicious, self.found_malicious),
            "changed_verdicts": (self.totals.answers_changed, self.changed_verdicts),
            **{name: (ranking.distinct, ranking.top) for name, ranking in self.rankings().items()},
        }
        return {name: count - len(rows) for name, (count, rows) in whole.items() if count > len(rows)}

    def rankings(self) -> dict[str, Ranking]:
        """Return the lists of values by their names."""
        return {name: getattr(self, name) for name in RANKINGS}

    def changes(self) -> dict[str, Change]:
        """Return every number with that of the period before, by its name in `Totals`."""
        return {
            field.name: Change(getattr(self.totals, field.name), getattr(self.previous, field.name))
            for field in fields(Totals)
        }


def make_report(
    connection: Connection,
    period: Period,
    *,
    sensor: str | None = None,
    session_gap: dt.timedelta = DEFAULT_GAP,
    top_files: int = TOP_FILES,
    top_values: int = TOP_VALUES,
    now: dt.datetime | None = None,
) -> Report:
    """Return the report on a period.

    Args:
        connection: a connection in one read transaction, so that all numbers describe the same state.
        period: the days to report on.
        sensor: report on this sensor only.
        session_gap: a longer pause between events of a session means that its id was used again.
        top_files: maximum length of each list of files: dropped, found malicious, changed verdicts.
        top_values: maximum length of each other list: addresses, user names, commands, ...
        now: the time now, UTC; None for the system's.

    Raises:
        ConfigurationError: the period before this one is outside the calendar.
        NotFound: the database has no such sensor.
    """
    now = now or dt.datetime.now(dt.UTC)
    window = Window(period.start, period.end, sensor)
    before = period.previous()
    totals = activity.totals(connection, window, session_gap)
    if sensor is not None and not totals.sessions and not totals.files:
        require_sensor(connection, sensor)
    urls = activity.download_urls(connection, window, top_values)
    has_earlier = totals.sessions_begun_earlier or (urls.top and not totals.sessions)
    return Report(
        period=period,
        sensor=sensor,
        totals=totals,
        previous=activity.totals(connection, Window(before.start, before.end, sensor), session_gap),
        files=activity.dropped_files(connection, window, top_files),
        found_malicious=verdicts.found_malicious(connection, window, top_files),
        changed_verdicts=verdicts.changed_verdicts(connection, window, top_files),
        urls=urls,
        addresses=activity.addresses(connection, window, top_values),
        protocols=activity.protocols(connection, window, top_values),
        usernames=activity.usernames(connection, window, top_values),
        commands=activity.commands(connection, window, top_values),
        sensors=activity.sensors(connection, window, top_values),
        lists_files=activity.has_sessions_with_files(connection, window),
        earlier_session=activity.session_from_before(connection, window) if has_earlier else None,
        newest=newest_period(connection, period.kind, now, sensor) if _is_empty(totals, urls) else None,
        is_to_come=period.start > now,
        dead_letters=dead_letters.count_dead_letters(connection),
        completeness=completeness(connection, ALL_JOBS),
    )


def _is_empty(totals: Totals, urls: Ranking) -> bool:
    return not totals.sessions and not totals.files and not urls.top


def newest_period(
    connection: Connection, kind: PeriodKind, now: dt.datetime, sensor: str | None = None
) -> Period | None:
    """Return the newest period with sessions or files, or None if there is none; see `activity.newest_moment`.

    What is dated after today does not count: the clock of its honeypot was wrong. Where there is nothing else, it does.

    Args:
        connection: a connection in a read transaction.
        kind: the kind of period.
        now: the time now, UTC.
        sensor: count this sensor only.

    Raises:
        NotFound: the database has no such sensor.
    """
    moment = activity.newest_moment(connection, sensor, _FIRST, now + _CLOCKS_DIFFER)
    if moment is None:
        moment = activity.newest_moment(connection, sensor, _FIRST, _LAST)
    if moment is None:
        if sensor is not None:
            require_sensor(connection, sensor)
        return None
    return period_of(kind, moment)
