"""Removes a log that was loaded by mistake: its events, its dead letters, its cursor, and what they said of sessions.

Each transaction leaves a database in which no later load loses or doubles an event, so a removal can be killed at any
moment: the log's own cursor is reset before its first event goes, and the cursors of logs that left out an event
together with that event. The same command goes on where it was killed.
"""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.dead_letters.of_log import delete_letters, letters_of, offsets_of
from cowrieprocessor.db.dead_letters.positions import source_keys_of
from cowrieprocessor.db.engine import describe, read_transaction, write_transaction
from cowrieprocessor.db.ingest import log_damage, sensor_names
from cowrieprocessor.db.ingest import log_removal as table
from cowrieprocessor.db.ingest.event_locks import lock_all_events
from cowrieprocessor.db.ingest.log_files import has_rows_of_v3
from cowrieprocessor.db.ingest.log_removal import LogEvent, StoredLog
from cowrieprocessor.db.ingest.removals import record_end, record_removal
from cowrieprocessor.db.ingest.stored_events import SourceKey
from cowrieprocessor.db.jobs import DONE, INTERRUPTED, STOPPED, load_job
from cowrieprocessor.db.migrations import require_current
from cowrieprocessor.errors import ConfigurationError, JobTaken, NotFound
from cowrieprocessor.events import utc_text
from cowrieprocessor.interpret.file_events import ORIGINS
from cowrieprocessor.jobs.runtime.path_lock import refuse_if_locked
from cowrieprocessor.jobs.runtime.throttle import Throttle
from cowrieprocessor.loader.damage_removal import forget_letters, joined_with_end, unexplain_ends
from cowrieprocessor.loader.recompute import files_in, recompute_sessions
from cowrieprocessor.sanitize import inert, restore
from cowrieprocessor.wording import plural

ROWS = 1000
"""Events that a transaction removes, and the others of the log in their sessions."""

MAX_ROWS = 20_000
"""Events that a transaction removes at most."""

SHOWN_PATHS = 10
FOLLOW = "follow"
BACKFILLS = ("backfill-files", "backfill-sessions")


@dataclass(frozen=True, slots=True)
class LogToRemove:
    """A log, and what is credited to it.

    Attributes:
        identity: hash of its first event.
        generation: distinguishes logs with the same first event.
        source: where it was when it was first loaded.
        current_path: where it was last.
        events: events that are credited to it.
        sessions: the sessions that they belong to.
        dead_letters: its dead letters.
    """

    identity: str
    generation: int
    source: str
    current_path: str
    events: int
    sessions: int
    dead_letters: int


@dataclass(frozen=True, slots=True)
class RemovalPlan:
    """What a removal is going to remove.

    Attributes:
        database: the database.
        path: the path as it is stored.
        logs: the logs; several have the same first event.
        keeps_rows_of_v3: whether version 3 stored events under this path, which stay.
    """

    database: str
    path: str
    logs: tuple[LogToRemove, ...]
    keeps_rows_of_v3: bool


@dataclass(slots=True)
class RemovalResult:
    """What a removal removed.

    Attributes:
        logs: logs removed.
        events: events removed.
        sessions: sessions recomputed; one that lost events in two transactions counts twice.
        dead_letters: dead letters removed.
        load_again: paths of the logs that hold events which were credited to the removed log; load them again.
    """

    logs: int = 0
    events: int = 0
    sessions: int = 0
    dead_letters: int = 0
    load_again: list[str] = field(default_factory=list)


def plan(engine: Engine, path: str, *, identity: str | None = None) -> RemovalPlan:
    """Return what removing the log at a path would remove; writes nothing.

    Args:
        engine: a database at the current schema version.
        path: where the log is, or was when it was first loaded.
        identity: the beginning of the identity of one of several logs.

    Raises:
        NotFound: there is no such log; the message names similar paths.
        ConfigurationError: several logs were at this path, and `identity` does not say which.
        MigrationNeeded, SchemaVersionError: the database has to be migrated first.
    """
    require_current(engine)
    with read_transaction(engine) as connection:
        name = _stored_name(connection, path)
        logs = [log for log in table.logs_at(connection, name) if log.identity.startswith(identity or "")]
        if not logs:
            raise NotFound(_not_found(connection, name, identity))
        if len({log.identity for log in logs}) > 1:
            raise ConfigurationError(_several(connection, name, logs))
        described = tuple(_described(connection, log) for log in logs)
        return RemovalPlan(describe(engine), name, described, _keeps_rows_of_v3(connection, logs))


