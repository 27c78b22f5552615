"""When a long job may write: a throttle that answers yes or no and says why, and rests that let others in.

Others matter more than we do: a loader that writes beside us waits a quarter of a second at the very most.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dialects.pressure import pressure_of
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.jobs import PAUSED, WAITING, load_job

MAX_LOG_BYTES = 256 << 20
WRITE_S = 0.08
"""How long a write transaction may go on; the last statement and the commit come on top."""

SHARED_WRITE_S = 0.03
"""The same while others write."""

MIN_REST_S = 0.03
"""The least time between two write transactions; while others write it is as long as the transaction was."""

SHARING_S = 10.0
"""How long after others wrote they are taken to be still there."""

NOTICED_WAIT_S = 0.01
"""Whoever waits longer than this for the write lock has met another writer."""

LOOK_AGAIN_S = 0.25
SAY_EVERY_S = 60.0
"""How often a job that waits says so again, so that nobody takes it to be dead."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a job does not write now. `state` is `paused` or `waiting`."""

    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Turn:
    """A write transaction that ends when it has lasted long enough.

    Attributes:
        connection: the transaction.
        may_go_on: whether more may be written in it.
    """

    connection: Connection
    may_go_on: Callable[[], bool]


class Throttle:
    """Decides when one job writes, for how long, and how long it rests.

    Args:
        engine: the database.
        pause_job: the row of `jobs` that means: pause; None where no command pauses the job.
        paused: what is said while that row is there: what paused the job, and what lets it go on.
        throttle: the share of time to rest, 0 to 0.99.
        pause_file: while a file is there, pause.
        clock: seconds that only go up.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        engine: Engine,
        pause_job: str | None = None,
        *,
        paused: str = "paused by command",
        throttle: float = 0.0,
        pause_file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self._pause_job = pause_job
        self._paused = paused
        self._throttle = throttle
        self._pause_file = pause_file
        self._clock = clock
        self._sleep = sleep
        self._pressure = pressure_of(engine)
        self._others_at: float | None = None
        self._wrote_s = 0.0
        self._ended_at: float | None = None
        self._works_since = clock()

    @property
    def is_shared(self) -> bool:
        """Whether others have written lately."""
        return self._others_at is not None and self._clock() - self._others_at < SHARING_S

    def obstacle(self) -> Obstacle | None:
        """Return why the job may not write now, or None if it may."""
        if self._pause_file is not None and os.path.lexists(self._pause_file):
            return Obstacle(PAUSED, f"paused: the file {self._pause_file} is there; remove it to go on")
        if self._pause_job is not None:
            with read_transaction(self._engine) as connection:
                if load_job(connection, self._pause_job) is not None:
                    return Obstacle(PAUSED, self._paused)
        if self._pressure.log_bytes() > MAX_LOG_BYTES:
            self._pressure.empty_log()
        if self._pressure.log_bytes() > MAX_LOG_BYTES:
            reason = f"the write-ahead log is at over {MAX_LOG_BYTES >> 20} MiB: a reader keeps it from being emptied"
            return Obstacle(WAITING, reason)
        return None

    def wait(self, say: Callable[[Obstacle | None], None]) -> None:
        """Return when the job may write.

        Args:
            say: told about each new obstacle, each minute of it again, and with None when it is gone.
        """
        said: Obstacle | None = None
        said_at = 0.0
        while (obstacle := self.obstacle()) is not None:
            if said is None or obstacle.reason != said.reason or self._clock() - said_at > SAY_EVERY_S:
                say(obstacle)
                said, said_at = obstacle, self._clock()
            self._sleep(LOOK_AGAIN_S)
        if said is not None:
            say(None)
            self._works_since = self._clock()

    @contextmanager
    def transaction(self) -> Iterator[Turn]:
        """Rest, then yield a write transaction that knows how long it may go on; commit it, or roll back on an error.

        Raises:
            DatabaseError: see `write_transaction`.
        """
        self.rest()
        asked = self._clock()
        with write_transaction(self._engine) as connection:
            began = self._clock()
            until = began + self.look(connection, began - asked)
            yield Turn(connection, lambda: self._clock() < until)
        self.wrote(self._clock() - began)

    def look(self, connection: Connection, waited_s: float) -> float:
        """Return for how many seconds a write transaction that has just begun may go on.

        Args:
            connection: the transaction.
            waited_s: how long it waited for the write lock.
        """
        if self._pressure.others_wrote(connection) or waited_s > NOTICED_WAIT_S:
            self._others_at = self._clock()
        return SHARED_WRITE_S if self.is_shared else WRITE_S

    def wrote(self, seconds: float) -> None:
        """Take note that a write transaction has ended that lasted so long."""
        self._wrote_s, self._ended_at = seconds, self._clock()

    def rest(self) -> None:
        """Rest before the next write transaction, so that whoever waits for the lock gets it; reading counts as rest.

        SQLite's own waiting looks again every 25 ms at first: a longer gap between our transactions is not missed.
        A throttle is a share of all time, reading included.
        Source: sqlite.org, sqliteDefaultBusyCallback.
        """
        now = self._clock()
        left_s = (now - self._works_since) * self._throttle / (1 - self._throttle)
        if self._ended_at is not None:
            gap_s = max(MIN_REST_S, self._wrote_s) if self.is_shared else MIN_REST_S
            left_s = max(left_s, gap_s - (now - self._ended_at))
        if left_s > 0:
            self._sleep(left_s)
        self._works_since = self._clock()
