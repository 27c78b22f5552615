"""One batch, one transaction: events, sessions, commands, files, dead letters, counters and the cursor together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256

from sqlalchemy import Engine

from cowrieprocessor.db import log_files
from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.loading import LoadingStatements, Row
from cowrieprocessor.loader.batch import Batch, json_text
from cowrieprocessor.loader.reader import ValueReader
from cowrieprocessor.loader.sessions import AttributeTally, SessionTallies
from cowrieprocessor.loader.worthless import initial_status

JOB = "load"


class LogMoved(Exception):  # noqa: N818 - a signal, not an error
    """Another loader has stored more of this log since we read its cursor; the batch was not written."""


def write_batch(engine: Engine, batch: Batch, reader: ValueReader, progress: Mapping[str, object]) -> None:
    """Write a batch and move the log's cursor to the reader's position, in one transaction.

    Raises:
        LogMoved: another loader moved the cursor; nothing was written.
        DatabaseError: the database refused; nothing was written.
    """
    cursor = batch.cursor
    row = _cursor_row(batch, reader)
    with write_transaction(engine) as connection:
        if not log_files.store(connection, row, cursor.stored_values):
            raise LogMoved
        statements = LoadingStatements(connection)
        try:
            _write_rows(statements, batch)
            statements.add_job_counters(JOB, +batch.counters, progress, batch.now)
        finally:
            statements.close()
    for name, value in row.items():
        if name != "updated_at":
            setattr(cursor, name, value)
    cursor.stored_values = cursor.values_done


def set_load_state(engine: Engine, state: str, reason: str | None, now: str) -> None:
    """Say in `jobs` that loading runs, is done, or failed and why."""
    with write_transaction(engine) as connection:
        statements = LoadingStatements(connection)
        try:
            statements.set_job_state(JOB, state, reason, now)
        finally:
            statements.close()


def _cursor_row(batch: Batch, reader: ValueReader) -> dict[str, object]:
    """Return the log's new row: the cursor at the reader's position, every byte before it accounted for."""
    cursor = batch.cursor
    nul_bytes = reader.take_nul_bytes()
    tail = reader.tail()
    consumed = reader.position - cursor.byte_pos
    return cursor.columns(batch.now) | {
        "values_done": cursor.values_done + batch.values,
        "next_line": reader.line,
        "byte_pos": reader.position,
        "tail_hash": sha256(tail).hexdigest(),
        "tail_bytes": len(tail),
        "bytes_nul": cursor.bytes_nul + nul_bytes,
        "bytes_dead": cursor.bytes_dead + batch.dead_bytes,
        "bytes_stored": cursor.bytes_stored + consumed - nul_bytes - batch.dead_bytes,
    }


def _write_rows(statements: LoadingStatements, batch: Batch) -> None:
    now, tallies = batch.now, batch.tallies
    statements.insert_raw_events(batch.rows)
    statements.merge_sessions(_session_rows(tallies, batch.cursor.source, now))
    statements.merge_attributes([_attribute_row(*item) for item in sorted(tallies.attributes.items())])
    statements.merge_commands(
        [
            (*key, command.occurrences, command.first_seen, command.last_seen, command.high_risk)
            for key, command in sorted(tallies.commands.items())
        ]
    )
    statements.merge_hashes(
        [
            (hash_, tally.first_seen, tally.last_seen, initial_status(hash_), now)
            for hash_, tally in sorted(batch.hashes.items())
        ]
    )
    if batch.files:
        statements.merge_files(
            [
                (*key, one.filename, one.download_url, one.origin, one.first_seen)
                for key, one in sorted(batch.files.items())
            ],
            now,
        )
    statements.insert_dead_letters(
        [
            (
                batch.ingest_id,
                batch.cursor.source,
                letter.offset,
                letter.reason,
                json_text(letter.payload),
                json_text(letter.metadata | {"generation": batch.cursor.source_generation}),
                now,
            )
            for letter in batch.dead_letters
        ]
    )


def _session_rows(tallies: SessionTallies, source: str, now: str) -> list[Row]:
    sources = json.dumps([source], ensure_ascii=False)
    return [
        (
            session_id,
            one.first_event_at,
            one.last_event_at,
            one.event_count,
            one.command_count,
            one.file_downloads,
            one.login_attempts,
            one.sensor,
            sources,
            now,
            now,
        )
        for session_id, one in sorted(tallies.sessions.items())
    ]


def _attribute_row(session_id: str, one: AttributeTally) -> Row:
    connect_at, src_ip, protocol = one.connect or (None, None, None)
    hassh_at, hassh = one.kex or (None, None)
    failed, login_at, username = one.login or (None, None, None)
    return (
        session_id,
        connect_at,
        src_ip or None,
        protocol or None,
        hassh_at,
        hassh or None,
        None if failed is None else failed == 0,
        login_at,
        username,
    )
