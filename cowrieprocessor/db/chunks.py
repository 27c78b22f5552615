"""Values in parts: what one statement may name is bounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

__all__ = ["NAMED_AT_ONCE", "chunks"]

T = TypeVar("T")

NAMED_AT_ONCE = 400
"""Values that one statement names: SQLite may be built for 999 parameters. Source: sqlite.org/limits.html."""


def chunks(values: Sequence[T], count: int = NAMED_AT_ONCE) -> Iterator[Sequence[T]]:
    """Yield values in parts that one statement can name, of so many each."""
    for start in range(0, len(values), count):
        yield values[start : start + count]
