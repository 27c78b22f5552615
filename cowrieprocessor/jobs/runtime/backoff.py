"""Backoff for transient database errors: reported once and then every minute, retried after growing waits."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from dataclasses import dataclass

from cowrieprocessor.errors import (
    CopyRefused,
    DatabaseDamaged,
    DatabaseError,
    DatabaseInUse,
    JobTaken,
    NotADatabase,
    SchemaVersionError,
)

REPORT_EVERY_S = 60.0

PERMANENT_ERRORS = (CopyRefused, DatabaseDamaged, DatabaseInUse, JobTaken, NotADatabase, SchemaVersionError)
"""Errors that retrying does not solve: an operator has to act, or another process has the work."""


def is_transient(error: DatabaseError) -> bool:
    """Return whether an error may resolve itself: a lock, a full disk, a server that is down or read-only for now."""
    return not isinstance(error, PERMANENT_ERRORS)


@dataclass(frozen=True, slots=True)
class BackoffTiming:
    """The waits between attempts, in seconds; each is twice as long as the one before.

    Attributes:
        first_wait_s: the wait after the first failure.
        longest_wait_s: no wait is longer.
    """

    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0


class Backoff:
    """Computes the wait before the next attempt, and reports the error meanwhile.

    Args:
        notify: called with one line of text for the operator.
        clock: monotonic time in seconds.
        timing: the waits.
    """

    def __init__(
        self,
        notify: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        timing: BackoffTiming | None = None,
    ) -> None:
        self._notify = notify
        self._clock = clock
        self._timing = timing or BackoffTiming()
        self._since: tuple[float, dt.datetime] | None = None
        self._reported: tuple[type[DatabaseError], float] | None = None
        self._wait_s = 0.0

    @property
    def since(self) -> dt.datetime | None:
        """When the database began to fail; None while it works."""
        return None if self._since is None else self._since[1]

    def failed(self, error: DatabaseError) -> float:
        """Record a failed attempt; return the seconds to wait before the next one."""
        now = self._clock()
        if self._since is None:
            self._since = now, dt.datetime.now(dt.UTC)
            self._wait_s = 0.0
        if self._is_due(error, now):
            self._reported = type(error), now
            self._notify(f"waiting since {self._since[1]:%H:%M:%S} UTC: {error}. It is retried until it works")
        self._wait_s = min(self._timing.longest_wait_s, max(self._timing.first_wait_s, self._wait_s * 2))
        return self._wait_s

    def _is_due(self, error: DatabaseError, now: float) -> bool:
        """Return whether to report an error: it is new, of another type, or was reported a minute ago."""
        if self._reported is None:
            return True
        reported, reported_at = self._reported
        return reported is not type(error) or now - reported_at >= REPORT_EVERY_S

    def succeeded(self) -> None:
        """Record a successful attempt."""
        if self._since is not None:
            self._notify(f"the database serves again after {self._clock() - self._since[0]:.0f} s")
        self._since = self._reported = None
