"""Progress of a load on standard error: a bar on a terminal, otherwise a line every ten seconds."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from cowrieprocessor.cli.shared.common import notify
from cowrieprocessor.sanitize import terminal_safe
from cowrieprocessor.wording import plural

if TYPE_CHECKING:
    from rich.progress import Progress

    from cowrieprocessor.loader.bulk import LoadProgress

LINE_EVERY_S = 10.0


class LoadProgressLine:
    """Shows files, bytes, events per second and remaining time of a load."""

    _bar: Progress | None = None

    def __enter__(self) -> LoadProgressLine:
        """Start the display."""
        if sys.stderr.isatty():
            self._bar = _bar()
            self._bar.start()
            self._task = self._bar.add_task("load", total=None, what="", rate="")
        self._started_at = self._line_at = time.monotonic()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop the display."""
        if self._bar is not None:
            self._bar.stop()

    def update(self, now: LoadProgress) -> None:
        """Show the current progress."""
        elapsed_s = time.monotonic() - self._started_at
        rate = f"{now.events / elapsed_s:,.0f} events/s" if elapsed_s > 0.5 else ""
        name = terminal_safe(os.path.basename(now.path))[:40]  # noqa: PTH119 - the path is display text
        what = f"{min(now.files_done + 1, now.files_total)}/{now.files_total} {name}"
        if self._bar is not None:
            self._bar.update(self._task, completed=now.bytes_done, total=now.bytes_total, what=what, rate=rate)
        elif time.monotonic() - self._line_at >= LINE_EVERY_S:
            self._line_at = time.monotonic()
            share = now.bytes_done / now.bytes_total if now.bytes_total else 1.0
            eta = f", ETA {elapsed_s / share - elapsed_s:.0f} s" if share else ""
            notify(f"{what}: {now.bytes_done:,} of {plural(now.bytes_total, 'byte')} ({share:.1%}), {rate}{eta}")


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.fields[what]}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
