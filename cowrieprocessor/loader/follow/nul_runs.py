"""What runs of NUL bytes reveal about logs that were truncated.

A writer that continues at its old position in a truncated file leaves NULs before it, as many as the log had bytes.
If the file was truncated more than once, copies of the logs in between begin with NULs, too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import NamedTuple

from cowrieprocessor.db.ingest.followed_files import SeenFile
from cowrieprocessor.loader.follow.file_probe import FileProbe
from cowrieprocessor.loader.follow.missing_log import LOST_SIGNATURE, MissingLog, extent, has_no_path


class Truncation(NamedTuple):
    """What NULs reveal about a log.

    Attributes:
        length: how many bytes it had when it was truncated; 0 if nothing reveals it.
        later: what was lost of the logs that were written to the file and truncated after it.
    """

    length: int
    later: list[MissingLog]


class NulRuns:
    """Reads from NUL runs how long truncated logs were.

    Args:
        probe: reads the files.
        known: what was seen of each file before, by file key.
        present: what is there now, by file key.
        unnamed: logs that are open without a path.
    """

    def __init__(
        self,
        probe: FileProbe,
        known: Mapping[str, SeenFile],
        present: Mapping[str, SeenFile],
        unnamed: Collection[SeenFile],
    ) -> None:
        self._probe = probe
        self._known = known
        self._present = present
        self._readable = [*present.values(), *unnamed]

    def may_tell_of(self, old: SeenFile) -> bool:
        """Return whether a log is the last one that was seen in its file, and is not only remembered as lost."""
        if old.signature == LOST_SIGNATURE:
            return False
        successors = [
            seen for seen in self._known.values() if seen.is_from_same_file(old) and seen.log and seen.log != old.log
        ]
        return not (has_no_path(old) and any(not has_no_path(successor) for successor in successors))

    def truncation_of(self, old: SeenFile) -> Truncation:
        """Return how long a log was when its file was truncated, and what was lost of later logs in that file."""
        length = self._length_in_same_file(old)
        if not length or self._is_length_of_another(old, length):
            return Truncation(0, [])
        copies = self._copies_by_run(old, length)
        runs = [*sorted(copies), length]
        later = [
            MissingLog((copies[run],), end, extent(copies[run]))
            for run, end in pairwise(runs)
            if end > extent(copies[run])
        ]
        return Truncation(runs[0], later)

    def _length_in_same_file(self, old: SeenFile) -> int:
        """Return how many NULs the log begins with that is now in the file of another one."""
        successors = [seen for seen in self._readable if seen.is_from_same_file(old) and seen.log != old.log]
        return self._probe.count_leading_nuls(successors[0]) if successors else 0

    def _is_length_of_another(self, old: SeenFile, length: int) -> bool:
        """Return whether a number of NULs is explained by another log of that length that was truncated."""
        return any(seen.log != old.log and extent(seen) == length for seen in [*self._known.values(), *self._readable])

    def _copies_by_run(self, old: SeenFile, length: int) -> dict[int, SeenFile]:
        """Return the new files that may be copies of logs between two truncations, by the NULs they begin with.

        Of several with the same number the longest is taken.
        """
        copies: dict[int, SeenFile] = {}
        for file in self._new_files():
            if file.log == old.log or file.is_from_same_file(old) or not old.bytes_seen <= extent(file) <= length:
                continue
            run = self._probe.count_leading_nuls(file)
            if run >= old.bytes_seen and (run not in copies or extent(file) > extent(copies[run])):
                copies[run] = file
        return copies

    def _new_files(self) -> list[SeenFile]:
        """Return the files that were not there before under any name, such as copies."""
        before = {(seen.device, seen.inode, seen.log) for seen in self._known.values()}
        return [file for file in self._present.values() if (file.device, file.inode, file.log) not in before]
