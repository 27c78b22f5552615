"""Scans Cowrie's downloads folder and stores hashes, sizes and types of the captured files.

Cowrie's file events contain no size, so the size can only come from the file itself. A captured file that no log
mentions gets its own row in `files`, under the session `artifact:<sensor>`.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from cowrieprocessor.analysis import scan_statements
from cowrieprocessor.analysis.captured_file import (
    CHUNK_BYTES,
    CapturedFile,
    Describe,
    SkipReason,
    is_leftover_name,
    is_temporary_name,
    modified_at,
    not_a_file,
    read_captured,
    read_leftover,
    sha256_of_name,
    type_describer,
)
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.ingest import sensor_names
from cowrieprocessor.db.migrations import prepare
from cowrieprocessor.errors import InputNotFound, InputNotReadable
from cowrieprocessor.interpret.sensors import sensor_name
from cowrieprocessor.sanitize import inert, inert_cut, restore

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

NAMES_KEPT = 100
COUNTED = ("entries", "new", "completed", "unchanged", "leftovers", "bytes_read", "artifacts", "sizes_set")
UNKNOWN_SENSOR = "unknown"
SESSION_ID_CHARS = 64


@dataclass(frozen=True, slots=True)
class ScanLimits:
    """How much a scan reads and writes at once.

    Attributes:
        batch_files: files per transaction, at most.
        batch_bytes: bytes read per transaction; a transaction ends with the file that reaches them.
        sizes_per_transaction: rows of `files` that get their size in one transaction, at most.
        chunk_bytes: bytes per read of a file.
    """

    batch_files: int = 500
    batch_bytes: int = 256 << 20
    sizes_per_transaction: int = scan_statements.SIZES_PER_TRANSACTION
    chunk_bytes: int = CHUNK_BYTES


@dataclass(slots=True)
class ScanResult:
    """What a scan found and changed.

    Attributes:
        directory: the folder, inert.
        sensor: its sensor, inert.
        types_known: whether file types were detected.
        entries: entries of the folder: the sum of `new`, `completed`, `unchanged` and `left_alone`.
        new: files whose hash was not in the database.
        completed: files of which the database lacked something.
        unchanged: files that the database had already.
        leftovers: of all these, files under the temporary name of a redirect that Cowrie forgot.
        bytes_read: bytes of the files that were read.
        artifacts: rows added to `files`.
        sizes_set: rows of `files` that got their size.
        left_alone: number of skipped entries, by reason.
        mismatched: the first 100 names of files whose content does not have the hash that is their name.
        unreadable: the first 100 names of files that could not be read.
    """

    directory: str
    sensor: str
    types_known: bool
    entries: int = 0
    new: int = 0
    completed: int = 0
    unchanged: int = 0
    leftovers: int = 0
    bytes_read: int = 0
    artifacts: int = 0
    sizes_set: int = 0
    left_alone: Counter[str] = field(default_factory=Counter)
    mismatched: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def skip(self, name: str, reason: SkipReason) -> None:
        """Count a skipped entry, and keep its name if an operator has to look at it."""
        self.left_alone[reason.value] += 1
        names = {SkipReason.MISMATCH: self.mismatched, SkipReason.UNREADABLE: self.unreadable}.get(reason)
        if names is not None and len(names) < NAMES_KEPT:
            names.append(inert(os.fsencode(name).decode(errors="backslashreplace")))

    def add(self, stored: scan_statements.StoreResult, sizes_set: int) -> None:
        """Add the counts of one transaction."""
        self.new += stored.new
        self.completed += stored.completed
        self.unchanged += stored.unchanged
        self.artifacts += stored.artifacts
        self.sizes_set += sizes_set

    def counters(self) -> dict[str, int]:
        """Return the counters by name, as in the `jobs` table and in `--json`."""
        numbers = {name: getattr(self, name) for name in COUNTED}
        return numbers | {f"left_alone_{reason}": n for reason, n in sorted(self.left_alone.items())}


Progress = Callable[[ScanResult, int], None]
"""Called after each file with the result so far and the number of entries in the folder."""

EntryFilter = Callable[[os.DirEntry[str]], bool]
"""Returns whether an entry of the folder is part of this scan."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An entry that may be a captured file; `content` is set if it had to be read for its hash."""

    name: str
    sha256: str
    status: os.stat_result
    content: CapturedFile | None = None


