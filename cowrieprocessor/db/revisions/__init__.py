"""The history of the schema: one change a file, spelled out, never edited after a release.

The revisions do not import the models: a revision says what it changed, the models say what the schema is now. A test
compares them. `REVISIONS` declares the tables of each revision, so that a database can be placed in the history, and
rolled back, without importing Alembic.
"""

from __future__ import annotations

from typing import NamedTuple


class Revision(NamedTuple):
    """One change of the schema.

    Attributes:
        number: Alembic's identifier, which is also the value of `schema_revision` in `schema_state`.
        tables: the tables that it creates.
    """

    number: str
    tables: tuple[str, ...] = ()


REVISIONS = (
    Revision(
        "0001",
        (
            "command_stats",
            "dead_letter_events",
            "ingest_cursors",
            "raw_events",
            "schema_state",
            "session_summaries",
        ),
    ),
    Revision("0002", ("files",)),
    Revision("0003"),
    Revision(
        "0004",
        (
            "api_quota",
            "enrichment_cache",
            "enrichment_queue",
            "file_hashes",
            "file_verdicts",
            "jobs",
            "log_files",
            "session_attributes",
            "verdict_propagation",
        ),
    ),
    Revision("0005", ("followed_files",)),
    Revision("0006", ("overlapping_events",)),
    Revision("0007", ("session_logins",)),
    Revision(
        "0008", ("log_sensors", "overlapping_sessions", "renamed_sensors", "session_sensors", "sessions_to_rename")
    ),
    Revision("0009", ("wrapped_logs",)),
    Revision("0010", ("log_damage",)),
    Revision("0011", ("twin_events",)),
    Revision("0012", ("file_mentions",)),
    Revision("0013"),
)
"""All revisions, the oldest first."""

HEAD = REVISIONS[-1].number
"""The newest revision."""
