"""`cowrieprocessor db`: look after a database. Every command wants it named."""

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
        "Copy a database while loaders go on, and verify the copy.",
    ),
    "check": ("cowrieprocessor.cli.db_commands.look:check", "Check that a database is not damaged."),
    "migrate": (
        "cowrieprocessor.cli.db_commands.migrate:migrate",
        "Bring a v3 database to schema version 4, in place.",
    ),
    "optimize": (
        "cowrieprocessor.cli.db_commands.optimize:optimize",
        "Drop v3's redundant index, renew the statistics.",
    ),
    "recount": ("cowrieprocessor.cli.db_commands.recount:recount", "Make counters of sessions what their events say."),
    "restore": (
        "cowrieprocessor.cli.db_commands.backup:restore",
        "Put a backup in the database's place; the old one is kept.",
    ),
    "rollback": ("cowrieprocessor.cli.db_commands.rollback:rollback", "Bring a database back to schema version 3."),
    "status": ("cowrieprocessor.cli.db_commands.look:status", "Show schema version, library, size, rows and jobs."),
    "validate": (
        "cowrieprocessor.cli.db_commands.validate:validate",
        "Prove files, hashes and sessions from the events.",
    ),
}
"""Each command: where it is, and its help line."""


@click.group(cls=LazyGroup, places=COMMANDS)
def db() -> None:
    """Look after a database: what state it is in, whether it is sound, and bring it to this version.

    The database has to be named with --db: maintenance does not guess.

    \b
    Example: cowrieprocessor db status --db /var/lib/cowrie/cowrie.sqlite
    """
