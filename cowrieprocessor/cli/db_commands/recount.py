"""`cowrieprocessor db recount`: recompute what is derived of sessions from their events."""

from __future__ import annotations

import sys
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
from cowrieprocessor.cli.shared.stopping import interrupt_on_sigterm
from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.wording import plural

if TYPE_CHECKING:
    from cowrieprocessor.jobs.upgrade.recount import RecountResult
    from cowrieprocessor.jobs.upgrade.remove_twins import RemovedTwins


@click.command()
@named_db_option
@click.option("--session", "session_id", metavar="ID", help="Only this session.")
@click.option("--dry-run", is_flag=True, help="Only count, and show how many would change; change nothing.")
@click.option(
    "--remove-twins",
    is_flag=True,
    help="Then remove the rows of events that version 3 stored twice, after saving them to a file.",
)
@click.option(
    "--save",
    "save_to",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help="Where to save these rows; it must not exist. Default: a new file next to the database.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def recount(
    db: str,
    session_id: str | None,
    dry_run: bool,
    remove_twins: bool,
    save_to: Path | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Recompute counters, times, addresses, commands and logins of sessions from their events.

    v3 added a log's counters again whenever the log was loaded again, counted uploads and failed downloads as
    downloads, and stored times with an offset as local time. Earlier revisions of version 4 kept addresses as the log
    spelled them, and did not count logins by user name. Here every stored event counts once, as loaders count it now.
    A log that v3 met under two names, before and after rotation or compression, is stored twice: its events are found,
    and count once in every counter, report and session. Their rows stay, unless --remove-twins is given: it saves them
    to a file (gzip, a JSON object a line) before it removes them.

    It runs alongside loaders, in short transactions; stopped, the same command goes on from there. Sessions without
    stored events stay as they are. On a terminal it asks before it begins, unless --yes is given.

    Ends with 0; with 1 if you said no or there is no such session, 2 if --remove-twins is given without a terminal and
    without --yes, or the file exists, 4 if the database cannot be written or another process recounts, 5 if it has to
    be migrated first, 130 if it was interrupted.

    \b
    Example: cowrieprocessor db recount --dry-run --db cowrieprocessor.sqlite
    """
    from cowrieprocessor.cli.shared.job_progress import JobProgressLine
    from cowrieprocessor.db.engine import describe, dispose, get_engine
    from cowrieprocessor.jobs.upgrade.recount import recount as run
    from cowrieprocessor.jobs.upgrade.remove_twins import remove_twins as remove

    _refuse_contradictions(session_id, save_to, dry_run=dry_run, remove_twins=remove_twins)
    if remove_twins and not (dry_run or yes or sys.stdin.isatty()):
        raise ConfigurationError("--remove-twins removes rows: without a terminal to ask on, give --yes, too")
    engine = get_engine(db, read_only=dry_run, on_wait=report_waiting)
    removed = None
    try:
        if not (dry_run or yes) and sys.stdin.isatty():
            which = "every session" if session_id is None else f"session {session_id}"
            notify(f"{describe(engine)}: what is derived of {which} is recomputed from the stored events")
            if remove_twins:
                notify("the rows of events that version 3 stored twice are removed, after they are saved to a file")
            confirm_or_exit(yes=False)
        interrupt_on_sigterm()
        with JobProgressLine() as line:
            result = run(engine, session_id=session_id, dry_run=dry_run, on_progress=line.update)
        if remove_twins and not dry_run:
            removed = remove(engine, save_to)
    finally:
        dispose(engine)
    if as_json:
        print_json({"database": describe(engine), "dry_run": dry_run, "result": result, "removed": removed})
    else:
        print_text(_summary(result, removed, dry_run=dry_run, remove_twins=remove_twins))


def _refuse_contradictions(session_id: str | None, save_to: Path | None, *, dry_run: bool, remove_twins: bool) -> None:
    if save_to is not None and not remove_twins:
        raise click.UsageError("--save FILE goes with --remove-twins")
    if save_to is not None and dry_run:
        raise click.UsageError("--dry-run saves nothing: leave out --save")
    if session_id is not None and remove_twins:
        raise click.UsageError("--remove-twins goes with a recount of every session: leave out --session")


def _summary(result: RecountResult, removed: RemovedTwins | None, *, dry_run: bool, remove_twins: bool) -> str:
    done, changed = ("compared with their events", "would change") if dry_run else ("recounted", "changed")
    lines = [f"{plural(result.sessions, 'session')} {done}, {result.changed:,} {changed}"]
    if result.twins:
        are = "is" if result.twins == 1 else "are"
        lines.append(
            f"{plural(result.twins, 'stored event')} {are} there twice, because version 3 met their log "
            f"under two names; they {'would ' if dry_run else ''}count once"
        )
        if dry_run and remove_twins:
            lines.append(f"the second rows of these would be saved and removed: {result.twins:,}")
    if removed is not None:
        where = "" if removed.saved_to is None else f"; they are saved in {removed.saved_to}"
        lines.append(f"second rows removed: {removed.events:,}{where}")
    if result.without_events:
        lines.append(
            plural(
                result.without_events,
                "session has no event stored and stays as it is",
                "sessions have no event stored and stay as they are",
            )
        )
    if result.resumed:
        lines.append("an earlier recount was stopped; the numbers are those of both")
    return "".join(f"{line}\n" for line in lines)
