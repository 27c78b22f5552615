"""`cowrieprocessor db`: look after a database. Every command wants it named."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from cowrieprocessor.cli.common import json_option, message, named_db_option, print_json, print_text, say_waiting

if TYPE_CHECKING:
    from cowrieprocessor.db.dialects.base import Storage

EXIT_DECLINED = 1


@click.group()
def db() -> None:
    """Look after a database: what state it is in, whether it is sound, and bring it to this version.

    The database has to be named with --db: maintenance does not guess.

    \b
    Example: cowrieprocessor db status --db /var/lib/cowrie/cowrie.sqlite
    """


@db.command()
@named_db_option
@json_option
def status(db: str, as_json: bool) -> None:
    """Show schema version, library, size, rows of each table, and jobs.

    Answers at once at any size: tables of more than 100,000 rows are estimated and marked `about` (on SQLite by
    the largest row id, so that deleted rows still count). Nothing is changed. Ends with 0, with 4 if the
    database cannot be read.

    \b
    Example: cowrieprocessor db status --db cowrieprocessor.sqlite
    """
    from cowrieprocessor.cli.db_text import status_text
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.db.inspection import database_status

    engine = get_engine(db, read_only=True)
    try:
        found = database_status(engine)
    finally:
        dispose(engine)
    if as_json:
        print_json(found)
    else:
        print_text(status_text(found))


@db.command()
@named_db_option
@click.option("--full", is_flag=True, help="Read everything, indexes too: as long as copying the database.")
@json_option
def check(db: str, full: bool, as_json: bool) -> None:
    """Check that a database is not damaged, and that its SQLite library will not damage it.

    The quick check reads the tables' pages; --full also compares every row with its indexes. It may run beside
    a loader. Ends with 0 if the database is sound, with 4 if it is damaged.

    \b
    Example: cowrieprocessor db check --full --db cowrieprocessor.sqlite
    """
    from cowrieprocessor.db.engine import describe, dispose, get_engine
    from cowrieprocessor.db.inspection import check_database

    engine = get_engine(db, read_only=True)
    try:
        storage = check_database(engine, full=full)
    finally:
        dispose(engine)
    if as_json:
        print_json({"database": describe(engine), "sound": True, "full": full, "storage": storage})
    else:
        print_text(f"{describe(engine)}: sound ({'full' if full else 'quick'} check, {storage.library})\n")
    _warn_about_library(storage)


@db.command()
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


def _warn_about_library(storage: Storage) -> None:
    if storage.wal_reset_bug:
        message(
            f"warning: {storage.library} can corrupt a database when two programs checkpoint it at once; "
            "cowrieprocessor keeps its own writers apart, other programs' it cannot. "
            "`pip install pysqlite3` brings a sound library where there is a wheel"
        )
