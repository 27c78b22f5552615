"""The v4 schema as SQLAlchemy models: the tables of v3, unchanged, and the tables that v4 adds.

The revisions in `db/revisions` create exactly these tables; a test compares them. What SQLite and PostgreSQL do
differently (generated columns) is in `db/dialects`.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

UTC = dt.UTC
GENERATED_FROM_PAYLOAD = "generated_from_payload"
"""Key in `Column.info`: the name in the payload that SQLite computes this column from."""


class UtcDateTime(TypeDecorator[dt.datetime]):
    """A moment, always UTC: timestamptz on PostgreSQL, `YYYY-MM-DD HH:MM:SS.ffffff` text on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        """Return the moment in UTC; a naive one is refused, because its zone would be a guess."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive datetime {value!r}: give it a time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        """Return the moment as an aware datetime in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


RowId = Integer().with_variant(BigInteger(), "postgresql")
"""A surrogate key: SQLite's rowid alias, a bigserial on PostgreSQL."""

ZERO = text("'0'")
FALSE = text("'0'")


class Base(DeclarativeBase):
    """Declarative base; primary keys are named `pk_<table>` as in v3."""

    metadata = MetaData(naming_convention={"pk": "pk_%(table_name)s"})
    type_annotation_map: ClassVar[dict[Any, Any]] = {dt.datetime: UtcDateTime, dict[str, Any]: JSON, list[str]: JSON}


# --- v3's tables -------------------------------------------------------------------------------------------------


class SchemaState(Base):
    """Key/value facts about the schema; `schema_version` is the authoritative version."""

    __tablename__ = "schema_state"

    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    value: Mapped[str] = mapped_column(String(256))


class RawEvent(Base):
    """One event of a log, as it came."""

    __tablename__ = "raw_events"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    ingest_id: Mapped[str | None] = mapped_column(String(64))
    ingest_at: Mapped[dt.datetime] = mapped_column(server_default=func.current_timestamp())
    source: Mapped[str] = mapped_column(String(512))
    source_offset: Mapped[int | None] = mapped_column(BigInteger)
    source_inode: Mapped[str | None] = mapped_column(String(128))
    source_generation: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)
    payload_hash: Mapped[str | None] = mapped_column(String(64))
    risk_score: Mapped[int | None] = mapped_column(Integer)
    quarantined: Mapped[bool] = mapped_column(Boolean, server_default=FALSE)
    session_id: Mapped[str | None] = mapped_column(String(64), info={GENERATED_FROM_PAYLOAD: "session"})
    event_type: Mapped[str | None] = mapped_column(String(128), info={GENERATED_FROM_PAYLOAD: "eventid"})
    event_timestamp: Mapped[str | None] = mapped_column(String(64), info={GENERATED_FROM_PAYLOAD: "timestamp"})

    __table_args__ = (
        UniqueConstraint(
            "source", "source_inode", "source_generation", "source_offset", name="uq_raw_events_source_offset"
        ),
        Index("ix_raw_events_session_id", "session_id"),
        Index("ix_raw_events_event_type", "event_type"),
        Index("ix_raw_events_event_timestamp", "event_timestamp"),
        Index("ix_raw_events_ingest_at", "ingest_at"),
    )


class SessionSummary(Base):
    """One attacker's session: when, how much, and what is flagged. `matcher` holds the sensor's name."""

    __tablename__ = "session_summaries"

    session_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    first_event_at: Mapped[dt.datetime | None]
    last_event_at: Mapped[dt.datetime | None]
    event_count: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    command_count: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    file_downloads: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    login_attempts: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    vt_flagged: Mapped[bool] = mapped_column(Boolean, server_default=FALSE)
    dshield_flagged: Mapped[bool] = mapped_column(Boolean, server_default=FALSE)
    risk_score: Mapped[int | None] = mapped_column(Integer)
    matcher: Mapped[str | None] = mapped_column(String(32))
    source_files: Mapped[list[str] | None] = mapped_column(JSON)
    enrichment: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    created_at: Mapped[dt.datetime] = mapped_column(server_default=func.current_timestamp())
    updated_at: Mapped[dt.datetime] = mapped_column(server_default=func.current_timestamp())

    __table_args__ = (
        Index("ix_session_summaries_first_event", "first_event_at"),
        Index("ix_session_summaries_last_event", "last_event_at"),
        Index("ix_session_summaries_flags", "vt_flagged", "dshield_flagged"),
    )


