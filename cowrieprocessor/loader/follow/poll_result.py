"""What one look at followed logs found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from cowrieprocessor.loader.follow.gap_detector import Gap
from cowrieprocessor.loader.log_loading import FileResult, counters_of


@dataclass(slots=True)
class PollResult:
    """What one look found.

    Attributes:
        files: those that gave something, and those that could not be read.
        gaps: losses that were not known before.
        deferred: archives that are still being written.
        is_whole: whether everything was looked at: nothing went away meanwhile, and nobody asked to stop.
        again_in_s: look again by then though nothing may be notified; None where there is no need.
    """

    files: list[FileResult] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    deferred: int = 0
    is_whole: bool = True
    again_in_s: float | None = None

    @property
    def counters(self) -> Counter[str]:
        """The sums over all files."""
        return counters_of(self.files)

    def again(self, seconds: float) -> None:
        """Note that something is to be looked at again by then."""
        self.again_in_s = seconds if self.again_in_s is None else min(self.again_in_s, seconds)

    def tell(self, result: FileResult) -> None:
        """Take in what became of a file, if there is something to tell."""
        if result.counters or result.error or result.warnings:
            self.files.append(result)
