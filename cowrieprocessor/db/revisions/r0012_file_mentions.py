"""`file_mentions`: every URL and every name that events mention with a file.

`db backfill` fills it from the events that are stored already. If version 4 has stored some without it, the job is
recorded as stopped until then.
"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_REASON = "file events stored before this revision are not read yet"


def upgrade() -> None:
    """Create the table and its indexes; ask for a backfill if version 4 has loaded logs."""
    op.create_table(
        "file_mentions",
        sa.Column("session_id", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(32), nullable=False),
        sa.Column("shasum", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("value", sa.String(1024), nullable=False),
        sa.Column("first_seen", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("session_id", "digest", name="pk_file_mentions"),
    )
    columns = ["shasum", "kind", "digest", "first_seen", "last_seen"]
    op.create_index("ix_file_mentions_shasum", "file_mentions", columns)
    op.create_index("ix_file_mentions_first_seen", "file_mentions", ["kind", "first_seen"])
    _ask_for_backfill()


def _ask_for_backfill() -> None:
    connection = op.get_bind()
    if connection.execute(sa.text("SELECT 1 FROM log_files LIMIT 1")).first() is None:
        return
    jobs = sa.table(
        "jobs",
        sa.column("name", sa.String),
        sa.column("state", sa.String),
        sa.column("started_at", sa.DateTime(timezone=True)),
        sa.column("updated_at", sa.DateTime(timezone=True)),
        sa.column("reason", sa.Text),
    )
    now = dt.datetime.now(dt.UTC)
    row = {"name": "backfill-mentions", "state": "stopped", "started_at": now, "updated_at": now, "reason": _REASON}
    connection.execute(jobs.insert().values(row))
