"""Caching candidates where searches are slow, and not at all where they are fast."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import create_engine

from cowrieprocessor.db.enrichment.candidate_cache import (
    DEFAULT_TIMING,
    CacheTiming,
    CandidateCache,
    candidate_cache_of,
    end_search_pauses,
)


class Table:
    """Hashes in their order, with a cache on a clock that advances by the duration of each search."""

    def __init__(self, count: int, search_s: float) -> None:
        self.hashes = [f"{number:05d}" for number in range(count)]
        self.search_s = search_s
        self.now = 0.0
        self.searches = 0
        self.cache = CandidateCache(CacheTiming(clock=lambda: self.now))

    def search(self, limit: int) -> list[str]:
        """Return the first hashes."""
        self.searches += 1
        self.now += self.search_s
        return self.hashes[:limit]

    def still_valid(self, hashes: Sequence[str]) -> set[str]:
        """Return which hashes are still there."""
        return set(hashes) & set(self.hashes)

    def claim(self, limit: int) -> list[str]:
        """Take the next hashes out of the table."""
        claimed = self.cache.next(limit, self.search, self.still_valid)
        self.hashes = [sha256 for sha256 in self.hashes if sha256 not in claimed]
        return claimed


def test_fast_searches_are_always_fresh() -> None:
    """Where searches are fast every claim searches, and sees what was added since."""
    table = Table(10, DEFAULT_TIMING.slow_s / 2)
    table.claim(2)
    table.hashes.insert(0, "00000")

    assert table.claim(2) == ["00000", "00002"]
    assert table.searches == 2


def test_a_slow_search_is_shared_in_order() -> None:
    """Where searches are slow one serves many claims, in the same order, without repetition."""
    table = Table(5_000, 4.0)
    expected = list(table.hashes)

    assert [sha256 for _ in range(20) for sha256 in table.claim(100)] == expected[:2_000]
    assert table.searches == 1
    assert table.claim(100) == expected[2_000:2_100]
    assert table.searches == 2


def test_what_others_claimed_is_not_returned() -> None:
    """A cached hash that is no longer a candidate is skipped."""
    table = Table(100, 4.0)
    table.claim(10)
    table.hashes = [sha256 for sha256 in table.hashes if sha256 >= "00050"]

    assert table.claim(3) == ["00050", "00051", "00052"]
    table.hashes = ["99999"]
    assert table.claim(3) == ["99999"]


def test_cached_hashes_expire() -> None:
    """Cached hashes are used for some minutes only."""
    table = Table(100, 4.0)
    table.claim(10)
    table.now += DEFAULT_TIMING.max_age_s + 1
    table.hashes.insert(0, "00000")

    assert table.claim(1) == ["00000"]


def test_a_slow_search_without_result_is_not_repeated_at_once() -> None:
    """Slow searches that find nothing take no more than a twentieth of the time."""
    table = Table(0, 4.0)
    assert table.claim(1) == []
    table.hashes = ["00001"]
    assert table.claim(1) == []
    table.now += 80
    assert table.claim(1) == ["00001"]
    assert table.searches == 2


def test_searches_and_engines_are_kept_apart() -> None:
    """A cache belongs to one engine and one search."""
    first, second = create_engine("sqlite://"), create_engine("sqlite://")

    assert candidate_cache_of(first, "a") is candidate_cache_of(first, "a")
    assert candidate_cache_of(first, "a") is not candidate_cache_of(first, "b")
    assert candidate_cache_of(first, "a") is not candidate_cache_of(second, "a")


def test_pauses_of_an_engine_are_ended() -> None:
    """Ending the pauses of an engine reports whether there were any, and searches again."""
    engine, found = create_engine("sqlite://"), []
    cache = candidate_cache_of(engine, "a", CacheTiming(slow_s=0.0, max_idle_share=1e-9))

    def claim() -> list[str]:
        return cache.next(1, lambda limit: found[:limit], set)

    assert claim() == []
    found = ["00001"]
    assert claim() == []
    assert end_search_pauses(engine)
    assert claim() == ["00001"]
    assert not end_search_pauses(engine)
