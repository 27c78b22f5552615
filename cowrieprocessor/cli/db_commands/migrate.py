"""`cowrieprocessor db migrate`: migrate a v3 database to the current version, in place."""

from __future__ import annotations

import glob
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cowrieprocessor.cli.db_commands.next_steps import next_steps_text
from cowrieprocessor.cli.shared.common import (
    confirm_or_exit,
    json_option,
    named_db_option,
    notify,
    print_json,
    print_text,
    report_waiting,
)

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from cowrieprocessor.jobs.upgrade.preflight import Preflight


@click.command()
@named_db_option
@click.option("--dry-run", is_flag=True, help="Show what was found and would be done; change nothing, create no file.")
@click.option("--beside-v3", is_flag=True, help="Migrate although another process has the file open for writing.")
@click.option(
    "--take-in",
    metavar="FILE",
    type=click.Path(path_type=Path, readable=False),
    help="Import what `db rollback` saved: NAME.v4-saved-….jsonl.gz.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def migrate(db: str, dry_run: bool, beside_v3: bool, take_in: Path | None, yes: bool, as_json: bool) -> None:
    """Bring a v3 database to schema version 4, in place.

    Adds new, empty tables in one transaction and changes no existing one: it takes about a second at any size, and
    v3's tools can still read the file. At version 4 it does nothing. Make a backup first: `db backup`, and
    docs/files_table_migration.md. On a terminal it asks before it begins, unless --yes is given.

    --dry-run shows the version, SQLite library, file system and free space, which processes have the file open, which
    tables would be added, and about how many events the backfill reads and how long that takes.

    It refuses while another process has the file open for writing: a loader of version 3 uses an SQLite library that
    can corrupt a database when two programs checkpoint it at once. Stop it, or give --beside-v3 and stop it before
    the backfill.

    Ends with 0; with 1 if you said no, 4 if the database cannot be written, is open for writing, or has too little
    free space on its disk (also in a dry run), 5 if its version cannot be migrated.

    \b
    Example: cowrieprocessor db migrate --db cowrieprocessor.sqlite
    """
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.jobs.upgrade.preflight import preflight

    engine = get_engine(db, on_wait=report_waiting)
    try:
        found = preflight(engine)
        if dry_run:
            _print_preflight(found, beside_v3=beside_v3, as_json=as_json)
            return
        found, version = _migrate(engine, found, beside_v3=beside_v3, yes=yes)
        document: dict[str, object] = {"database": found.database, "from": found.schema_version, "to": version}
        if take_in is not None:
            document["taken_in"] = _import_saved_state(engine, take_in)
        steps = _steps_left(engine) if found.needs_migration and found.schema_version is not None else ()
    finally:
        dispose(engine)
    if as_json:
        print_json(document)
        return
    state = "now" if found.needs_migration else "already, nothing to do"
    print_text(f"{found.database}: is at schema version {version} {state}\n")
    for line in next_steps_text(steps, db):
        notify(line)
    if take_in is None:
        _report_saved_state(engine)


def _migrate(engine: Engine, found: Preflight, *, beside_v3: bool, yes: bool) -> tuple[Preflight, int]:
    """Migrate, one process at a time; return the state before, as seen under the lock, and the version after."""
    from cowrieprocessor.db.migrations import apply_migrations
    from cowrieprocessor.jobs.upgrade.preflight import preflight

    with _migration_lock(engine) if found.needs_migration else nullcontext():
        found = preflight(engine)
        if found.needs_migration:
            _announce(found, beside_v3=beside_v3)
            confirm_or_exit(yes=yes)
        return found, apply_migrations(engine)


def _print_preflight(found: Preflight, *, beside_v3: bool, as_json: bool) -> None:
    """Print the state of the database.

    Raises:
        CowrieProcessorError: the error that the migration would end with.
    """
    from cowrieprocessor.cli.db_commands.plan_text import preflight_text
    from cowrieprocessor.reporting.render.json import plain

    refusals = found.refusals(beside_v3=beside_v3)
    if as_json:
        document = {"refusals": [str(refusal) for refusal in refusals], "warnings": found.warnings()}
        print_json({**plain(found), **document})
    else:
        print_text(preflight_text(found))
        for warning in found.warnings():
            notify(f"warning: {warning}")
    if refusals:
        for refusal in refusals[1:]:
            notify(f"error: {refusal}")
        raise refusals[0]


def _announce(found: Preflight, *, beside_v3: bool) -> None:
    """Print what the migration is going to do.

    Raises:
        CowrieProcessorError: the migration cannot work.
    """
    from cowrieprocessor.db.migrations import CURRENT_SCHEMA_VERSION, MIGRATION_GUIDE

    refusals = found.refusals(beside_v3=beside_v3)
    if refusals:
        raise refusals[0]
    for warning in found.warnings():
        notify(f"warning: {warning}")
    if found.schema_version == CURRENT_SCHEMA_VERSION:
        notify(
            f"{found.database}: is at an earlier revision of schema version {CURRENT_SCHEMA_VERSION}; bringing it to "
            f"the present one adds tables and columns, in about a second. Make a backup first: {MIGRATION_GUIDE}"
        )
        return
    state = "empty" if found.schema_version is None else f"at schema version {found.schema_version}"
    notify(
        f"{found.database}: is {state}; bringing it to version {CURRENT_SCHEMA_VERSION} adds new, empty tables and "
        f"changes no other, in about a second. Make a backup first: {MIGRATION_GUIDE}"
    )


def _migration_lock(engine: Engine) -> AbstractContextManager[None]:
    """Return a lock that serializes migrations of the same file; a server serializes them itself."""
    from cowrieprocessor.db.dialects import dialect_of
    from cowrieprocessor.db.dialects.base import options_of
    from cowrieprocessor.db.files.maintenance_lock import maintenance_lock

    files = dialect_of(engine).files
    path = files.path_of(engine.url) if files is not None else None
    return nullcontext() if path is None else maintenance_lock(path, options_of(engine))


def _import_saved_state(engine: Engine, saved: Path) -> object:
    """Import the state that a rollback saved, report it, and return the counts."""
    from cowrieprocessor.jobs.upgrade.state_export import import_state

    imported = import_state(engine, saved)
    notify(f"{saved}: {imported.summary()}")
    return imported


def _steps_left(engine: Engine) -> tuple[str, ...]:
    """Return the commands that follow the migration of a database with events."""
    from cowrieprocessor.db.engine import read_transaction
    from cowrieprocessor.reporting.queries.backfill import steps_left

    with read_transaction(engine) as connection:
        return steps_left(connection)


def _report_saved_state(engine: Engine) -> None:
    """Print the files next to the database that a rollback saved."""
    from cowrieprocessor.db.dialects import dialect_of

    files = dialect_of(engine).files
    path = files.path_of(engine.url) if files is not None else None
    if path is None:
        return
    for saved in sorted(path.parent.glob(f"{glob.escape(path.name)}.v4-saved-*.jsonl.gz")):
        notify(f"note: {saved} holds what a rollback saved; `db migrate --take-in` with that file imports it")
