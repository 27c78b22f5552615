"""How long a source that keeps failing is left alone."""

from __future__ import annotations

FAILURES_TO_OPEN = 5
FIRST_PAUSE_S = 60.0
LONGEST_PAUSE_S = 3600.0


def is_open(failures: int) -> bool:
    """Return whether so many failures in a row mean that only single requests are sent, to see if it works again."""
    return failures >= FAILURES_TO_OPEN


def pause_s(failures: int) -> float:
    """Return for how many seconds nothing is sent after so many failures in a row: none, then a minute, doubling."""
    return doubled(failures - FAILURES_TO_OPEN + 1)


def doubled(times: int) -> float:
    """Return the pause in seconds after the first, second, … time: a minute, doubling up to an hour; none before."""
    if times < 1:
        return 0.0
    return min(FIRST_PAUSE_S * 2.0 ** min(times - 1, 10), LONGEST_PAUSE_S)
