"""Progress of commands that work in steps: a bar on a terminal, elsewhere a line every ten seconds.

A step such as an integrity check is one call into the database that says nothing for minutes: a thread of ours says
that it goes on.
"""

from __future__ import annotations

import signal
import threading
import time

from cowrieprocessor.cli.shared.common import message

LINE_EVERY_S = 10.0


class StepProgress:
    """The step that runs, how far it is, and for how long.

    Args:
        steps: each step, and how it is called.
        in_bytes: the step that is measured in pages; its share is shown in percent.
    """

    def __init__(self, steps: dict[str, str]) -> None:
        self._steps = steps
        self._now = ("", 0, 0)
        self._began = time.monotonic()
        self._over = threading.Event()
        self._speaker = threading.Thread(target=self._speak, daemon=True)

    def __enter__(self) -> StepProgress:
        """Begin to show."""
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
        self._speaker.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop showing."""
        self._over.set()
        self._speaker.join()
        self._bar.stop()

    def update(self, step: str, done: int, total: int) -> None:
        """Show how far a step is: so much of so much."""
        if step != self._now[0]:
            self._began = time.monotonic()
            self._bar.reset(self._task, description=self._steps.get(step, step))
        self._now = (step, done, total)
        known = total > 1
        self._bar.update(self._task, completed=done if known else 0, total=total if known else None)

    def _speak(self) -> None:
        """Say a line now and then where there is no terminal."""
        while not self._over.wait(LINE_EVERY_S):
            if self._bar.disable:
                step, done, total = self._now
                share = f", {done / total:.0%}" if total > 1 else ""
                message(f"{self._steps.get(step, step)}{share}, {time.monotonic() - self._began:.0f} s")


def end_as_interrupt_does() -> None:
    """Let SIGTERM end the command as Ctrl-C does: whoever stops a service sends it, and what was begun is removed."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
