"""Hashes that were never asked about, read some way ahead where looking for them takes long.

With a million hashes one look costs seconds: it is shared by many claims then, and not repeated all the time where it
found nothing. What was read ahead is only a hint: each hash is looked at again before it is claimed. Where a look is
quick nothing is kept, and every claim sees what is there.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from sqlalchemy import Engine

__all__ = ["SLOW_S", "CandidateCache", "candidate_cache_of", "end_search_pauses"]

SLOW_S = 0.25
"""From so many seconds on a look is shared by several claims."""

READ_AHEAD = 2_000
KEPT_S = 300.0
"""How long what was read ahead may be used: hashes that came since, and are in more sessions, wait no longer. It has to
be longer than a minute, after which who may ask four times a minute claims again."""

SHARE_OF_LOOKING = 0.05
"""How much of the time at most may go into looks that find nothing."""


@dataclass(slots=True)
class CandidateCache:
    """What one look found that was not handed out yet.

    Attributes:
        clock: seconds that only go up.
    """

    clock: Callable[[], float] = time.monotonic
    _found: deque[str] = field(default_factory=deque)
    _read_at: float = 0.0
    _rests_until: float = 0.0

    def next(
        self, limit: int, read: Callable[[int], Sequence[str]], still: Callable[[Sequence[str]], set[str]]
    ) -> list[str]:
        """Return the next hashes in their order, so many at most.

        Args:
            limit: how many.
            read: returns the first so many hashes.
            still: returns which of at most READ_AHEAD hashes are still meant.
        """
        if self._found and self.clock() - self._read_at < KEPT_S:
            ahead = [*self._found]
            meant = still(ahead)
            left = [sha256 for sha256 in ahead if sha256 in meant]
            if left:
                self._found = deque(left[limit:])
                return left[:limit]
        self._found.clear()
        if self.clock() < self._rests_until:
            return []
        return self._look(limit, read)

    def end_rest(self) -> bool:
        """Look again the next time; return whether it would have rested, because looking had taken long for nothing."""
        rested, self._rests_until = self.clock() < self._rests_until, 0.0
        return rested

    def _look(self, limit: int, read: Callable[[int], Sequence[str]]) -> list[str]:
        began = self.clock()
        found = read(max(limit, READ_AHEAD))
        self._read_at = self.clock()
        took_s = self._read_at - began
        if took_s >= SLOW_S:
            self._found.extend(found[limit:])
            if not found:
                self._rests_until = self._read_at + took_s / SHARE_OF_LOOKING
        return list(found[:limit])


_OF_ENGINES: WeakKeyDictionary[Engine, dict[Hashable, CandidateCache]] = WeakKeyDictionary()
_LOCK = threading.Lock()


def candidate_cache_of(engine: Engine, question: Hashable) -> CandidateCache:
    """Return what was read ahead through an engine for one question."""
    with _LOCK:
        return _OF_ENGINES.setdefault(engine, {}).setdefault(question, CandidateCache())


def end_search_pauses(engine: Engine) -> bool:
    """Have every question looked into again through an engine; return whether any was resting."""
    with _LOCK:
        return sum(one.end_rest() for one in _OF_ENGINES.get(engine, {}).values()) > 0
