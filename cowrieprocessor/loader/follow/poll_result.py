"""The result of one poll of followed logs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from cowrieprocessor.loader.follow.gap_detector import Gap
from cowrieprocessor.loader.log_loading import FileResult, sum_counters


@dataclass(slots=True)
class PollResult:
    """The result of one poll.

    Attributes:
        files: those of which something was stored, and those that could not be read.
        gaps: losses that were not known before.
        deferred: number of archives that are still being written.
        is_undecided: whether something may have been lost, or may be there once a file has settled.
        is_whole: whether everything was polled: nothing went away meanwhile, and the loader was not asked to stop.
        again_in_s: poll again within this time even without a notification; None where there is no need.
    """

    files: list[FileResult] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    deferred: int = 0
    is_undecided: bool = False
    is_whole: bool = True
    again_in_s: float | None = None

    @property
    def counters(self) -> Counter[str]:
        """The sums over all files."""
        return sum_counters(self.files)

    def poll_again_in(self, seconds: float) -> None:
        """Ask for another poll within this time; the shortest of several counts."""
        self.again_in_s = seconds if self.again_in_s is None else min(self.again_in_s, seconds)

    def add(self, result: FileResult) -> None:
        """Add the result of a file, if there is something to report."""
        if result.counters or result.error or result.warnings:
            self.files.append(result)
