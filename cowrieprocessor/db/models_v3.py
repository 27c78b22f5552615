"""The tables of a v3 database. Migrations never change them."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Index, Integer, String, Text, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from cowrieprocessor.db.columns import FALSE, GENERATED_FROM_PAYLOAD, ZERO, Base, RowId
from cowrieprocessor.db.saved_rows import not_saved

STAYS = "a rollback leaves the tables of version 3"


class SchemaState(Base):
    """Key-value pairs about the schema; `schema_version` is the authoritative version."""

    __tablename__ = "schema_state"

    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    value: Mapped[str] = mapped_column(String(256))

    __table_args__ = not_saved(STAYS)


class RawEvent(Base):
    """One event of a log, as it was logged."""

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
        not_saved(STAYS),
    )


class SessionSummary(Base):
    """One session of an attacker: its times, counts and flags. `matcher` is the name of the sensor."""

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
        not_saved(STAYS),
    )


class CommandStat(Base):
    """One command of one session, and how often it occurred. v3 created this table but left it empty."""

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
        not_saved(STAYS),
    )


class IngestCursor(Base):
    """The cursors of v3: each is read once, when its log is first loaded. `log_files` has the cursors of v4."""

    __tablename__ = "ingest_cursors"

    source: Mapped[str] = mapped_column(String(512), primary_key=True)
    inode: Mapped[str | None] = mapped_column(String(128))
    last_offset: Mapped[int] = mapped_column(Integer, server_default=text("'-1'"))
    last_ingest_at: Mapped[dt.datetime] = mapped_column(server_default=func.current_timestamp())
    last_ingest_id: Mapped[str | None] = mapped_column(String(64))
    metadata_json: Mapped[dict[str, Any] | None] = mapped_column(JSON)

    __table_args__ = (Index("ix_ingest_cursors_offset", "last_offset"), not_saved(STAYS))


class DeadLetterEvent(Base):
    """A log value that could not be stored as an event, or whose file could not be stored."""

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
        not_saved(STAYS),
    )


V3_TABLES = (
    "schema_state",
    "raw_events",
    "session_summaries",
    "command_stats",
    "ingest_cursors",
    "dead_letter_events",
)
"""The tables of a v3 database; migrations never change them."""
