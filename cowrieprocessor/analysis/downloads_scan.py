"""Cowrie's downloads folder, scanned: hashes, sizes and types of the captured files go into the database.

No file event of Cowrie carries a size, so the size of a file can only come from the file itself. A captured
file that no log names becomes a row of `files` of its own, under the session `artifact:<sensor>`.
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

from cowrieprocessor.analysis import scan_statements as scan_rows
from cowrieprocessor.analysis.captured_file import (
    CapturedFile,
    Describe,
    LeftAlone,
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
from cowrieprocessor.db.migrations import prepare
from cowrieprocessor.errors import InputNotFound, InputNotReadable
from cowrieprocessor.sanitize import inert, inert_cut

if TYPE_CHECKING:
    from sqlalchemy import Engine

BATCH_FILES = 500
BATCH_BYTES = 256 << 20
NAMES_KEPT = 100
COUNTED = ("entries", "new", "completed", "unchanged", "leftovers", "bytes_read", "artifacts", "sizes_set")
UNKNOWN_SENSOR = "unknown"
SESSION_ID_CHARS = 64


@dataclass(slots=True)
class ScanResult:
    """What a scan found and changed.

    `directory` and `sensor` are inert. `entries` is everything in the folder: `new` + `completed` +
    `unchanged` files and all that was `left_alone`. `new` hashes the database had not heard of, `completed`
    ones that lacked something, `unchanged` ones it knew. `leftovers` of these lay under the temporary name of a
    redirect that Cowrie forgot. `mismatched` and `unreadable` keep the first 100
    names; `left_alone` has the full counts by reason.
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

    def leave(self, name: str, reason: LeftAlone) -> None:
        """Count an entry that was left alone, and keep its name if somebody has to look at it."""
        self.left_alone[reason.value] += 1
        names = {LeftAlone.MISMATCH: self.mismatched, LeftAlone.UNREADABLE: self.unreadable}.get(reason)
        if names is not None and len(names) < NAMES_KEPT:
            names.append(inert(os.fsencode(name).decode(errors="backslashreplace")))

    def add(self, stored: scan_rows.Stored, sizes_set: int) -> None:
        """Add what one transaction wrote."""
        self.new += stored.new
        self.completed += stored.completed
        self.unchanged += stored.unchanged
        self.artifacts += stored.artifacts
        self.sizes_set += sizes_set

    def counters(self) -> dict[str, int]:
        """Return the numbers by name, as the `jobs` table and `--json` show them."""
        numbers = {name: getattr(self, name) for name in COUNTED}
        return numbers | {f"left_alone_{reason}": n for reason, n in sorted(self.left_alone.items())}


Progress = Callable[[ScanResult, int], None]
"""Called after each file with what was found so far and the number of entries in the folder."""

Wanted = Callable[[os.DirEntry[str]], bool]
"""Says of an entry of the folder whether this scan is to look at it."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """What may be a captured file; `content` of one whose name does not tell its hash, which was read for it."""

    name: str
    sha256: str
    status: os.stat_result
    content: CapturedFile | None = None


def artifact_session(sensor: str) -> str:
    """Return the session_id of captured files that no log of this sensor names: `artifact:<sensor>`.

    A name too long for the column is cut, and a piece of its hash keeps it apart from others that begin
    alike.
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
    wanted: Wanted | None = None,
    on_progress: Progress | None = None,
    describe: Describe | None = None,
) -> ScanResult:
    """Take up every captured file of a downloads folder; a second scan of the same folder changes nothing.

    Files are read once, in a bounded amount of memory, and committed in transactions of at most 500. Only
    regular files whose name is the SHA-256 of their content count, and what Cowrie forgot under the temporary
    name of a redirect. Where the database knows hashes, size and type already, and the file's time tells nothing
    new, a file named by its hash is not read again.

    Args:
        engine: where to; a new database is made ready.
        directory: Cowrie's downloads folder; folders inside it are left alone.
        sensor: whose folder it is; names the session of files that no log names.
        rehash: read every file again, also those that the database knows.
        wanted: which entries to look at; the others are not even counted. All when None.
        on_progress: called after each file.
        describe: tells MIME type and description from the first bytes; libmagic when None.

    Raises:
        InputNotFound: no such folder.
        InputNotReadable: it is no folder, or cannot be opened.
        MigrationNeeded: a v3 database.
        DatabaseError: the database cannot serve; what was committed before stays.
    """
    folder_fd = _open_folder(directory)
    try:
        prepare(engine)
        describe = describe or type_describer()
        sensor = sensor or UNKNOWN_SENSOR
        result = ScanResult(inert(str(Path(directory))), inert(sensor), types_known=describe is not None)
        with scan_rows.recorded_job(engine, result.counters, f"left_alone_{LeftAlone.UNREADABLE}"):
            scan = _Scan(engine, folder_fd, artifact_session(sensor), result, describe, rehash, on_progress)
            scan.run(wanted)
    finally:
        os.close(folder_fd)
    return result


def _open_folder(directory: str | os.PathLike[str]) -> int:
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise InputNotFound(f"{Path(directory)}: no such folder; give Cowrie's downloads folder") from None
    except NotADirectoryError:
        raise InputNotReadable(f"{Path(directory)}: is no folder; give Cowrie's downloads folder") from None
    except OSError as error:
        raise InputNotReadable(f"{Path(directory)}: cannot be opened: {error.strerror}") from error


