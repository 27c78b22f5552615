"""`cowrieprocessor db rollback`: return a database to schema version 3."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
from cowrieprocessor.sanitize import terminal_safe
from cowrieprocessor.wording import plural

if TYPE_CHECKING:
    from cowrieprocessor.jobs.upgrade.rollback import RollbackPlan, RolledBack


@click.command()
@named_db_option
@click.option("--to", "version", type=click.Choice(["3"]), required=True, help="The version to return to: 3.")
@click.option(
    "--save",
    "save_to",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help="Where to save the state that only version 4 has. Default for SQLite: DATABASE.v4-saved-TIME-RANDOM.jsonl.gz.",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def rollback(db: str, version: str, save_to: Path | None, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Return a database to schema version 3, for use with v3's tools.

    First saves the state that only version 4 has into a new file and verifies it: verdicts and their history, the
    cache, the queue and the ledger of requests, the results of scans of captured files, and the position in each log.
    Then drops the tables of version 4 in one transaction: killed at any point, the database is at one version or the
    other. The schema is then that of v3. All events stay, including those that version 4 loaded. From v3's tables
    only rows that version 4 added for its own use are removed: the counts in command_stats, which v3 left empty, and
    dead letters about files. A later `db migrate --take-in FILE` imports the saved file, `db backfill` computes the
    rest.

    The database file does not shrink: freed space is reused for new rows. Stop the loaders of version 4 first; a
    running backfill or other job makes it refuse. It asks before it begins, unless --yes is given, which it needs
    where there is no terminal.

    Ends with 0; with 1 if you said no or the file cannot be saved, 2 if --yes or --save (PostgreSQL) is needed, 4 if
    the database cannot be written or a job is running on it, 5 if it has another version.

    \b
    Example: cowrieprocessor db rollback --to 3 --db cowrieprocessor.sqlite
    """
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.jobs.upgrade import rollback as job

    engine = get_engine(db, read_only=True)
    try:
        plan = job.plan(engine, save_to)
    finally:
        dispose(engine)
    if plan.needed:
        _announce(plan)
    if dry_run:
        _print_plan(plan, as_json=as_json)
        return
    if plan.needed:
        confirm_or_exit(yes=yes, destroys="this drops the tables of version 4")
    planned_save_to = Path(plan.save_to) if plan.save_to else None  # exactly the path that was announced
    engine = get_engine(db, on_wait=report_waiting)
    try:
        result = job.roll_back(engine, planned_save_to, on_step=notify)
    finally:
        dispose(engine)
    if as_json:
        print_json({"from": 4 if result.dropped else 3, "to": int(version), "result": result})
    else:
        print_text(_result_text(result))


def _announce(plan: RollbackPlan) -> None:
    """Print what is going to be dropped, what is saved, and where."""
    notify(f"{plan.database}: going back to schema version 3 drops")
    for table, rows in plan.drops.items():
        notify(f"  {table}: {'' if rows.exact else 'about '}{plural(rows.rows, 'row')}")
    if plan.empties_command_stats:
        notify("  and the rows of command_stats, which v3 left empty")
    saved = ", ".join(f"{rows:,} of {table}" for table, rows in plan.saves.items()) or "nothing"
    notify(
        f"before that it saves the state that only version 4 has ({saved}) into {plan.save_to or 'the file of --save'}"
    )
    notify("the rest can be computed again from the events: migrate, then backfill")
    if plan.adds_index:
        notify(
            "v3's second index of raw_events was dropped and is built again: that reads all of raw_events, and needs "
            "space for the index in the database, its log and the folder for temporary files"
        )
    notify("the database file does not shrink: freed space is reused for new rows, or returned to the system by VACUUM")


def _print_plan(plan: RollbackPlan, *, as_json: bool) -> None:
    if as_json:
        print_json({"dry_run": True, "plan": plan})
    elif plan.needed:
        print_text(f"{terminal_safe(plan.database)}: nothing was changed (--dry-run)\n")
    else:
        print_text(f"{terminal_safe(plan.database)}: is at schema version 3 already, nothing to do\n")


def _result_text(result: RolledBack) -> str:
    if not result.dropped or result.saved is None:
        return f"{terminal_safe(result.database)}: is at schema version 3 already, nothing to do\n"
    removed, forgotten = "", result.forgotten
    if forgotten.command_stats or forgotten.file_dead_letters:
        removed = (
            "removed what version 4 had added to v3's tables: "
            f"{plural(forgotten.command_stats, 'row')} of command_stats, "
            f"{plural(forgotten.file_dead_letters, 'dead letter')} about files\n"
        )
    return (
        f"{terminal_safe(result.database)}: is at schema version 3 now; "
        f"dropped {plural(len(result.dropped), 'table')}\n"
        f"saved {terminal_safe(result.saved.summary())}\n"
        f"{removed}"
        f"free for new rows: {plural(result.free_bytes, 'byte')}\n"
    )