class CommandStat(Base):
    """One command of one session, and how often it was given. v3 made this table and left it empty."""

    __tablename__ = "command_stats"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    session_id: Mapped[str] = mapped_column(String(64))
    command_normalized: Mapped[str] = mapped_column(Text)
    occurrences: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    first_seen: Mapped[dt.datetime | None]
    last_seen: Mapped[dt.datetime | None]
    high_risk: Mapped[bool] = mapped_column(Boolean, server_default=FALSE)

    __table_args__ = (
        UniqueConstraint("session_id", "command_normalized", name="uq_command_stats_session_command"),
        Index("ix_command_stats_session", "session_id"),
        Index("ix_command_stats_command", "command_normalized"),
    )


class IngestCursor(Base):
    """v3's cursors. They are read once and taken over; `log_files` holds ours."""

    __tablename__ = "ingest_cursors"

    source: Mapped[str] = mapped_column(String(512), primary_key=True)
    inode: Mapped[str | None] = mapped_column(String(128))
    last_offset: Mapped[int] = mapped_column(Integer, server_default=text("'-1'"))
    last_ingest_at: Mapped[dt.datetime] = mapped_column(server_default=func.current_timestamp())
    last_ingest_id: Mapped[str | None] = mapped_column(String(64))
    metadata_json: Mapped[dict[str, Any] | None] = mapped_column(JSON)

    __table_args__ = (Index("ix_ingest_cursors_offset", "last_offset"),)


class DeadLetterEvent(Base):
    """A value of a log that could not be stored as an event, or whose file could not be stored."""

    __tablename__ = "dead_letter_events"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    ingest_id: Mapped[str | None] = mapped_column(String(64))
    source: Mapped[str | None] = mapped_column(String(512))
    source_offset: Mapped[int | None] = mapped_column(Integer().with_variant(BigInteger(), "postgresql"))
    reason: Mapped[str] = mapped_column(String(128))
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)
    metadata_json: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    created_at: Mapped[dt.datetime] = mapped_column(server_default=func.current_timestamp())
    resolved: Mapped[bool] = mapped_column(Boolean, server_default=FALSE)
    resolved_at: Mapped[dt.datetime | None]

    __table_args__ = (
        Index("ix_dead_letter_events_created", "created_at"),
        Index("ix_dead_letter_events_source", "source"),
    )


# --- v4's tables -------------------------------------------------------------------------------------------------


class Files(Base):
    """One file (by hash) of one session: downloaded, uploaded, or found captured with no log that names it."""

    __tablename__ = "files"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    session_id: Mapped[str] = mapped_column(String(64))
    shasum: Mapped[str] = mapped_column(String(64))
    filename: Mapped[str | None] = mapped_column(String(512))
    file_size: Mapped[int | None] = mapped_column(BigInteger)
    download_url: Mapped[str | None] = mapped_column(String(1024))
    vt_classification: Mapped[str | None] = mapped_column(String(128))
    vt_description: Mapped[str | None] = mapped_column(Text)
    vt_malicious: Mapped[bool] = mapped_column(Boolean, default=False, server_default=FALSE)
    vt_first_seen: Mapped[dt.datetime | None]
    vt_last_analysis: Mapped[dt.datetime | None]
    vt_positives: Mapped[int | None] = mapped_column(Integer)
    vt_total: Mapped[int | None] = mapped_column(Integer)
    vt_scan_date: Mapped[dt.datetime | None]
    first_seen: Mapped[dt.datetime] = mapped_column(server_default=func.current_timestamp())
    last_updated: Mapped[dt.datetime] = mapped_column(
        server_default=func.current_timestamp(), onupdate=func.current_timestamp()
    )
    enrichment_status: Mapped[str] = mapped_column(String(32), default="pending", server_default="pending")
    origin: Mapped[str] = mapped_column(String(16), default="download", server_default="download")

    __table_args__ = (
        UniqueConstraint("session_id", "shasum", name="uq_files_session_hash"),
        Index("ix_files_session_id", "session_id"),
        Index("ix_files_shasum", "shasum"),
        Index("ix_files_vt_malicious", "vt_malicious"),
        Index("ix_files_enrichment_status", "enrichment_status"),
        Index("ix_files_first_seen", "first_seen"),
    )


