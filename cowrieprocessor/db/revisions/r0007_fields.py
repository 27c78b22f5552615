"""`session_logins`: attempts by the user name that was tried; from which event a session's address and protocol are.

What earlier revisions derived from events (addresses as the log spelled them, commands without their line ends, no
logins by name) is brought to this revision by `db recount`, or by `db backfill`, which ends with it. The row of that
job says that it is due.
"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_JOBS = sa.table(
    "jobs",
    sa.column("name", sa.String),
    sa.column("state", sa.String),
    sa.column("cursor", sa.JSON),
    sa.column("counters", sa.JSON),
    sa.column("started_at", sa.DateTime(timezone=True)),
    sa.column("updated_at", sa.DateTime(timezone=True)),
    sa.column("reason", sa.Text),
)


def upgrade() -> None:
    """Create the table, add the columns, and note the recount if an earlier revision derived any session."""
    op.create_table(
        "session_logins",
        sa.Column("session_id", sa.String(64), nullable=False),
        sa.Column("username", sa.String(255), nullable=False),
        sa.Column("credential", sa.String(255), nullable=False, server_default=sa.text("''")),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("successes", sa.Integer(), nullable=False),
        sa.Column("first_seen", sa.DateTime(timezone=True)),
        sa.Column("last_seen", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("session_id", "username", "credential", name="pk_session_logins"),
    )
    for name in ("src_ip", "protocol"):
        op.add_column("session_attributes", sa.Column(f"{name}_rank", sa.Integer()))
        op.add_column("session_attributes", sa.Column(f"{name}_at", sa.DateTime(timezone=True)))
    if op.get_bind().execute(sa.text("SELECT 1 FROM session_attributes LIMIT 1")).first() is not None:
        _note_recount()


def _note_recount() -> None:
    """Note in `jobs` that every session has to be recounted, also if an earlier recount got somewhere."""
    now = dt.datetime.now(dt.UTC)
    op.execute(sa.delete(_JOBS).where(_JOBS.c.name == "recount"))
    op.execute(
        sa.insert(_JOBS).values(
            name="recount",
            state="stopped",
            cursor={"revision": revision},
            counters={"sessions": 0, "changed": 0, "without_events": 0},
            started_at=now,
            updated_at=now,
            reason="addresses, commands and logins of an earlier revision: `cowrieprocessor db recount` renews them",
        )
    )
