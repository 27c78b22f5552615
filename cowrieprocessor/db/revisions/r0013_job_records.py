"""`jobs` gets columns for who runs a job, how far it is, and what others ask of it.

The owner was in `cursor` under `holder`, the progress of the backfill under `progress`; a row `backfill-pause` paused
the backfill.
"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_JSON = sa.JSON(none_as_null=True)
_TIME = sa.DateTime(timezone=True)
_JOBS = sa.table(
    "jobs",
    sa.column("name", sa.String),
    sa.column("state", sa.String),
    sa.column("cursor", _JSON),
    sa.column("owner", _JSON),
    sa.column("started_at", _TIME),
    sa.column("updated_at", _TIME),
    sa.column("reason", sa.Text),
    sa.column("pause_requested", sa.Boolean),
)


def upgrade() -> None:
    """Add the columns, move the owner, and turn the row that paused the backfill into requests."""
    connection = op.get_bind()
    there = {column["name"] for column in sa.inspect(connection).get_columns("jobs")}
    for column in (
        sa.Column("owner", _JSON),
        sa.Column("progress", _JSON),
        sa.Column("pause_requested", sa.Boolean(), nullable=False, server_default=sa.text("'0'")),
        sa.Column("stop_requested_at", _TIME),
    ):
        if column.name not in there:  # a database that does not state its revision may have them
            op.add_column("jobs", column)
    for name, cursor in connection.execute(sa.select(_JOBS.c.name, _JOBS.c.cursor)).all():
        if isinstance(cursor, dict) and {"holder", "progress"} & cursor.keys():
            rest = {key: value for key, value in cursor.items() if key not in ("holder", "progress")}
            values = {"cursor": rest, "owner": cursor.get("holder")}
            connection.execute(_JOBS.update().where(_JOBS.c.name == name).values(values))
    if connection.execute(_JOBS.delete().where(_JOBS.c.name == "backfill-pause")).rowcount:
        _ask_to_pause(connection)


def _ask_to_pause(connection: sa.Connection) -> None:
    """Ask the jobs of the backfill to pause; where none was started yet, the first one."""
    is_backfill = _JOBS.c.name.like("backfill-%")
    if not connection.execute(_JOBS.update().where(is_backfill).values(pause_requested=True)).rowcount:
        now = dt.datetime.now(dt.UTC)
        times = {"started_at": now, "updated_at": now}
        row = {"name": "backfill-files", "state": "stopped", "reason": "not started yet", "pause_requested": True}
        connection.execute(_JOBS.insert().values(row | times))
