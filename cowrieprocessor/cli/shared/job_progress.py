"""Progress of a long job on standard error: a bar on a terminal, otherwise a line every ten seconds, or JSON lines."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import TYPE_CHECKING

import click

from cowrieprocessor.cli.shared.common import notify
from cowrieprocessor.db.jobs import RUNNING

if TYPE_CHECKING:
    from rich.progress import Progress

    from cowrieprocessor.jobs.runtime.progress import JobProgress

LINE_EVERY_S = 10.0
TERMINAL_EVERY_S = 0.2
JSON_EVERY_S = 1.0


class JobProgressLine:
    """Shows how far a job is, its rate and the time that is left, or why it waits.

    Args:
        as_json: print a JSON object per line instead of text.
        phases: also print a line when a job, a step of it or its end is reached; else the first comes after a while.
        ticks: also show how long a step takes that reports nothing, such as an integrity check.
        tick_every_s: how often.
    """

    _bar: Progress | None = None

    def __init__(
        self, *, as_json: bool = False, phases: bool = False, ticks: bool = False, tick_every_s: float = LINE_EVERY_S
    ) -> None:
        self._as_json = as_json
        self._phases = phases or as_json
        self._is_terminal = sys.stderr.isatty() and not as_json
        self._every_s = JSON_EVERY_S if as_json else TERMINAL_EVERY_S if self._is_terminal else LINE_EVERY_S
        self._shown_at = time.monotonic()
        self._shown: tuple[object, ...] = () if self._phases or self._is_terminal else (RUNNING,)
        self._latest: JobProgress | None = None
        self._latest_at = self._shown_at
        self._finished = threading.Event()
        self._tick_every_s = tick_every_s
        self._ticker = threading.Thread(target=self._tick, daemon=True) if ticks and not as_json else None

    def __enter__(self) -> JobProgressLine:
        """Start the display."""
        if self._is_terminal:
            self._bar = _bar()
            self._bar.start()
            self._task = self._bar.add_task("", total=None, text="")
        if self._ticker is not None:
            self._ticker.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Remove the bar."""
        self._finished.set()
        if self._ticker is not None:
            self._ticker.join()
        if self._bar is not None:
            self._bar.stop()

    def update(self, now: JobProgress) -> None:
        """Show the progress at each interval, and whenever the job begins to wait or goes on."""
        self._latest, self._latest_at = now, time.monotonic()
        phase: tuple[object, ...] = (now.state,)
        if self._phases:
            phase += (now.job, now.step, now.total is not None and now.done >= now.total)
        if phase == self._shown and time.monotonic() - self._shown_at < self._every_s:
            return
        self._shown, self._shown_at = phase, time.monotonic()
        if self._as_json:
            click.echo(progress_json(now), err=True)
        else:
            self._show(now, progress_text(now))

    def _show(self, now: JobProgress, text: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=now.done, total=now.total, text=text)
        else:
            notify(text)

    def _tick(self) -> None:
        """Show how long nothing has been reported, in a thread of its own."""
        while not self._finished.wait(self._tick_every_s):
            silent_s = time.monotonic() - self._latest_at
            if self._latest is not None and silent_s >= self._tick_every_s:
                self._show(self._latest, f"{progress_text(self._latest)}, for {duration_text(silent_s)}")


def progress_json(now: JobProgress) -> str:
    """Return the progress as one line of JSON: the fields of `JobProgress`."""
    return json.dumps({"job": now.job, "state": now.state, **now.document(), "reason": now.reason})


def progress_text(now: JobProgress) -> str:
    """Return the progress as one line: `recount: 7,300/752,865 sessions 1.0%, 3,100/s, ETA 4m01s`."""
    what = f"{now.job}: {now.step}" if now.step else now.job
    if now.total is None:
        text = f"{what}: {now.done:,} {now.unit}" if now.done else f"{what}: at work"
    else:
        share = now.done / now.total if now.total else 1.0
        about = "about " if now.total_is_estimate else ""
        text = f"{what}: {now.done:,}/{about}{now.total:,} {now.unit} {share:.1%}"
    if now.reason is not None:
        return f"{text if now.done or now.total else what}; {now.state}: {now.reason}"
    text += f", {now.per_s:,.0f}/s" if now.done else ""
    is_done = now.total is not None and now.done >= now.total
    return text if now.eta_s is None or is_done else f"{text}, ETA {duration_text(now.eta_s)}"


def duration_text(seconds: float) -> str:
    """Return a duration for people: 2h05m, 2m14s, 7s."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        BarColumn(bar_width=20),
        TextColumn("{task.fields[text]}", markup=False),
        console=Console(stderr=True),
        transient=True,
    )