class FileHash(Base):
    """One file by content: what lists, queues and joins use, and where the current verdict is kept."""

    __tablename__ = "file_hashes"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    first_seen: Mapped[dt.datetime]
    last_seen: Mapped[dt.datetime]
    session_count: Mapped[int] = mapped_column(Integer, default=0, server_default=ZERO)
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    md5: Mapped[str | None] = mapped_column(String(32))
    sha1: Mapped[str | None] = mapped_column(String(40))
    tlsh: Mapped[str | None] = mapped_column(String(72))
    mime_type: Mapped[str | None] = mapped_column(String(128))
    file_type: Mapped[str | None] = mapped_column(String(256))
    analysis: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    vt_classification: Mapped[str | None] = mapped_column(String(128))
    vt_description: Mapped[str | None] = mapped_column(Text)
    vt_malicious: Mapped[bool] = mapped_column(Boolean, default=False, server_default=FALSE)
    vt_first_seen: Mapped[dt.datetime | None]
    vt_last_analysis: Mapped[dt.datetime | None]
    vt_positives: Mapped[int | None] = mapped_column(Integer)
    vt_total: Mapped[int | None] = mapped_column(Integer)
    vt_scan_date: Mapped[dt.datetime | None]
    enrichment_status: Mapped[str] = mapped_column(String(32), default="pending", server_default="pending")
    verdict: Mapped[str] = mapped_column(String(16), default="unknown", server_default="unknown")
    family: Mapped[str | None] = mapped_column(String(128))
    reputation: Mapped[int | None] = mapped_column(Integer)
    reputation_reasons: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    next_check_at: Mapped[dt.datetime | None]
    updated_at: Mapped[dt.datetime] = mapped_column(
        server_default=func.current_timestamp(), onupdate=func.current_timestamp()
    )

    __table_args__ = (
        Index("ix_file_hashes_first_seen", "first_seen"),
        Index("ix_file_hashes_last_seen", "last_seen"),
        Index("ix_file_hashes_verdict", "verdict"),
        Index("ix_file_hashes_session_count", "session_count"),
        Index("ix_file_hashes_next_check_at", "next_check_at"),
        Index("ix_file_hashes_md5", "md5"),
        Index("ix_file_hashes_sha1", "sha1"),
    )


class SessionAttribute(Base):
    """Where a session came from and how it logged in.

    The `*_at` columns and `login_success` say which event each value was taken from, so that the earliest one wins
    whatever the order in which the events arrive, without reading the events again.
    """

    __tablename__ = "session_attributes"

    session_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    src_ip: Mapped[str | None] = mapped_column(String(45))
    protocol: Mapped[str | None] = mapped_column(String(16))
    hassh: Mapped[str | None] = mapped_column(String(32))
    username: Mapped[str | None] = mapped_column(String(255))
    connect_at: Mapped[dt.datetime | None]
    hassh_at: Mapped[dt.datetime | None]
    login_at: Mapped[dt.datetime | None]
    login_success: Mapped[bool | None] = mapped_column(Boolean)

    __table_args__ = (
        Index("ix_session_attributes_src_ip", "src_ip"),
        Index("ix_session_attributes_hassh", "hassh"),
        Index("ix_session_attributes_username", "username"),
    )


class LogFile(Base):
    """One log, whatever it is called: how far it was read, and the proof that it is the same log.

    `identity` is the SHA-256 of the log's first complete JSON object with sorted keys. `source`, `source_inode` and
    `generation` are what its rows in `raw_events` carry. `values_done` counts the values (events and dead letters)
    before the cursor, `byte_pos` is the cursor in the decompressed content, `tail_hash` the SHA-256 of the
    `tail_bytes` bytes before it, `last_value_hash` the payload_hash of the last value before it.
    bytes_stored + bytes_dead + bytes_nul + bytes_gap is always byte_pos.
    """

    __tablename__ = "log_files"

    identity: Mapped[str] = mapped_column(String(64))
    generation: Mapped[int] = mapped_column(Integer)
    source: Mapped[str] = mapped_column(String(512))
    source_inode: Mapped[str] = mapped_column(String(128))
    source_generation: Mapped[int] = mapped_column(Integer)
    current_path: Mapped[str] = mapped_column(Text)
    values_done: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    next_line: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    next_offset: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    byte_pos: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    tail_hash: Mapped[str | None] = mapped_column(String(64))
    tail_bytes: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    last_value_hash: Mapped[str | None] = mapped_column(String(64))
    bytes_stored: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    bytes_dead: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    bytes_nul: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    bytes_gap: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)
    updated_at: Mapped[dt.datetime]

    __table_args__ = (
        PrimaryKeyConstraint("identity", "generation"),
        UniqueConstraint("source", "source_inode", "source_generation", name="uq_log_files_source"),
        Index("ix_log_files_current_path", "current_path"),
    )


