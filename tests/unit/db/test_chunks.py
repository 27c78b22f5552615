"""Values in chunks of few lengths."""

from __future__ import annotations

import pytest

from cowrieprocessor.db.chunks import chunks, repeated_chunks


@pytest.mark.parametrize(
    ("values", "count", "expected"),
    [
        ([], 4, []),
        ([1], 4, [[1]]),
        ([1, 2, 3], 4, [[1, 2, 3, 3]]),
        ([1, 2, 3, 4, 5, 6, 7], 4, [[1, 2, 3, 4], [5, 6, 7, 7]]),
        ([1, 2, 3, 4, 5], 6, [[1, 2, 3, 4, 5, 5]]),
    ],
)
def test_chunks_of_few_lengths(values: list[int], count: int, expected: list[list[int]]) -> None:
    """A chunk is as long as a power of two, or as the limit; the last value is repeated."""
    assert list(repeated_chunks(values, count)) == expected


def test_no_chunk_exceeds_the_limit() -> None:
    """Each value is in a chunk, none is longer than allowed, and there are few lengths."""
    for size in range(1, 900):
        parts = list(repeated_chunks(range(size)))
        assert [sorted(set(part)) for part in parts] == [list(part) for part in chunks(range(size))]
        assert {len(part) for part in parts} <= {1, 2, 4, 8, 16, 32, 64, 128, 256, 400}
