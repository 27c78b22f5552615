"""A job as one line of text."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from cowrieprocessor.cli.shared.job_progress import duration_text
from cowrieprocessor.db.jobs import DONE, ENDED
from cowrieprocessor.jobs.runtime.job_list import DIED, SILENT
from cowrieprocessor.sanitize import terminal_safe

if TYPE_CHECKING:
    from cowrieprocessor.jobs.runtime.job_list import ListedJob

_WHEN = {DIED: "silent since", SILENT: "silent since"}


def job_text(job: ListedJob) -> str:
    """Return a job as `running, 1,200/9,000 events 13.3%, ETA 2m14s, process 7 on pot, updated 2026-11-22 …`."""
    parts = [terminal_safe(job.state)]
    if job.state != DONE and (progress := _progress(job)):
        parts.append(progress)
    if job.process is not None and job.state not in ENDED:
        parts.append(terminal_safe(job.process))
    if job.finished_at is not None:
        parts.append(f"finished {_time(job.finished_at)}")
    else:
        parts.append(f"{_WHEN.get(job.state, 'updated')} {_time(job.updated_at)}")
    if job.request is not None:
        parts.append(f"asked to {job.request}")
    text = ", ".join(parts)
    return f"{text}: {terminal_safe(job.reason)}" if job.reason else text


def _progress(job: ListedJob) -> str:
    now = job.progress or {}
    done, total, eta_s = now.get("done", 0), now.get("total"), now.get("eta_s")
    unit = terminal_safe(str(now.get("unit") or ""))
    if total is None:
        return f"{done:,} {unit}" if done else ""
    share = done / total if total else 1.0
    eta = f", ETA {duration_text(eta_s)}" if eta_s and job.state not in (*ENDED, DIED) else ""
    about = "about " if now.get("total_is_estimate") else ""
    return f"{done:,}/{about}{total:,} {unit} {share:.1%}{eta}"


def _time(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
