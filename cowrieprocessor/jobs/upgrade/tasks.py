"""The task that completes an upgraded database: what the stored events still owe to newer tables."""

from __future__ import annotations

from sqlalchemy import Connection

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.jobs import DONE, RECOUNT_JOB, load_job, recount_is_due
from cowrieprocessor.jobs.upgrade.backfill import KINDS, backfill, kinds_to_run
from cowrieprocessor.jobs.upgrade.recount import recount
from cowrieprocessor.jobs.work.task import Task, TaskContext, TaskOutcome
from cowrieprocessor.settings import Settings
from cowrieprocessor.settings.schedule import Schedule
from cowrieprocessor.settings.values import HOUR_S
from cowrieprocessor.wording import plural

SHARE_OF_REST = 0.25
"""The share of time to rest: nobody waits for it, and loaders come first."""


def _complete(context: TaskContext) -> TaskOutcome:
    """Run the backfill if it has not ended, then the recount if one is due."""
    engine = context.engine
    with read_transaction(engine) as connection:
        is_pending = _backfill_is_pending(connection)
    if is_pending:
        backfill(engine, throttle=SHARE_OF_REST, stop=context.stop, on_progress=context.on_progress)
        return TaskOutcome("the backfill is complete")
    with read_transaction(engine) as connection:
        is_due = recount_is_due(connection)
    if not is_due:
        return TaskOutcome("nothing to do")
    result = recount(engine, stop=context.stop, on_progress=context.on_progress, share_of_rest=SHARE_OF_REST)
    return TaskOutcome(f"{plural(result.sessions, 'session')} recounted, {result.changed:,} of them changed")


def _backfill_is_pending(connection: Connection) -> bool:
    jobs = [load_job(connection, kind.job) for kind in kinds_to_run(connection)]
    return any(job is None or job.state != DONE for job in jobs)


def _is_incomplete(connection: Connection, _settings: Settings) -> bool:
    return _backfill_is_pending(connection) or recount_is_due(connection)


DERIVED_FACTS = Task(
    name="derived-facts",
    kind="derived-facts",
    description="completes an upgraded database from its events",
    run=_complete,
    schedule=Schedule(every_s=HOUR_S),
    jobs=(*(kind.job for kind in KINDS), RECOUNT_JOB),
    has_work=_is_incomplete,
)
