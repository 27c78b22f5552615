"""A v3 database built from what is known of it: its DDL, and rows with the habits that v3 data has."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.other_connections import sqlite3

TABLES = {
    "schema_state": """CREATE TABLE schema_state (
        "key" VARCHAR(128) NOT NULL, value VARCHAR(256) NOT NULL,
        CONSTRAINT pk_schema_state PRIMARY KEY ("key"))""",
    "raw_events": """CREATE TABLE raw_events (
        id INTEGER NOT NULL, ingest_id VARCHAR(64), ingest_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
        source VARCHAR(512) NOT NULL, source_offset BIGINT, source_inode VARCHAR(128),
        source_generation INTEGER DEFAULT '0' NOT NULL, payload JSON NOT NULL, payload_hash VARCHAR(64),
        risk_score INTEGER, quarantined BOOLEAN DEFAULT '0' NOT NULL,
        session_id VARCHAR(64) GENERATED ALWAYS AS (json_extract(payload, '$.session')) VIRTUAL,
        event_type VARCHAR(128) GENERATED ALWAYS AS (json_extract(payload, '$.eventid')) VIRTUAL,
        event_timestamp VARCHAR(64) GENERATED ALWAYS AS (json_extract(payload, '$.timestamp')) VIRTUAL,
        CONSTRAINT pk_raw_events PRIMARY KEY (id),
        CONSTRAINT uq_raw_events_source_offset
        UNIQUE (source, source_inode, source_generation, source_offset){extra_constraint})""",
    "session_summaries": """CREATE TABLE session_summaries (
        session_id VARCHAR(64) NOT NULL, first_event_at DATETIME, last_event_at DATETIME,
        event_count INTEGER DEFAULT '0' NOT NULL, command_count INTEGER DEFAULT '0' NOT NULL,
        file_downloads INTEGER DEFAULT '0' NOT NULL, login_attempts INTEGER DEFAULT '0' NOT NULL,
        vt_flagged BOOLEAN DEFAULT '0' NOT NULL, dshield_flagged BOOLEAN DEFAULT '0' NOT NULL,
        risk_score INTEGER, matcher VARCHAR(32), source_files JSON, enrichment JSON,
        created_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
        updated_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
        CONSTRAINT pk_session_summaries PRIMARY KEY (session_id))""",
    "command_stats": """CREATE TABLE command_stats (
        id INTEGER NOT NULL, session_id VARCHAR(64) NOT NULL, command_normalized TEXT NOT NULL,
        occurrences INTEGER DEFAULT '0' NOT NULL, first_seen DATETIME, last_seen DATETIME,
        high_risk BOOLEAN DEFAULT '0' NOT NULL, CONSTRAINT pk_command_stats PRIMARY KEY (id),
        CONSTRAINT uq_command_stats_session_command UNIQUE (session_id, command_normalized))""",
    "ingest_cursors": """CREATE TABLE ingest_cursors (
        source VARCHAR(512) NOT NULL, inode VARCHAR(128), last_offset INTEGER DEFAULT '-1' NOT NULL,
        last_ingest_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL, last_ingest_id VARCHAR(64),
        metadata_json JSON, CONSTRAINT pk_ingest_cursors PRIMARY KEY (source))""",
    "dead_letter_events": """CREATE TABLE dead_letter_events (
        id INTEGER NOT NULL, ingest_id VARCHAR(64), source VARCHAR(512), source_offset INTEGER,
        reason VARCHAR(128) NOT NULL, payload JSON NOT NULL, metadata_json JSON,
        created_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL, resolved BOOLEAN DEFAULT '0' NOT NULL,
        resolved_at DATETIME, CONSTRAINT pk_dead_letter_events PRIMARY KEY (id))""",
}

INDEXES = (
    "CREATE INDEX ix_raw_events_event_type ON raw_events (event_type)",
    "CREATE INDEX ix_raw_events_ingest_at ON raw_events (ingest_at)",
    "CREATE INDEX ix_raw_events_session_id ON raw_events (session_id)",
    "CREATE INDEX ix_raw_events_event_timestamp ON raw_events (event_timestamp)",
    "CREATE INDEX ix_session_summaries_first_event ON session_summaries (first_event_at)",
    "CREATE INDEX ix_session_summaries_last_event ON session_summaries (last_event_at)",
    "CREATE INDEX ix_session_summaries_flags ON session_summaries (vt_flagged, dshield_flagged)",
    "CREATE INDEX ix_command_stats_command ON command_stats (command_normalized)",
    "CREATE INDEX ix_command_stats_session ON command_stats (session_id)",
    "CREATE INDEX ix_ingest_cursors_offset ON ingest_cursors (last_offset)",
    "CREATE INDEX ix_dead_letter_events_source ON dead_letter_events (source)",
    "CREATE INDEX ix_dead_letter_events_created ON dead_letter_events (created_at)",
    "CREATE UNIQUE INDEX uq_raw_events_source_gen ON raw_events"
    "(source, source_inode, source_generation, source_offset)",
)

PLANNED_FILES = (
    """CREATE TABLE files (
        id INTEGER NOT NULL, session_id VARCHAR(64) NOT NULL, shasum VARCHAR(64) NOT NULL,
        filename VARCHAR(512), file_size BIGINT, download_url VARCHAR(1024),
        vt_classification VARCHAR(128), vt_description TEXT,
        vt_malicious BOOLEAN DEFAULT '0' NOT NULL, vt_first_seen DATETIME, vt_last_analysis DATETIME,
        vt_positives INTEGER, vt_total INTEGER, vt_scan_date DATETIME,
        first_seen DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
        last_updated DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
        enrichment_status VARCHAR(32) DEFAULT 'pending' NOT NULL, CONSTRAINT pk_files PRIMARY KEY (id),
        CONSTRAINT uq_files_session_hash UNIQUE (session_id, shasum))""",
    "CREATE INDEX ix_files_session_id ON files (session_id)",
    "CREATE INDEX ix_files_shasum ON files (shasum)",
    "CREATE INDEX ix_files_vt_malicious ON files (vt_malicious)",
    "CREATE INDEX ix_files_enrichment_status ON files (enrichment_status)",
    "CREATE INDEX ix_files_first_seen ON files (first_seen)",
)
"""The one table of version 4 that the plan had, without `origin`."""

V1_CONSTRAINT = ", UNIQUE (source, source_offset)"
"""What a v3 file that was upgraded from v1 keeps in raw_events."""

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
        for statement in TABLES.values():
            connection.execute(statement.replace("{extra_constraint}", V1_CONSTRAINT if from_v1 else ""))
        for statement in (*INDEXES, *(PLANNED_FILES if planned_files else ())):
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
