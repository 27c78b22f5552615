"""`cowrieprocessor db status` and `db check`: what state a database is in, and whether it is sound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cowrieprocessor.cli.shared.common import json_option, message, named_db_option, print_json, print_text

if TYPE_CHECKING:
    from cowrieprocessor.db.dialects.base import Storage


@click.command()
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
    from cowrieprocessor.cli.db_commands.text import status_text
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.db.status import database_status

    engine = get_engine(db, read_only=True)
    try:
        found = database_status(engine)
    finally:
        dispose(engine)
    if as_json:
        print_json(found)
    else:
        print_text(status_text(found))


@click.command()
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
    from cowrieprocessor.db.status import check_database

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


def _warn_about_library(storage: Storage) -> None:
    if storage.wal_reset_bug:
        message(
            f"warning: {storage.library} can corrupt a database when two programs checkpoint it at once; "
            "cowrieprocessor keeps its own writers apart, other programs' it cannot. "
            "`pip install pysqlite3` brings a sound library where there is a wheel"
        )
