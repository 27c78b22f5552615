"""How often events were removed: a loader that left out an event compares it with the count at its lookup."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from sqlalchemy import Connection, select

from cowrieprocessor.db.jobs import DONE, RUNNING, JobRecord, add_counters, save_job, shared_job
from cowrieprocessor.db.models import Job

JOB = "remove"
TRANSACTIONS = "transactions"


def count_removals(connection: Connection) -> int:
    """Return how many transactions have removed events so far."""
    counters = connection.execute(select(Job.counters).where(Job.name == JOB)).scalar() or {}
    return int(counters.get(TRANSACTIONS, 0))


def record_removal(connection: Connection, removed: Mapping[str, int], cursor: Mapping[str, str]) -> None:
    """Count a transaction that removes events, in this transaction.

    Args:
        connection: in the transaction.
        removed: what it removes, by kind.
        cursor: the log that it removes.
    """
    job = shared_job(connection, JOB, RUNNING)
    add_counters(job.counters, {TRANSACTIONS: 1, **removed})
    job.cursor, job.state, job.reason, job.finished_at = dict(cursor), RUNNING, None, None
    save_job(connection, job)


def count_removal(connection: Connection) -> None:
    """Count a transaction of a loader that removes an event, in this transaction."""
    job = shared_job(connection, JOB, DONE)
    add_counters(job.counters, {TRANSACTIONS: 1})
    save_job(connection, job)


def record_end(connection: Connection, state: str, reason: str | None) -> None:
    """Record that the removal is done, or why it stopped."""
    job: JobRecord = shared_job(connection, JOB, state)
    job.state, job.reason, job.finished_at = state, reason, dt.datetime.now(dt.UTC)
    save_job(connection, job)
