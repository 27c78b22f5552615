"""Whether answers are complete: data that version 3 or an earlier revision stored may have to be worked on first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, func, select

from cowrieprocessor.db.engine import address
from cowrieprocessor.db.ingest.log_files import has_rows_of_v3
from cowrieprocessor.db.jobs import DONE, RECOUNT_JOB, JobRecord, load_job, recount_is_due, twins_are_marked
from cowrieprocessor.db.models import Job, RawEvent, SessionSummary
from cowrieprocessor.interpret.file_events import ORIGINS
from cowrieprocessor.loader.rows.file_mentions import FILE_EVENTS
from cowrieprocessor.sanitize import shell_word

FILES_JOB = "backfill-files"
MENTIONS_JOB = "backfill-mentions"
SESSIONS_JOB = "backfill-sessions"
SENSORS_JOB = "backfill-sensors"
SESSION_JOBS = (FILES_JOB, SESSIONS_JOB, SENSORS_JOB)
"""The jobs that lists of sessions, and sessions with their files, depend on."""

ALL_JOBS = (FILES_JOB, MENTIONS_JOB, SESSIONS_JOB, SENSORS_JOB)
_RECORDED_BY_MIGRATION = frozenset({MENTIONS_JOB, SENSORS_JOB})
"""The jobs that also work on events of version 4, where a release without their tables stored them."""

_FILLED_WITH: Mapping[str, Sequence[str]] = {
    FILES_JOB: ("files",),
    MENTIONS_JOB: ("URLs", "names of files"),
    SESSIONS_JOB: ("addresses", "user names", "commands"),
    SENSORS_JOB: ("sensors of sessions",),
}
"""What a job brings into the database, for people."""

_ALL_TYPES = ""
_STREAMS: Mapping[str, Sequence[str]] = {FILES_JOB: sorted(ORIGINS), MENTIONS_JOB: sorted(FILE_EVENTS)}
"""The keys of the positions in a job's cursor; by default `_ALL_TYPES` alone."""

_MOST = 0.9999
"""The share of what is not complete is never rounded to all of it."""


@dataclass(frozen=True, slots=True)
class Completeness:
    """Whether an answer has what it is made of, and how much of that.

    Attributes:
        complete: whether every job that the answer depends on has ended.
        share: how far the slowest of these jobs is, 0 to 1: of the events that it reads, those that it has read; while
            a recount is due, of the sessions those that it has renewed.
        waiting: those of these jobs that have not ended, in the order of `ALL_JOBS`.
        command: the command that completes the answer, with its database; None if there is none to run.
        is_recount: whether everything is there, but some of it as an earlier release derived it.
        may_count_twice: whether version 3 stored events and no recount has looked for those that it stored twice.
    """

    complete: bool
    share: float
    waiting: tuple[str, ...] = ()
    command: str | None = None
    is_recount: bool = False
    may_count_twice: bool = False

    @property
    def percent(self) -> str:
        """The share as text, such as `43.1%`."""
        return f"{int(self.share * 1000) / 10:g}%"

    @property
    def lacks(self) -> str:
        """What the waiting jobs have yet to bring, such as `URLs and names of files`."""
        *others, last = [noun for job in self.waiting for noun in _FILLED_WITH[job]] or [""]
        return f"{', '.join(others)} and {last}" if others else last

    def fields(self) -> dict[str, bool | float]:
        """Return what a JSON document says of it."""
        return {"complete": self.complete, "backfilled_share": self.share}


COMPLETE = Completeness(complete=True, share=1.0)


def completeness(connection: Connection, jobs: Sequence[str]) -> Completeness:
    """Return whether what these backfills fill is complete.

    Reads the rows of the jobs and the oldest event only, so the cost does not depend on the size of the database; the
    sessions are counted while a recount is due.

    Args:
        connection: a connection in a transaction.
        jobs: some of `ALL_JOBS`. `SENSORS_JOB` and `MENTIONS_JOB` are recorded by the migration of a database whose
            events version 4 stored without them.
    """
    waiting = _waiting(connection, jobs)
    may_count_twice = SESSIONS_JOB in jobs and not twins_are_marked(connection) and has_rows_of_v3(connection)
    if waiting:
        share = min(_share(connection, job, record) for job, record in waiting.items())
        names = tuple(job for job in ALL_JOBS if job in waiting)
        command = _command(connection, "backfill")
        return Completeness(False, _rounded(share), names, command, may_count_twice=may_count_twice)
    if SESSIONS_JOB in jobs and recount_is_due(connection):
        command = _command(connection, "recount")
        return Completeness(False, _rounded(_recounted(connection)), command=command, is_recount=True)
    if may_count_twice:
        return replace(COMPLETE, command=_command(connection, "recount"), may_count_twice=True)
    return COMPLETE


def awaits_backfill(connection: Connection, jobs: Sequence[str]) -> bool:
    """Return whether the database has version 3 events and any of these backfills is not done; see `completeness`."""
    return bool(_waiting(connection, jobs))


def steps_left(connection: Connection) -> tuple[str, ...]:
    """Return the commands of `db` that complete the database, in the order of docs/files_table_migration.md.

    A backfill ends with the recount that an earlier revision of version 4 needs. A validation follows both, and the
    recount that counts once what version 3 stored or counted twice comes last: it changes what is shown, not what is
    there.
    """
    is_due = recount_is_due(connection)
    steps = []
    if awaits_backfill(connection, ALL_JOBS):
        steps.append("backfill")
    elif is_due:
        steps.append("recount")
    steps.append("validate")
    if not is_due and not twins_are_marked(connection) and has_rows_of_v3(connection):
        steps.append("recount")
    return tuple(steps)


def not_yet(connection: Connection, jobs: Sequence[str]) -> str:
    """Return what to add to an error that something is not in the database: empty, unless a backfill may bring it."""
    state = completeness(connection, jobs)
    if state.complete or state.is_recount:
        return ""
    return (
        f"; the backfill of {state.lacks} is at {state.percent}, what it has not read is not here yet: {state.command}"
    )


def _waiting(connection: Connection, jobs: Sequence[str]) -> dict[str, JobRecord | None]:
    """Return those of the jobs that have not ended; empty if they have nothing to do."""
    rows = connection.execute(select(Job.name, Job.state).where(Job.name.in_(jobs)))
    states = {row.name: row.state for row in rows}
    waiting = [job for job in jobs if states.get(job) != DONE]
    if waiting and not has_rows_of_v3(connection):
        waiting = [job for job in waiting if job in _RECORDED_BY_MIGRATION and job in states]
    return {job: load_job(connection, job) for job in waiting}


def _share(connection: Connection, job: str, record: JobRecord | None) -> float:
    """Return how far a job is, by the ids of the events."""
    last: Mapping[str, Any] = {} if record is None else record.cursor.get("last") or {}
    newest = int(connection.scalar(select(func.coalesce(func.max(RawEvent.id), 0))) or 0)
    streams = _STREAMS.get(job, (_ALL_TYPES,))
    return sum(min(1.0, int(last.get(stream, 0)) / max(1, newest)) for stream in streams) / len(streams)


def _recounted(connection: Connection) -> float:
    record = load_job(connection, RECOUNT_JOB)
    sessions = 0 if record is None else int(record.counters.get("sessions", 0))
    return sessions / max(1, connection.scalar(select(func.count()).select_from(SessionSummary)) or 0)


def _rounded(share: float) -> float:
    return min(_MOST, round(share, 4))


def _command(connection: Connection, name: str) -> str:
    return f"cowrieprocessor db {name} --db {shell_word(address(connection.engine))}"
