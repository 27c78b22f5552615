"""Progress of commands that run in steps: a bar on a terminal, otherwise a line every ten seconds.

A step such as an integrity check is a single database call that can take minutes without reporting progress, so a
thread prints the lines.
"""

from __future__ import annotations

import threading
import time

from cowrieprocessor.cli.shared.common import notify

LINE_EVERY_S = 10.0


class StepProgress:
    """Shows the current step, its share done and its elapsed time.

    Args:
        steps: for each step, its description.
        line_every_s: seconds between two lines where there is no terminal.
    """

    def __init__(self, steps: dict[str, str], *, line_every_s: float = LINE_EVERY_S) -> None:
        self._steps = steps
        self._line_every_s = line_every_s
        self._current = ("", 0, 0)
        self._step_started_at = time.monotonic()
        self._finished = threading.Event()
        self._printer = threading.Thread(target=self._print_lines, daemon=True)

    def __enter__(self) -> StepProgress:
        """Start the display."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=None)
        self._printer.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop the display."""
        self._finished.set()
        self._printer.join()
        self._bar.stop()

    def update(self, step: str, done: int, total: int) -> None:
        """Show the progress of a step.

        Args:
            step: its name, a key of `steps`.
            done: units done.
            total: units in all; 0 or 1 if unknown.
        """
        if step != self._current[0]:
            self._step_started_at = time.monotonic()
            self._bar.reset(self._task, description=self._steps.get(step, step))
        self._current = (step, done, total)
        is_known = total > 1
        self._bar.update(self._task, completed=done if is_known else 0, total=total if is_known else None)

    def _print_lines(self) -> None:
        """Print a line at each interval while there is no terminal."""
        while not self._finished.wait(self._line_every_s):
            if self._bar.disable:
                step, done, total = self._current
                share = f", {done / total:.0%}" if total > 1 else ""
                notify(f"{self._steps.get(step, step)}{share}, {time.monotonic() - self._step_started_at:.0f} s")
