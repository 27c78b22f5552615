"""Whether lists are complete: data that version 3 or an earlier revision stored may have to be worked on first."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from cowrieprocessor.db.ingest.log_files import has_rows_of_v3
from cowrieprocessor.db.models import Job

FILES_JOB = "backfill-files"
SESSIONS_JOB = "backfill-sessions"
SENSORS_JOB = "backfill-sensors"
_DONE = "done"


def awaits_backfill(connection: Connection, jobs: Sequence[str]) -> bool:
    """Return whether the database has version 3 events and any of these backfills is not done.

    Reads the jobs' rows and the oldest event only, so the cost does not depend on the size of the database.

    Args:
        connection: a connection in a transaction.
        jobs: some of `FILES_JOB`, `SESSIONS_JOB` and `SENSORS_JOB`. The last is recorded by the migration of a
            database whose events version 4 stored without it.
    """
    rows = connection.execute(select(Job.name, Job.state).where(Job.name.in_(jobs)))
    states = {row.name: row.state for row in rows}
    if states.get(SENSORS_JOB, _DONE) != _DONE:
        return True
    return any(states.get(job) != _DONE for job in jobs) and has_rows_of_v3(connection)
