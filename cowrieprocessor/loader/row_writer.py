"""Inserts and merges the rows of a batch in the caller's transaction."""

from __future__ import annotations

from sqlalchemy import Connection

from cowrieprocessor.db.ingest import session_sensors
from cowrieprocessor.db.ingest.statements import LoadingStatements
from cowrieprocessor.loader.rows.batch import BatchRows


def write_rows(connection: Connection, rows: BatchRows) -> None:
    """Insert events and dead letters, and merge sessions, commands and files.

    Args:
        connection: in a write transaction that holds the locks of the batch's events.
        rows: the batch.
    """
    statements = LoadingStatements(connection)
    try:
        statements.insert_raw_events(rows.events)
        log = (rows.log["identity"], rows.log["generation"])
        session_sensors.store_batch(connection, log, rows.sensors, rows.sessions, rows.left_out_sessions)
        statements.merge_sessions(rows.sessions)
        statements.merge_attributes(rows.attributes)
        statements.merge_commands(rows.commands)
        statements.merge_logins(rows.logins)
        statements.merge_hashes(rows.hashes)
        statements.merge_files(rows.files, rows.now)
        statements.insert_dead_letters(rows.dead_letters)
    finally:
        statements.close()
