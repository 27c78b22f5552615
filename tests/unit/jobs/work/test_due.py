"""When a task is due, by its schedule, its last run and the time of the decision."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowrieprocessor.jobs.work.due import FIRST_RETRY_S, LONGEST_RETRY_S, LastRun, is_due, next_run_at
from cowrieprocessor.settings.schedule import OFF, Schedule

NOW = dt.datetime(2026, 11, 22, 10, 0, tzinfo=dt.UTC)
QUARTER = Schedule(every_s=900.0)
NIGHTLY = Schedule(at=dt.time(3, 15))


def ago(**span: float) -> dt.datetime:
    """Return a time before now."""
    return NOW - dt.timedelta(**span)


def due(schedule: Schedule, last: LastRun | None, now: dt.datetime = NOW, *, early: bool = False) -> bool:
    """Return whether a task is due."""
    return is_due(schedule, next_run_at(schedule, last, now), now, early=early)


@pytest.mark.parametrize("schedule", [QUARTER, NIGHTLY])
def test_what_never_ran_is_due(schedule: Schedule) -> None:
    """Also by the time of day: `--once` from a timer at another time would never run it otherwise."""
    assert due(schedule, None)


def test_what_is_off_is_never_due() -> None:
    """Whatever became of its last run."""
    assert [due(OFF, last) for last in (None, LastRun(ago(days=9), ago(days=9), failures=1))] == [False, False]


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (LastRun(ago(minutes=14), ago(minutes=14)), False),
        (LastRun(ago(minutes=15), ago(minutes=1)), True),
        (LastRun(ago(days=3), ago(days=3)), True),
    ],
)
def test_an_interval_counts_from_start_to_start(last: LastRun, expected: bool) -> None:
    """However long the run took."""
    assert due(QUARTER, last) is expected


@pytest.mark.parametrize(
    ("began_at", "next_at"),
    [
        (dt.datetime(2026, 11, 22, 3, 14, 59), dt.datetime(2026, 11, 22, 3, 15)),
        (dt.datetime(2026, 11, 22, 3, 15), dt.datetime(2026, 11, 23, 3, 15)),
        (dt.datetime(2026, 11, 22, 9, 0), dt.datetime(2026, 11, 23, 3, 15)),
        (dt.datetime(2026, 11, 19, 3, 15), dt.datetime(2026, 11, 20, 3, 15)),
        (dt.datetime(2026, 12, 31, 23, 0), dt.datetime(2027, 1, 1, 3, 15)),
    ],
)
def test_a_time_of_day_is_the_first_after_the_last_start(began_at: dt.datetime, next_at: dt.datetime) -> None:
    """In UTC; days in which nothing ran are caught up by one run."""
    began_at, next_at = began_at.replace(tzinfo=dt.UTC), next_at.replace(tzinfo=dt.UTC)
    assert next_run_at(NIGHTLY, LastRun(began_at, began_at), began_at) == next_at
    zone = dt.timezone(dt.timedelta(hours=5))
    assert next_run_at(NIGHTLY, LastRun(began_at.astimezone(zone), None), began_at) == next_at


@pytest.mark.parametrize(
    ("failures", "wait_s"), [(1, 60), (2, 120), (3, 240), (6, 1920), (7, 3600), (8, 3600), (10_000, 3600)]
)
@pytest.mark.parametrize("schedule", [QUARTER, NIGHTLY, Schedule(every_s=1.0)])
def test_after_failures_the_wait_doubles_up_to_a_bound(schedule: Schedule, failures: int, wait_s: float) -> None:
    """Counted from the end of the last one, whatever the schedule: a nightly task does not wait for the next night."""
    last = LastRun(ago(hours=2), NOW, failures=failures)
    assert next_run_at(schedule, last, NOW) == NOW + dt.timedelta(seconds=wait_s)


def test_a_killed_run_is_repeated_at_once_and_one_that_kills_is_not() -> None:
    """The first time at once; after that as after failures."""
    assert due(NIGHTLY, LastRun(NOW, deaths=1))
    assert not due(NIGHTLY, LastRun(ago(seconds=59), deaths=2))
    assert due(NIGHTLY, LastRun(ago(seconds=60), deaths=2))
    assert not due(NIGHTLY, LastRun(ago(minutes=59), deaths=99))


def test_an_interrupted_run_goes_on_at_once() -> None:
    """It was stopped with its process, not by somebody who wanted it to rest."""
    assert due(NIGHTLY, LastRun(ago(seconds=1), ago(seconds=1), is_interrupted=True))


def test_a_run_can_ask_for_an_earlier_one_but_not_for_a_later() -> None:
    """A source's pause ends before the interval, or the interval comes first."""
    last = LastRun(NOW, NOW, again_at=NOW + dt.timedelta(minutes=3))
    assert next_run_at(QUARTER, last, NOW) == NOW + dt.timedelta(minutes=3)
    busy = LastRun(ago(seconds=5), NOW, again_at=ago(seconds=1))
    assert next_run_at(QUARTER, busy, NOW) == NOW + dt.timedelta(seconds=10)
    later = LastRun(NOW, NOW, again_at=NOW + dt.timedelta(hours=9))
    assert next_run_at(QUARTER, later, NOW) == NOW + dt.timedelta(minutes=15)


