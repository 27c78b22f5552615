"""`jobs` gets columns for who runs a job, how far it is, and what others ask of it.

The owner was in `cursor` under `holder`, the progress of the backfill under `progress`; a row `backfill-pause` paused
the backfill.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_JSON = sa.JSON(none_as_null=True)
_JOBS = sa.table(
    "jobs",
    sa.column("name", sa.String),
    sa.column("cursor", _JSON),
    sa.column("owner", _JSON),
    sa.column("request", sa.String),
)


def upgrade() -> None:
    """Add the columns, move the owner, and turn the row that paused the backfill into a request."""
    op.add_column("jobs", sa.Column("owner", _JSON))
    op.add_column("jobs", sa.Column("progress", _JSON))
    op.add_column("jobs", sa.Column("request", sa.String(16)))
    connection = op.get_bind()
    for name, cursor in connection.execute(sa.select(_JOBS.c.name, _JOBS.c.cursor)).all():
        if isinstance(cursor, dict) and {"holder", "progress"} & cursor.keys():
            rest = {key: value for key, value in cursor.items() if key not in ("holder", "progress")}
            values = {"cursor": rest, "owner": cursor.get("holder")}
            connection.execute(_JOBS.update().where(_JOBS.c.name == name).values(values))
    if connection.execute(_JOBS.delete().where(_JOBS.c.name == "backfill-pause")).rowcount:
        is_backfill = _JOBS.c.name.like("backfill-%")
        connection.execute(_JOBS.update().where(is_backfill).values(request="pause"))
