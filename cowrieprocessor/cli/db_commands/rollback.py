"""`cowrieprocessor db rollback`: bring a database back to version 3."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cowrieprocessor.cli.shared.common import json_option, message, named_db_option, print_json, print_text, say_waiting
from cowrieprocessor.sanitize import terminal_safe

if TYPE_CHECKING:
    from cowrieprocessor.jobs.upgrade.rollback import RollbackPlan, RolledBack

EXIT_DECLINED = 1


@click.command()
@named_db_option
@click.option("--to", "version", type=click.Choice(["3"]), required=True, help="The version to go back to: 3.")
@click.option(
    "--save",
    "save_to",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to save what version 4 alone knows. Default: DATABASE.v4-saved-TIME.jsonl.gz beside an SQLite file.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def rollback(db: str, version: str, save_to: Path | None, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Bring a database back to schema version 3, for v3's tools alone.

    First saves what version 4 alone knows into a new file and verifies it: verdicts and their history, the cache,
    the queue and the ledger of requests, what scans of captured files found, and how far each log was read. Then drops
    the tables of version 4, in one transaction: killed at any point, the database is wholly at one version. The
    schema is that of v3 again. Events stay, those that version 4 loaded too; of v3's tables only what version 4 put
    there about its own goes: the counts in command_stats, which v3 left empty, and dead letters about files. A later
    `db migrate --take-in FILE` takes the saved file in again, `db backfill` computes the rest.

    The file of the database does not shrink: what becomes free is used for new rows. Stop the loaders of version 4
    before; a backfill or another job at work is refused. On a terminal it asks before it begins, unless --yes is given.

    Ends with 0; with 1 if you said no or the file cannot be saved, 2 if --save is needed (PostgreSQL), 4 if the
    database cannot be written or a job works on it, 5 if it is of another version.

    \b
    Example: cowrieprocessor db rollback --to 3 --db cowrieprocessor.sqlite
    """
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.jobs.upgrade import rollback as job

    looking = get_engine(db, read_only=True)
    try:
        plan = job.plan(looking, save_to)
    finally:
        dispose(looking)
    if plan.needed:
        _announce(plan)
    if dry_run:
        _say_plan(plan, as_json=as_json)
        return
    if plan.needed and not yes and sys.stdin.isatty() and not click.confirm("Go on?", err=True):
        message("nothing was changed")
        raise click.exceptions.Exit(EXIT_DECLINED)
    place = Path(plan.save_to) if plan.save_to else None  # what was said is what is done
    engine = get_engine(db, on_wait=say_waiting)
    try:
        done = job.roll_back(engine, place, on_step=message)
    finally:
        dispose(engine)
    if as_json:
        print_json({"from": 4 if done.dropped else 3, "to": int(version), "result": done})
    else:
        print_text(_text(done))


def _announce(plan: RollbackPlan) -> None:
    """Say what is going to be dropped, what is saved, and where."""
    message(f"{plan.database}: going back to schema version 3 drops")
    for table, rows in plan.drops.items():
        message(f"  {table}: {'' if rows.exact else 'about '}{rows.rows:,} rows")
    if plan.empties_command_stats:
        message("  and the rows of command_stats, which v3 left empty")
    saved = ", ".join(f"{rows:,} of {table}" for table, rows in plan.saves.items()) or "nothing"
    message(f"before that it saves what version 4 alone knows ({saved}) into {plan.save_to or 'what --save names'}")
    message("what is not saved can be computed from the events again: migrate, then backfill")
    if plan.adds_index:
        message(
            "v3's second index of raw_events was dropped and is built again: that reads all of raw_events, and needs "
            "room for the index in the database, its log and the folder for temporary files"
        )
    message("the database's file does not shrink: what becomes free is used for new rows, or given back by VACUUM")


def _say_plan(plan: RollbackPlan, *, as_json: bool) -> None:
    if as_json:
        print_json({"dry_run": True, "plan": plan})
    elif plan.needed:
        print_text(f"{terminal_safe(plan.database)}: nothing was changed (--dry-run)\n")
    else:
        print_text(f"{terminal_safe(plan.database)}: is at schema version 3 already, nothing to do\n")


def _text(done: RolledBack) -> str:
    if not done.dropped or done.saved is None:
        return f"{terminal_safe(done.database)}: is at schema version 3 already, nothing to do\n"
    forgotten = ""
    if done.forgotten.command_stats or done.forgotten.file_dead_letters:
        forgotten = (
            f"removed what version 4 had added to v3's tables: {done.forgotten.command_stats:,} rows of command_stats, "
            f"{done.forgotten.file_dead_letters:,} dead letters about files\n"
        )
    return (
        f"{terminal_safe(done.database)}: is at schema version 3 now; dropped {len(done.dropped)} tables\n"
        f"saved {terminal_safe(done.saved.summary())}\n"
        f"{forgotten}"
        f"free for new rows: {done.free_bytes:,} bytes\n"
    )
