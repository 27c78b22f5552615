"""Values in parts: what one statement may name is bounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

__all__ = ["NAMED_AT_ONCE", "parts"]

T = TypeVar("T")

NAMED_AT_ONCE = 400
"""Values that one statement names: SQLite may be built for 999 parameters. Source: sqlite.org/limits.html."""


def parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield values in parts that one statement can name."""
    for start in range(0, len(values), NAMED_AT_ONCE):
        yield values[start : start + NAMED_AT_ONCE]
