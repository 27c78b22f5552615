"""The commands that follow a migration or a backfill, as lines to copy."""

from __future__ import annotations

from collections.abc import Sequence

from cowrieprocessor.cli.shared.common import db_argument


def next_steps_text(steps: Sequence[str], database: str) -> list[str]:
    """Return a line for each command.

    Args:
        steps: names of commands of `db`, in their order.
        database: the database as it was named.
    """
    return [
        f"{'then' if number else 'next'}: cowrieprocessor db {step}{db_argument(database)}"
        for number, step in enumerate(steps)
    ]