def remove(
    engine: Engine,
    planned: RemovalPlan,
    *,
    on_progress: Callable[[RemovalResult], None] = lambda _result: None,
    rows: int = ROWS,
) -> RemovalResult:
    """Remove the logs of a plan.

    Args:
        engine: the database.
        planned: what to remove.
        on_progress: called after each transaction.
        rows: events per transaction, about.

    Raises:
        AlreadyFollowed: a process of this machine follows the log.
        JobTaken: a backfill has to end first.
        DatabaseError: see `write_transaction`; the same command goes on from there.
    """
    _refuse_while_backfilling(engine)
    paths = sorted({restore(path) for log in planned.logs for path in (log.source, log.current_path)})
    refuse_if_locked(engine, FOLLOW, [Path(path) for path in paths])
    removal = _Removal(engine, planned.path, on_progress, rows)
    try:
        for log in planned.logs:
            removal.remove(log.identity, log.generation)
    except KeyboardInterrupt:
        removal.end(STOPPED, INTERRUPTED)
        raise
    removal.end(DONE, None)
    return removal.result


class _Removal:
    """One run of a removal."""

    def __init__(self, engine: Engine, path: str, on_progress: Callable[[RemovalResult], None], rows: int) -> None:
        self._engine = engine
        self._path = path
        self._on_progress = on_progress
        self._rows = rows
        self._throttle = Throttle(engine)
        self._without_letters: set[tuple[str, str, int]] = set()
        self.result = RemovalResult()

    def end(self, state: str, reason: str | None) -> None:
        """Record how the removal ended."""
        with write_transaction(self._engine) as connection:
            record_end(connection, state, reason)

    def remove(self, identity: str, generation: int) -> None:
        """Remove one log, transaction by transaction."""
        while self._transaction(identity, generation):
            self._on_progress(self.result)
        self._on_progress(self.result)

    def _transaction(self, identity: str, generation: int) -> bool:
        """Remove some of a log, or in the end what is known of it; return whether anything of it is left."""
        self._throttle.rest()
        result = RemovalResult()
        with write_transaction(self._engine) as connection:
            began_at = time.monotonic()
            lock_all_events(connection)
            sensor_names.lock(connection)
            log = next(
                (log for log in table.logs_at(connection, self._path) if log[:2] == (identity, generation)), None
            )
            if log is None:
                return False
            self._reset_copies(connection, result, log)
            letters = self._letters(connection, log)
            self._remove_letters(connection, result, log, letters)
            events = [] if letters else _next_events(connection, log, self._rows)
            if events:
                self._remove_events(connection, result, log, events)
            elif not letters:
                table.forget_log(connection, log)
                result.logs = 1
            result.events, result.dead_letters = len(events), len(letters)
            removed = {"events": len(events), "dead_letters": len(letters), "logs": result.logs}
            record_removal(connection, removed, {"path": self._path})
        self._throttle.record_write(time.monotonic() - began_at)
        self._add(result)
        return not result.logs

    def _letters(self, connection: Connection, log: StoredLog) -> list[int]:
        """Return the next dead letters to remove; they go before the events, by which some are recognised."""
        if log.source_key in self._without_letters:
            return []
        letters = letters_of(connection, SourceKey(*log.source_key))[:MAX_ROWS]
        if not letters:
            self._without_letters.add(log.source_key)
        return letters

    def _reset_copies(self, connection: Connection, result: RemovalResult, log: StoredLog) -> None:
        """Reset the log and its copies; what was joined to its torn end goes, and is read again without it."""
        joined = joined_with_end(connection, log[:2])
        self._reset(connection, result, log, table.logs_with_identity(connection, log.identity))
        for place in joined:
            self._reset(connection, result, log, [table.log_with(connection, *place.log)])
            for other in table.all_with_identity(connection, place.identity):
                event = table.event_at(connection, other, place.source_offset)
                if event is not None:
                    self._remove_events(connection, result, log, [event])

    def _remove_letters(
        self, connection: Connection, result: RemovalResult, log: StoredLog, letters: Sequence[int]
    ) -> None:
        """Remove dead letters; logs that shared one of them are to be read again."""
        if letters:
            sharing = forget_letters(connection, log[:2], offsets_of(connection, letters))
            self._reset(connection, result, log, [table.log_with(connection, *other) for other in sorted(sharing)])
            delete_letters(connection, letters)

    def _remove_events(
        self, connection: Connection, result: RemovalResult, log: StoredLog, events: Sequence[LogEvent]
    ) -> None:
        """Remove events and recompute their sessions; logs that left one of them out are to be read again."""
        now = utc_text(dt.datetime.now(dt.UTC))
        hashes = {event.payload_hash for event in events if event.payload_hash is not None}
        self._reset(connection, result, log, table.overlapping_logs(connection, log, hashes))
        files = files_in(connection, [event.id for event in events if event.event_type in ORIGINS])
        sessions = {event.session_id for event in events if event.session_id}
        torn = unexplain_ends(connection, log[:2], [event.id for event in events])
        self._reset(connection, result, log, [table.log_with(connection, *other) for other in sorted(torn)])
        table.delete_events(connection, [event.id for event in events])
        recompute_sessions(connection, sessions, files, now)
        result.sessions += len(sessions)

    @staticmethod
    def _reset(connection: Connection, result: RemovalResult, log: StoredLog, others: Sequence[StoredLog]) -> None:
        """Reset cursors, and note the paths of other logs; what their damage is without dead letters is read again."""
        for other in others:
            if table.reset_cursor(connection, other):
                log_damage.remove_without_letters(connection, other[:2])
                if other[:2] != log[:2]:
                    result.load_again.append(other.current_path)

    def _add(self, more: RemovalResult) -> None:
        result = self.result
        result.logs += more.logs
        result.events += more.events
        result.sessions += more.sessions
        result.dead_letters += more.dead_letters
        result.load_again = sorted({*result.load_again, *more.load_again})


