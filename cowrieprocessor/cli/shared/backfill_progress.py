"""Progress of the backfill on standard error: a line that is written over, lines now and then, or JSON lines."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import click

from cowrieprocessor.cli.shared.common import message
from cowrieprocessor.sanitize import terminal_safe

if TYPE_CHECKING:
    from cowrieprocessor.jobs.upgrade.backfill_run import BackfillProgress

LINE_EVERY_S = 10.0
TERMINAL_EVERY_S = 0.2
JSON_EVERY_S = 1.0


class BackfillProgressLine:
    """Rows, rate, time to go, and the reason when it waits.

    Args:
        as_json: write a JSON object per line instead of text.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self._as_json = as_json
        self._over = sys.stderr.isatty() and not as_json
        self._every_s = JSON_EVERY_S if as_json else TERMINAL_EVERY_S if self._over else LINE_EVERY_S
        self._said_at: float | None = None
        self._said: tuple[str, str, bool] | None = None

    def __enter__(self) -> BackfillProgressLine:
        """Begin to show."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Leave the last line where it is."""
        if self._over and self._said is not None:
            click.echo("", err=True)

    def update(self, now: BackfillProgress) -> None:
        """Show how far it is: now and then, and whenever the job, its state or its being done changes."""
        is_done = now.rows_done >= now.rows_total
        what = (now.job, now.state, is_done)
        if what == self._said and self._said_at is not None and time.monotonic() - self._said_at < self._every_s:
            return
        self._said, self._said_at = what, time.monotonic()
        if self._as_json:
            from cowrieprocessor.reporting.render.json import plain

            click.echo(json.dumps(plain(now)), err=True)
        elif self._over:
            click.echo(f"\r\x1b[2K{terminal_safe(progress_text(now))}", err=True, nl=False)
        else:
            message(progress_text(now))


def progress_text(now: BackfillProgress) -> str:
    """Return the progress in a line: `backfill-files: 7,300/752,865 1.0%, 3,100 rows/s, ETA 4m01s`."""
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
