"""Progress of the backfill on standard error: one line rewritten on a terminal, otherwise text or JSON lines."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import click

from cowrieprocessor.cli.shared.common import notify
from cowrieprocessor.sanitize import terminal_safe

if TYPE_CHECKING:
    from cowrieprocessor.jobs.upgrade.backfill_run import BackfillProgress

LINE_EVERY_S = 10.0
TERMINAL_EVERY_S = 0.2
JSON_EVERY_S = 1.0


class BackfillProgressLine:
    """Shows rows, rate and remaining time, or why the backfill waits.

    Args:
        as_json: print a JSON object per line instead of text.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self._as_json = as_json
        self._rewrites = sys.stderr.isatty() and not as_json
        self._every_s = JSON_EVERY_S if as_json else TERMINAL_EVERY_S if self._rewrites else LINE_EVERY_S
        self._shown_at: float | None = None
        self._shown: tuple[str, str, bool] | None = None

    def __enter__(self) -> BackfillProgressLine:
        """Start the display."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End the line that is rewritten."""
        if self._rewrites and self._shown is not None:
            click.echo("", err=True)

    def update(self, now: BackfillProgress) -> None:
        """Show the progress at each interval, and whenever the job, its state or its completion changes."""
        is_done = now.rows_done >= now.rows_total
        phase = (now.job, now.state, is_done)
        if phase == self._shown and self._shown_at is not None and time.monotonic() - self._shown_at < self._every_s:
            return
        self._shown, self._shown_at = phase, time.monotonic()
        if self._as_json:
            from cowrieprocessor.reporting.render.json import plain

            click.echo(json.dumps(plain(now)), err=True)
        elif self._rewrites:
            click.echo(f"\r\x1b[2K{terminal_safe(progress_text(now))}", err=True, nl=False)
        else:
            notify(progress_text(now))


def progress_text(now: BackfillProgress) -> str:
    """Return the progress as one line: `backfill-files: 7,300/752,865 1.0%, 3,100 rows/s, ETA 4m01s`."""
    share = now.rows_done / now.rows_total if now.rows_total else 1.0
    text = f"{now.job}: {now.rows_done:,}/{now.rows_total:,} {share:.1%}"
    if now.reason is not None:
        return f"{text}; {now.state}: {now.reason}"
    text += f", {now.rows_per_s:,.0f} rows/s"
    return text if now.eta_s is None or share >= 1 else f"{text}, ETA {duration_text(now.eta_s)}"


def duration_text(seconds: float) -> str:
    """Return a duration for people: 2h05m, 2m14s, 7s."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
