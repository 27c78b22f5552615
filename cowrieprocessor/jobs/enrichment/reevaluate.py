"""Re-evaluates verdicts when the sources in use or the decisive verdicts change.

No source is asked. The work is done in short transactions between other work, and continues after a crash.
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
    """Aggregates the verdicts of every queued hash again if the policy differs from that of the last evaluation.

    Args:
        engine: the database.
        policy: the sources in use, and the decisive verdicts.
        clock: the current time.
        throttle: decides when to write, and for how long.
    """

    def __init__(self, engine: Engine, policy: Policy, clock: Clock, throttle: Throttle) -> None:
        self._engine = engine
        self._policy = policy
        self._clock = clock
        self._throttle = throttle
        self._after: str | None = None
        self.evaluated = 0

    def start(self) -> None:
        """Start over if the policy differs from that of the last evaluation; else continue it if it is unfinished."""
        current = policy_document(self._policy)
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

    def reevaluate_some(self) -> bool:
        """Evaluate hashes in one transaction; return False if none are left, or the throttle does not allow it now."""
        if self._after is None or self._throttle.obstacle() is not None:
            return False
        with read_transaction(self._engine) as connection:
            hashes = queued_hashes(connection, self._after, HASHES_AT_ONCE)
        with self._throttle.transaction() as turn:
            lock_hashes(turn.connection, hashes)
            last = self._after
            for sha256 in hashes:
                aggregate(turn.connection, sha256, self._policy, self._clock.now())
                self.evaluated += 1
                last = sha256
                if not turn.may_go_on():
                    break
            self._after = last if hashes else None
            self._save_checkpoint(turn.connection)
        return True

    def _save_checkpoint(self, connection: Connection) -> None:
        job = shared_job(connection, JOB, RUNNING)
        if job.cursor.get("policy") != policy_document(self._policy):
            self._after = None  # another run has started an evaluation with another policy
            return
        job.cursor = {**job.cursor, "after": self._after}
        job.state = RUNNING if self._after is not None else DONE
        save_job(connection, job)


def policy_document(policy: Policy) -> dict[str, list[str]]:
    """Return a policy as plain JSON."""
    return {"providers": list(policy.providers), "settled_by": sorted(policy.settled_by)}
