"""`cowrieprocessor db`: maintenance of a database, which `--db` has to name."""

from __future__ import annotations

import click

from cowrieprocessor.cli.shared.lazy import LazyGroup

COMMANDS: dict[str, tuple[str, str]] = {
    "backfill": (
        "cowrieprocessor.cli.db_commands.backfill:backfill",
        "Fill the tables of version 4 from the events of v3.",
    ),
    "backup": (
        "cowrieprocessor.cli.db_commands.backup:backup",
        "Copy a database while loaders run, and verify the copy.",
    ),
    "check": ("cowrieprocessor.cli.db_commands.status:check", "Check that a database is not damaged."),
    "migrate": (
        "cowrieprocessor.cli.db_commands.migrate:migrate",
        "Bring a v3 database to schema version 4, in place.",
    ),
    "optimize": (
        "cowrieprocessor.cli.db_commands.optimize:optimize",
        "Drop v3's redundant index, refresh the statistics.",
    ),
    "recount": (
        "cowrieprocessor.cli.db_commands.recount:recount",
        "Recompute what is derived of sessions from the stored events.",
    ),
    "remove": ("cowrieprocessor.cli.db_commands.remove:remove", "Take a log out that was loaded by mistake."),
    "restore": (
        "cowrieprocessor.cli.db_commands.backup:restore",
        "Replace the database with a backup; the old one is kept.",
    ),
    "rollback": ("cowrieprocessor.cli.db_commands.rollback:rollback", "Bring a database back to schema version 3."),
    "status": ("cowrieprocessor.cli.db_commands.status:status", "Show schema version, library, size, rows and jobs."),
    "validate": (
        "cowrieprocessor.cli.db_commands.validate:validate",
        "Check files, hashes and sessions against the events.",
    ),
}
"""For each command, its location and help line."""


@click.group(cls=LazyGroup, lazy_commands=COMMANDS)
def db() -> None:
    """Maintain a database: show its state, check it, back it up, and migrate it.

    --db has to name the database: maintenance commands never guess it.

    \b
    Example: cowrieprocessor db status --db /var/lib/cowrie/cowrie.sqlite
    """
