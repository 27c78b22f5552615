"""How a command that goes on for ever is told to stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

from cowrieprocessor.errors import DatabaseLocked


def stop_on_signals(stop: threading.Event, said: str) -> None:
    """Let SIGTERM and the first Ctrl-C set an event; the second Ctrl-C ends the command at once.

    Args:
        stop: what the command looks at. Nobody may wait on it: the handler runs in the thread that would.
        said: one line for standard error.
    """
    line = f"{said}\n".encode()

    def on_signal(number: int, _frame: object) -> None:
        if stop.is_set():
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        stop.set()
        os.write(2, line)  # not by the stream: it may be in the middle of a line

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)


def stop_waiting(stop: threading.Event) -> Callable[[float], None]:
    """Return what an engine calls while another process writes: it gives the waiting up once it is time to stop."""

    def on_wait(_waited_s: float) -> None:
        if stop.is_set():
            raise DatabaseLocked("asked to stop while another process was writing; nothing is lost")

    return on_wait
