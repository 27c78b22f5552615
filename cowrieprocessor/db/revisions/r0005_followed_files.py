"""`followed_files`: the last known state of each followed file, so that an unchanged file costs one stat."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "followed_files",
        sa.Column("place", sa.String(64), nullable=False),
        sa.Column("host", sa.String(255), nullable=False, server_default=sa.text("''")),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("device", sa.String(32), nullable=False),
        sa.Column("inode", sa.String(128), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False, server_default=sa.text("'0'"))
            for name in ("size_bytes", "mtime_ns", "ctime_ns")
        ),
        sa.Column("identity", sa.String(64)),
        sa.Column("generation", sa.Integer()),
        sa.Column("bytes_seen", sa.BigInteger(), nullable=False, server_default=sa.text("'0'")),
        sa.Column("head_digest", sa.String(80)),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("place", name="pk_followed_files"),
    )
