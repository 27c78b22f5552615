"""How thorough a run is: `make torture` runs the tests marked `torture` with their full counts."""

from __future__ import annotations

import os

TORTURE = bool(os.environ.get("COWRIEPROC_TORTURE"))
"""Whether this is `make torture`."""


def rounds(full: int, short: int | None = None) -> int:
    """Return how often to repeat: `full` times in `make torture`, else `short` times, a twentieth by default."""
    if TORTURE:
        return full
    return max(1, full // 20) if short is None else short
