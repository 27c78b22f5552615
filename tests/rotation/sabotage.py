"""Mistakes that a loader can make, introduced on purpose: the sequences must find each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.ingest import followed_files, log_files
from cowrieprocessor.db.ingest.statements import LoadingStatements
from cowrieprocessor.errors import DatabaseError
from cowrieprocessor.loader import log_loading, writer
from cowrieprocessor.loader.follow.open_logs import OpenLogs
from cowrieprocessor.loader.logs.identity import LogIdentifier
from cowrieprocessor.loader.reading.value_reader import ValueReader
from cowrieprocessor.loader.rows.batch import BatchRows

Sabotage = Callable[[pytest.MonkeyPatch], None]


def commit_cursor_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint is committed in a transaction of its own, before the rows (on SQLite)."""
    store = log_files.store

    def store_and_commit(connection: Connection, *values: Any) -> bool:
        is_ours = store(connection, *values)
        raw: Any = connection.connection.driver_connection
        raw.execute("COMMIT")
        raw.execute("BEGIN IMMEDIATE")
        return is_ours

    monkeypatch.setattr(log_files, "store", store_and_commit)


def skip_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of many is not inserted."""
    insert, passed = LoadingStatements.insert_raw_events, 0

    def insert_most(self: LoadingStatements, rows: list[list[Any]]) -> None:
        nonlocal passed
        passed += len(rows)
        if passed >= 100:
            passed, rows = passed - 100, rows[:-1]
        insert(self, rows)

    monkeypatch.setattr(LoadingStatements, "insert_raw_events", insert_most)


def swallow_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that the database refused counts as stored."""
    write_batch = writer.write_batch

    def write(engine: Engine, rows: BatchRows, progress: Mapping[str, object], **more: Any) -> None:
        try:
            write_batch(engine, rows, progress, **more)
        except DatabaseError:
            with write_transaction(engine) as connection:
                log_files.store(connection, rows.log, rows.stored_values, rows.stored_bytes, rows.more_bytes)

    monkeypatch.setattr(log_loading, "write_batch", write)


def trust_the_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that begins like a known one is resumed at its checkpoint without a proof."""

    def at_checkpoint(self: LogIdentifier, checkpoint: Any) -> ValueReader | None:
        self._stream.rewind()
        if self._stream.skip(checkpoint.byte_pos) < checkpoint.byte_pos:
            return None
        return ValueReader(self._stream, position=checkpoint.byte_pos, line=checkpoint.next_line)

    monkeypatch.setattr(LogIdentifier, "_reader_at_same_bytes", at_checkpoint)


def hold_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is deleted is not read to its end."""
    monkeypatch.setattr(OpenLogs, "keep_open", lambda *_: None)


def miss_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is destroyed unread is not recorded."""
    monkeypatch.setattr(followed_files, "set_gap", lambda *_: None)
    monkeypatch.setattr(followed_files, "add_lost_log", lambda *_: None)


def drop_dead_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that are not events are dropped."""
    monkeypatch.setattr(LoadingStatements, "insert_dead_letters", lambda *_: None)


REQUIRED: tuple[Sabotage, ...] = (commit_cursor_alone, skip_one_row, swallow_errors)
FURTHER: tuple[Sabotage, ...] = (trust_the_cursor, hold_nothing, miss_nothing, drop_dead_letters)
