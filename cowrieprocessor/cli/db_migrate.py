"""`cowrieprocessor db migrate`: bring a v3 database to our version, in place."""

from __future__ import annotations

import sys

import click

from cowrieprocessor.cli.common import json_option, message, named_db_option, print_json, print_text, say_waiting

EXIT_DECLINED = 1


@click.command()
@named_db_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def migrate(db: str, yes: bool, as_json: bool) -> None:
    """Bring a v3 database to schema version 4, in place.

    Adds new, empty tables in one transaction and touches none that is there: it takes about a second at any
    size, and v3's tools go on reading the file. At version 4 it does nothing. Make a backup first:
    docs/files_table_migration.md says how. On a terminal it asks before it begins, unless --yes is given.

    Ends with 0; with 1 if you said no, 4 if the database cannot be written, 5 if its version cannot be migrated.

    \b
    Example: cowrieprocessor db migrate --db cowrieprocessor.sqlite
    """
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.db.inspection import database_status
    from cowrieprocessor.db.migrations import apply_migrations

    looking = get_engine(db, read_only=True)
    try:
        before = database_status(looking)
    finally:
        dispose(looking)
    if before.needs_migration:
        _announce(before.database, before.schema_version)
        if not yes and sys.stdin.isatty() and not click.confirm("Go on?", err=True):
            message("nothing was changed")
            raise click.exceptions.Exit(EXIT_DECLINED)
    engine = get_engine(db, on_wait=say_waiting)
    try:
        version = apply_migrations(engine)
    finally:
        dispose(engine)
    if as_json:
        print_json({"database": before.database, "from": before.schema_version, "to": version})
    elif before.needs_migration:
        print_text(f"{before.database}: is at schema version {version} now\n")
    else:
        print_text(f"{before.database}: is at schema version {version} already, nothing to do\n")


def _announce(name: str, version: int | None) -> None:
    """Say what a migration is going to do."""
    from cowrieprocessor.db.migrations import CURRENT_SCHEMA_VERSION, MIGRATION_GUIDE

    state = "empty" if version is None else f"at schema version {version}"
    message(
        f"{name}: is {state}; bringing it to version {CURRENT_SCHEMA_VERSION} adds new, empty tables and changes "
        f"no other, in about a second. Make a backup first: {MIGRATION_GUIDE}"
    )
