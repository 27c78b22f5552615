"""Throttles the writes of a long job: pauses them with a reason, limits each transaction, and rests in between.

Other writers have priority: a concurrent loader waits a quarter of a second at most.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.jobs import PAUSED, WAITING

MIN_REST_S = 0.03
"""The shortest rest between two write transactions; while others write, the rest is as long as the transaction."""

SHARING_S = 10.0
"""How long others are assumed to go on writing after a write of theirs."""

NOTICED_WAIT_S = 0.01
"""A wait for the write lock that is longer than this means that others write."""

REPORT_EVERY_S = 60.0
"""How often a waiting job reports its obstacle again, so that it is not mistaken for dead."""


@dataclass(frozen=True, slots=True)
class ThrottleLimits:
    """Limits of a job's writes.

    Attributes:
        write_s: how long statements may be added to a write transaction, in seconds; the last one and the commit are
            not included.
        shared_write_s: the same while others write.
        max_log_bytes: nothing is written while the write-ahead log is larger.
        check_again_s: how often an obstacle is checked again, in seconds.
    """

    write_s: float = 0.08
    shared_write_s: float = 0.03
    max_log_bytes: int = 256 << 20
    check_again_s: float = 0.25


DEFAULT_LIMITS = ThrottleLimits()


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a job must not write now. `state` is `paused` or `waiting`."""

    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class TimedTransaction:
    """A write transaction with a time limit.

    Attributes:
        connection: the transaction.
        may_go_on: returns whether the time limit allows further statements.
    """

    connection: Connection
    may_go_on: Callable[[], bool]


class Throttle:
    """Decides when a job writes, for how long, and how long it rests.

    Args:
        engine: the database.
        paused_reason: returns why the job is paused, and how to resume it; None while it is not.
        throttle: the share of time to rest, 0 to 0.99.
        pause_file: while this file exists, the job is paused.
        limits: limits of the job's writes.
        clock: monotonic time in seconds.
        sleep: sleeps for a number of seconds.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        paused_reason: Callable[[], str | None] = lambda: None,
        throttle: float = 0.0,
        pause_file: Path | None = None,
        limits: ThrottleLimits = DEFAULT_LIMITS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self._paused_reason = paused_reason
        self._throttle = throttle
        self._pause_file = pause_file
        self._limits = limits
        self._clock = clock
        self._sleep = sleep
        self._pressure = dialect_of(engine).pressure(engine)
        self._others_at: float | None = None
        self._wrote_s = 0.0
        self._ended_at: float | None = None
        self._working_since = clock()

    @property
    def is_shared(self) -> bool:
        """Whether others have written recently."""
        return self._others_at is not None and self._clock() - self._others_at < SHARING_S

    def obstacle(self) -> Obstacle | None:
        """Return why the job must not write now, or None if it may."""
        if self._pause_file is not None and os.path.lexists(self._pause_file):
            return Obstacle(PAUSED, f"the file {self._pause_file} is there; remove it to go on")
        if (reason := self._paused_reason()) is not None:
            return Obstacle(PAUSED, reason)
        max_log_bytes = self._limits.max_log_bytes
        if self._pressure.log_bytes() > max_log_bytes:
            self._pressure.empty_log()
        if self._pressure.log_bytes() > max_log_bytes:
            reason = f"the write-ahead log is at over {max_log_bytes >> 20} MiB: a reader keeps it from being emptied"
            return Obstacle(WAITING, reason)
        return None

    def wait(self, notify: Callable[[Obstacle | None], None]) -> None:
        """Wait until the job may write.

        Args:
            notify: called with each new obstacle, again every minute, and with None when it is gone.
        """
        reported: Obstacle | None = None
        reported_at = 0.0
        while (obstacle := self.obstacle()) is not None:
            is_new = reported is None or obstacle.reason != reported.reason
            if is_new or self._clock() - reported_at > REPORT_EVERY_S:
                notify(obstacle)
                reported, reported_at = obstacle, self._clock()
            self._sleep(self._limits.check_again_s)
        if reported is not None:
            notify(None)
            self._working_since = self._clock()

    @contextmanager
    def transaction(self) -> Iterator[TimedTransaction]:
        """Rest, then yield a write transaction with a time limit; commit it, or roll it back on an error.

        Raises:
            DatabaseError: see `write_transaction`.
        """
        self.rest()
        requested = self._clock()
        with write_transaction(self._engine) as connection:
            began = self._clock()
            until = began + self.budget_s(connection, began - requested)
            yield TimedTransaction(connection, lambda: self._clock() < until)
        self.record_write(self._clock() - began)

    def budget_s(self, connection: Connection, waited_s: float) -> float:
        """Return the time limit, in seconds, of a write transaction that has just begun.

        Args:
            connection: the transaction.
            waited_s: how long it waited for the write lock, in seconds.
        """
        if self._pressure.others_wrote(connection) or waited_s > NOTICED_WAIT_S:
            self._others_at = self._clock()
        return self._limits.shared_write_s if self.is_shared else self._limits.write_s

    def record_write(self, seconds: float) -> None:
        """Record the end of a write transaction and its duration in seconds."""
        self._wrote_s, self._ended_at = seconds, self._clock()

    def rest(self) -> None:
        """Rest before the next write transaction, so that waiting writers get the lock; reading counts as rest.

        SQLite's busy handler retries every 25 ms at first, so it does not miss a longer gap between our transactions.
        The throttle is a share of the whole time, including reading.
        Source: sqlite.org, sqliteDefaultBusyCallback.
        """
        now = self._clock()
        left_s = (now - self._working_since) * self._throttle / (1 - self._throttle)
        if self._ended_at is not None:
            gap_s = max(MIN_REST_S, self._wrote_s) if self.is_shared else MIN_REST_S
            left_s = max(left_s, gap_s - (now - self._ended_at))
        if left_s > 0:
            self._sleep(left_s)
        self._working_since = self._clock()
