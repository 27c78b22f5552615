"""Judging again: when other sources are in use, or other verdicts settle a file, what was judged is judged by that.

Nothing is asked. It goes on in short transactions beside whatever else is done, and where it was after a crash.
"""

from __future__ import annotations

from sqlalchemy import Connection, Engine

from cowrieprocessor.clock import Clock
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy, aggregate
from cowrieprocessor.db.enrichment.verdict_store import lock_hashes, queued_hashes
from cowrieprocessor.db.jobs import DONE, RUNNING, load_job, save_job, shared_job
from cowrieprocessor.jobs.runtime.throttle import Throttle

JOB = "enrich-policy"
HASHES_AT_ONCE = 50


class Reevaluation:
    """Judges again every hash that was asked about, if the policy is another one than before.

    Args:
        engine: the database.
        policy: the sources in use, and what settles a file.
        clock: the time.
        pace: when to write, and for how long.
    """

    def __init__(self, engine: Engine, policy: Policy, clock: Clock, pace: Throttle) -> None:
        self._engine = engine
        self._policy = policy
        self._clock = clock
        self._pace = pace
        self._after: str | None = None
        self.judged = 0

    def start(self) -> None:
        """Compare the policy with the one that hashes were judged by, and begin anew or go on if it is another one."""
        current = described(self._policy)
        with read_transaction(self._engine) as connection:
            job = load_job(connection, JOB)
        if job is not None and job.cursor.get("policy") == current:
            self._after = job.cursor.get("after")
            return
        with write_transaction(self._engine) as connection:
            job = shared_job(connection, JOB, DONE)
            is_first = not job.cursor
            job.cursor = {"policy": current, "after": None if is_first else ""}
            job.state = DONE if is_first else RUNNING
            save_job(connection, job)
        self._after = job.cursor["after"]

    def some(self) -> bool:
        """Judge some hashes in one transaction; False if there is nothing to judge, or not now."""
        if self._after is None or self._pace.obstacle() is not None:
            return False
        with read_transaction(self._engine) as connection:
            hashes = queued_hashes(connection, self._after, HASHES_AT_ONCE)
        with self._pace.transaction() as turn:
            lock_hashes(turn.connection, hashes)
            last = self._after
            for sha256 in hashes:
                aggregate(turn.connection, sha256, self._policy, self._clock.now())
                self.judged += 1
                last = sha256
                if not turn.may_go_on():
                    break
            self._after = last if hashes else None
            self._save_place(turn.connection)
        return True

    def _save_place(self, connection: Connection) -> None:
        job = shared_job(connection, JOB, RUNNING)
        if job.cursor.get("policy") != described(self._policy):
            self._after = None  # another run has begun with another policy: it judges by that
            return
        job.cursor = {**job.cursor, "after": self._after}
        job.state = RUNNING if self._after is not None else DONE
        save_job(connection, job)


def described(policy: Policy) -> dict[str, list[str]]:
    """Return a policy as plain JSON."""
    return {"providers": list(policy.providers), "settled_by": sorted(policy.settled_by)}
