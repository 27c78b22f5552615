"""The one line that says that a list lacks what version 3 stored, and which command adds it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from cowrieprocessor.cli.shared.common import message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection


def backfill_hint(connection: Connection, what: str, jobs: Sequence[str]) -> str | None:
    """Return the hint for a list, None where nothing is missing from it.

    Args:
        connection: a connection in a transaction.
        what: what is missing, at the beginning of a sentence.
        jobs: the backfills that fill it in.
    """
    from cowrieprocessor.db.engine import describe
    from cowrieprocessor.reporting.queries.backfill import awaits_backfill

    if not awaits_backfill(connection, jobs):
        return None
    database = shlex.quote(describe(connection.engine))
    return f"note: {what} that version 3 stored are not here yet: cowrieprocessor db backfill --db {database}"


def say_hint(hint: str | None) -> None:
    """Print a hint on standard error, if there is one."""
    if hint is not None:
        message(hint)
