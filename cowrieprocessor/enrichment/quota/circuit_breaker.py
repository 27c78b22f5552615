"""The circuit breaker: how long a source that keeps failing is not asked."""

from __future__ import annotations

FAILURES_TO_OPEN = 5
FIRST_PAUSE_S = 60.0
MAX_PAUSE_S = 3600.0


def is_open(failures: int) -> bool:
    """Return whether the breaker is open after `failures` in a row: only single requests probe the source."""
    return failures >= FAILURES_TO_OPEN


def pause_s(failures: int) -> float:
    """Return the pause in seconds after `failures` in a row: none while closed, then a minute, doubling."""
    return backoff_s(failures - FAILURES_TO_OPEN + 1)


def backoff_s(times: int) -> float:
    """Return the pause in seconds after the first, second, … time: a minute, doubling up to an hour; 0 for none."""
    if times < 1:
        return 0.0
    return min(FIRST_PAUSE_S * 2.0 ** min(times - 1, 10), MAX_PAUSE_S)
