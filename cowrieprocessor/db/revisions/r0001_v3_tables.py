"""The tables of v3, without its redundant second unique index uq_raw_events_source_gen."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the six tables of v3."""
    _create_schema_state()
    _create_raw_events()
    _create_session_summaries()
    _create_command_stats()
    _create_ingest_cursors()
    _create_dead_letter_events()


def _row_id() -> sa.Column[int]:
    return sa.Column("id", sa.Integer().with_variant(sa.BigInteger(), "postgresql"), nullable=False)


def _counter(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False, server_default=sa.text("'0'"))


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.text("'0'"))


def _moment(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True))


def _moment_of_insert(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.current_timestamp())


def _from_payload(name: str, length: int, field: str) -> sa.Column[str]:
    """Return a column that SQLite computes from the payload (see db/columns.py)."""
    return sa.Column(name, sa.String(length), info={"generated_from_payload": field})


def _create_schema_state() -> None:
    op.create_table(
        "schema_state",
        sa.Column("key", sa.String(128), nullable=False),
        sa.Column("value", sa.String(256), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_schema_state"),
    )


def _create_raw_events() -> None:
    op.create_table(
        "raw_events",
        _row_id(),
        sa.Column("ingest_id", sa.String(64)),
        _moment_of_insert("ingest_at"),
        sa.Column("source", sa.String(512), nullable=False),
        sa.Column("source_offset", sa.BigInteger()),
        sa.Column("source_inode", sa.String(128)),
        _counter("source_generation"),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("payload_hash", sa.String(64)),
        sa.Column("risk_score", sa.Integer()),
        _flag("quarantined"),
        _from_payload("session_id", 64, "session"),
        _from_payload("event_type", 128, "eventid"),
        _from_payload("event_timestamp", 64, "timestamp"),
        sa.PrimaryKeyConstraint("id", name="pk_raw_events"),
        sa.UniqueConstraint(
            "source", "source_inode", "source_generation", "source_offset", name="uq_raw_events_source_offset"
        ),
    )
    for column in ("session_id", "event_type", "event_timestamp", "ingest_at"):
        op.create_index(f"ix_raw_events_{column}", "raw_events", [column])


def _create_session_summaries() -> None:
    op.create_table(
        "session_summaries",
        sa.Column("session_id", sa.String(64), nullable=False),
        _moment("first_event_at"),
        _moment("last_event_at"),
        _counter("event_count"),
        _counter("command_count"),
        _counter("file_downloads"),
        _counter("login_attempts"),
        _flag("vt_flagged"),
        _flag("dshield_flagged"),
        sa.Column("risk_score", sa.Integer()),
        sa.Column("matcher", sa.String(32)),
        sa.Column("source_files", sa.JSON()),
        sa.Column("enrichment", sa.JSON()),
        _moment_of_insert("created_at"),
        _moment_of_insert("updated_at"),
        sa.PrimaryKeyConstraint("session_id", name="pk_session_summaries"),
    )
    op.create_index("ix_session_summaries_first_event", "session_summaries", ["first_event_at"])
    op.create_index("ix_session_summaries_last_event", "session_summaries", ["last_event_at"])
    op.create_index("ix_session_summaries_flags", "session_summaries", ["vt_flagged", "dshield_flagged"])


def _create_command_stats() -> None:
    op.create_table(
        "command_stats",
        _row_id(),
        sa.Column("session_id", sa.String(64), nullable=False),
        sa.Column("command_normalized", sa.Text(), nullable=False),
        _counter("occurrences"),
        _moment("first_seen"),
        _moment("last_seen"),
        _flag("high_risk"),
        sa.PrimaryKeyConstraint("id", name="pk_command_stats"),
        sa.UniqueConstraint("session_id", "command_normalized", name="uq_command_stats_session_command"),
    )
    op.create_index("ix_command_stats_session", "command_stats", ["session_id"])
    op.create_index("ix_command_stats_command", "command_stats", ["command_normalized"])


def _create_ingest_cursors() -> None:
    op.create_table(
        "ingest_cursors",
        sa.Column("source", sa.String(512), nullable=False),
        sa.Column("inode", sa.String(128)),
        sa.Column("last_offset", sa.Integer(), nullable=False, server_default=sa.text("'-1'")),
        _moment_of_insert("last_ingest_at"),
        sa.Column("last_ingest_id", sa.String(64)),
        sa.Column("metadata_json", sa.JSON()),
        sa.PrimaryKeyConstraint("source", name="pk_ingest_cursors"),
    )
    op.create_index("ix_ingest_cursors_offset", "ingest_cursors", ["last_offset"])


def _create_dead_letter_events() -> None:
    op.create_table(
        "dead_letter_events",
        _row_id(),
        sa.Column("ingest_id", sa.String(64)),
        sa.Column("source", sa.String(512)),
        sa.Column("source_offset", sa.Integer().with_variant(sa.BigInteger(), "postgresql")),
        sa.Column("reason", sa.String(128), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("metadata_json", sa.JSON()),
        _moment_of_insert("created_at"),
        _flag("resolved"),
        _moment("resolved_at"),
        sa.PrimaryKeyConstraint("id", name="pk_dead_letter_events"),
    )
    op.create_index("ix_dead_letter_events_created", "dead_letter_events", ["created_at"])
    op.create_index("ix_dead_letter_events_source", "dead_letter_events", ["source"])
