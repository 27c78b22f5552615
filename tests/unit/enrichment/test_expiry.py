"""How long answers are valid, and when a question is asked again."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cowrieprocessor.db.enrichment.response_cache import CacheEntry
from cowrieprocessor.enrichment.expiry import Ttl, expires_at, retry_at

NOW = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
HOUR_S = 3600
DAY_S = 24 * HOUR_S
TTL = Ttl(30 * DAY_S, 7 * DAY_S, 12 * HOUR_S, 7 * DAY_S)


@pytest.mark.parametrize(
    ("verdict", "days"), [("malicious", 30), ("known-good", 30), ("clean", 7), ("suspicious", 7), ("unknown", 0.5)]
)
def test_an_answer_holds_by_what_it_says(verdict: str, days: float) -> None:
    """Malicious and known-good are valid for a month, clean and suspicious for a week, unknown for half a day."""
    assert NOW + dt.timedelta(days=days) == expires_at(verdict, NOW, None, TTL)


def test_each_unknown_in_a_row_doubles_the_time() -> None:
    """A source is asked less and less often about a file that it does not know, up to the maximum."""
    held: list[float] = []
    before: CacheEntry | None = None
    moment = NOW
    for _ in range(6):
        until = expires_at("unknown", moment, before, TTL)
        held.append((until - moment).total_seconds() / DAY_S)
        before = CacheEntry("virustotal", "k", "unknown", moment, until)
        moment = until

    assert held == [0.5, 1.0, 2.0, 4.0, 7.0, 7.0]


def test_another_answer_ends_the_row() -> None:
    """After an answer that knows the file, the first unknown is valid for the first time again."""
    known = CacheEntry("virustotal", "k", "clean", NOW - dt.timedelta(days=7), NOW)

    assert NOW + dt.timedelta(hours=12) == expires_at("unknown", NOW, known, TTL)


def test_a_maximum_below_the_first_time_does_not_shorten_it() -> None:
    """Of settings that contradict each other the longer time counts."""
    odd = Ttl(1, 1, 100, 10)

    assert NOW + dt.timedelta(seconds=100) == expires_at("unknown", NOW, None, odd)


def test_retries_double_up_to_six_hours() -> None:
    """A minute, then twice as long each time, at most six hours; never earlier, at most a tenth later."""
    waits = [(retry_at(attempt, NOW, "a" * 64) - NOW).total_seconds() for attempt in range(1, 14)]
    plain = [min(60 * 2**number, 6 * HOUR_S) for number in range(13)]

    assert all(least <= wait <= 1.1 * least for least, wait in zip(plain, waits, strict=True))
    assert waits[-1] == waits[-2]


@given(st.integers(-5, 10**9), st.text(max_size=64))
@settings(max_examples=50)
def test_a_retry_is_always_bounded(attempts: int, sha256: str) -> None:
    """A retry comes after any number of failures, and always at the same time for the same hash."""
    at = retry_at(attempts, NOW, sha256)

    assert NOW + dt.timedelta(seconds=60) <= at <= NOW + dt.timedelta(hours=6.6)
    assert at == retry_at(attempts, NOW, sha256)


def test_what_failed_together_is_not_tried_together() -> None:
    """Retries of hashes that failed together are distributed over a tenth of the delay."""
    moments = {retry_at(8, NOW, f"{number:064x}") for number in range(50)}

    assert len(moments) == 50
