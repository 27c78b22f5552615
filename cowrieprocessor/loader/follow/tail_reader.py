"""Reading one followed file: from where its log is stored up to, to its end, and what was seen of it."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.ingest import followed_files as table
from cowrieprocessor.db.ingest.followed_files import SeenFile
from cowrieprocessor.errors import InputError, InputNotFound
from cowrieprocessor.loader.follow.gap_detector import GapDetector
from cowrieprocessor.loader.follow.open_logs import OpenLog, OpenLogs
from cowrieprocessor.loader.log_loading import MAX_TRIES, FileResult, LogLoading, LogPlace
from cowrieprocessor.loader.logs.identity import Search
from cowrieprocessor.loader.reading.log_stream import LogStream, digest_of
from cowrieprocessor.loader.rows.batch import BatchRows
from cowrieprocessor.loader.writer import LogMoved
from cowrieprocessor.settings import Settings

ARCHIVE_SETTLES_S = 5.0
"""An archive that changed so recently is taken to be still written, and left for the next look."""


class StillWritten(Exception):
    """An archive changed a moment ago.

    Attributes:
        settles_in_s: when to look again.
    """

    def __init__(self, settles_in_s: float) -> None:
        super().__init__()
        self.settles_in_s = settles_in_s


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one reading of a file gave.

    Attributes:
        seen: what was seen of the file.
        searched: of a file without an object, how far it was searched.
        head: how the file itself began: `LogStream.head_digest`.
    """

    seen: SeenFile
    searched: Search | None = None
    head: str | None = None


