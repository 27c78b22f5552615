"""Waiting for another process: bounded, and said aloud."""

from __future__ import annotations

import time
from collections.abc import Callable

from cowrieprocessor.db.dialects.base import EngineOptions

FIRST_WORD_S = 1.0
SAY_EVERY_S = 5.0
PAUSE_S = 0.02


def wait_until(
    attempt: Callable[[], bool],
    options: EngineOptions,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Try until it succeeds or `options.lock_timeout_s` is over; return whether it succeeded.

    `options.on_wait` is called after one second and then about every five, with the seconds waited.
    """
    started = clock()
    next_word_s = FIRST_WORD_S
    while not attempt():
        waited_s = clock() - started
        if waited_s >= options.lock_timeout_s:
            return False
        if waited_s >= next_word_s:
            next_word_s = waited_s + SAY_EVERY_S
            if options.on_wait is not None:
                options.on_wait(waited_s)
        sleep(PAUSE_S)
    return True