class FileVerdict(Base):
    """What one source said about one hash, and from when to when it said so. Append-only."""

    __tablename__ = "file_verdicts"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    provider: Mapped[str] = mapped_column(String(32))
    fetched_at: Mapped[dt.datetime]
    confirmed_at: Mapped[dt.datetime]
    verdict: Mapped[str] = mapped_column(String(16))
    classification: Mapped[str | None] = mapped_column(String(128))
    positives: Mapped[int | None] = mapped_column(Integer)
    total: Mapped[int | None] = mapped_column(Integer)
    first_seen: Mapped[dt.datetime | None]
    last_analysis: Mapped[dt.datetime | None]
    response: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))

    __table_args__ = (
        Index("ix_file_verdicts_sha256", "sha256", "provider", "fetched_at"),
        Index("ix_file_verdicts_fetched_at", "fetched_at"),
    )


class EnrichmentCacheEntry(Base):
    """A source's last answer and until when it need not be asked again."""

    __tablename__ = "enrichment_cache"

    provider: Mapped[str] = mapped_column(String(32))
    key: Mapped[str] = mapped_column(String(128))
    status: Mapped[str] = mapped_column(String(32))
    response: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    fetched_at: Mapped[dt.datetime]
    expires_at: Mapped[dt.datetime]

    __table_args__ = (
        PrimaryKeyConstraint("provider", "key"),
        Index("ix_enrichment_cache_expires_at", "expires_at"),
    )


class EnrichmentQueueItem(Base):
    """A hash that a source is to be asked about, when, and what came of earlier attempts."""

    __tablename__ = "enrichment_queue"

    sha256: Mapped[str] = mapped_column(String(64))
    provider: Mapped[str] = mapped_column(String(32))
    status: Mapped[str] = mapped_column(String(32), server_default="pending")
    attempts: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    next_attempt_at: Mapped[dt.datetime | None]
    priority: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    last_error: Mapped[str | None] = mapped_column(Text)
    leased_until: Mapped[dt.datetime | None]

    __table_args__ = (
        PrimaryKeyConstraint("sha256", "provider"),
        Index("ix_enrichment_queue_due", "provider", "status", "next_attempt_at"),
    )


class VerdictPropagation(Base):
    """A hash whose rows in `files` still wait for its new verdict."""

    __tablename__ = "verdict_propagation"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    requested_at: Mapped[dt.datetime]
    cursor: Mapped[int] = mapped_column(BigInteger, server_default=ZERO)


class ApiQuota(Base):
    """The ledger: requests sent under one key in one window, written before each request."""

    __tablename__ = "api_quota"

    provider: Mapped[str] = mapped_column(String(32))
    key_fingerprint: Mapped[str] = mapped_column(String(64))
    window: Mapped[str] = mapped_column(String(32))
    used: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    allowed: Mapped[int | None] = mapped_column(Integer)

    __table_args__ = (PrimaryKeyConstraint("provider", "key_fingerprint", "window"),)


class Job(Base):
    """A long job: where it stands, what it counted, and why it waits or stopped."""

    __tablename__ = "jobs"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    state: Mapped[str] = mapped_column(String(32))
    cursor: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    counters: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    started_at: Mapped[dt.datetime]
    updated_at: Mapped[dt.datetime]
    finished_at: Mapped[dt.datetime | None]
    reason: Mapped[str | None] = mapped_column(Text)


V3_TABLES = (
    "schema_state",
    "raw_events",
    "session_summaries",
    "command_stats",
    "ingest_cursors",
    "dead_letter_events",
)
"""Tables that a v3 database has; a migration never touches them."""
