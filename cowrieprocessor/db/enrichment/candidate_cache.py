"""Cache of candidate hashes, filled where a search for never-queried hashes is slow.

With a million hashes one search takes seconds: several claims then share its result, and a search that found nothing
pauses the next ones. Cached hashes are only hints: each is checked again before it is claimed. Where searches are fast
nothing is cached, and every claim reads the current rows.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from sqlalchemy import Engine

__all__ = ["DEFAULT_TIMING", "CacheTiming", "CandidateCache", "candidate_cache_of", "end_search_pauses"]

CACHED_HASHES = 2_000
"""Hashes that one search reads at least, and that one cache keeps at most."""


@dataclass(frozen=True, slots=True)
class CacheTiming:
    """When a candidate search is shared, and for how long it is not repeated.

    Attributes:
        clock: monotonic seconds.
        slow_s: a search that takes this many seconds is shared by several claims, or pauses the next ones.
        max_age_s: how long cached hashes are used; newer hashes that occur in more sessions wait no longer than this.
            It exceeds a minute, after which a provider with four requests a minute claims again.
        max_idle_share: largest share of the time that searches without a result may take, above 0, at most 1.
    """

    clock: Callable[[], float] = time.monotonic
    slow_s: float = 0.25
    max_age_s: float = 300.0
    max_idle_share: float = 0.05


DEFAULT_TIMING = CacheTiming()


@dataclass(slots=True)
class CandidateCache:
    """The hashes that one search found and no claim has used yet."""

    timing: CacheTiming = DEFAULT_TIMING
    _hashes: deque[str] = field(default_factory=deque)
    _read_at: float = 0.0
    _paused_until: float = 0.0

    def next(
        self, limit: int, search: Callable[[int], Sequence[str]], still_valid: Callable[[Sequence[str]], set[str]]
    ) -> list[str]:
        """Return the next hashes in their order.

        Args:
            limit: largest number of hashes.
            search: returns the first hashes, at most as many as its argument.
            still_valid: returns which of at most CACHED_HASHES hashes are still candidates.
        """
        if self._hashes and self.timing.clock() - self._read_at < self.timing.max_age_s:
            cached = [*self._hashes]
            valid = still_valid(cached)
            remaining = [sha256 for sha256 in cached if sha256 in valid]
            if remaining:
                self._hashes = deque(remaining[limit:])
                return remaining[:limit]
        self._hashes.clear()
        if self.timing.clock() < self._paused_until:
            return []
        return self._search(limit, search)

    def end_pause(self) -> bool:
        """Search again on the next call; return whether searching was paused because a slow search found nothing."""
        was_paused, self._paused_until = self.timing.clock() < self._paused_until, 0.0
        return was_paused

    def _search(self, limit: int, search: Callable[[int], Sequence[str]]) -> list[str]:
        started = self.timing.clock()
        hashes = search(max(limit, CACHED_HASHES))
        self._read_at = self.timing.clock()
        elapsed_s = self._read_at - started
        if elapsed_s >= self.timing.slow_s:
            self._hashes.extend(hashes[limit:])
            if not hashes:
                self._paused_until = self._read_at + elapsed_s / self.timing.max_idle_share
        return list(hashes[:limit])


_CACHES: WeakKeyDictionary[Engine, dict[Hashable, CandidateCache]] = WeakKeyDictionary()
_LOCK = threading.Lock()


def candidate_cache_of(engine: Engine, search_key: Hashable, timing: CacheTiming | None = None) -> CandidateCache:
    """Return the cache of one search through one engine.

    Args:
        engine: the database.
        search_key: what distinguishes the search from others.
        timing: of a cache that does not exist yet; DEFAULT_TIMING unless given.
    """
    with _LOCK:
        caches = _CACHES.setdefault(engine, {})
        if search_key not in caches:
            caches[search_key] = CandidateCache(timing or DEFAULT_TIMING)
        return caches[search_key]


def end_search_pauses(engine: Engine) -> bool:
    """End the pauses of all searches through an engine; return whether any search was paused."""
    with _LOCK:
        return sum(cache.end_pause() for cache in _CACHES.get(engine, {}).values()) > 0
