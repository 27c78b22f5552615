"""`cowrieprocessor db backup` and `db restore`: copy a database while loaders run, and put a copy back."""

from __future__ import annotations

from pathlib import Path

import click

from cowrieprocessor.cli.shared.common import (
    confirm_or_exit,
    json_option,
    named_db_option,
    notify,
    print_json,
    print_text,
    report_waiting,
)
from cowrieprocessor.cli.shared.stopping import interrupt_on_sigterm
from cowrieprocessor.wording import plural

_quick_option = click.option(
    "--quick", is_flag=True, help="Verify without comparing every row with its indexes; takes about half the time."
)


@click.command()
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path, readable=False))
@named_db_option
@_quick_option
@json_option
def backup(destination: Path, db: str, quick: bool, as_json: bool) -> None:
    """Copy a database into the new file DEST, while loaders run.

    DEST is a single file with the state at the moment the copying began. It is verified: undamaged, with the version
    and the rows of each table that the database had at that moment. Until then it is called DEST.part, so an
    interrupted backup leaves no DEST. An existing file is never overwritten. `db restore` restores a backup.

    Never copy a database in use with cp or rsync: its newest changes are in another file.

    For PostgreSQL use pg_dump.

    Ends with 0; with 2 if the database is no SQLite file, 4 if it is damaged, the disk is too small, or DEST
    exists, 5 if its schema version is unknown, 130 if it was interrupted.

    \b
    Example: cowrieprocessor db backup /srv/backup/cowrie-2026-01-31.sqlite --db cowrieprocessor.sqlite
    """
    from cowrieprocessor.cli.db_commands.plan_text import backup_text
    from cowrieprocessor.cli.shared.job_progress import JobProgressLine
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.jobs.maintenance.backup import backup as make_backup
    from cowrieprocessor.jobs.maintenance.backup import plan_backup
    from cowrieprocessor.reporting.render.terminal import size_text

    interrupt_on_sigterm()
    engine = get_engine(db, read_only=True, on_wait=report_waiting)
    try:
        notify(backup_text(plan_backup(engine, destination, quick=quick)))
        with JobProgressLine(ticks=True) as progress:
            result = make_backup(engine, destination, quick=quick, on_progress=progress.update)
    finally:
        dispose(engine)
    if as_json:
        print_json(result)
        return
    rows = sum(result.rows.values())
    print_text(
        f"{result.destination}: {size_text(result.size_bytes)}, schema version {result.schema_version}, "
        f"{plural(rows, 'row')} in {plural(len(result.rows), 'table')}, "
        f"verified ({result.check} check) in {result.duration_s:.0f} s\n"
    )


@click.command()
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path, readable=False))
@named_db_option
@_quick_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def restore(source: Path, db: str, quick: bool, yes: bool, as_json: bool) -> None:
    """Replace the database with the backup SRC; the old database is kept next to it.

    SRC is verified first, then copied next to the database, and the copy is verified as well, before it takes the
    database's name in one step. The old database becomes NAME.before-restore-TIME. If interrupted, the name refers to
    the old database or the new one, complete. It refuses while another process has the database open: stop loaders and
    services first. It asks before it begins, unless --yes is given, which it needs to replace a database where there
    is no terminal.

    For PostgreSQL use pg_restore.

    Ends with 0; with 1 if you said no, 2 if the database is no SQLite file or --yes is needed, 4 if SRC is damaged or
    no backup, the database is open, or the disk is too small, 5 if SRC has a version that cannot be used, 130 if it
    was interrupted.

    \b
    Example: cowrieprocessor db restore /srv/backup/cowrie-2026-01-31.sqlite --db cowrieprocessor.sqlite
    """
    from cowrieprocessor.cli.db_commands.plan_text import restore_text
    from cowrieprocessor.cli.shared.job_progress import JobProgressLine
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.jobs.maintenance.restore import plan_restore
    from cowrieprocessor.jobs.maintenance.restore import restore as put_back

    interrupt_on_sigterm()
    engine = get_engine(db, on_wait=report_waiting)
    try:
        plan = plan_restore(engine, source, quick=quick)
        notify(restore_text(plan))
        replaces = plan.replaced_bytes is not None
        confirm_or_exit(yes=yes, destroys="this replaces the database" if replaces else None)
        with JobProgressLine(ticks=True) as progress:
            result = put_back(engine, source, quick=quick, on_progress=progress.update)
    finally:
        dispose(engine)
    if as_json:
        print_json(result)
        return
    rows = sum(result.rows.values())
    kept = f"; the old database is {result.kept}" if result.kept is not None else ""
    print_text(
        f"{result.database}: restored from {result.source}, schema version {result.schema_version}, "
        f"{plural(rows, 'row')} in {plural(len(result.rows), 'table')}, verified ({result.check} check){kept}\n"
    )
