"""The rate limit: no minute has more requests than allowed, and little of the rate is lost."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st

from cowrieprocessor.enrichment.quota.rate_limit import MAX_BURST, RateLimit
from tests.unit.enrichment.sending import MINUTE, most_in_any

START = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
RATES = [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 60, 599, 600, 1000, 100_000]


@pytest.mark.parametrize("per_minute", RATES)
def test_burst_divides_the_rate(per_minute: int) -> None:
    """Whole windows cover a minute: the burst is the largest divisor of the rate up to 4."""
    burst = RateLimit(per_minute).burst
    assert 0 == per_minute % burst
    assert burst == max(size for size in (1, 2, 3, 4) if per_minute % size == 0)


def run(rate_limit: RateLimit, delays_s: Sequence[float], start: dt.datetime = START) -> list[dt.datetime]:
    """Send as soon as the rate limit allows after each delay, and return the times."""
    now, recent, sent = start, [], []
    for delay_s in delays_s:
        now += dt.timedelta(seconds=delay_s)
        recent = rate_limit.normalized(recent, now)
        now = max(now, rate_limit.next_at(recent) or now)
        recent = [*recent, now][-MAX_BURST:]
        sent.append(now)
    return sent


@bounded(max_examples=150)
@given(
    per_minute=st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 60]),
    delays_s=st.lists(st.one_of(st.just(0.0), st.floats(0, 100), st.floats(0, 0.01)), max_size=150),
)
def test_no_minute_sees_more(per_minute: int, delays_s: list[float]) -> None:
    """Whenever requests are wanted, no 60 seconds contain more than are allowed a minute."""
    assert most_in_any(run(RateLimit(per_minute), delays_s), MINUTE) <= per_minute


@pytest.mark.parametrize("per_minute", [1, 2, 3, 4, 5, 6, 7, 8, 60, 600])
def test_little_of_the_rate_is_lost(per_minute: int) -> None:
    """With continuous work at least 95 % of the allowed requests are sent, and never more."""
    sent = run(RateLimit(per_minute), [0.0] * (per_minute * 20))
    minutes = (sent[-1] - sent[0]) / MINUTE
    assert most_in_any(sent, MINUTE) <= per_minute
    assert len(sent) / (minutes * per_minute) >= 0.95


def bucket(per_minute: int, burst: int) -> Callable[[dt.datetime], bool]:
    """Return a plain token bucket: it grants a burst, and is refilled at the allowed rate."""
    tokens, then = float(burst), START

    def takes(now: dt.datetime) -> bool:
        nonlocal tokens, then
        tokens = min(burst, tokens + (now - then).total_seconds() * per_minute / 60)
        then = now
        if tokens < 1:
            return False
        tokens -= 1
        return True

    return takes


def test_plain_bucket_would_pass_the_limit() -> None:
    """Negative control: a bucket of 4 tokens, refilled 4 times a minute, grants twice as many within a minute."""
    takes = bucket(4, 4)
    seconds = [START + dt.timedelta(seconds=second) for second in range(120)]
    assert 8 == most_in_any([now for now in seconds if takes(now)], MINUTE)


def test_clock_set_back_costs_one_window() -> None:
    """Times far in the future count as now, so that the next request waits for a window and not for hours."""
    rate_limit = RateLimit(4)
    ahead = [START + dt.timedelta(hours=3, seconds=second) for second in range(4)]
    recent = rate_limit.normalized(ahead, START)
    assert START + rate_limit.window == rate_limit.next_at(recent)


def test_times_a_little_ahead_stay() -> None:
    """Times up to a window in the future (another machine's clock) stay as they are."""
    rate_limit = RateLimit(4)
    ahead = [START + dt.timedelta(seconds=second) for second in range(4)]
    assert ahead == rate_limit.normalized(ahead, START)


def test_only_the_last_times_are_kept() -> None:
    """Only as many times are stored as the largest burst has."""
    many = [START - dt.timedelta(seconds=second) for second in range(10, 0, -1)]
    assert many[-MAX_BURST:] == RateLimit(7).normalized(many, START)
