"""`cowrieprocessor db status` and `db check`: the state of a database, and whether it is damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cowrieprocessor.cli.shared.common import json_option, named_db_option, notify, print_json, print_text

if TYPE_CHECKING:
    from cowrieprocessor.db.dialects.base import Storage


@click.command()
@named_db_option
@json_option
def status(db: str, as_json: bool) -> None:
    """Show schema version, library, size, rows of each table, and jobs.

    Fast at any size: tables of more than 100,000 rows are estimated and marked `about` (on SQLite by the largest row
    id, so that deleted rows still count). Nothing is changed. Ends with 0, with 4 if the database cannot be read.

    \b
    Example: cowrieprocessor db status --db cowrieprocessor.sqlite
    """
    from cowrieprocessor.cli.db_commands.status_text import status_text
    from cowrieprocessor.cli.shared.backfill_hint import print_hint
    from cowrieprocessor.db.engine import dispose, get_engine, read_transaction
    from cowrieprocessor.db.schema_facts import CURRENT_SCHEMA_VERSION
    from cowrieprocessor.db.status import database_status
    from cowrieprocessor.jobs.runtime.job_file import file_jobs
    from cowrieprocessor.jobs.runtime.job_list import listed_jobs
    from cowrieprocessor.reporting.queries.backfill import ALL_JOBS, completeness
    from cowrieprocessor.reporting.render.json import plain

    engine = get_engine(db, read_only=True)
    try:
        state = database_status(engine)
        jobs = listed_jobs([*state.jobs, *file_jobs(engine)])
        filled = None
        if state.schema_version == CURRENT_SCHEMA_VERSION and state.problem is None and not state.needs_migration:
            with read_transaction(engine) as connection:
                filled = completeness(connection, ALL_JOBS)
    finally:
        dispose(engine)
    if as_json:
        fields = {"complete": None, "backfilled_share": None} if filled is None else filled.fields()
        print_json({**plain(state), "jobs": plain(jobs), **fields})
    else:
        print_text(status_text(state, jobs))
        if filled is not None:
            print_hint(filled)


@click.command()
@named_db_option
@click.option("--full", is_flag=True, help="Read everything, including indexes: takes as long as copying the database.")
@json_option
def check(db: str, full: bool, as_json: bool) -> None:
    """Check that a database is not damaged, and that its SQLite library will not damage it.

    The quick check reads the tables' pages; --full also compares every row with its indexes. Loaders may run at the
    same time. Ends with 0 if the database is sound, with 4 if it is damaged.

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
        notify(
            f"warning: {storage.library} can corrupt a database when two programs checkpoint it at once; "
            "cowrieprocessor serializes its own writers, but not those of other programs. "
            "`pip install pysqlite3` installs a sound library where a wheel is available"
        )
