"""`cowrieprocessor db migrate`: bring a v3 database to our version, in place."""

from __future__ import annotations

import glob
import shlex
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cowrieprocessor.cli.shared.common import json_option, message, named_db_option, print_json, print_text, say_waiting

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from cowrieprocessor.jobs.upgrade.preflight import Preflight

EXIT_DECLINED = 1


@click.command()
@named_db_option
@click.option("--dry-run", is_flag=True, help="Say what would be met and done; change no byte, make no file.")
@click.option("--beside-v3", is_flag=True, help="Migrate although another process has the file open for writing.")
@click.option(
    "--take-in",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Take in what `db rollback` saved: NAME.v4-saved-….jsonl.gz.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def migrate(db: str, dry_run: bool, beside_v3: bool, take_in: Path | None, yes: bool, as_json: bool) -> None:
    """Bring a v3 database to schema version 4, in place.

    Adds new, empty tables in one transaction and touches none that is there: it takes about a second at any
    size, and v3's tools go on reading the file. At version 4 it does nothing. Make a backup first: `db backup`, and
    docs/files_table_migration.md. On a terminal it asks before it begins, unless --yes is given.

    --dry-run says which version and SQLite library, file system and room were found, which processes have the file
    open, which tables would be added, and about how many events the backfill reads and how long that takes.

    It refuses while another process has the file open for writing: a loader of version 3 uses an SQLite library that
    can corrupt a database when two programs checkpoint it at once. Stop it, or give --beside-v3 and stop it before
    the backfill.

    Ends with 0; with 1 if you said no, 4 if the database cannot be written, is open for writing, or has too little
    room on its disk (a dry run too), 5 if its version cannot be migrated.

    \b
    Example: cowrieprocessor db migrate --db cowrieprocessor.sqlite
    """
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.db.migrations import apply_migrations
    from cowrieprocessor.jobs.upgrade.preflight import preflight

    engine = get_engine(db, on_wait=say_waiting)
    try:
        found = preflight(engine)
        if dry_run:
            _show(found, beside_v3=beside_v3, as_json=as_json)
            return
        with _one_at_a_time(engine) if found.needs_migration else nullcontext():
            found = preflight(engine)
            if found.needs_migration:
                _announce(found, beside_v3=beside_v3, ask=not yes and sys.stdin.isatty())
            document: dict[str, object] = {
                "database": found.database,
                "from": found.schema_version,
                "to": apply_migrations(engine),
            }
        if take_in is not None:
            document["taken_in"] = _take_in(engine, take_in)
    finally:
        dispose(engine)
    if as_json:
        print_json(document)
        return
    state = "now" if found.needs_migration else "already, nothing to do"
    print_text(f"{found.database}: is at schema version {document['to']} {state}\n")
    if found.needs_migration and found.schema_version is not None:
        _say_next(found.database)
    if take_in is None:
        _say_saved(engine)


def _show(found: Preflight, *, beside_v3: bool, as_json: bool) -> None:
    """Print what was found; end with the error that the migration would end with."""
    from cowrieprocessor.cli.db_commands.plan_text import preflight_text
    from cowrieprocessor.reporting.render.json import plain

    refusals = found.refusals(beside_v3=beside_v3)
    if as_json:
        found_so = {"refusals": [str(refusal) for refusal in refusals], "warnings": found.warnings()}
        print_json({**plain(found), **found_so})
    else:
        print_text(preflight_text(found))
        for warning in found.warnings():
            message(f"warning: {warning}")
    if refusals:
        for refusal in refusals[1:]:
            message(f"error: {refusal}")
        raise refusals[0]


def _announce(found: Preflight, *, beside_v3: bool, ask: bool) -> None:
    """Say what the migration is going to do, refuse what cannot work, and ask."""
    from cowrieprocessor.db.migrations import CURRENT_SCHEMA_VERSION, MIGRATION_GUIDE

    refusals = found.refusals(beside_v3=beside_v3)
    if refusals:
        raise refusals[0]
    for warning in found.warnings():
        message(f"warning: {warning}")
    state = "empty" if found.schema_version is None else f"at schema version {found.schema_version}"
    message(
        f"{found.database}: is {state}; bringing it to version {CURRENT_SCHEMA_VERSION} adds new, empty tables and "
        f"changes no other, in about a second. Make a backup first: {MIGRATION_GUIDE}"
    )
    if ask and not click.confirm("Go on?", err=True):
        message("nothing was changed")
        raise click.exceptions.Exit(EXIT_DECLINED)


def _one_at_a_time(engine: Engine) -> AbstractContextManager[None]:
    """Return a lock that keeps another migration of the same file waiting; a server has its own."""
    from cowrieprocessor.db.dialects import dialect_of
    from cowrieprocessor.db.dialects.base import options_of
    from cowrieprocessor.db.files.maintenance_lock import maintenance_lock

    files = dialect_of(engine).files
    path = files.path_of(engine.url) if files is not None else None
    return nullcontext() if path is None else maintenance_lock(path, options_of(engine))


def _take_in(engine: Engine, saved: Path) -> object:
    """Take in what a rollback saved, say so, and return the counts."""
    from cowrieprocessor.jobs.upgrade.state_export import import_state

    taken = import_state(engine, saved)
    message(f"{saved}: {taken.summary()}")
    return taken


def _say_next(database: str) -> None:
    """Say what comes after a migration of an older database."""
    named = shlex.quote(database)
    message(f"next: cowrieprocessor db backfill --db {named}")
    message(f"then: cowrieprocessor db validate --db {named}")


def _say_saved(engine: Engine) -> None:
    """Say which files of a rollback lie beside the database."""
    from cowrieprocessor.db.dialects import dialect_of

    files = dialect_of(engine).files
    path = files.path_of(engine.url) if files is not None else None
    if path is None:
        return
    for saved in sorted(path.parent.glob(f"{glob.escape(path.name)}.v4-saved-*.jsonl.gz")):
        message(f"note: {saved} holds what a rollback saved; `db migrate --take-in` with that file takes it in")
