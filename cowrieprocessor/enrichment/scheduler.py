"""Whose turn it is: sources take turns, each with one request, and nobody waits for a source that cannot answer now."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from cowrieprocessor.enrichment.lookup import Lookup, Step

LOOK_AGAIN_S = 30.0
"""How often is looked for new files where there was nothing to do."""

LOOK_AGAIN_TURNS = 20
"""How many turns of the others a source rests that found nothing to do."""

SHORT_WAIT_S = 120.0
"""A wait that a run without `--watch` sits through; for longer ones it ends and says so."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Why no request can be sent now.

    Attributes:
        until: when to look again.
        reason: for people; None where there is simply nothing to do.
    """

    until: dt.datetime
    reason: str | None


class Scheduler:
    """Lets sources work by turns.

    Args:
        sources: in the order in which they are to be asked about a file.
    """

    def __init__(self, sources: Sequence[Lookup]) -> None:
        self._sources = sources
        self._last: dict[str, Step] = {}
        self._turns = 0

    def turn(self) -> bool:
        """Let each source do one thing; return whether any did.

        A source that found nothing to do is not let look again each time: looking costs more than a request.
        """
        self._turns += 1
        if self._turns % LOOK_AGAIN_TURNS == 0:
            self._wake()
        if self._round():
            return True
        self._wake()
        return self._round()

    def _wake(self) -> None:
        for source in self._sources:
            source.is_resting = False

    def _round(self) -> bool:
        did = False
        for number, source in enumerate(self._sources):
            earlier = [one.name for one in self._sources[:number] if one.is_available]
            step = source.step(earlier)
            self._last[source.name] = step
            did = did or step is Step.DONE_SOMETHING
        return did

    def pause(self, now: dt.datetime, *, watch: bool) -> Pause | None:
        """Return until when nothing can be done; None if there is nothing to wait for.

        Args:
            now: the time.
            watch: look again at sources that have nothing to do: there may be new files, or retries that are due.
        """
        waits = [source.waits for source in self._sources if self._last.get(source.name) is Step.HAS_TO_WAIT]
        ends = [Pause(wait.until, f"{wait.reason}") for wait in waits if wait is not None]
        if watch and any(step is Step.NOTHING_TO_DO for step in self._last.values()):
            ends.append(Pause(now + dt.timedelta(seconds=LOOK_AGAIN_S), None))
        return min(ends, key=lambda end: end.until, default=None)

    def blocked(self) -> list[Lookup]:
        """Return the sources that have to wait."""
        return [source for source in self._sources if self._last.get(source.name) is Step.HAS_TO_WAIT]

    def release(self) -> None:
        """Give back every file that was claimed and not asked about."""
        for source in self._sources:
            source.release()
