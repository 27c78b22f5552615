"""Whether lists are whole: what version 3 stored is in them only after the backfill."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, func, select

from cowrieprocessor.db.ingest.log_files import has_rows_of_v3
from cowrieprocessor.db.models import Job

FILES_JOB = "backfill-files"
SESSIONS_JOB = "backfill-sessions"
_DONE = "done"


def awaits_backfill(connection: Connection, jobs: Sequence[str]) -> bool:
    """Say whether the database holds events of version 3 and one of these backfills has not come to its end.

    It looks at the rows of the jobs and at the oldest event, so that it takes no time however large the database is.

    Args:
        connection: a connection in a transaction.
        jobs: `FILES_JOB`, `SESSIONS_JOB`.
    """
    done = connection.scalar(select(func.count()).where(Job.name.in_(jobs), Job.state == _DONE)) or 0
    return done < len(jobs) and has_rows_of_v3(connection)
