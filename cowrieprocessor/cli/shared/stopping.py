"""How signals end a command."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

from cowrieprocessor.errors import DatabaseLocked


def interrupt_on_sigterm() -> None:
    """Make SIGTERM end the command as Ctrl-C does: service managers send SIGTERM."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def stop_on_signals(stop: threading.Event, text: str) -> None:
    """Make SIGTERM and the first Ctrl-C set an event; the second Ctrl-C ends the command at once.

    Args:
        stop: the event that the command checks. The main thread must not wait on it: the handler runs there.
        text: one line to print on standard error.
    """
    line = f"{text}\n".encode()

    def on_signal(number: int, _frame: object) -> None:
        if stop.is_set():
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        stop.set()
        os.write(2, line)  # bypasses the stream, which may be in the middle of a write

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)


def stop_aborts_wait(stop: threading.Event) -> Callable[[float], None]:
    """Return an `on_wait` callback for an engine that aborts waiting for the write lock once `stop` is set."""

    def on_wait(_waited_s: float) -> None:
        if stop.is_set():
            raise DatabaseLocked("stopped while waiting for another process to finish writing; nothing is lost")

    return on_wait
