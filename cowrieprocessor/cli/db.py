"""`cowrieprocessor db`: look after a database. Every command wants it named."""

from __future__ import annotations

import click

from cowrieprocessor.cli.lazy import LazyGroup

COMMANDS: dict[str, tuple[str, str]] = {
    "check": ("cowrieprocessor.cli.db_look:check", "Check that a database is not damaged."),
    "migrate": ("cowrieprocessor.cli.db_migrate:migrate", "Bring a v3 database to schema version 4, in place."),
    "status": ("cowrieprocessor.cli.db_look:status", "Show schema version, library, size, rows and jobs."),
}
"""Each command: where it is, and its help line."""


@click.group(cls=LazyGroup, places=COMMANDS)
def db() -> None:
    """Look after a database: what state it is in, whether it is sound, and bring it to this version.

    The database has to be named with --db: maintenance does not guess.

    \b
    Example: cowrieprocessor db status --db /var/lib/cowrie/cowrie.sqlite
    """
