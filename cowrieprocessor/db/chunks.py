"""Split values into chunks, because the number of parameters of a statement is limited."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

__all__ = ["MAX_PARAMETERS", "chunks"]

T = TypeVar("T")

MAX_PARAMETERS = 400
"""Parameters of one statement: SQLite may be built with a limit of 999. Source: sqlite.org/limits.html."""


def chunks(values: Sequence[T], count: int = MAX_PARAMETERS) -> Iterator[Sequence[T]]:
    """Yield the values in chunks of `count`, small enough for the parameters of one statement."""
    for start in range(0, len(values), count):
        yield values[start : start + count]
