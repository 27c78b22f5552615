"""`cowrieprocessor db optimize`: drop a redundant index and refresh the query planner's statistics."""

from __future__ import annotations

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

if TYPE_CHECKING:
    from cowrieprocessor.jobs.maintenance.optimize import OptimizePlan, OptimizeResult


@click.command()
@named_db_option
@click.option("--dry-run", is_flag=True, help="Show what would be done; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def optimize(db: str, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Drop version 3's redundant index, and refresh the statistics of the query planner.

    The index uq_raw_events_source_gen duplicates a constraint of raw_events. Without it loading writes less, and its
    space in the file is reused for new rows; the file does not shrink. `db rollback` creates the index again. Loaders
    wait while it is dropped. The statistics come from a sample, in a moment at any size. Running it again only takes
    the sample. On a terminal it asks before it drops the index, unless --yes is given.

    Ends with 0; with 1 if you said no, 4 if the database cannot be written, 5 if it has another schema version.

    \b
    Example: cowrieprocessor db optimize --db cowrieprocessor.sqlite
    """
    from cowrieprocessor.cli.shared.job_progress import JobProgressLine
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.jobs.maintenance.optimize import optimize as do_optimize
    from cowrieprocessor.jobs.maintenance.optimize import plan_optimize

    engine = get_engine(db, on_wait=report_waiting)
    try:
        plan = plan_optimize(engine)
        if dry_run:
            _print_plan(plan, as_json=as_json)
            return
        if plan.redundant_index is not None:
            notify(_plan_text(plan))
            confirm_or_exit(yes=yes)
        with JobProgressLine(phases=True, ticks=True) as line:
            result = do_optimize(engine, on_progress=line.update)
    finally:
        dispose(engine)
    if as_json:
        print_json(result)
    else:
        print_text(_result_text(result))


def _print_plan(plan: OptimizePlan, *, as_json: bool) -> None:
    if as_json:
        print_json(plan)
    else:
        print_text(f"{_plan_text(plan)}\n")


def _plan_text(plan: OptimizePlan) -> str:
    from cowrieprocessor.cli.db_commands.plan_text import about
    from cowrieprocessor.reporting.render.terminal import size_text

    if plan.redundant_index is None:
        return f"{plan.database}: there is no redundant index; the statistics are refreshed, in a moment"
    return (
        f"{plan.database}: the redundant index {plan.redundant_index} is dropped, about {size_text(plan.index_bytes)}; "
        f"loaders wait {about(plan.writers_wait_s)}. Then the statistics are refreshed, in a moment"
    )


def _result_text(result: OptimizeResult) -> str:
    from cowrieprocessor.reporting.render.terminal import size_text

    if result.dropped_index is None:
        return f"{result.database}: the statistics are new; there was no redundant index\n"
    return (
        f"{result.database}: the index {result.dropped_index} is dropped, {size_text(result.freed_bytes)} in the file "
        "are free for new rows; the statistics are new\n"
    )
