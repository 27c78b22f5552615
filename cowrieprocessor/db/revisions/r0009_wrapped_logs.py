"""`wrapped_logs`: in which wrapper another program kept a log, and how much of that program's own lines it holds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "wrapped_logs",
        sa.Column("identity", sa.String(64), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("wrapper", sa.String(64), nullable=False),
        sa.Column("lines_foreign", sa.BigInteger(), server_default=sa.text("'0'"), nullable=False),
        sa.Column("bytes_foreign", sa.BigInteger(), server_default=sa.text("'0'"), nullable=False),
        sa.PrimaryKeyConstraint("identity", "generation", name="pk_wrapped_logs"),
    )
