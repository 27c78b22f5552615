"""The note that a list lacks rows of version 3 until `db backfill` has run, or has old ones until `db recount` has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cowrieprocessor.cli.shared.common import db_argument, notify

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection


def backfill_hint(connection: Connection, what: str, jobs: Sequence[str]) -> str | None:
    """Return the note for a list, or None if the list is complete.

    Args:
        connection: a connection in a read transaction.
        what: what the list lacks or has from an earlier release, as the subject of a sentence.
        jobs: names of the backfill jobs that add it.
    """
    from cowrieprocessor.db.engine import address
    from cowrieprocessor.reporting.queries.backfill import SESSIONS_JOB, awaits_backfill

    if not awaits_backfill(connection, jobs):
        return recount_hint(connection, what) if SESSIONS_JOB in jobs else None
    database = db_argument(address(connection.engine))
    return f"note: {what} that version 3 stored are not here yet: cowrieprocessor db backfill{database}"


def recount_hint(connection: Connection, what: str) -> str | None:
    """Return the note that an earlier revision derived what is shown, and which command renews it; None if it did not.

    Args:
        connection: a connection in a read transaction.
        what: what it derived, as the object of a sentence.
    """
    from cowrieprocessor.db.engine import address
    from cowrieprocessor.db.jobs import recount_is_due

    if not recount_is_due(connection):
        return None
    database = db_argument(address(connection.engine))
    return f"note: an earlier release derived {what}: cowrieprocessor db recount{database} renews them"


def print_hint(hint: str | None) -> None:
    """Print a note on standard error, if there is one."""
    if hint is not None:
        notify(hint)