def artifact_session(sensor: str) -> str:
    """Return the session_id of captured files that no log of this sensor mentions: `artifact:<sensor>`.

    A name too long for the column is cut and ends with part of its hash, so that it stays unique.
    """
    session_id = f"artifact:{inert(sensor)}"
    if len(session_id) <= SESSION_ID_CHARS:
        return session_id
    digest = hashlib.sha256(sensor.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{inert_cut(session_id, SESSION_ID_CHARS - 9)}~{digest}"


def scan_downloads(
    engine: Engine,
    directory: str | os.PathLike[str],
    *,
    sensor: str | None = None,
    rehash: bool = False,
    is_wanted: EntryFilter | None = None,
    on_progress: Progress | None = None,
    describe: Describe | None = None,
    limits: ScanLimits | None = None,
) -> ScanResult:
    """Store every captured file of a downloads folder; a second scan of the same folder changes nothing.

    Files are read once, in bounded memory, and committed in transactions of at most 500. Stored are regular files
    whose name is the SHA-256 of their content, and the output of redirects that Cowrie left under its temporary name.
    A file named by its hash is not read again if the database has its hashes, size and type, and its modification
    time adds nothing.

    Args:
        engine: the database; a new one is created with its schema.
        directory: Cowrie's downloads folder; folders in it are skipped.
        sensor: the sensor of the folder; part of the session_id of files that no log mentions.
        rehash: read every file again, including those in the database.
        is_wanted: restricts the scan to some entries; others are not counted. None scans all.
        on_progress: called after each file.
        describe: returns MIME type and description for the first bytes; None uses libmagic.
        limits: how much is read and written at once.

    Raises:
        InputNotFound: no such folder.
        InputNotReadable: it is not a folder, or cannot be opened.
        MigrationNeeded: a v3 database.
        DatabaseError: the database fails; what was committed before remains.
    """
    folder_fd = _open_folder(directory)
    try:
        prepare(engine)
        describe = describe or type_describer()
        sensor = sensor or UNKNOWN_SENSOR
        result = ScanResult(inert(str(Path(directory))), inert(sensor), types_known=describe is not None)
        with scan_statements.recorded_job(engine, result.counters, f"left_alone_{SkipReason.UNREADABLE}"):
            scan = _Scan(engine, folder_fd, sensor, result, describe, rehash, on_progress, limits or ScanLimits())
            scan.run(is_wanted)
    finally:
        os.close(folder_fd)
    return result


def _open_folder(directory: str | os.PathLike[str]) -> int:
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise InputNotFound(f"{Path(directory)}: no such folder; give Cowrie's downloads folder") from None
    except NotADirectoryError:
        raise InputNotReadable(f"{Path(directory)}: is not a folder; give Cowrie's downloads folder") from None
    except OSError as error:
        raise InputNotReadable(f"{Path(directory)}: cannot be opened: {error.strerror}") from error


class _Scan:
    """One scan of one folder."""

    def __init__(
        self,
        engine: Engine,
        folder_fd: int,
        sensor: str,
        result: ScanResult,
        describe: Describe | None,
        rehash: bool,
        on_progress: Progress | None,
        limits: ScanLimits,
    ) -> None:
        self.engine = engine
        self.folder_fd = folder_fd
        self.result = result
        self.describe = describe
        self.rehash = rehash
        self.on_progress = on_progress
        self.limits = limits
        self.sensor = sensor
        self.entries_total = 0

    def run(self, is_wanted: EntryFilter | None) -> None:
        if self.on_progress:
            with os.scandir(self.folder_fd) as entries:
                self.entries_total = sum(1 for _ in entries)
        candidates = self._candidates(is_wanted)
        while batch := list(islice(candidates, self.limits.batch_files)):
            self._store(batch)

    def _candidates(self, is_wanted: EntryFilter | None) -> Iterator[_Candidate]:
        """Yield the entries of the folder that may be captured files; count the others as skipped."""
        with os.scandir(self.folder_fd) as entries:
            for entry in entries:
                if is_wanted is not None and not is_wanted(entry):
                    continue
                self.result.entries += 1
                outcome = self._classify(entry)
                if isinstance(outcome, _Candidate):
                    yield outcome
                else:
                    self.result.skip(entry.name, outcome)

    def _classify(self, entry: os.DirEntry[str]) -> _Candidate | SkipReason:
        sha256 = sha256_of_name(entry.name)
        try:
            if sha256 is None and is_leftover_name(entry.name):
                return self._classify_leftover(entry)
            if sha256 is None and entry.is_file(follow_symlinks=False):
                return SkipReason.TEMPORARY if is_temporary_name(entry.name) else SkipReason.OTHER_NAME
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return SkipReason.VANISHED
        except OSError:
            return SkipReason.UNREADABLE
        reason = not_a_file(status.st_mode)
        if reason is not None:
            return reason
        return _Candidate(entry.name, sha256, status) if sha256 else SkipReason.OTHER_NAME

    def _classify_leftover(self, entry: os.DirEntry[str]) -> _Candidate | SkipReason:
        """Read the output of a redirect, whose hash only its content tells."""
        status = entry.stat(follow_symlinks=False)
        reason = not_a_file(status.st_mode)
        if reason is not None:
            return reason
        content = read_leftover(self.folder_fd, entry.name, self.describe, chunk_bytes=self.limits.chunk_bytes)
        if isinstance(content, SkipReason):
            return content
        self.result.leftovers += 1
        self.result.bytes_read += content.size_bytes
        return _Candidate(entry.name, content.sha256, status, content)

    def _store(self, batch: Sequence[_Candidate]) -> None:
        """Read the files that the database lacks and write them, in several transactions if they are big."""
        with read_transaction(self.engine) as connection:
            known = scan_statements.known_files(connection, [c.sha256 for c in batch], self._session_id(connection))
        pending: dict[str, CapturedFile] = {}
        bytes_pending = 0
        for candidate in batch:
            captured, bytes_read = self._capture(candidate, known.get(candidate.sha256))
            bytes_pending += bytes_read
            if captured:
                copy = pending.get(captured.sha256)  # the same hash in the other letter case, or a leftover
                self.result.unchanged += copy is not None
                pending[captured.sha256] = captured.joined(copy) if copy else captured
            if bytes_pending >= self.limits.batch_bytes:
                self._write(pending)
                pending, bytes_pending = {}, 0
            if self.on_progress:
                self.on_progress(self.result, self.entries_total)
        if pending:
            self._write(pending)

    def _capture(self, candidate: _Candidate, row: scan_statements.KnownFile | None) -> tuple[CapturedFile | None, int]:
        """Return the file to write for a candidate (None if there is nothing to write) and the bytes read for it."""
        if row is None or not self._is_complete(row, candidate):
            captured = candidate.content or self._read(candidate)
            return captured, captured.size_bytes if captured else 0
        if not row.settled:
            return row.as_captured(modified_at(candidate.status)), 0
        self.result.unchanged += 1
        return None, 0

    def _is_complete(self, row: scan_statements.KnownFile, candidate: _Candidate) -> bool:
        """Return whether reading the file would add nothing; a file modified since is read again to verify it."""
        if self.rehash or not row.has_hashes or (row.file_type is None and self.describe is not None):
            return False
        return row.size_bytes == candidate.status.st_size and row.spans(modified_at(candidate.status))

    def _read(self, candidate: _Candidate) -> CapturedFile | None:
        outcome = read_captured(self.folder_fd, candidate.name, self.describe, chunk_bytes=self.limits.chunk_bytes)
        if isinstance(outcome, SkipReason):
            self.result.skip(candidate.name, outcome)
            return None
        self.result.bytes_read += outcome.size_bytes
        return outcome

    def _session_id(self, connection: Connection) -> str:
        """Return the session_id of files that no log mentions, under the name that the sensor has now."""
        now = sensor_names.renamed(connection).get(sensor_name(self.sensor))
        return artifact_session(self.sensor if now is None else restore(now))

    def _write(self, files: dict[str, CapturedFile]) -> None:
        hashes = sorted(files)
        limit = self.limits.sizes_per_transaction
        with write_transaction(self.engine) as connection:
            sensor_names.lock(connection)
            session_id = self._session_id(connection)
            stored = scan_statements.store(connection, [files[sha256] for sha256 in hashes], session_id)
            sizes_set, cursor = scan_statements.set_sizes(connection, hashes, limit=limit)
            self.result.add(stored, sizes_set)
            scan_statements.record_progress(connection, self.result.counters())
        while cursor:
            with write_transaction(self.engine) as connection:
                sizes_set, cursor = scan_statements.set_sizes(connection, hashes, after=cursor, limit=limit)
                self.result.sizes_set += sizes_set
                scan_statements.record_progress(connection, self.result.counters())
