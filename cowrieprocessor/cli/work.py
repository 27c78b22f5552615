"""`cowrieprocessor work`: one process that runs what is due, and `work status`, which any other may ask."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable

import click

from cowrieprocessor.cli.shared.common import (
    database_name,
    db_option,
    json_option,
    notify,
    open_read_only,
    print_json,
    print_text,
    report_waiting,
    screen,
)
from cowrieprocessor.cli.shared.lazy import LazyGroup
from cowrieprocessor.cli.shared.stopping import stop_aborts_wait, stop_on_signals

COMMANDS: dict[str, tuple[str, str]] = {
    "status": ("cowrieprocessor.cli.work:status", "Show what is due, ran, failed, waits."),
}
"""For each command, its location and help line."""

EXIT_FAILED = 1


@click.group(cls=LazyGroup, lazy_commands=COMMANDS, invoke_without_command=True)
@db_option
@click.option("--once", is_flag=True, help="Run each task that is due once, and exit: for cron.")
@click.pass_context
def work(context: click.Context, db: str | None, once: bool) -> None:
    """Run what is due, until it is stopped: enrichment, propagation, derived facts, and what is installed besides.

    Each task has an interval, a time of day, or is off: the setting `work` says when, `work status` shows it. Tasks of
    one kind never run at once, also not beside the same job that was started by hand; a task then waits. A task that
    fails is tried again after growing waits and stops no other. A database has one such process. SIGTERM and the first
    Ctrl-C stop the running tasks; what they have committed is kept, and the next start goes on from there. See
    docs/work.md.

    While the database is locked, full or unreachable, it waits and says so; at the start and with --once it exits
    instead.

    Ends with 0 when it was stopped, and with --once when nothing failed, also if nothing was due; 1 if a task failed
    with --once; 2 for a wrong call or setting; 4 if the database refused or another process does the work; 5 if the
    database has to be migrated first; 130 at the second Ctrl-C, or after `jobs stop work`.

    \b
    Example: cowrieprocessor work --db /var/lib/cowrieprocessor/cowrie.sqlite
             cowrieprocessor work --once
    """
    if context.invoked_subcommand is not None:
        if db or once:
            raise click.UsageError(f"options go after the subcommand: work {context.invoked_subcommand} --db ...")
        return
    from cowrieprocessor.cli.shared.job_progress import JobProgressLine
    from cowrieprocessor.cli.work_text import ended_text, result_text
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.jobs.work.catalogue import find_tasks
    from cowrieprocessor.jobs.work.work import work as run
    from cowrieprocessor.settings import load_settings

    settings = load_settings()
    catalogue = find_tasks()
    stop = threading.Event()
    stop_on_signals(stop, "stopping: what the running tasks have in hand is finished")
    dispose(open_read_only(db))
    engine = get_engine(database_name(db), on_wait=_on_wait(stop))
    try:
        with JobProgressLine() as line:
            result = run(
                engine,
                catalogue,
                settings,
                once=once,
                stop=stop,
                notify=notify,
                on_end=lambda ended: notify(ended_text(ended)) if ended.details or not once else None,
                on_progress=line.update,
            )
    finally:
        dispose(engine)
    print_text(result_text(result, once=once))
    if once and result.failed:
        raise click.exceptions.Exit(EXIT_FAILED)


@click.command()
@db_option
@json_option
def status(db: str | None, as_json: bool) -> None:
    """Show each task: whether it is due, running, done, failed, stopped, waiting or off, and why.

    It needs no running worker, says whether there is one, and changes nothing. What is due without a worker is run by
    the next `cowrieprocessor work`.

    Ends with 0, also if tasks failed; 2 if a setting names a task that is not installed, 4 if the database cannot be
    read, 5 if it has to be migrated first.

    \b
    Example: cowrieprocessor work status --db cowrieprocessor.sqlite
    """
    from cowrieprocessor.cli.work_text import status_text
    from cowrieprocessor.db.engine import dispose
    from cowrieprocessor.jobs.work.catalogue import find_tasks
    from cowrieprocessor.jobs.work.status import work_status
    from cowrieprocessor.settings import load_settings

    settings = load_settings()
    catalogue = find_tasks()
    engine = open_read_only(db)
    try:
        state = work_status(engine, catalogue, settings, dt.datetime.now(dt.UTC))
    finally:
        dispose(engine)
    if as_json:
        print_json(state)
    else:
        print_text(status_text(state, screen()))


def _on_wait(stop: threading.Event) -> Callable[[float], None]:
    """Return the callback for the time that another process has the database locked."""
    abort_if_stopped = stop_aborts_wait(stop)

    def on_wait(waited_s: float) -> None:
        abort_if_stopped(waited_s)
        report_waiting(waited_s)

    return on_wait
