"""Sensors: the names given to logs, the renamed sensors, and which sensors each session was on.

Of the events that are stored already, `db backfill` fills `session_sensors`, as it fills all tables from the events of
version 3. If version 4 has stored some without it, the job is recorded as stopped until then.
"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_REASON = "events stored before this revision are not read yet"


def upgrade() -> None:
    """Create the tables; ask for a backfill if version 4 has loaded logs."""
    op.create_table(
        "log_sensors",
        sa.Column("identity", sa.String(64), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("sensor", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("identity", "generation", name="pk_log_sensors"),
    )
    op.create_table(
        "renamed_sensors",
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("renamed_to", sa.String(255), nullable=False),
        sa.Column("renamed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_renamed_sensors"),
    )
    op.create_table(
        "session_sensors",
        sa.Column("session_id", sa.String(64), nullable=False),
        sa.Column("given_sensor", sa.String(255)),
        sa.Column("logged_sensor", sa.String(255)),
        sa.Column("sensors_differ", sa.Boolean(), nullable=False, server_default=sa.text("'0'")),
        sa.Column("first_connect_at", sa.DateTime(timezone=True)),
        sa.Column("last_connect_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("session_id", name="pk_session_sensors"),
    )
    op.create_table(
        "overlapping_sessions",
        sa.Column("identity", sa.String(64), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("session_id", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("identity", "generation", "session_id", name="pk_overlapping_sessions"),
    )
    op.create_index("ix_overlapping_sessions_session", "overlapping_sessions", ["session_id"])
    op.create_table(
        "sessions_to_rename",
        sa.Column("session_id", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("session_id", name="pk_sessions_to_rename"),
    )
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
    row = {"name": "backfill-sensors", "state": "stopped", "started_at": now, "updated_at": now, "reason": _REASON}
    connection.execute(jobs.insert().values(row))
