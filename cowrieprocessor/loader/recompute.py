"""Recomputes the facts of sessions from the events that are stored, with the aggregates of the loaders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

from sqlalchemy import Connection

from cowrieprocessor.db.chunks import chunks
from cowrieprocessor.db.enrichment.propagation import unflag_sessions
from cowrieprocessor.db.enrichment.skipped_hashes import initial_status
from cowrieprocessor.db.ingest import session_sensors
from cowrieprocessor.db.ingest.event_scan import (
    StoredEvent,
    all_events_of_session,
    events_with_ids,
    long_payload,
)
from cowrieprocessor.db.ingest.overlaps import as_text
from cowrieprocessor.db.ingest.recomputed_rows import RecomputedRows
from cowrieprocessor.db.ingest.statements import LoadingStatements
from cowrieprocessor.events import Event
from cowrieprocessor.loader.rows.batch import session_rows
from cowrieprocessor.loader.rows.file_aggregates import FileAggregates
from cowrieprocessor.loader.rows.session_aggregates import SessionAggregates
from cowrieprocessor.loader.rows.stored_payload import read_stored


def files_in(connection: Connection, event_ids: Sequence[int]) -> FileAggregates:
    """Return the files that stored events name."""
    files = FileAggregates()
    for part in chunks(event_ids):
        for row in events_with_ids(connection, part):
            event = read_stored(row.payload)
            if isinstance(event, Event):
                files.add(event)
    return files


def recompute_sessions(connection: Connection, session_ids: Iterable[str], removed: FileAggregates, now: str) -> None:
    """Replace all that the events of some sessions say by what those that are left say.

    Verdicts, their history and what else is known about hashes and sessions stay; a session without an event goes.

    Args:
        connection: in the transaction that has removed events of these sessions, with the lock on the names of sensors.
        session_ids: the sessions.
        removed: the files that the removed events named.
        now: the time, as text.
    """
    wanted = sorted(set(session_ids))
    sessions, files, sources = _aggregates(connection, wanted)
    with closing(RecomputedRows(connection)) as rows, closing(LoadingStatements(connection)) as statements:
        rows.empty_sessions(wanted)
        statements.merge_sessions(session_rows(sessions, json.dumps([]), now))
        statements.merge_sessions(
            [_source_row(session_id, source, now) for session_id in wanted for source in sorted(sources[session_id])]
        )
        statements.merge_attributes(sessions.attribute_rows())
        statements.merge_commands(sessions.command_rows())
        statements.merge_logins(sessions.login_rows())
        statements.merge_mentions(files.mention_rows())
        _replace_files(connection, rows, statements, wanted, files, removed, now)
        session_sensors.compute(connection, [session_id for session_id in wanted if sources[session_id]])
        rows.delete_sessions([session_id for session_id in wanted if not sources[session_id]])


def recompute_mentions(connection: Connection, session_ids: Iterable[str]) -> None:
    """Replace the URLs and names that some sessions mention by those of their stored events.

    Args:
        connection: in a transaction that excludes loaders of these sessions.
        session_ids: the sessions.
    """
    wanted = sorted(set(session_ids))
    _, files, _ = _aggregates(connection, wanted)
    with closing(RecomputedRows(connection)) as rows, closing(LoadingStatements(connection)) as statements:
        rows.empty_mentions(wanted)
        statements.merge_mentions(files.mention_rows())


def _aggregates(
    connection: Connection, session_ids: Sequence[str]
) -> tuple[SessionAggregates, FileAggregates, dict[str, set[str]]]:
    """Return the aggregates of all stored events of sessions, and the sources of these events by session."""
    sessions, files = SessionAggregates(), FileAggregates()
    sources: dict[str, set[str]] = {}
    for session_id in session_ids:
        found = sources.setdefault(session_id, set())
        for row in all_events_of_session(connection, session_id):
            found.add(row.source)
            event = _event(connection, row)
            if isinstance(event, Event):
                sessions.add(event)
                files.add(event)
    return sessions, files, sources


def payloads_of(connection: Connection, event_ids: Sequence[int]) -> Iterator[str]:
    """Yield the payloads of stored events."""
    for part in chunks(event_ids):
        for row in events_with_ids(connection, part):
            yield row.payload if row.payload is not None else long_payload(connection, row.id)


def _event(connection: Connection, row: StoredEvent) -> Event | None:
    event = read_stored(row.payload if row.payload is not None else long_payload(connection, row.id))
    return event if isinstance(event, Event) else None


def _source_row(session_id: str, source: str, now: str) -> list[Any]:
    """Return a row for `merge_sessions` that adds a source and nothing else."""
    return [session_id, None, None, 0, 0, 0, 0, None, json.dumps([source], ensure_ascii=False), now, now]


def _replace_files(
    connection: Connection,
    rows: RecomputedRows,
    statements: LoadingStatements,
    session_ids: Sequence[str],
    files: FileAggregates,
    removed: FileAggregates,
    now: str,
) -> None:
    """Replace the files of sessions, and correct session counts and times of their hashes."""
    hash_rows, file_rows = files.hash_rows(now), files.file_rows()
    removed_times = [(row[0], row[1], row[2]) for row in removed.hash_rows(now)]
    rows.lock_hashes(sorted({row[0] for row in hash_rows} | {times[0] for times in removed_times}))
    left = {(row[0], row[1]) for row in file_rows}
    gone = sorted(pair for pair in rows.files_of(session_ids) if pair not in left)
    rows.delete_files(gone)
    statements.merge_hashes(hash_rows)
    statements.merge_files(file_rows, now)
    rows.set_files(file_rows, now)
    unflag_sessions(connection, sorted({session_id for session_id, _ in gone}))
    for sha256, first_seen, last_seen in removed_times:
        _correct_times(connection, rows, sha256, first_seen, last_seen)
    for sha256 in sorted({sha256 for _, sha256 in gone}):
        rows.delete_unseen_hash(sha256, initial_status(sha256))


def _correct_times(connection: Connection, rows: RecomputedRows, sha256: str, first_seen: str, last_seen: str) -> None:
    """Correct when a hash was seen first and last, if a removed event may have been the one."""
    is_first, is_last = rows.is_extreme(sha256, first_seen, last_seen)
    if is_first:
        rows.set_first_seen(sha256)
    if is_last and (latest := _latest_sighting(connection, sha256, rows.sessions_by_end(sha256))):
        rows.set_last_seen(sha256, latest)


def _latest_sighting(connection: Connection, sha256: str, sessions: Sequence[tuple[str, Any]]) -> str | None:
    """Return when a hash was last seen; `sessions` are those that have it and their ends, the latest first."""
    latest: str | None = None
    for session_id, end in sessions:
        if latest is not None and latest >= as_text(end):
            break
        for moment in _sightings(connection, session_id, sha256):
            latest = max(moment, latest or moment)
    return latest


def _sightings(connection: Connection, session_id: str, sha256: str) -> Iterator[str]:
    """Yield the last time that each event of a session names a file."""
    for row in all_events_of_session(connection, session_id):
        files = FileAggregates()
        event = _event(connection, row)
        if event is not None:
            files.add(event)
        yield from (times[2] for times in files.hash_rows("") if times[0] == sha256)
