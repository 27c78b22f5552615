"""`cowrieprocessor db recount`: recompute what is derived of sessions from their events."""

from __future__ import annotations

import sys
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
from cowrieprocessor.wording import plural

if TYPE_CHECKING:
    from cowrieprocessor.jobs.upgrade.recount import RecountProgress, RecountResult

LINE_EVERY_S = 10.0


@click.command()
@named_db_option
@click.option("--session", "session_id", metavar="ID", help="Only this session.")
@click.option("--dry-run", is_flag=True, help="Only count, and show how many would change; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def recount(db: str, session_id: str | None, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Recompute counters, times, addresses, commands and logins of sessions from their events.

    v3 added a log's counters again whenever the log was loaded again, counted uploads and failed downloads as
    downloads, and stored times with an offset as local time. Earlier revisions of version 4 kept addresses as the log
    spelled them, and did not count logins by user name. Here every stored event counts once, as loaders count it now.
    It runs alongside loaders, in short transactions; stopped, the same command goes on from there. Sessions without
    stored events stay as they are. On a terminal it asks before it begins, unless --yes is given.

    Ends with 0; with 1 if you said no or there is no such session, 4 if the database cannot be written, 5 if it has
    to be migrated first, 130 if it was interrupted.

    \b
    Example: cowrieprocessor db recount --dry-run --db cowrieprocessor.sqlite
    """
    from cowrieprocessor.db.engine import describe, dispose, get_engine
    from cowrieprocessor.jobs.upgrade.recount import recount as run

    engine = get_engine(db, read_only=dry_run, on_wait=report_waiting)
    try:
        if not (dry_run or yes) and sys.stdin.isatty():
            which = "every session" if session_id is None else f"session {session_id}"
            notify(f"{describe(engine)}: what is derived of {which} is recomputed from the stored events")
            confirm_or_exit(yes=False)
        result = run(engine, session_id=session_id, dry_run=dry_run, on_progress=_ProgressLines().update)
    finally:
        dispose(engine)
    if as_json:
        print_json({"database": describe(engine), "dry_run": dry_run, "result": result})
    else:
        print_text(_summary(result, dry_run=dry_run))


class _ProgressLines:
    """Prints a progress line every ten seconds."""

    def __init__(self) -> None:
        self._line_at = time.monotonic()

    def update(self, now: RecountProgress) -> None:
        """Print the progress, if a line is due."""
        if time.monotonic() - self._line_at < LINE_EVERY_S:
            return
        self._line_at = time.monotonic()
        share = now.sessions / now.total if now.total else 1.0
        eta = "" if now.eta_s is None else f", ETA {now.eta_s:.0f} s"
        notify(
            f"{now.sessions:,}/{plural(now.total, 'session')} {share:.1%}, {now.changed:,} wrong, "
            f"{now.sessions_per_s:,.0f} sessions/s{eta}"
        )


def _summary(result: RecountResult, *, dry_run: bool) -> str:
    changed = "would change" if dry_run else "changed"
    lines = [f"{plural(result.sessions, 'session')} recounted, {result.changed:,} {changed}"]
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
