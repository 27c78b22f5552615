"""The result of a load, bounded whatever the number of files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from cowrieprocessor.loader.log_loading import FAILED, KNOWN, LOADED, FileResult

MAX_NAMED_FILES = 1000
"""How many files of each kind a result names: those that failed, those with notes or dead letters, and the others."""

_FAILED, _NOTED, _OTHER = range(3)


@dataclass(slots=True)
class LoadResult:
    """The result of a load: the sums over all files, and the files worth naming.

    Attributes:
        ingest_id: identifies this load in `raw_events.ingest_id`.
        duration_s: how long it took.
        counters: the sums of the counters of all files.
        states: the number of files in each state.
        bytes_nul: NUL bytes skipped in all files.
        files: in the order in which they were loaded, the first `MAX_NAMED_FILES` that failed, as many of those with
            a warning or a dead letter, and as many of the others: in a load of so many files, all of them.
    """

    ingest_id: str
    duration_s: float = 0.0
    counters: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    bytes_nul: int = 0
    files: list[FileResult] = field(default_factory=list)
    _named: Counter[int] = field(default_factory=Counter)
    _noted: int = 0
    _has_events: bool = False
    _holds_text: bool = False

    @property
    def files_total(self) -> int:
        """The number of files."""
        return self.states.total()

    @property
    def failed_total(self) -> int:
        """The number of files that could not be read to their end."""
        return self.states[FAILED]

    @property
    def noted_total(self) -> int:
        """The number of files with a warning or a dead letter, or that ended within a value, that did not fail."""
        return self._noted

    @property
    def named_noted(self) -> int:
        """How many of those `files` names."""
        return self._named[_NOTED]

    @property
    def failed(self) -> list[FileResult]:
        """The files that could not be read to their end, as far as `files` names them."""
        return [file for file in self.files if file.state == FAILED]

    @property
    def holds_no_event(self) -> bool:
        """Whether there is text in the files, and not one event of Cowrie in any of them."""
        return self._holds_text and not self._has_events

    def add(self, file: FileResult, *, may_have_note: bool = False) -> bool:
        """Add the result of a file; return whether `files` names it.

        Args:
            file: the result.
            may_have_note: a note may be added to it at the end of the load.
        """
        self.counters.update(file.counters)
        self.states[file.state] += 1
        self.bytes_nul += file.bytes_nul
        self._has_events = self._has_events or file.state in (LOADED, KNOWN) or bool(file.counters)
        self._holds_text = self._holds_text or file.holds_text
        kind = _kind(file, may_have_note=may_have_note)
        self._noted += kind == _NOTED
        if self._named[kind] >= MAX_NAMED_FILES:
            return False
        self._named[kind] += 1
        self.files.append(file)
        return True


def _kind(file: FileResult, *, may_have_note: bool) -> int:
    if file.state == FAILED:
        return _FAILED
    return _NOTED if may_have_note or file.warnings or file.counters["dead_letters"] else _OTHER
