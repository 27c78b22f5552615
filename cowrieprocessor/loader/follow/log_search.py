"""The search for logs that are no longer where they were seen, in the files that are present."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Engine

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.ingest import followed_files as table
from cowrieprocessor.db.ingest.followed_files import SeenFile
from cowrieprocessor.loader.follow.file_probe import FileProbe
from cowrieprocessor.loader.follow.missing_log import Log, MissingLog

Sightings = tuple[SeenFile, ...]


@dataclass(frozen=True, slots=True)
class LogSearch:
    """Searches for missing logs in one state of the followed files.

    Attributes:
        engine: the database.
        probe: reads the files.
        known: what was seen of each file before, by file key.
        overwritten: what was seen of logs that have no path any more.
        present: what is there now, by file key.
        unnamed: logs that are open without a path.
        searched: file keys of the fragments for which all files were searched already; extended by the search.
    """

    engine: Engine
    probe: FileProbe
    known: Mapping[str, SeenFile]
    overwritten: Collection[SeenFile]
    present: Mapping[str, SeenFile]
    unnamed: Collection[SeenFile]
    searched: set[str]

    def find(self, sightings: Sightings) -> MissingLog:
        """Return how far a log goes in the files that are present."""
        log = sightings[0].log
        missing = MissingLog(sightings, max(seen.bytes_seen for seen in sightings))
        is_open = any(file.log == log and file.is_from_same_file(seen) for file in self.unnamed for seen in sightings)
        if log is None:
            return self._find_fragment(missing, is_open=is_open)
        return self._find_log(missing, log, is_open=is_open)

    def _find_fragment(self, missing: MissingLog, *, is_open: bool) -> MissingLog:
        """Find a file without a complete object: as the beginning of another file, or open without a path."""
        largest = max(missing.sightings, key=lambda seen: seen.bytes_seen)
        if self._begins_a_file(largest) or self._has_become_log(largest):
            return replace(missing, bytes_found=missing.bytes_seen)
        first = missing.sightings[0]
        bytes_open = _furthest(file for file in self.unnamed if file.log is None and file.is_from_same_file(first))
        return replace(missing, bytes_found=bytes_open, is_open=is_open and bytes_open >= missing.bytes_seen)

    def _find_log(self, missing: MissingLog, log: Log, *, is_open: bool) -> MissingLog:
        """Find a log: stored, in files that are present, or open without a path."""
        with read_transaction(self.engine) as connection:
            row = table.cursor_of(connection, log)
        if row and missing.bytes_seen <= row["byte_pos"]:
            return replace(missing, bytes_found=missing.bytes_seen)
        missing = replace(missing, bytes_found=self._bytes_present(missing, log, row))
        if missing.is_found:
            return missing
        bytes_open = _furthest(file for file in self.unnamed if file.log == log)
        return replace(
            missing,
            bytes_found=max(missing.bytes_found, bytes_open),
            is_open=is_open and bytes_open >= missing.bytes_seen,
        )

    def _bytes_present(self, missing: MissingLog, log: Log, row: Mapping[str, Any] | None) -> int:
        """Return how far a log goes in the files with the same first object; proven copies count, too."""
        alike = self._files_alike(log)
        bytes_present = _furthest(file for file in alike if file.log == log)
        if row is None or bytes_present >= missing.bytes_seen:
            return bytes_present
        copies = [file for file in alike if file.log != log and self._is_copy(file, missing, row)]
        return max(bytes_present, _furthest(copies))

    def _files_alike(self, log: Log) -> list[SeenFile]:
        return [file for file in self.present.values() if file.log and file.log[0] == log[0]]

    def _is_copy(self, file: SeenFile, missing: MissingLog, row: Mapping[str, Any]) -> bool:
        """Return whether a file has a log although it counts as another one that begins alike."""
        is_same_file_grown = any(
            file.is_from_same_file(seen) and file.bytes_seen >= seen.bytes_seen for seen in missing.sightings
        )
        return is_same_file_grown or self.probe.has_log(file, row)

    def _begins_a_file(self, fragment: SeenFile) -> bool:
        """Return whether a file is present that begins with all that was seen of a file without an object."""
        if fragment.head_digest is None:
            return False
        digest, _, length = fragment.head_digest.partition(":")
        candidates = list(self.present.values()) if fragment.file_key not in self.searched else self._changed_files()
        self.searched.add(fragment.file_key)
        return any(self.probe.begins_with(file, digest, int(length)) for file in candidates)

    def _changed_files(self) -> list[SeenFile]:
        """Return the files that are new, have changed, or have no complete object yet."""
        return [file for file_key, file in self.present.items() if file.log is None or self.known.get(file_key) != file]

    def _has_become_log(self, fragment: SeenFile) -> bool:
        """Return whether a file without an object has got one since it lost its path."""
        logs = [seen for seen in [*self.unnamed, *self.overwritten] if seen.log is not None]
        return any(log.is_from_same_file(fragment) and log.bytes_seen >= fragment.bytes_seen for log in logs)


def _furthest(files: Iterable[SeenFile]) -> int:
    """Return how far the longest of several files goes, 0 if there is none."""
    return max((file.bytes_seen for file in files), default=0)
