"""Output of `work`: the end of a task, the summary of a call, and the table of `work status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from cowrieprocessor.cli.shared.job_progress import duration_text
from cowrieprocessor.db.jobs import DONE, FAILED, RUNNING, STOPPED, WAITING
from cowrieprocessor.jobs.work.work import rest_text
from cowrieprocessor.reporting.render.terminal import Column, Screen, cell, draw, minute, moment_text, sentence, table
from cowrieprocessor.sanitize import terminal_safe
from cowrieprocessor.wording import plural

if TYPE_CHECKING:
    from cowrieprocessor.jobs.work.run import EndedRun
    from cowrieprocessor.jobs.work.states import TaskState
    from cowrieprocessor.jobs.work.status import WorkStatus
    from cowrieprocessor.jobs.work.work import WorkResult

_STYLES = {FAILED: "bold red", RUNNING: "green", "due": "yellow", WAITING: "yellow", "off": "dim", STOPPED: "yellow"}
_VERBS = {DONE: "done", FAILED: "failed", STOPPED: "stopped", WAITING: "waits"}

_COLUMNS = (
    Column("task"),
    Column("state"),
    Column("when", needs=80),
    Column("last run (UTC)"),
    Column("took", number=True, needs=80),
    Column("next run (UTC)", needs=60),
    Column("what it does", needs=110),
)


def ended_text(ended: EndedRun) -> str:
    """Return how a run ended, as lines for people: `enrichment: done in 12s: 3 files asked about`."""
    took = f" in {duration_text(ended.duration_s)}" if ended.state == DONE else ""
    why = ended.text if ended.state == DONE else ended.reason
    line = f"{ended.task}: {_VERBS[ended.state]}{took}" + (f": {why}" if why else "")
    return f"{line}\n{ended.details}".rstrip()


def result_text(result: WorkResult, *, once: bool) -> str:
    """Return what a call did, as text for people."""
    if result.stopped:
        return "stopped; the same command goes on from here\n"
    if not once:
        return ""
    lines = [ended_text(ended).split("\n")[0] for ended in result.ended.values()]
    lines += [f"{state.task}: waits: {state.reason}" for state in result.states if state.state == WAITING]
    if not result.ended:
        lines.append(rest_text(result.states))
    if result.failed:
        lines.append(f"{plural(len(result.failed), 'task')} failed: {', '.join(result.failed)}")
    return "".join(f"{terminal_safe(line)}\n" for line in lines)


def status_text(status: WorkStatus, on: Screen) -> str:
    """Return the tasks as a table, between a line about the worker and a line for each task with a reason."""
    worker = status.worker
    if worker is None:
        line = "no worker has run on this database: start `cowrieprocessor work`"
    else:
        who = "" if worker.process is None else f", {terminal_safe(worker.process)}"
        line = f"worker: {worker.state}{who}, since {moment_text(worker.since)} UTC"
        line += "" if worker.is_running else "; start `cowrieprocessor work`"
    reasons = [cell(f"{state.task}: {state.reason}") for state in status.tasks if state.reason is not None]
    rows = table(on, _COLUMNS, [_row(state) for state in status.tasks])
    return draw(on, sentence(line), Text(), rows, *([Text(), *reasons] if reasons else []))


def _row(state: TaskState) -> list[Text]:
    took = "" if state.duration_s is None else duration_text(state.duration_s)
    return [
        cell(state.task),
        cell(state.state, style=_STYLES.get(state.state, "")),
        cell(state.schedule),
        minute(state.last_run_at),
        cell(took),
        minute(state.next_run_at),
        cell(state.does),
    ]
