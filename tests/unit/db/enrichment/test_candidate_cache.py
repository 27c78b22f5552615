"""Reading ahead where looking takes long, and not at all where it does not."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import create_engine

from cowrieprocessor.db.enrichment.candidate_cache import KEPT_S, SLOW_S, CandidateCache, candidate_cache_of


class Table:
    """Hashes in their order, which take so many seconds to look through."""

    def __init__(self, count: int, seconds: float) -> None:
        self.hashes = [f"{number:05d}" for number in range(count)]
        self.seconds = seconds
        self.now = 0.0
        self.looks = 0
        self.ahead = CandidateCache(clock=lambda: self.now)

    def read(self, limit: int) -> list[str]:
        """Look for the first so many."""
        self.looks += 1
        self.now += self.seconds
        return self.hashes[:limit]

    def still(self, asked: Sequence[str]) -> set[str]:
        """Return which are still there."""
        return set(asked) & set(self.hashes)

    def claim(self, limit: int) -> list[str]:
        """Take the next ones out of the table."""
        found = self.ahead.next(limit, self.read, self.still)
        self.hashes = [one for one in self.hashes if one not in found]
        return found


def test_quick_looks_are_always_fresh() -> None:
    """Where looking is quick every claim looks, and sees what came since."""
    table = Table(10, SLOW_S / 2)
    table.claim(2)
    table.hashes.insert(0, "00000")

    assert table.claim(2) == ["00000", "00002"]
    assert table.looks == 2


def test_a_slow_look_is_shared_in_order() -> None:
    """Where looking is slow one look serves many claims, in the same order, none twice."""
    table = Table(5_000, 4.0)
    expected = list(table.hashes)

    assert [one for _ in range(20) for one in table.claim(100)] == expected[:2_000]
    assert table.looks == 1
    assert table.claim(100) == expected[2_000:2_100]
    assert table.looks == 2


def test_what_others_took_is_not_handed_out() -> None:
    """A hash that was read ahead and is not meant any more is passed over."""
    table = Table(100, 4.0)
    table.claim(10)
    table.hashes = [one for one in table.hashes if one >= "00050"]

    assert table.claim(3) == ["00050", "00051", "00052"]
    table.hashes = ["99999"]
    assert table.claim(3) == ["99999"]


def test_after_a_while_it_looks_again() -> None:
    """What was read ahead is used for some minutes only."""
    table = Table(100, 4.0)
    table.claim(10)
    table.now += KEPT_S + 1
    table.hashes.insert(0, "00000")

    assert table.claim(1) == ["00000"]


def test_a_slow_look_in_vain_is_not_repeated_at_once() -> None:
    """Where a slow look found nothing, looking takes no more than a twentieth of the time."""
    table = Table(0, 4.0)
    assert table.claim(1) == []
    table.hashes = ["00001"]
    assert table.claim(1) == []
    table.now += 80
    assert table.claim(1) == ["00001"]
    assert table.looks == 2


def test_questions_and_engines_are_kept_apart() -> None:
    """What was read ahead belongs to one engine and one question."""
    one, other = create_engine("sqlite://"), create_engine("sqlite://")

    assert candidate_cache_of(one, "a") is candidate_cache_of(one, "a")
    assert candidate_cache_of(one, "a") is not candidate_cache_of(one, "b")
    assert candidate_cache_of(one, "a") is not candidate_cache_of(other, "a")
