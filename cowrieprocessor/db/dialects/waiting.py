"""Wait for another process, with a timeout and progress reports."""

from __future__ import annotations

import time
from collections.abc import Callable

from cowrieprocessor.db.dialects.base import EngineOptions

FIRST_NOTICE_S = 1.0
NOTICE_INTERVAL_S = 5.0
RETRY_INTERVAL_S = 0.02


def wait_until(
    attempt: Callable[[], bool],
    options: EngineOptions,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Repeat `attempt` until it succeeds or `options.lock_timeout_s` has passed; return whether it succeeded.

    `options.on_wait` is called after one second and then about every five, with the seconds waited.
    """
    started = clock()
    next_notice_s = FIRST_NOTICE_S
    while not attempt():
        waited_s = clock() - started
        if waited_s >= options.lock_timeout_s:
            return False
        if waited_s >= next_notice_s:
            next_notice_s = waited_s + NOTICE_INTERVAL_S
            if options.on_wait is not None:
                options.on_wait(waited_s)
        sleep(RETRY_INTERVAL_S)
    return True
