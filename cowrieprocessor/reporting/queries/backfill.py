"""Whether lists are complete: data that version 3 or an earlier revision stored may have to be worked on first."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, func, select

from cowrieprocessor.db.ingest.log_files import has_rows_of_v3
from cowrieprocessor.db.models import Job

FILES_JOB = "backfill-files"
SESSIONS_JOB = "backfill-sessions"
_DONE = "done"


def awaits_backfill(connection: Connection, jobs: Sequence[str]) -> bool:
    """Return whether the database has version 3 events and any of these backfills is not done.

    Reads the jobs' rows and the oldest event only, so the cost does not depend on the size of the database.

    Args:
        connection: a connection in a transaction.
        jobs: `FILES_JOB`, `SESSIONS_JOB` or both.
    """
    done = connection.scalar(select(func.count()).where(Job.name.in_(jobs), Job.state == _DONE)) or 0
    return done < len(jobs) and has_rows_of_v3(connection)