class _Scan:
    """One walk through one folder."""

    def __init__(
        self,
        engine: Engine,
        folder_fd: int,
        session_id: str,
        result: ScanResult,
        describe: Describe | None,
        rehash: bool,
        on_progress: Progress | None,
    ) -> None:
        self.engine = engine
        self.folder_fd = folder_fd
        self.result = result
        self.describe = describe
        self.rehash = rehash
        self.on_progress = on_progress
        self.session_id = session_id
        self.entries_total = 0

    def run(self, wanted: Wanted | None) -> None:
        if self.on_progress:
            with os.scandir(self.folder_fd) as entries:
                self.entries_total = sum(1 for _ in entries)
        candidates = self._candidates(wanted)
        while batch := list(islice(candidates, BATCH_FILES)):
            self._take(batch)

    def _candidates(self, wanted: Wanted | None) -> Iterator[_Candidate]:
        """Walk the folder in a stream; count what is no captured file, hand on what may be one."""
        with os.scandir(self.folder_fd) as entries:
            for entry in entries:
                if wanted is not None and not wanted(entry):
                    continue
                self.result.entries += 1
                outcome = self._look_at(entry)
                if isinstance(outcome, _Candidate):
                    yield outcome
                else:
                    self.result.leave(entry.name, outcome)

    def _look_at(self, entry: os.DirEntry[str]) -> _Candidate | LeftAlone:
        sha256 = sha256_of_name(entry.name)
        try:
            if sha256 is None and is_leftover_name(entry.name):
                return self._look_into(entry)
            if sha256 is None and entry.is_file(follow_symlinks=False):
                return LeftAlone.TEMPORARY if is_temporary_name(entry.name) else LeftAlone.OTHER_NAME
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return LeftAlone.VANISHED
        except OSError:
            return LeftAlone.UNREADABLE
        reason = not_a_file(status.st_mode)
        if reason is not None:
            return reason
        return _Candidate(entry.name, sha256, status) if sha256 else LeftAlone.OTHER_NAME

    def _look_into(self, entry: os.DirEntry[str]) -> _Candidate | LeftAlone:
        """Read what a redirect left: only its content tells its hash."""
        status = entry.stat(follow_symlinks=False)
        reason = not_a_file(status.st_mode)
        if reason is not None:
            return reason
        content = read_leftover(self.folder_fd, entry.name, self.describe)
        if isinstance(content, LeftAlone):
            return content
        self.result.leftovers += 1
        self.result.bytes_read += content.size_bytes
        return _Candidate(entry.name, content.sha256, status, content)

    def _take(self, batch: Sequence[_Candidate]) -> None:
        """Read what the database does not know yet and write it, in pieces where that is much."""
        with read_transaction(self.engine) as connection:
            known = scan_rows.known_files(connection, [c.sha256 for c in batch], self.session_id)
        pending: dict[str, CapturedFile] = {}
        bytes_pending = 0
        for candidate in batch:
            row = known.get(candidate.sha256)
            captured: CapturedFile | None = None
            if row is not None and self._is_complete(row, candidate):
                if row.settled:
                    self.result.unchanged += 1
                else:
                    captured = row.as_captured(modified_at(candidate.status))
            else:
                captured = candidate.content or self._read(candidate)
                bytes_pending += captured.size_bytes if captured else 0
            if captured:
                copy = pending.get(captured.sha256)  # one hash named in both cases of letters, or left over
                self.result.unchanged += copy is not None
                pending[captured.sha256] = captured.joined(copy) if copy else captured
            if bytes_pending >= BATCH_BYTES:
                self._write(pending)
                pending, bytes_pending = {}, 0
            if self.on_progress:
                self.on_progress(self.result, self.entries_total)
        if pending:
            self._write(pending)

    def _is_complete(self, row: scan_rows.KnownFile, candidate: _Candidate) -> bool:
        """Say whether reading the file would tell nothing; one that was touched since is read before it is believed."""
        if self.rehash or not row.has_hashes or (row.file_type is None and self.describe is not None):
            return False
        return row.size_bytes == candidate.status.st_size and row.spans(modified_at(candidate.status))

    def _read(self, candidate: _Candidate) -> CapturedFile | None:
        outcome = read_captured(self.folder_fd, candidate.name, self.describe)
        if isinstance(outcome, LeftAlone):
            self.result.leave(candidate.name, outcome)
            return None
        self.result.bytes_read += outcome.size_bytes
        return outcome

    def _write(self, files: dict[str, CapturedFile]) -> None:
        hashes = sorted(files)
        with write_transaction(self.engine) as connection:
            stored = scan_rows.store(connection, [files[sha256] for sha256 in hashes], self.session_id)
            sizes, more = scan_rows.set_sizes(connection, hashes)
            self.result.add(stored, sizes)
            scan_rows.record_progress(connection, self.result.counters())
        while more:
            with write_transaction(self.engine) as connection:
                sizes, more = scan_rows.set_sizes(connection, hashes, after=more)
                self.result.sizes_set += sizes
                scan_rows.record_progress(connection, self.result.counters())
