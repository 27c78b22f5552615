"""Garbage collector tuning for loads."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

RARE_THRESHOLD = 200_000
"""Net container allocations before a collection; a batch makes fewer."""


@contextmanager
def rare_collections() -> Iterator[None]:
    """Let the garbage collector run rarely: a load makes millions of short-lived rows without reference cycles.

    Searching them for cycles would take a quarter of the load's time.
    """
    before = gc.get_threshold()
    gc.set_threshold(RARE_THRESHOLD, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