def _next_events(connection: Connection, log: StoredLog, count: int) -> list[LogEvent]:
    """Return the next events to remove: about `count`, with all others of the log in their sessions."""
    events = table.next_events(connection, log, count)
    found = {event.id: event for event in events}
    for session_id in sorted({event.session_id for event in events if event.session_id}):
        if len(found) >= MAX_ROWS:
            break
        found |= {event.id: event for event in table.events_in_session(connection, log, session_id, MAX_ROWS)}
    return list(found.values())


def _stored_name(connection: Connection, path: str) -> str:
    """Return a path as it is stored: as given, or else as an absolute path."""
    name = inert(path)
    return name if table.logs_at(connection, name) else inert(os.path.abspath(path))  # noqa: PTH100 - keeps links


def _described(connection: Connection, log: StoredLog) -> LogToRemove:
    events, sessions = table.count_events(connection, log)
    letters = len(letters_of(connection, SourceKey(*log.source_key)))
    return LogToRemove(log.identity, log.generation, log.source, log.current_path, events, sessions, letters)


def _keeps_rows_of_v3(connection: Connection, logs: Sequence[StoredLog]) -> bool:
    """Return whether events with the source of a log belong to no log, so that version 3 stored them."""
    if not has_rows_of_v3(connection):
        return False
    for source in sorted({log.source for log in logs}):
        ours = {log.source_key for log in table.logs_at(connection, source)}
        if any(key not in ours for key in source_keys_of(connection, source)):
            return True
    return False


def _not_found(connection: Connection, name: str, identity: str | None) -> str:
    if identity is not None and table.logs_at(connection, name):
        return f"{name}: no log with an identity that begins with {identity!r} was loaded from there"
    if table.has_events_at(connection, name):
        return (
            f"{name}: version 3 loaded it. Of which log its rows are is not certain, and what it left out of others is "
            "not known, so they are not removed"
        )
    similar = table.paths_like(connection, Path(name).name, SHOWN_PATHS)
    hint = f"; similar paths: {', '.join(similar)}" if similar else ""
    return f"{name}: no log was loaded from there{hint}"


def _several(connection: Connection, name: str, logs: Sequence[StoredLog]) -> str:
    lines = [
        f"  --identity {log.identity[:12]}: {plural(table.count_events(connection, log)[0], 'event')}, "
        f"now {log.current_path}"
        for log in logs[:SHOWN_PATHS]
    ]
    more = f"\n  and {len(logs) - SHOWN_PATHS} more" if len(logs) > SHOWN_PATHS else ""
    return f"{name}: several logs were loaded from there; say which:\n" + "\n".join(lines) + more


def _refuse_while_backfilling(engine: Engine) -> None:
    """Check that all facts of version 3's events are there: those of a session are replaced as a whole.

    Raises:
        JobTaken: they are not.
    """
    with read_transaction(engine) as connection:
        if not has_rows_of_v3(connection):
            return
        jobs = [load_job(connection, name) for name in BACKFILLS]
    if any(job is None or job.state != DONE for job in jobs):
        raise JobTaken(
            f"{describe(engine)}: the backfill has not ended, so the facts of sessions cannot be recomputed yet; run "
            "`db backfill` first"
        )
