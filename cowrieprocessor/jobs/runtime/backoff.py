"""Trouble with the database that passes by itself: said once, again each minute, and met with ever longer waits."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable

from cowrieprocessor.errors import (
    CopyRefused,
    DatabaseDamaged,
    DatabaseError,
    DatabaseInUse,
    JobTaken,
    NotADatabase,
    SchemaVersionError,
)

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
SAY_EVERY_S = 60.0

LASTING = (CopyRefused, DatabaseDamaged, DatabaseInUse, JobTaken, NotADatabase, SchemaVersionError)
"""What does not pass by itself: somebody has to do something, or another process has the work."""


def passes(error: DatabaseError) -> bool:
    """Return whether this may pass: a lock, a full disk, a server that is away or, for now, only lets read."""
    return not isinstance(error, LASTING)


class Backoff:
    """How long to wait before the next attempt, and what is said meanwhile.

    Args:
        say: told in one line.
        clock: seconds that only go up.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._since: tuple[float, dt.datetime] | None = None
        self._said: tuple[type[DatabaseError], float] | None = None
        self._wait_s = 0.0

    @property
    def since(self) -> dt.datetime | None:
        """Since when the database does not serve; None while it does."""
        return None if self._since is None else self._since[1]

    def met(self, error: DatabaseError) -> float:
        """Take note of an attempt that failed; return the seconds to wait before the next one."""
        now = self._clock()
        if self._since is None:
            self._since = now, dt.datetime.now(dt.UTC)
            self._wait_s = 0.0
        if self._said is None or self._said[0] is not type(error) or now - self._said[1] >= SAY_EVERY_S:
            self._said = type(error), now
            self._say(
                f"waiting since {self._since[1]:%H:%M:%S} UTC: {error}. It is tried again by itself until it works"
            )
        self._wait_s = min(LONGEST_WAIT_S, max(FIRST_WAIT_S, self._wait_s * 2))
        return self._wait_s

    def over(self) -> None:
        """Take note of an attempt that succeeded."""
        if self._since is not None:
            self._say(f"the database serves again after {self._clock() - self._since[0]:.0f} s")
        self._since = self._said = None
