"""The DDL of a v3 database, as SQLite stores it."""

from __future__ import annotations

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
"""Tables by name; `{extra_constraint}` in raw_events is empty or `V1_CONSTRAINT`."""

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
"""The `files` table of a pre-release of version 4, without `origin`."""

V1_CONSTRAINT = ", UNIQUE (source, source_offset)"
"""The constraint of raw_events in a v3 file that was upgraded from v1."""


def table_statements(*, from_v1: bool = False) -> list[str]:
    """Return the statements that create v3's tables.

    Args:
        from_v1: give raw_events the constraint of a file upgraded from v1.
    """
    extra = V1_CONSTRAINT if from_v1 else ""
    return [statement.replace("{extra_constraint}", extra) for statement in TABLES.values()]


def index_statements(*, planned_files: bool = False) -> list[str]:
    """Return the statements that create v3's indexes.

    Args:
        planned_files: add the pre-release `files` table with its indexes.
    """
    return [*INDEXES, *(PLANNED_FILES if planned_files else ())]