@pytest.mark.parametrize("schedule", [QUARTER, NIGHTLY])
@pytest.mark.parametrize("set_back", [dt.timedelta(minutes=2), dt.timedelta(days=4000)])
@pytest.mark.parametrize("failures", [0, 3])
def test_a_clock_that_was_set_back_keeps_nothing_waiting(
    schedule: Schedule, set_back: dt.timedelta, failures: int
) -> None:
    """A last run in the future was recorded by a wrong clock; the task is run, and then by the new time."""
    assert due(schedule, LastRun(NOW + set_back, NOW + set_back, failures=failures))
    assert due(schedule, LastRun(ago(days=1), NOW + set_back, failures=failures))


def test_clocks_that_differ_a_little_are_none_that_was_set() -> None:
    """Two machines, or a correction of seconds, do not make a task run twice."""
    assert not due(QUARTER, LastRun(NOW + dt.timedelta(seconds=50), NOW + dt.timedelta(seconds=50)))


def test_a_clock_that_was_set_forward_makes_it_due_once() -> None:
    """After years everything is due; after that run nothing is."""
    later = NOW + dt.timedelta(days=4000)
    assert due(QUARTER, LastRun(NOW, NOW), later)
    assert not due(QUARTER, LastRun(later, later), later)


@pytest.mark.parametrize(
    ("schedule", "early_s", "expected"),
    [
        (QUARTER, 30, True),
        (QUARTER, 31, False),
        (Schedule(every_s=100.0), 10, True),
        (Schedule(every_s=100.0), 11, False),
        (NIGHTLY, 1, False),
    ],
)
def test_a_timer_may_be_early(schedule: Schedule, early_s: float, expected: bool) -> None:
    """A tenth of an interval, 30 seconds at most; the worker itself is never early."""
    at = NOW + dt.timedelta(seconds=early_s)
    assert is_due(schedule, at, NOW, early=True) is expected
    assert not is_due(schedule, at, NOW)


MOMENTS = st.datetimes(dt.datetime(1971, 1, 1), dt.datetime(2100, 1, 1), timezones=st.just(dt.UTC))
SCHEDULES = st.one_of(
    st.builds(lambda every_s: Schedule(every_s=every_s), st.floats(1, 1e6)),
    st.builds(lambda hour, minute: Schedule(at=dt.time(hour, minute)), st.integers(0, 23), st.integers(0, 59)),
)


@given(SCHEDULES, MOMENTS, MOMENTS, st.integers(0, 50), st.integers(0, 50))
def test_whatever_clocks_did_a_task_never_waits_longer_than_its_schedule_and_the_longest_retry(
    schedule: Schedule, began_at: dt.datetime, now: dt.datetime, failures: int, deaths: int
) -> None:
    """No last run, however wrong its times, keeps a task from running for longer."""
    at = next_run_at(schedule, LastRun(began_at, began_at, failures=failures, deaths=deaths), now)
    assert at is not None
    longest_s = max(schedule.every_s or 86_400.0, LONGEST_RETRY_S) + FIRST_RETRY_S
    assert (at - now).total_seconds() <= longest_s
