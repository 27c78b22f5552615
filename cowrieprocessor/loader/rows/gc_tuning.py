"""The garbage collector, kept from looking through a batch's rows again and again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

RARELY = 200_000
"""Containers to be made, beyond those freed, before the collector looks; a batch makes fewer."""


@contextmanager
def rare_collections() -> Iterator[None]:
    """Let the garbage collector look rarely: a load makes millions of short-lived rows without cycles.

    Looking for cycles among them would take a quarter of the time.
    """
    before = gc.get_threshold()
    gc.set_threshold(RARELY, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
