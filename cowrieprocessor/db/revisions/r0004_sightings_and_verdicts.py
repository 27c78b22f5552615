"""The tables for hashes, session attributes, logs, verdicts, quotas and jobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    _create_file_hashes()
    _create_session_attributes()
    _create_log_files()
    _create_file_verdicts()
    _create_enrichment_tables()
    _create_api_quota()
    _create_jobs()


def _moment(name: str, *, nullable: bool = True) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _zero(name: str, kind: type[sa.Integer] = sa.Integer) -> sa.Column[int]:
    return sa.Column(name, kind(), nullable=False, server_default=sa.text("'0'"))


def _text(name: str, length: int, *, nullable: bool = True, default: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), nullable=nullable, server_default=default)


def _create_file_hashes() -> None:
    op.create_table(
        "file_hashes",
        _text("sha256", 64, nullable=False),
        _moment("first_seen", nullable=False),
        _moment("last_seen", nullable=False),
        _zero("session_count"),
        sa.Column("size_bytes", sa.BigInteger()),
        _text("md5", 32),
        _text("sha1", 40),
        _text("tlsh", 72),
        _text("mime_type", 128),
        _text("file_type", 256),
        sa.Column("analysis", sa.JSON()),
        _text("vt_classification", 128),
        sa.Column("vt_description", sa.Text()),
        sa.Column("vt_malicious", sa.Boolean(), nullable=False, server_default=sa.text("'0'")),
        _moment("vt_first_seen"),
        _moment("vt_last_analysis"),
        sa.Column("vt_positives", sa.Integer()),
        sa.Column("vt_total", sa.Integer()),
        _moment("vt_scan_date"),
        _text("enrichment_status", 32, nullable=False, default="pending"),
        _text("verdict", 16, nullable=False, default="unknown"),
        _text("family", 128),
        sa.Column("reputation", sa.Integer()),
        sa.Column("reputation_reasons", sa.JSON()),
        _moment("next_check_at"),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.current_timestamp(),
        ),
        sa.PrimaryKeyConstraint("sha256", name="pk_file_hashes"),
    )
    for column in ("first_seen", "last_seen", "next_check_at", "md5", "sha1"):
        op.create_index(f"ix_file_hashes_{column}", "file_hashes", [column])
    by_verdict: list[str | sa.TextClause] = ["verdict", sa.text("last_seen DESC"), "sha256"]
    op.create_index("ix_file_hashes_verdict", "file_hashes", by_verdict)
    op.create_index("ix_file_hashes_session_count", "file_hashes", [sa.text("session_count DESC"), "sha256"])


def _create_session_attributes() -> None:
    op.create_table(
        "session_attributes",
        _text("session_id", 64, nullable=False),
        _text("src_ip", 45),
        _text("protocol", 16),
        _text("hassh", 32),
        _text("username", 255),
        _moment("connect_at"),
        _moment("hassh_at"),
        _moment("login_at"),
        sa.Column("login_success", sa.Boolean()),
        sa.PrimaryKeyConstraint("session_id", name="pk_session_attributes"),
    )
    for column in ("src_ip", "hassh", "username"):
        op.create_index(f"ix_session_attributes_{column}", "session_attributes", [column])


def _create_log_files() -> None:
    op.create_table(
        "log_files",
        _text("identity", 64, nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        _text("source", 512, nullable=False),
        _text("source_inode", 128, nullable=False),
        sa.Column("source_generation", sa.Integer(), nullable=False),
        sa.Column("current_path", sa.Text(), nullable=False),
        _zero("values_done", sa.BigInteger),
        _zero("next_line", sa.BigInteger),
        _zero("next_offset", sa.BigInteger),
        _zero("byte_pos", sa.BigInteger),
        _text("tail_hash", 64),
        _zero("tail_bytes"),
        _text("last_value_hash", 64),
        _zero("bytes_stored", sa.BigInteger),
        _zero("bytes_dead", sa.BigInteger),
        _zero("bytes_nul", sa.BigInteger),
        _zero("bytes_gap", sa.BigInteger),
        _moment("updated_at", nullable=False),
        sa.PrimaryKeyConstraint("identity", "generation", name="pk_log_files"),
        sa.UniqueConstraint("source", "source_inode", "source_generation", name="uq_log_files_source"),
    )
    op.create_index("ix_log_files_current_path", "log_files", ["current_path"])


def _create_file_verdicts() -> None:
    op.create_table(
        "file_verdicts",
        sa.Column("id", sa.Integer().with_variant(sa.BigInteger(), "postgresql"), nullable=False),
        _text("sha256", 64, nullable=False),
        _text("provider", 32, nullable=False),
        _moment("fetched_at", nullable=False),
        _moment("confirmed_at", nullable=False),
        _text("verdict", 16, nullable=False),
        _text("classification", 128),
        sa.Column("positives", sa.Integer()),
        sa.Column("total", sa.Integer()),
        _moment("first_seen"),
        _moment("last_analysis"),
        sa.Column("response", sa.JSON()),
        sa.PrimaryKeyConstraint("id", name="pk_file_verdicts"),
    )
    op.create_index("ix_file_verdicts_sha256", "file_verdicts", ["sha256", "provider", "fetched_at"])
    op.create_index("ix_file_verdicts_fetched_at", "file_verdicts", ["fetched_at"])


def _create_enrichment_tables() -> None:
    op.create_table(
        "enrichment_cache",
        _text("provider", 32, nullable=False),
        _text("key", 128, nullable=False),
        _text("status", 32, nullable=False),
        sa.Column("response", sa.JSON()),
        _moment("fetched_at", nullable=False),
        _moment("expires_at", nullable=False),
        sa.PrimaryKeyConstraint("provider", "key", name="pk_enrichment_cache"),
    )
    op.create_index("ix_enrichment_cache_expires_at", "enrichment_cache", ["expires_at"])
    op.create_table(
        "enrichment_queue",
        _text("sha256", 64, nullable=False),
        _text("provider", 32, nullable=False),
        _text("status", 32, nullable=False, default="pending"),
        _zero("attempts"),
        _moment("next_attempt_at"),
        _zero("priority"),
        sa.Column("last_error", sa.Text()),
        _moment("leased_until"),
        sa.PrimaryKeyConstraint("sha256", "provider", name="pk_enrichment_queue"),
    )
    op.create_index("ix_enrichment_queue_due", "enrichment_queue", ["provider", "status", "next_attempt_at"])
    op.create_table(
        "verdict_propagation",
        _text("sha256", 64, nullable=False),
        _moment("requested_at", nullable=False),
        _zero("cursor", sa.BigInteger),
        sa.PrimaryKeyConstraint("sha256", name="pk_verdict_propagation"),
    )


def _create_api_quota() -> None:
    op.create_table(
        "api_quota",
        _text("provider", 32, nullable=False),
        _text("key_fingerprint", 64, nullable=False),
        _text("window", 32, nullable=False),
        _zero("used"),
        sa.Column("allowed", sa.Integer()),
        sa.Column("recent", sa.JSON()),
        _moment("paused_until"),
        sa.Column("reason", sa.Text()),
        _moment("read_at"),
        sa.PrimaryKeyConstraint("provider", "key_fingerprint", "window", name="pk_api_quota"),
    )


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        _text("name", 128, nullable=False),
        _text("state", 32, nullable=False),
        sa.Column("cursor", sa.JSON()),
        sa.Column("counters", sa.JSON()),
        _moment("started_at", nullable=False),
        _moment("updated_at", nullable=False),
        _moment("finished_at"),
        sa.Column("reason", sa.Text()),
        sa.PrimaryKeyConstraint("name", name="pk_jobs"),
    )
