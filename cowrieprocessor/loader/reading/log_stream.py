"""Logs as a stream of decompressed bytes, whatever they are compressed with: told by content, never by name."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from types import TracebackType

from cowrieprocessor.errors import (
    ArchiveCut,
    ArchiveDamaged,
    CompressedDataError,
    InputError,
    InputNotFound,
    InputNotReadable,
    UnsupportedEncoding,
)
from cowrieprocessor.loader.reading.decompressors import (
    MAGIC_BYTES,
    MEMBER_FEED_SIZE,
    ZSTD_FEED_SIZE,
    kind_of,
    member_errors,
    new_member,
)
from cowrieprocessor.sanitize import inert

READ_SIZE = 1 << 20
_ANCHOR_BYTES = 512  # so many bytes before a piece of a plain file are read again after it
_FEED_SIZE = 1 << 16

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def digest_of(head: bytes) -> str:
    """Return what tells a beginning: SHA-256 and length."""
    return f"{sha256(head).hexdigest()}:{len(head)}"


class ReadingStopped(Exception):
    """Whoever reads a log was asked to end; nothing is wrong with the log."""


def _never() -> bool:
    return False


class LogStream:
    """A log opened for reading: `read` gives its decompressed bytes.

    It keeps its own place in the file: others may read through the same descriptor, or through a duplicate of it, also
    in another process, where opening the file a second time might not be allowed any more.

    Attributes:
        path: the file's absolute path.
        kind: gzip, bzip2, xz, zstd, or None for a plain file.
        size: the size of the file itself, in bytes.
        inode: its inode number as text.
        status: what the system said of the file when it was opened.
        position: decompressed bytes read so far.
        is_stale: whether a plain file was seen to be overwritten since it was opened: truncated and written anew. From
            then on nothing more of it is given out; what was given out before is what the file held.
        stop: asked before each piece whether to end: for who goes through gigabytes before there is anything to store.

    Args:
        path: the file.
        max_ratio: decompressed bytes allowed per compressed byte.
        grace_bytes: decompressed bytes that are allowed at any ratio.
        descriptor: the file, if it is open already; it is taken over and read from its beginning.

    Raises:
        InputNotFound: there is no such file.
        InputNotReadable: no permission, or it is a FIFO, a device, a socket or a folder; whatever reads from it raises
            this, too, where the disk or the network share fails.
        UnsupportedEncoding: it is UTF-16; of a compressed log the first `read` says so.
        ReadingStopped: `stop` says so; whatever reads may raise it.
    """

    def __init__(
        self, path: Path, *, max_ratio: float = 250, grace_bytes: int = 64 << 20, descriptor: int | None = None
    ) -> None:
        self.path = path
        self._max_ratio = max_ratio
        self._grace_bytes = grace_bytes
        self._ready = b""
        self._gathered = 0
        self._error: CompressedDataError | None = None
        self._head = b""
        self.is_stale = False
        self.stop: Callable[[], bool] = _never
        self._is_checked = False
        self._compressed_read = 0
        self._descriptor = _open(path) if descriptor is None else descriptor
        try:
            self.status = self._file_status()
            self.size = self.status.st_size
            self.inode = str(self.status.st_ino)
            self.rewind()
            self._refuse_utf16(self._pending)  # no archive begins like that
        except InputError:
            self.close()
            raise

    def rewind(self) -> None:
        """Go back to the beginning of the file that is open, whatever its name means by now."""
        self.position = self._compressed_read = 0
        self._ready, self._error, self._anchor = b"", None, b""
        self._pending = self._read_file(_FEED_SIZE)
        self.is_stale = self.is_stale or not self._pending.startswith(self._head)
        self._head = self._head or self._pending
        self.kind = kind_of(self._pending)
        self._member = new_member(self.kind) if self.kind else None
        self._errors = member_errors() if self.kind else ()

    def __enter__(self) -> LogStream:
        """Return the stream itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file; again is harmless."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with contextlib.suppress(OSError):  # a network share may fail even here; nothing was written
                os.close(descriptor)

    @property
    def descriptor(self) -> int:
        """The descriptor of the open file."""
        return self._descriptor

    @property
    def is_complete(self) -> bool:
        """Whether nothing can be appended any more: a compressed log is finished, a plain one may grow."""
        return self.kind is not None

    @property
    def file_position(self) -> int:
        """Bytes of the file itself that were read, for progress."""
        return self._compressed_read

    @property
    def bytes_left(self) -> int:
        """Bytes of the file itself, as it is now, that were not read."""
        return self._file_status().st_size - self._compressed_read

    def read(self) -> bytes:
        """Return the next piece of the log, at most 1 MiB; empty at its end.

        Raises:
            ArchiveCut: the archive ends early, or something else follows it.
            CompressedDataError: it is damaged, or grows beyond the allowed ratio. All that could be decompressed
                before was returned by earlier calls.
            InputNotReadable: the disk or the network share fails.
            ReadingStopped: `stop` says so.
        """
        if self.stop():
            raise ReadingStopped
        data = self._ready or (self._read_plain() if self._member is None else self._read_compressed())
        data, self._ready = data[:READ_SIZE], data[READ_SIZE:]
        self.position += len(data)
        return data

    @property
    def head_digest(self) -> str:
        """SHA-256 of the beginning of the file as it was when it was opened: at most 64 KiB, and how much of it."""
        return digest_of(self._head)

    def begins_like(self, head_digest: str) -> bool:
        """Return whether the file begins like one that was opened before, by its `head_digest`."""
        digest, _, length = head_digest.partition(":")
        return sha256(self._head[: int(length)]).hexdigest() == digest

    def skip(self, count: int) -> int:
        """Go `count` decompressed bytes ahead and return how many there were before the end."""
        if self._member is None:
            here = self.position
            end = min(here + count, self._file_status().st_size)
            self._pending = self._ready = self._anchor = b""
            self.position = self._compressed_read = end
            return end - here
        skipped = 0
        while skipped < count:
            data = self.read()
            if not data:
                break
            if skipped + len(data) > count:
                self._unread(data[count - skipped :])
                data = data[: count - skipped]
            skipped += len(data)
        return skipped

    def read_exactly(self, count: int) -> bytes:
        """Return the next `count` decompressed bytes, fewer at the end."""
        data = b""
        while len(data) < count and (piece := self.read()):
            data += piece
        self._unread(data[count:])
        return data[:count]

    def content_digest(self) -> str:
        """Return how the log begins, decompressed: SHA-256 and length, of 64 KiB at most; reading starts anew."""
        self.rewind()
        head = self.read_exactly(_FEED_SIZE)
        return digest_of(head)

    def _unread(self, data: bytes) -> None:
        self._ready = data + self._ready
        self.position -= len(data)

    def _read_plain(self) -> bytes:
        """Return the next piece of a plain file, if what lies before it is still what was read there.

        Where a log is emptied and written anew (`copytruncate`), the middle of another log would otherwise be glued to
        what was read of this one.
        """
        data, self._pending = self._pending or self._read_file(READ_SIZE), b""
        start = self._compressed_read - len(data)
        if data and self._anchor:
            before = self._read_at(start - len(self._anchor), len(self._anchor))
            self.is_stale = self.is_stale or before != self._anchor
        if self.is_stale:
            return b""
        self._anchor = (self._anchor + data[-_ANCHOR_BYTES:])[-_ANCHOR_BYTES:]
        return data

    def _read_file(self, size: int) -> bytes:
        data = self._read_at(self._compressed_read, size)
        self._compressed_read += len(data)
        return data

    def _read_at(self, start: int, size: int) -> bytes:
        with self._failing_as_input():
            return os.pread(self._descriptor, size, start)

    def _file_status(self) -> os.stat_result:
        with self._failing_as_input():
            return os.fstat(self._descriptor)

    @contextlib.contextmanager
    def _failing_as_input(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputNotReadable(
                f"{inert(str(self.path))}: {error.strerror} at byte {self._compressed_read}; "
                "check the disk or the network share it lies on"
            ) from error

    def _read_compressed(self) -> bytes:
        pieces: list[bytes] = []
        self._gathered = 0
        while self._gathered < READ_SIZE:
            piece = self._next_piece(READ_SIZE - self._gathered)
            if piece is None:
                break
            pieces.append(piece)
            self._gathered += len(piece)
        if not self._gathered and self._error is not None:
            raise self._error
        self._check_ratio(self._gathered)
        data = b"".join(pieces)
        if not self.position:
            self._refuse_utf16(data)
        return data

    def _next_piece(self, max_length: int) -> bytes | None:
        """Return the next decompressed bytes (possibly none yet), or None at the end of the archive."""
        member = self._member
        assert member is not None  # noqa: S101
        if self._error is not None:
            return None
        if member.eof:
            self._pending = (member.unused_data + self._pending).lstrip(b"\0")
            while len(self._pending) < MAGIC_BYTES and self._feed():
                self._pending = self._pending.lstrip(b"\0")  # padding
            if not self._pending:
                return None
            if kind_of(self._pending) != self.kind:
                self._error = self._ended_badly("data follow the end of the archive that are not compressed")
                return None
            self._member = member = new_member(self.kind or "")
        data = b""
        if member.needs_input:
            if not self._pending and not self._feed():
                self._error = self._ended_badly("it ends early: the rest is missing")
                return None
            size = ZSTD_FEED_SIZE if self.kind == "zstd" else MEMBER_FEED_SIZE
            data, self._pending = self._pending[:size], self._pending[size:]
        try:
            return member.decompress(data, max_length)
        except self._errors as error:
            self._error = self._too_hungry() if "memory" in str(error).lower() else self._damaged(str(error))
            return None

    def _refuse_utf16(self, head: bytes) -> None:
        if head.startswith(_UTF16):
            raise UnsupportedEncoding(
                f"{inert(str(self.path))} is UTF-16 text, which Cowrie never writes; "
                "convert it first: iconv -f UTF-16 -t UTF-8"
            )

    def _feed(self) -> bool:
        data = self._read_file(_FEED_SIZE)
        self._pending += data
        return bool(data)

    def _check_ratio(self, length: int) -> None:
        total = self.position + length
        if total > self._grace_bytes and total > self._max_ratio * self._compressed_read:
            self._error = CompressedDataError(
                f"{inert(str(self.path))}: {total} bytes came out of {self._compressed_read} compressed ones, more "
                f"than {self._max_ratio:g} for one: refused as a decompression bomb at byte {self.position}; "
                "if it really is a log, raise COWRIEPROC_MAX_RATIO"
            )
            raise self._error

    def _too_hungry(self) -> CompressedDataError:
        return CompressedDataError(
            f"{inert(str(self.path))}: this {self.kind} archive was packed so that unpacking it takes more memory than "
            "a load may use; unpack it yourself and load the plain file"
        )

    def _ended_badly(self, what: str) -> ArchiveCut:
        return ArchiveCut(
            f"{inert(str(self.path))}: {self.kind} archive, byte {self._compressed_read} of {self.size} (decompressed "
            f"{self.position + self._gathered}): {what}. What came before is loaded; copy the file again and load it "
            "again"
        )

    def _damaged(self, what: str) -> ArchiveDamaged:
        return ArchiveDamaged(
            f"{inert(str(self.path))}: damaged {self.kind} archive near byte {self._compressed_read} of {self.size} "
            f"(decompressed {self.position + self._gathered}): {what}. What comes out before that place cannot be "
            "trusted, so nothing is loaded; copy the file again, or unpack what can be saved and load the plain file"
        )

    def check(self) -> None:
        """Read the archive to its end, before anything of it is stored; the reading of this stream goes on unmoved.

        An archive that merely ends early, or that something follows, is as good as it is long.

        Raises:
            ArchiveDamaged: it fails its own checks: what it gave out before is not what was packed.
            ReadingStopped: `stop` says so.
        """
        if self._is_checked:
            return
        with self._failing_as_input():
            descriptor = os.dup(self._descriptor)
        with LogStream(
            self.path, max_ratio=self._max_ratio, grace_bytes=self._grace_bytes, descriptor=descriptor
        ) as archive:
            archive.stop = self.stop
            try:
                while archive.read():
                    pass
            except ArchiveDamaged:
                raise
            except CompressedDataError:
                pass  # whoever loads it will be told
        self._is_checked = True


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _open(path: Path) -> int:
    """Return a descriptor of a regular file, without ever blocking on a FIFO."""
    name = inert(str(path))
    try:
        _refuse_irregular(path.stat().st_mode, name)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputNotFound(f"{name}: no such file; check the path") from error
    except OSError as error:
        remedy = "; give the user who loads it the right to read it" if isinstance(error, PermissionError) else ""
        raise InputNotReadable(f"{name}: {error.strerror}{remedy}") from error
    try:
        _refuse_irregular(os.fstat(descriptor).st_mode, name)  # it may have been replaced meanwhile
    except InputNotReadable:
        os.close(descriptor)
        raise
    except OSError as error:
        os.close(descriptor)
        raise InputNotReadable(f"{name}: {error.strerror}; check the disk or the network share it lies on") from error
    return descriptor


def _refuse_irregular(mode: int, name: str) -> None:
    if not stat.S_ISREG(mode):
        kind = next((kind for test, kind in _KINDS if test(mode)), "not a file")
        raise InputNotReadable(f"{name} is {kind}: only regular files are loaded; save the log to a file first")