class TailReader:
    """Reads followed files, one at a time.

    Args:
        engine: a database at our version.
        settings: limits and batch size.
        job: the row of `jobs` that counts.
        book: is told of logs that were overwritten while they were read.
        held: holds open what may still be written to.
        on_batch: called after each transaction with the file, how far it was read, and its size.
        stop: asked after each transaction whether to end.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        *,
        job: str,
        book: GapDetector,
        held: OpenLogs,
        on_batch: Callable[[FileResult, int, int], None],
        stop: Callable[[], bool],
    ) -> None:
        self._host = table.followed_host(engine)
        self._settings = settings
        self._book = book
        self._held = held
        self._on_batch = on_batch
        self._reading: tuple[SeenFile, int] | None = None
        self._loading = LogLoading(
            engine,
            settings,
            uuid.uuid4().hex,
            job=job,
            on_batch=self._report,
            beside=self._keep_extent,
            stop=stop,
        )

    def read(self, file_key: str, path: Path, result: FileResult, *, before: Outcome | None) -> Outcome:
        """Store what is new in a file; an archive only when it has not changed for a while.

        Args:
            file_key: its key.
            path: where it is.
            result: takes what became of it.
            before: what was seen there before, if anything.

        Raises:
            StillWritten: it is an archive that changed just now.
            InputError: it cannot be read.
            DatabaseError: the database refused.
        """
        return self._read(lambda: self._open_settled(path), file_key, result, before, hold=True)

    def read_held(self, held: OpenLog, result: FileResult) -> SeenFile:
        """Store what is new in a file that is held open and has no path any more.

        Raises:
            InputError: it cannot be read.
            DatabaseError: the database refused.
        """
        return self._read(lambda: self.open_held(held), held.file_key, result, None, hold=False).seen

    def hold(self, file_key: str, path: Path) -> bool:
        """Hold a file open in which there is nothing new; return False if it went away."""
        try:
            with self.open(path) as stream:
                self._held.hold(file_key, stream)
        except InputNotFound:
            return False
        except InputError:
            return True  # whoever has to read it will say so
        return True

    def open(self, path: Path | str) -> LogStream:
        """Open a file under its path."""
        limits = self._settings
        return LogStream(Path(path), max_ratio=limits.max_ratio, grace_bytes=limits.max_ratio_grace_bytes)

    def open_held(self, held: OpenLog) -> LogStream:
        """Open a file that is held."""
        return LogStream(held.path, descriptor=held.opened())

    def _read(
        self,
        open_stream: Callable[[], LogStream],
        file_key: str,
        result: FileResult,
        before: Outcome | None,
        *,
        hold: bool,
    ) -> Outcome:
        outer = self._reading
        try:
            for _ in range(MAX_TRIES):
                with open_stream() as stream:
                    seen = SeenFile(file_key, result.path, *file_id_of(stream.status), host=self._host)
                    self._reading = (seen, 0 if stream.is_complete else stream.size)
                    grown = before if before is not None and _has_grown(before, stream) else None
                    if before is not None and self._was_overwritten(before.seen, stream):
                        self._book.remember(before.seen)
                    try:
                        at = self._loading.load(
                            stream,
                            result,
                            likely=grown.seen.log if grown else None,
                            searched=grown.searched if grown else None,
                        )
                    except LogMoved:
                        continue  # another loader has it too: look again how far it is
                    seen = _seen(seen, stream, at, is_done=at.is_whole or result.error is not None)
                    if at.is_stale:
                        self._book.remember(seen)
                        continue
                    if hold:
                        self._held.hold(file_key, stream)
                    self._book.was_read(at.log)
                    return Outcome(seen, at.searched, stream.head_digest)
            seen = before.seen if before is not None else seen
            return Outcome(replace(seen, signature=(0, 0, 0)))  # others are at it: next time
        finally:
            self._reading = outer

    @staticmethod
    def _was_overwritten(before: SeenFile, stream: LogStream) -> bool:
        """Return whether a file that had no object begins otherwise now; of one that had, its log tells."""
        if before.log or not before.head_digest or (before.device, before.inode) != file_id_of(stream.status):
            return False
        head = stream.read_exactly(int(before.head_digest.partition(":")[2]))
        stream.rewind()
        return digest_of(head) != before.head_digest

    def _open_settled(self, path: Path) -> LogStream:
        stream = self.open(path)
        age_s = time.time() - max(stream.status.st_mtime, stream.status.st_ctime)
        if stream.is_complete and 0 <= age_s < ARCHIVE_SETTLES_S:
            stream.close()
            raise StillWritten(ARCHIVE_SETTLES_S - age_s)
        return stream

    def _keep_extent(self, connection: Connection, rows: BatchRows) -> None:
        """Note with a batch how much of the log is still to be read, in case it is destroyed before that."""
        if self._reading is None:
            return
        seen, size = self._reading
        if size > rows.log["byte_pos"]:
            log = (rows.log["identity"], rows.log["generation"])
            table.keep_extent(connection, replace(seen, log=log, bytes_seen=size))

    def _report(self, result: FileResult, file_position: int) -> None:
        size = self._reading[1] if self._reading else 0
        self._on_batch(result, file_position, max(size, file_position))


def file_id_of(status: os.stat_result) -> tuple[str, str]:
    """Return device and inode of a file, as the database keeps them."""
    return str(status.st_dev), str(status.st_ino)


def _has_grown(before: Outcome, stream: LogStream) -> bool:
    """Return whether a file looks as if it had only grown since it was read before."""
    if stream.is_complete or before.seen.signature[0] > stream.size or before.head is None:
        return False
    return (before.seen.device, before.seen.inode) == file_id_of(stream.status) and stream.begins_like(before.head)


def _seen(seen: SeenFile, stream: LogStream, at: LogPlace, *, is_done: bool) -> SeenFile:
    """Return what was seen of a file that was read as far as `at`."""
    status = stream.status
    if at.log is None and at.bytes_pending:
        seen = replace(seen, head_digest=stream.content_digest())
    return replace(
        seen,
        signature=(status.st_size, status.st_mtime_ns, status.st_ctime_ns) if is_done else (0, 0, 0),
        log=at.log,
        bytes_seen=at.bytes_stored + at.bytes_pending,
        bytes_pending=at.bytes_pending,
    )
