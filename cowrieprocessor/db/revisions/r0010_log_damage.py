"""`log_damage`: what was refused in each log, its NUL runs and its torn end; `log_files` gets `last_event_at`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table and its indexes, and add the column."""
    op.create_table(
        "log_damage",
        sa.Column("identity", sa.String(64), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("byte_start", sa.BigInteger(), nullable=False),
        sa.Column("byte_end", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("source_offset", sa.BigInteger(), nullable=False, server_default=sa.text("'0'")),
        sa.Column("context", sa.String(64), nullable=False, server_default=sa.text("''")),
        sa.Column("digest", sa.String(64), nullable=False, server_default=sa.text("''")),
        sa.Column("moment", sa.String(26)),
        sa.Column("raw", sa.LargeBinary()),
        sa.Column("has_letter", sa.Boolean(), nullable=False, server_default=sa.text("'0'")),
        sa.Column("is_explained", sa.Boolean(), nullable=False, server_default=sa.text("'0'")),
        sa.Column("joined", sa.String(64)),
        sa.Column("place", sa.String(64), nullable=False, server_default=sa.text("''")),
        sa.Column("path", sa.Text()),
        sa.PrimaryKeyConstraint("identity", "generation", "byte_start", "kind", "place", name="pk_log_damage"),
    )
    op.create_index("ix_log_damage_place", "log_damage", ["place"])
    op.create_index("ix_log_damage_value", "log_damage", ["digest", "context"])
    op.create_index("ix_log_damage_moment", "log_damage", ["kind", "moment"])
    op.add_column("log_files", sa.Column("last_event_at", sa.String(26)))
