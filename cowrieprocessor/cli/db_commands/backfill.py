"""`cowrieprocessor db backfill`: fill the tables of version 4 from the events that v3 stored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cowrieprocessor.cli.db_commands.next_steps import next_steps_text
from cowrieprocessor.cli.shared.common import (
    confirm_or_exit,
    db_argument,
    json_option,
    named_db_option,
    notify,
    print_json,
    print_text,
    report_waiting,
)
from cowrieprocessor.cli.shared.stopping import interrupt_on_sigterm
from cowrieprocessor.wording import plural

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from cowrieprocessor.db.jobs import JobRecord
    from cowrieprocessor.jobs.upgrade.backfill import BackfillPlan, BackfillResult


@click.command()
@named_db_option
@click.option(
    "--batch-size",
    type=click.IntRange(1, 1_000_000),
    default=10_000,
    show_default=True,
    metavar="N",
    help="Rows read at a time. A write transaction takes about a tenth of a second in any case.",
)
@click.option(
    "--throttle",
    type=click.FloatRange(0, 0.99),
    default=0.0,
    show_default=True,
    metavar="SHARE",
    help="Share of the time to sleep: 0.5 halves the speed.",
)
@click.option(
    "--pause-file",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help="Pause while this file exists. Default: the database's path with `.pause` appended.",
)
@click.option("--pause", "to_pause", is_flag=True, help="Pause a running backfill, then exit.")
@click.option("--resume", "to_resume", is_flag=True, help="Resume a paused backfill, then exit.")
@click.option("--dry-run", is_flag=True, help="Show what would be read; change nothing.")
@click.option(
    "--progress",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Format of progress on standard error: text, or a JSON object per line.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def backfill(
    db: str,
    batch_size: int,
    throttle: float,
    pause_file: Path | None,
    to_pause: bool,
    to_resume: bool,
    dry_run: bool,
    progress: str,
    yes: bool,
    as_json: bool,
) -> None:
    """Fill the tables of version 4 from the events that are already stored.

    Runs four jobs: files and their hashes, their URLs and names, the origin, logins and commands of sessions, their
    sensors. Where an earlier revision of version 4 derived sessions by other rules, a recount of these follows. It runs
    alongside loaders and readers, writes in short bursts, and waits while the write-ahead log is over 256 MiB. It can
    be stopped at any time: the same command goes on where it stopped. Once complete it does nothing, unless a loader of
    version 3 has added events since; those are processed. `db status` shows its progress.

    Events that cannot be processed are listed by `dead-letters list`; they stay in the database.

    Ends with 0; with 1 if you said no, 4 if the database refused or another process runs the backfill, 5 if the
    database has to be migrated first, 130 if it was interrupted.

    \b
    Example: cowrieprocessor db backfill --db cowrieprocessor.sqlite
    """
    from cowrieprocessor.cli.shared.job_progress import JobProgressLine
    from cowrieprocessor.db.engine import describe, dispose, get_engine, read_transaction
    from cowrieprocessor.jobs.upgrade import backfill as job
    from cowrieprocessor.reporting.queries.backfill import steps_left

    if sum((to_pause, to_resume, dry_run)) > 1:
        raise click.UsageError("--pause, --resume and --dry-run exclude each other; give one of them")
    engine = get_engine(db, read_only=dry_run, on_wait=report_waiting)
    try:
        if to_pause or to_resume:
            _pause_or_resume(engine, to_pause=to_pause)
            return
        plan = job.plan(engine)
        if dry_run:
            _print_plan(plan, as_json=as_json)
            return
        _announce(describe(engine), plan)
        _warn_about_writers(engine)
        confirm_or_exit(yes=yes)
        interrupt_on_sigterm()
        with JobProgressLine(as_json=progress == "json", phases=True) as line:
            result = job.backfill(
                engine,
                batch_size=batch_size,
                throttle=throttle,
                pause_file=pause_file or _default_pause_file(engine),
                on_progress=line.update,
            )
        with read_transaction(engine) as connection:
            steps = steps_left(connection)
    finally:
        dispose(engine)
    if as_json:
        print_json(_document(result))
    else:
        print_text("\n".join([*_summary(result, db), *next_steps_text(steps, db), ""]))


def _pause_or_resume(engine: Engine, *, to_pause: bool) -> None:
    from cowrieprocessor.db.engine import describe
    from cowrieprocessor.jobs.upgrade import backfill as job

    if to_pause and not job.pause(engine):
        notify(f"{describe(engine)}: no job of the backfill has anything to do here; nothing is paused")
        return
    if not to_pause:
        job.resume(engine)
    notify(f"{describe(engine)}: the backfill {'pauses' if to_pause else 'goes on'}")


def _default_pause_file(engine: Engine) -> Path | None:
    """Return the default pause file, next to an SQLite database; None for a server."""
    from cowrieprocessor.db.dialects import dialect_of

    name = engine.url.database
    return Path(f"{name}.pause").expanduser() if dialect_of(engine).files is not None and name else None


def _announce(name: str, plan: BackfillPlan) -> None:
    rows = sum(plan.rows.values())
    notify(
        f"{name}: {plural(plan.rows['backfill-files'], 'file event')} to process, then "
        f"{plural(plan.rows['backfill-mentions'], 'file event')} for URLs and names, about "
        f"{plural(plan.rows['backfill-sessions'], 'event')} for sessions and commands, and "
        f"{plan.rows['backfill-sensors']:,} for sensors; it can be stopped at any time and loaders may keep running"
        if rows
        else f"{name}: every event is processed already"
    )


def _warn_about_writers(engine: Engine) -> None:
    """Warn about other writers: a v3 loader uses an SQLite library that is unsafe when two programs checkpoint."""
    from cowrieprocessor.db.dialects import dialect_of
    from cowrieprocessor.db.files.open_files import holders_of, name_holders

    files = dialect_of(engine).files
    path = files.path_of(engine.url) if files is not None else None
    holders = holders_of(path) if path is not None else None
    if holders is not None and holders.writers:
        notify(
            f"note: {name_holders(holders.writers)} may write to it, too. A loader of version 3 has to be stopped now: "
            "its SQLite library can corrupt a database that two programs checkpoint at once; ours may keep running"
        )


def _print_plan(plan: BackfillPlan, *, as_json: bool) -> None:
    if as_json:
        print_json({"raw_events_max_id": plan.database_rows, "rows_to_read": plan.rows})
        return
    for name, rows in plan.rows.items():
        click.echo(f"{name:18} {rows:>14,} {'row' if rows == 1 else 'rows'} to read")
    click.echo("nothing was changed")


def _summary(result: BackfillResult, db: str) -> list[str]:
    files, sessions = result.files.counters, result.sessions.counters
    refused = files.get("events_refused", 0) + sessions.get("events_refused", 0)
    nameless = files.get("file_event_empty_shasum", 0) + files.get("file_event_no_shasum", 0)
    lines = [
        f"files: {plural(files.get('events_read', 0), 'file event')} read, "
        f"{plural(files.get('files_added', 0), 'file')} added; "
        f"{plural(nameless, 'names', 'name')} no file",
        f"URLs and names: {plural(result.mentions.counters.get('events_read', 0), 'file event')} read",
        f"sessions and commands: {plural(sessions.get('events_read', 0), 'event')} read",
        f"sensors: {plural(result.sensors.counters.get('events_read', 0), 'event')} read",
    ]
    if refused:
        lines.append(
            f"{plural(refused, 'event')} could not be processed: cowrieprocessor dead-letters list{db_argument(db)}"
        )
    return lines


def _document(result: BackfillResult) -> dict[str, object]:
    jobs = (result.files, result.mentions, result.sessions, result.sensors)
    return {job.name: _job_document(job) for job in jobs}


def _job_document(job: JobRecord) -> dict[str, object]:
    return {"state": job.state, "counters": job.counters, "target": job.cursor.get("target")}
