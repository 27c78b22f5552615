"""Lets sources take turns, one request each, so that none waits for a source that cannot answer now."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from cowrieprocessor.enrichment.file_enrichment import FileEnrichment, Step

RECHECK_S = 30.0
"""How often sources with nothing to do search for new files."""

RECHECK_TURNS = 20
"""For how many turns of the others a source with nothing to do stays idle."""

SHORT_WAIT_S = 90.0
"""The longest wait that a run without `--watch` sits through; it ends and reports a longer one.

It covers the rate limit of a minute and the first pause of a source that fails or wants fewer requests; the second one
in a row is twice as long and ends the run.
"""


@dataclass(frozen=True, slots=True)
class Pause:
    """A time in which no request can be sent.

    Attributes:
        until: when to try again.
        reason: why, for people; None if there is simply nothing to do.
    """

    until: dt.datetime
    reason: str | None


class Scheduler:
    """Lets sources work in turns.

    Args:
        sources: in the order in which they are asked about a file.
    """

    def __init__(self, sources: Sequence[FileEnrichment]) -> None:
        self._sources = sources
        self._last: dict[str, Step] = {}
        self._turns = 0

    def turn(self) -> bool:
        """Let each source do one step; return whether any did something.

        Idle sources do not search for candidates at each turn: a search costs more than a request.
        """
        self._turns += 1
        if self._turns % RECHECK_TURNS == 0:
            self._wake()
        if self._round():
            return True
        self._wake()
        return self._round()

    def _wake(self) -> None:
        for source in self._sources:
            source.is_idle = False

    def _round(self) -> bool:
        did_something = False
        for number, source in enumerate(self._sources):
            earlier = [other.name for other in self._sources[:number] if other.is_available]
            step = source.step(earlier)
            self._last[source.name] = step
            did_something = did_something or step is Step.DONE_SOMETHING
        return did_something

    def pause(self, now: dt.datetime, *, watch: bool) -> Pause | None:
        """Return the pause until something can be done; None if there is nothing to wait for.

        Args:
            now: the current time.
            watch: also wait for sources that have nothing to do: new files may come, or retries fall due.
        """
        waits = [source.wait for source in self.blocked()]
        pauses = [Pause(wait.until, wait.reason) for wait in waits if wait is not None]
        if watch and any(step is Step.NOTHING_TO_DO for step in self._last.values()):
            pauses.append(Pause(now + dt.timedelta(seconds=RECHECK_S), None))
        return min(pauses, key=lambda pause: pause.until, default=None)

    def blocked(self) -> list[FileEnrichment]:
        """Return the sources that have to wait."""
        return [source for source in self._sources if self._last.get(source.name) is Step.HAS_TO_WAIT]

    def release(self) -> None:
        """Release every file that was claimed and not asked about."""
        for source in self._sources:
            source.release()
