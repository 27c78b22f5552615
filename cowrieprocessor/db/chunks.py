"""Split values into chunks, because the number of parameters of a statement is limited."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

__all__ = ["MAX_PARAMETERS", "chunks", "repeated_chunks"]

T = TypeVar("T")

MAX_PARAMETERS = 400
"""Parameters of one statement: SQLite may be built with a limit of 999. Source: sqlite.org/limits.html."""


def chunks(values: Sequence[T], count: int = MAX_PARAMETERS) -> Iterator[Sequence[T]]:
    """Yield the values in chunks of `count`, small enough for the parameters of one statement."""
    for start in range(0, len(values), count):
        yield values[start : start + count]


def repeated_chunks(values: Sequence[T], count: int = MAX_PARAMETERS) -> Iterator[list[T]]:
    """Yield the values in chunks whose lengths are powers of two, or `count`, by repeating the last value.

    For lists in queries that run for every batch: a driver prepares a statement anew for each length.
    """
    for chunk in chunks(values, count):
        wanted = min(count, 1 << (len(chunk) - 1).bit_length())
        yield [*chunk, *[chunk[-1]] * (wanted - len(chunk))]
