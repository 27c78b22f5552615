"""Databases taken back to an earlier revision of version 4, as releases of that time wrote them."""

from __future__ import annotations

from sqlalchemy import Engine, text

from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.revisions import REVISIONS
from cowrieprocessor.reporting.queries.backfill import MENTIONS_JOB, SENSORS_JOB

ADDED_COLUMNS = {
    "0007": tuple(
        ("session_attributes", name) for name in ("src_ip_rank", "src_ip_at", "protocol_rank", "protocol_at")
    ),
    "0010": (("log_files", "last_event_at"),),
    "0013": tuple(("jobs", name) for name in ("owner", "progress", "pause_requested", "stop_requested_at")),
}
"""The columns that a revision adds to tables of earlier ones."""

ADDED_JOBS = {"0008": SENSORS_JOB, "0012": MENTIONS_JOB}
"""The job that a revision adds."""

FIRST_STATED = "0005"
"""The first revision whose number stands in `schema_state`."""


def go_back(engine: Engine, revision: str) -> None:
    """Take away the tables, columns and jobs of all later revisions, and state the revision as its release did."""
    later = [(number, tables) for number, tables in REVISIONS if number > revision]
    with write_transaction(engine) as connection:
        for number, tables in later:
            for table in tables:
                connection.execute(text(f"DROP TABLE {table}"))
            if number in ADDED_JOBS:
                connection.execute(text("DELETE FROM jobs WHERE name = :name"), {"name": ADDED_JOBS[number]})
            for table, column in ADDED_COLUMNS.get(number, ()):
                connection.execute(text(f"ALTER TABLE {table} DROP COLUMN {column}"))
        stated = {"revision": revision}
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), stated)
        if revision < FIRST_STATED:
            connection.execute(text("DELETE FROM schema_state WHERE key = 'schema_revision'"))
        else:
            connection.execute(text("UPDATE schema_state SET value = :revision WHERE key = 'schema_revision'"), stated)
