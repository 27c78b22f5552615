"""When a task is due: pure functions of its schedule, its last run and the current time.

Nothing is decided in advance: clocks are set, and machines sleep. Each decision compares stored times with the time of
the decision.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from cowrieprocessor.settings.schedule import Schedule

FIRST_RETRY_S = 60.0
"""The wait after a failure; after each further one in a row it is twice as long."""

LONGEST_RETRY_S = 3600.0

CLOCK_TOLERANCE = dt.timedelta(minutes=1)
"""A last run that is further in the future was recorded by a clock that has been set back since."""

MIN_REST = dt.timedelta(seconds=10)
"""The rest after a run that asks for another one: one that always asks must not keep the worker busy."""

EARLY_SHARE, MOST_EARLY_S = 0.1, 30.0
"""How much earlier than due a run by `--once` is, at most: timers do not start it to the second."""


@dataclass(frozen=True, slots=True)
class LastRun:
    """The last run of a task. Times are aware, in UTC.

    Attributes:
        began_at: when it began.
        ended_at: when it ended; None if it did not.
        failures: how many runs in a row have failed, this one included.
        deaths: how many runs in a row have not come to an end, this one included: their process was killed.
        is_interrupted: whether it was asked to stop with its process, and has to go on.
        again_at: when it asked to be run again, if earlier than by its schedule.
    """

    began_at: dt.datetime
    ended_at: dt.datetime | None = None
    failures: int = 0
    deaths: int = 0
    is_interrupted: bool = False
    again_at: dt.datetime | None = None


def next_run_at(schedule: Schedule, last: LastRun | None, now: dt.datetime) -> dt.datetime | None:
    """Return when a task is due, which may be in the past; None if never.

    Args:
        schedule: its schedule.
        last: its last run; None if it never ran: it is due then.
        now: the current time.
    """
    if schedule.is_off:
        return None
    if last is None or max(last.began_at, last.ended_at or last.began_at) > now + CLOCK_TOLERANCE:
        return now
    if last.is_interrupted:
        return last.ended_at or last.began_at
    if last.deaths:
        return last.began_at + _retry_wait(last.deaths - 1)
    if last.failures:
        return (last.ended_at or last.began_at) + _retry_wait(last.failures)
    regular = _by_schedule(schedule, last.began_at)
    if last.again_at is None:
        return regular
    return min(regular, max(last.again_at, (last.ended_at or last.began_at) + MIN_REST))


def is_due(schedule: Schedule, at: dt.datetime | None, now: dt.datetime, *, early: bool = False) -> bool:
    """Return whether a task is due.

    Args:
        schedule: its schedule.
        at: the result of `next_run_at`.
        now: the current time.
        early: whether shortly before counts, too.
    """
    if at is None:
        return False
    early_s = min(MOST_EARLY_S, (schedule.every_s or 0.0) * EARLY_SHARE) if early else 0.0
    return at <= now + dt.timedelta(seconds=early_s)


def _by_schedule(schedule: Schedule, began_at: dt.datetime) -> dt.datetime:
    """Return the first time that is due after a run that began then."""
    if schedule.at is None:
        return began_at + dt.timedelta(seconds=schedule.every_s or 0.0)
    same_day = dt.datetime.combine(began_at.astimezone(dt.UTC).date(), schedule.at, dt.UTC)
    return same_day if same_day > began_at else same_day + dt.timedelta(days=1)


def _retry_wait(failures: int) -> dt.timedelta:
    """Return the wait after so many failures in a row; none after none."""
    if not failures:
        return dt.timedelta(0)
    return dt.timedelta(seconds=min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** min(failures - 1, 16)))
