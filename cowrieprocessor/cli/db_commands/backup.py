"""`cowrieprocessor db backup` and `db restore`: a whole database, copied beside loaders, and put back."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cowrieprocessor.cli.shared.common import json_option, message, named_db_option, print_json, print_text, say_waiting

EXIT_DECLINED = 1

_quick_option = click.option(
    "--quick", is_flag=True, help="Verify without comparing every row with its indexes; about half the time."
)


@click.command()
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path))
@named_db_option
@_quick_option
@json_option
def backup(destination: Path, db: str, quick: bool, as_json: bool) -> None:
    """Copy a database into the new file DEST, while loaders go on.

    DEST is one file that shows the moment at which the copying began. It is verified: found sound, with the version
    and as many rows of each table as the database had at that moment. Only then it gets its name; until then it is
    called DEST.part, and whatever ends this early leaves no DEST. A file that is there is never overwritten. `db
    restore` brings a backup back.

    Never copy a database that is in use with cp or rsync: its newest changes lie in another file.

    For PostgreSQL use pg_dump.

    Ends with 0; with 2 if the database is no SQLite file, 4 if it is damaged, the disk is too small, or DEST is
    there already, 5 if its version is none of ours, 130 if it was interrupted.

    \b
    Example: cowrieprocessor db backup /srv/backup/cowrie-2026-01-31.sqlite --db cowrieprocessor.sqlite
    """
    from cowrieprocessor.cli.db_commands.plan_text import backup_text
    from cowrieprocessor.cli.shared.step_progress import StepProgress, end_as_interrupt_does
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.jobs.maintenance.backup import backup as make_backup
    from cowrieprocessor.jobs.maintenance.backup import plan_backup
    from cowrieprocessor.reporting.render.terminal import size_text

    end_as_interrupt_does()
    engine = get_engine(db, read_only=True, on_wait=say_waiting)
    try:
        message(backup_text(plan_backup(engine, destination, quick=quick)))
        with StepProgress(
            {"copying": "copying", "counting": "counting rows", "checking": "checking the copy"}
        ) as progress:
            result = make_backup(engine, destination, quick=quick, on_progress=progress.update)
    finally:
        dispose(engine)
    if as_json:
        print_json(result)
        return
    rows = sum(result.rows.values())
    print_text(
        f"{result.destination}: {size_text(result.size_bytes)}, schema version {result.schema_version}, "
        f"{rows:,} rows in {len(result.rows)} tables, verified ({result.check} check) in {result.duration_s:.0f} s\n"
    )


@click.command()
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@named_db_option
@_quick_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def restore(source: Path, db: str, quick: bool, yes: bool, as_json: bool) -> None:
    """Put the backup SRC in the database's place; what was there is kept beside it.

    SRC is verified first, then copied beside the database, and the copy is verified too, before it takes the
    database's name in one step. The old database becomes NAME.before-restore-TIME. Whatever ends this early leaves
    the old database or the new one under the name, whole. It refuses while another process has the database open:
    stop loaders and services first. On a terminal it asks before it begins, unless --yes is given.

    For PostgreSQL use pg_restore.

    Ends with 0; with 1 if you said no, 2 if the database is no SQLite file, 4 if SRC is damaged or none of ours, the
    database is open, or the disk is too small, 5 if SRC is of a version that cannot be used, 130 if it was
    interrupted.

    \b
    Example: cowrieprocessor db restore /srv/backup/cowrie-2026-01-31.sqlite --db cowrieprocessor.sqlite
    """
    from cowrieprocessor.cli.db_commands.plan_text import restore_text
    from cowrieprocessor.cli.shared.step_progress import StepProgress, end_as_interrupt_does
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.jobs.maintenance.restore import plan_restore
    from cowrieprocessor.jobs.maintenance.restore import restore as put_back

    end_as_interrupt_does()
    engine = get_engine(db, on_wait=say_waiting)
    try:
        message(restore_text(plan_restore(engine, source, quick=quick)))
        if not yes and sys.stdin.isatty() and not click.confirm("Go on?", err=True):
            message("nothing was changed")
            raise click.exceptions.Exit(EXIT_DECLINED)
        with StepProgress({"copying": "copying", "counting": "counting rows", "checking": "checking"}) as progress:
            result = put_back(engine, source, quick=quick, on_progress=progress.update)
    finally:
        dispose(engine)
    if as_json:
        print_json(result)
        return
    kept = f"; what was there is {result.kept}" if result.kept is not None else ""
    print_text(
        f"{result.database}: restored from {result.source}, schema version {result.schema_version}, "
        f"{sum(result.rows.values()):,} rows in {len(result.rows)} tables, verified ({result.check} check){kept}\n"
    )
