"""The table `files` of the original plan: one row per session and hash."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create `files`."""
    op.create_table(
        "files",
        sa.Column("id", sa.Integer().with_variant(sa.BigInteger(), "postgresql"), nullable=False),
        sa.Column("session_id", sa.String(64), nullable=False),
        sa.Column("shasum", sa.String(64), nullable=False),
        sa.Column("filename", sa.String(512)),
        sa.Column("file_size", sa.BigInteger()),
        sa.Column("download_url", sa.String(1024)),
        sa.Column("vt_classification", sa.String(128)),
        sa.Column("vt_description", sa.Text()),
        sa.Column("vt_malicious", sa.Boolean(), nullable=False, server_default=sa.text("'0'")),
        sa.Column("vt_first_seen", sa.DateTime(timezone=True)),
        sa.Column("vt_last_analysis", sa.DateTime(timezone=True)),
        sa.Column("vt_positives", sa.Integer()),
        sa.Column("vt_total", sa.Integer()),
        sa.Column("vt_scan_date", sa.DateTime(timezone=True)),
        _moment_of_insert("first_seen"),
        _moment_of_insert("last_updated"),
        sa.Column("enrichment_status", sa.String(32), nullable=False, server_default="pending"),
        sa.PrimaryKeyConstraint("id", name="pk_files"),
        sa.UniqueConstraint("session_id", "shasum", name="uq_files_session_hash"),
    )
    for column in ("session_id", "shasum", "vt_malicious", "enrichment_status", "first_seen"):
        op.create_index(f"ix_files_{column}", "files", [column])


def _moment_of_insert(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.current_timestamp())
