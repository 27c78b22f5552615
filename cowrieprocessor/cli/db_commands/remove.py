"""`cowrieprocessor db remove`: take a log out that was loaded by mistake."""

from __future__ import annotations

import time
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
    from cowrieprocessor.jobs.maintenance.remove_log import RemovalPlan, RemovalResult

LINE_EVERY_S = 10.0
SHOWN_PATHS = 100


@click.command()
@named_db_option
@click.option("--log", "path", metavar="PATH", required=True, help="The log, by where it is or was first loaded from.")
@click.option("--identity", metavar="HASH", help="Which of several logs that were loaded from there.")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def remove(db: str, path: str, identity: str | None, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Remove a log that was loaded by mistake: its events, its dead letters, and what they said of sessions.

    An event that several logs hold is credited to one of them. If that is the log removed, the others are named: load
    them again, and what they hold is added. After that the database is the same as if only they had been loaded.
    Verdicts about files stay, with their history.

    It works alongside loaders, in short transactions. Killed, the same command goes on from there. It asks before it
    begins, unless --yes is given, which it needs where there is no terminal. Do not leave the log where a load or
    `follow` finds it again.

    Ends with 0; with 1 if you said no or no such log was loaded, 2 if several were loaded from there or --yes is
    needed, 4 if the database cannot be written or a backfill has to end first, 5 if it has to be migrated first, 6 if
    the log is being followed, 130 if it was interrupted.

    \b
    Example: cowrieprocessor db remove --log /srv/test/cowrie.json --db cowrieprocessor.sqlite
    """
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.jobs.maintenance import remove_log as job

    engine = get_engine(db, read_only=dry_run, on_wait=report_waiting)
    try:
        plan = job.plan(engine, path, identity=identity)
        _announce(plan)
        if dry_run:
            result = None
        else:
            confirm_or_exit(yes=yes, destroys="this removes what was loaded")
            result = job.remove(engine, plan, on_progress=_ProgressLines(plan).update)
    finally:
        dispose(engine)
    if as_json:
        print_json({"dry_run": dry_run, "plan": plan, "result": result})
    else:
        print_text(_summary(result))


class _ProgressLines:
    """Prints a progress line every ten seconds."""

    def __init__(self, plan: RemovalPlan) -> None:
        self._events = sum(log.events for log in plan.logs)
        self._line_at = time.monotonic()

    def update(self, now: RemovalResult) -> None:
        """Print the progress, if a line is due."""
        if time.monotonic() - self._line_at >= LINE_EVERY_S:
            self._line_at = time.monotonic()
            notify(f"{now.events:,}/{plural(self._events, 'event')} removed")


def _announce(plan: RemovalPlan) -> None:
    """Print what is going to be removed."""
    for log in plan.logs:
        moved = "" if log.current_path == log.source else f", last seen as {log.current_path}"
        notify(
            f"{plan.database}: removes {log.source}{moved}: {plural(log.events, 'event')} of "
            f"{plural(log.sessions, 'session')}, {plural(log.dead_letters, 'dead letter')}"
        )
    notify("these sessions are recomputed from the events that are left; a session without one is removed")
    if plan.keeps_rows_of_v3:
        notify("note: version 3 stored events under this path, too; they stay")


def _summary(result: RemovalResult | None) -> str:
    if result is None:
        return "nothing was changed (--dry-run)\n"
    lines = [
        f"{plural(result.events, 'event')} and {plural(result.dead_letters, 'dead letter')} removed; "
        f"{plural(result.sessions, 'session')} recomputed"
    ]
    if result.load_again:
        lines.append("these logs overlap with it; load them again, which adds what they hold:")
        lines += [f"  {terminal_safe(path)}" for path in result.load_again[:SHOWN_PATHS]]
        if more := len(result.load_again) - SHOWN_PATHS:
            lines += [f"  and {more:,} more (--json names all)"] * (more > 0)
    return "".join(f"{line}\n" for line in lines)
