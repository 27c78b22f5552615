"""Whatever happens, no minute, day or month has more requests than allowed, and little of the quota is unused."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as bounded
from hypothesis import strategies as st
from sqlalchemy import Engine

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.enrichment.providers.base import KeyQuota, Limits
from cowrieprocessor.enrichment.quota.ledger import Granted, Ledger
from tests.stand_ins.clock import ManualClock
from tests.unit.enrichment.sending import MINUTE, most_in_a_day, most_in_a_month, most_in_any

LIMITS = Limits(3, 10, 25)
NUMBERS = count()
Step = tuple[str, float]

MOMENTS = [
    dt.datetime(2026, 3, 1, 12, 0),
    dt.datetime(2026, 12, 31, 23, 58, 59),  # the end of a year
    dt.datetime(2027, 2, 28, 23, 59),
    dt.datetime(2028, 2, 28, 23, 59),  # the day before a leap day
    dt.datetime(2028, 2, 29, 23, 59, 59, 999_999),
    dt.datetime(2026, 3, 29, 0, 59),  # Europe's clocks go forward
    dt.datetime(2026, 10, 25, 0, 59),  # and back
    dt.datetime(2026, 4, 30, 23, 59, 29),
    dt.datetime(2026, 5, 1, 0, 0),
]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.integers(1, 12)),
        st.tuples(st.just("wait"), st.just(0)),
        st.tuples(st.just("start again"), st.just(0)),
        st.tuples(st.just("advance"), st.sampled_from([0.001, 1, 20, 61.5, 3600, 20_000, 86_400, 6 * 86_400])),
        st.tuples(st.just("set back"), st.sampled_from([0.5, 30, 7200])),
    ),
    max_size=25,
)


def perform(ledger_of: Callable[[], Ledger], clock: ManualClock, steps: list[Step]) -> list[dt.datetime]:
    """Perform the steps and return the times of granted requests."""
    ledger = ledger_of()
    times = []
    for what, number in steps:
        if what == "reserve":
            for _ in range(int(number)):
                answer = ledger.reserve()
                if isinstance(answer, Granted):
                    times.append(answer.at)
        elif what == "wait":
            wait = ledger.peek()
            if wait is not None:
                clock.set(wait.until)
        elif what == "start again":
            ledger = ledger_of()
        else:
            clock.advance(number if what == "advance" else -number)
    return times


@bounded(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.sampled_from(MOMENTS), steps=STEPS)
@example(MOMENTS[0], [("reserve", 12), ("wait", 0)] * 12)
@example(MOMENTS[4], [("reserve", 12), ("wait", 0)] * 12)
@example(MOMENTS[0], [("reserve", 3), ("advance", 86_400)] * 12)
def test_no_limit_is_passed(engine: Engine, start: dt.datetime, steps: list[Step]) -> None:
    """Whichever process reserves when, an independent count finds each limit kept."""
    clock = ManualClock(start.replace(tzinfo=dt.UTC))
    key = f"{next(NUMBERS):016x}"
    times = perform(lambda: Ledger(engine, "virustotal", key, LIMITS, Limits(), clock), clock, steps)
    assert most_in_a_day(times) <= 10
    assert most_in_a_month(times) <= 25
    if not any(what == "set back" for what, _ in steps):  # then one minute is there twice
        assert most_in_any(times, MINUTE) <= 3
    with read_transaction(engine) as connection:
        shown = Ledger(engine, "virustotal", key, LIMITS, Limits(), clock).state(connection)
    month = clock.now().strftime("%Y-%m")
    assert sum(moment.strftime("%Y-%m") == month for moment in times) == shown.used_month


def busy(ledger: Ledger, clock: ManualClock, until: dt.datetime) -> list[dt.datetime]:
    """Send as much as may be sent until a moment."""
    times = []
    while True:
        answer = ledger.reserve()
        if isinstance(answer, Granted):
            times.append(answer.at)
        elif answer.until >= until:
            return times
        else:
            clock.set(answer.until)


def test_public_key_uses_its_day(engine: Engine) -> None:
    """With 4 a minute and 500 a day all 500 are sent each day, in little more than the 125 minutes that they take."""
    start = dt.datetime(2026, 3, 1, 0, 0, tzinfo=dt.UTC)
    clock = ManualClock(start)
    ledger = Ledger(engine, "virustotal", "a" * 16, Limits(4, 500, 15_500), Limits(), clock)
    times = busy(ledger, clock, start + dt.timedelta(days=1))
    assert 500 == len(times)
    assert most_in_any(times, MINUTE) == 4
    assert 500 / ((times[-1] - times[0]) / MINUTE * 4) >= 0.95


@pytest.mark.parametrize(("year", "month", "days"), [(2026, 12, 31), (2028, 2, 29), (2027, 2, 28)])
def test_month_is_used_whole(engine: Engine, year: int, month: int, days: int) -> None:
    """With continuous work each day uses its whole limit until the month's is used up, and so does the next month."""
    start = dt.datetime(year, month, 1, tzinfo=dt.UTC)
    end = start + dt.timedelta(days=days)
    clock = ManualClock(start)
    ledger = Ledger(engine, "virustotal", "a" * 16, Limits(4, 4, 90), Limits(), clock)
    first = busy(ledger, clock, end)
    assert 90 == len(first)
    assert 4 == most_in_a_day(first)
    second = busy(ledger, clock, end + dt.timedelta(days=3))
    assert [4, 12] == [most_in_a_day(second), len(second)]
    assert end.date() == second[0].date()


def test_quota_that_changes_on_the_way(engine: Engine) -> None:
    """When the source reports lower limits of a key, they apply from then on."""
    start = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
    clock = ManualClock(start)
    ledger = Ledger(engine, "virustotal", "a" * 16, Limits(4, 500, 15_500), Limits(), clock)
    ledger.record_key_quota(KeyQuota(60 * 60, 0, 50, 0, 1000, 0))
    assert 50 == len(busy(ledger, clock, start + dt.timedelta(hours=12)))
    clock.set(start + dt.timedelta(days=1))
    ledger.record_key_quota(KeyQuota(60 * 2, 0, 20, 0, 1000, 50))
    later = busy(ledger, clock, start + dt.timedelta(days=1, hours=12))
    assert (20, 2) == (len(later), most_in_any(later, MINUTE))
