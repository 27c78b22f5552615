"""`twin_events`: events that version 3 stored twice, because it met their log under two names.

Commands that version 3 rewrote are counted as they were typed from here on; where an earlier revision has backfilled
them, the row of the recount says that it is due.
"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
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
    """Create the table; note the recount if an earlier revision counted commands of version 3."""
    op.create_table(
        "twin_events",
        sa.Column(
            "event_id",
            sa.Integer().with_variant(sa.BigInteger(), "postgresql"),
            nullable=False,
            autoincrement=False,
        ),
        sa.PrimaryKeyConstraint("event_id", name="pk_twin_events"),
    )
    if _has_counted_commands_of_v3():
        _note_recount()


def _has_counted_commands_of_v3() -> bool:
    connection = op.get_bind()
    migration = connection.execute(sa.select(_JOBS.c.cursor).where(_JOBS.c.name == "migrate")).scalar()
    if not isinstance(migration, dict) or not migration.get("raw_events_max_id"):
        return False
    if migration.get("command_stats_max_id"):
        return False  # version 3 filled the table itself
    return connection.execute(sa.text("SELECT 1 FROM command_stats LIMIT 1")).first() is not None


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
            reason="commands as version 3 had rewritten them: `cowrieprocessor db recount` renews them",
        )
    )
