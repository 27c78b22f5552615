"""`files.origin`: whether a file was downloaded, uploaded, or captured without a log that names it.

A `files` table that another program created from the same plan is also upgraded here; it may lack an index.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, which rewrites no row, and any missing index."""
    op.add_column("files", sa.Column("origin", sa.String(16), nullable=False, server_default="download"))
    for column in ("session_id", "shasum", "vt_malicious", "enrichment_status", "first_seen"):
        op.create_index(f"ix_files_{column}", "files", [column], if_not_exists=True)
