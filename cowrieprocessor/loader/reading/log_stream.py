"""Logs as a stream of decompressed bytes; the compression is detected by content, never by name."""

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
    HoldsFiles,
    InputError,
    InputNotFound,
    InputNotReadable,
    UnsupportedEncoding,
)
from cowrieprocessor.loader.reading.decompressors import (
    HEAD_BYTES,
    MAGIC_BYTES,
    MEMBER_FEED_SIZE,
    ZSTD_FEED_SIZE,
    Decompressor,
    container_of,
    kind_of,
    member_errors,
    new_member,
)
from cowrieprocessor.loader.reading.read_sizes import DEFAULT_SIZES, ReadSizes
from cowrieprocessor.sanitize import inert
from cowrieprocessor.wording import plural

_ANCHOR_BYTES = 512  # of a plain file, re-read before each piece to detect that it was overwritten

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def digest_of(head: bytes) -> str:
    """Return the fingerprint of a file's head: SHA-256 and length."""
    return f"{sha256(head).hexdigest()}:{len(head)}"


class ReadingStopped(Exception):
    """Reading was asked to stop; nothing is wrong with the log."""


def _never() -> bool:
    return False


class LogStream:
    """A log opened for reading: `read` returns its decompressed bytes.

    The stream keeps its own file offset, so the descriptor or a duplicate of it can be shared, also with another
    process that may not be allowed to open the file again.

    Attributes:
        path: the file's absolute path.
        kind: gzip, bzip2, xz, zstd, or None for a plain file.
        size: size of the file on disk, in bytes.
        inode: its inode number as text.
        status: its `stat` result at opening.
        position: decompressed bytes read so far.
        is_stale: whether a plain file was truncated and rewritten since it was opened. From then on `read` returns
            nothing; everything it returned before was in the file.
        sizes: how much is read at once.
        stop: called before each piece; True ends reading, also before there is anything to store.
        is_closed: whether the caller knows that nothing will be appended to a plain file.
        reads_packed: return the bytes of an archive of files, or of an archive that is compressed twice, as they are.
        max_ratio: decompressed bytes allowed per compressed byte.
        grace_bytes: decompressed bytes that are allowed at any ratio.

    Args:
        path: the file.
        max_ratio: decompressed bytes allowed per compressed byte.
        grace_bytes: decompressed bytes that are allowed at any ratio.
        descriptor: the file, if it is already open; the stream takes ownership and reads it from the start.
        sizes: how much is read at once.

    Raises:
        InputNotFound: the file does not exist.
        InputNotReadable: no permission, or it is a FIFO, a device, a socket or a folder; every method that reads also
            raises this if the disk or the network share fails.
        UnsupportedEncoding: it is UTF-16; for a compressed log, the first `read` raises this.
        ReadingStopped: `stop` returned True; every method that reads may raise it.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_ratio: float = 250,
        grace_bytes: int = 64 << 20,
        descriptor: int | None = None,
        sizes: ReadSizes = DEFAULT_SIZES,
    ) -> None:
        self.path = path
        self.sizes = sizes
        self.max_ratio = max_ratio
        self.grace_bytes = grace_bytes
        self._ready = b""
        self._gathered = 0
        self._error: CompressedDataError | None = None
        self._head = b""
        self._head_digest: str | None = None
        self.is_stale = False
        self.is_closed = False
        self.stop: Callable[[], bool] = _never
        self.reads_packed = False
        self._is_checked = False
        self._compressed_read = 0
        self._descriptor = _open(path) if descriptor is None else descriptor
        try:
            self.status = self._file_status()
            self.size = self.status.st_size
            self.inode = str(self.status.st_ino)
            self.rewind()
            self._refuse_utf16(self._pending)  # no archive starts with a UTF-16 byte-order mark
        except InputError:
            self.close()
            raise

    def rewind(self) -> None:
        """Return to the start of the open file, even if its name now refers to another file."""
        self.position = self._compressed_read = 0
        self._ready, self._error, self._anchor = b"", None, b""
        self._pending = self._read_file(self.sizes.feed_bytes)
        self.is_stale = self.is_stale or not self._pending.startswith(self._head)
        if not self._head:
            self._head, self._head_digest = self._pending, None
        self.kind = kind_of(self._pending)
        self._container = container_of(self._pending)
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
        """Close the file; closing twice is harmless."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with contextlib.suppress(OSError):  # close can fail on a network share; nothing was written
                os.close(descriptor)

    @property
    def descriptor(self) -> int:
        """The descriptor of the open file."""
        return self._descriptor

    @property
    def is_complete(self) -> bool:
        """Whether the log can no longer grow: a compressed log is finished, a plain one may be appended to."""
        return self.kind is not None or self._container is not None

    @property
    def is_finished(self) -> bool:
        """Whether nothing will be appended to the log: it is compressed, or the caller knows."""
        return self.is_complete or self.is_closed

    @property
    def file_position(self) -> int:
        """Bytes of the file on disk read so far, for progress."""
        return self._compressed_read

    @property
    def bytes_left(self) -> int:
        """Bytes of the file on disk, at its current size, that were not read yet."""
        return self._file_status().st_size - self._compressed_read

    def read(self) -> bytes:
        """Return the next piece of the log, at most 1 MiB; empty at the end.

        Raises:
            ArchiveCut: the archive ends early, or other data follow it.
            CompressedDataError: it is damaged, or expands beyond the allowed ratio. Earlier calls returned everything
                that could be decompressed.
            HoldsFiles: it is an archive of files, or compressed twice; the first call raises this.
            InputNotReadable: the disk or the network share fails.
            ReadingStopped: `stop` returned True.
        """
        if self.stop():
            raise ReadingStopped
        data = self._ready or (self._read_plain() if self._member is None else self._read_compressed())
        data, self._ready = data[: self.sizes.piece_bytes], data[self.sizes.piece_bytes :]
        self.position += len(data)
        return data

    @property
    def head_digest(self) -> str:
        """SHA-256 and length of the file's head (at most 64 KiB) when it was opened."""
        if self._head_digest is None:
            self._head_digest = digest_of(self._head)
        return self._head_digest

    def begins_like(self, head_digest: str) -> bool:
        """Return whether the file starts with the bytes of an earlier `head_digest`."""
        digest, _, length = head_digest.partition(":")
        if int(length) == len(self._head):
            return self.head_digest == head_digest
        return sha256(self._head[: int(length)]).hexdigest() == digest

    def skip(self, count: int) -> int:
        """Skip `count` decompressed bytes; return the number skipped, less at the end of the log."""
        if self._member is None:
            start = self.position
            end = min(start + count, self._file_status().st_size)
            self._pending = self._ready = self._anchor = b""
            self.position = self._compressed_read = end
            return end - start
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

    def read_up_to(self, count: int) -> bytes:
        """Return the next decompressed bytes, at least one and at most `count`; empty at the end."""
        data = self.read()
        self._unread(data[count:])
        return data[:count]

    def read_exactly(self, count: int) -> bytes:
        """Return the next `count` decompressed bytes, fewer at the end."""
        data = b""
        while len(data) < count and (piece := self.read()):
            data += piece
        self._unread(data[count:])
        return data[:count]

    def content_digest(self) -> str:
        """Rewind; return SHA-256 and length of the decompressed head (at most 64 KiB). Reading continues after it."""
        self.rewind()
        head = self.read_exactly(self.sizes.feed_bytes)
        return digest_of(head)

    def _unread(self, data: bytes) -> None:
        self._ready = data + self._ready
        self.position -= len(data)

    def _read_plain(self) -> bytes:
        """Return the next piece of a plain file, provided the bytes before it are unchanged since they were read.

        If a log is truncated and rewritten (`copytruncate`), the middle of the new log would otherwise be appended to
        what was read of the old one.
        """
        self._refuse_packed(self._container)
        data, self._pending = self._pending or self._read_file(self.sizes.piece_bytes), b""
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
        with self._os_errors_as_input_errors():
            return os.pread(self._descriptor, size, start)

    def _file_status(self) -> os.stat_result:
        with self._os_errors_as_input_errors():
            return os.fstat(self._descriptor)

    @contextlib.contextmanager
    def _os_errors_as_input_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputNotReadable(
                f"{inert(str(self.path))}: {error.strerror} at byte {self._compressed_read}; "
                "check the disk or the network share it is on"
            ) from error

    def _read_compressed(self) -> bytes:
        pieces: list[bytes] = []
        self._gathered = 0
        wanted = self.sizes.piece_bytes if self.position else max(self.sizes.piece_bytes, HEAD_BYTES)
        while self._gathered < wanted:
            piece = self._next_piece(wanted - self._gathered)
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
            self._refuse_packed(kind_of(data) or container_of(data))
        return data

    def _next_piece(self, max_length: int) -> bytes | None:
        """Return the next decompressed bytes (possibly none yet), or None at the end of the archive or at an error."""
        if self._error is not None:
            return None
        member = self._unfinished_member()
        if member is None:
            return None
        data = b""
        if member.needs_input:
            if not self._pending and not self._feed():
                self._error = self._cut("it ends early: the rest is missing")
                return None
            size = ZSTD_FEED_SIZE if self.kind == "zstd" else MEMBER_FEED_SIZE
            data, self._pending = self._pending[:size], self._pending[size:]
        try:
            return member.decompress(data, max_length)
        except self._errors as error:
            self._error = self._out_of_memory() if "memory" in str(error).lower() else self._damaged(str(error))
            return None

    def _unfinished_member(self) -> Decompressor | None:
        """Return the member being read, or the next one if it is finished; None if the archive has no further member.

        Data after the last member that do not start a member of the same kind set `_error`.
        """
        member = self._member
        assert member is not None  # noqa: S101
        if not member.eof:
            return member
        self._pending = (member.unused_data + self._pending).lstrip(b"\0")
        while len(self._pending) < MAGIC_BYTES and self._feed():
            self._pending = self._pending.lstrip(b"\0")  # padding
        if not self._pending:
            return None
        if kind_of(self._pending) != self.kind:
            self._error = self._cut("data follow the end of the archive that are not compressed")
            return None
        self._member = member = new_member(self.kind or "")
        return member

    def _refuse_utf16(self, head: bytes) -> None:
        if head.startswith(_UTF16):
            raise UnsupportedEncoding(
                f"{inert(str(self.path))} is UTF-16 text, which Cowrie never writes; "
                "convert it first: iconv -f UTF-16 -t UTF-8"
            )

    def _refuse_packed(self, kind: str | None) -> None:
        if kind is not None and not self.reads_packed:
            raise HoldsFiles(
                f"{inert(str(self.path))}: is a log packed twice, or an archive of files ({kind}); unpack it first",
                kind,
            )

    def _feed(self) -> bool:
        """Append the next compressed bytes to `_pending`; return False at the end of the file."""
        data = self._read_file(self.sizes.feed_bytes)
        self._pending += data
        return bool(data)

    def _check_ratio(self, length: int) -> None:
        total = self.position + length
        if total > self.grace_bytes and total > self.max_ratio * self._compressed_read:
            size = plural(self._compressed_read, "compressed byte expands", "compressed bytes expand")
            self._error = CompressedDataError(
                f"{inert(str(self.path))}: {size} to {plural(total, 'byte')}, a ratio "
                f"of more than {self.max_ratio:g}: refused as a decompression bomb at byte {self.position}; "
                "if it really is a log, raise COWRIEPROC_MAX_RATIO"
            )
            raise self._error

    def _out_of_memory(self) -> CompressedDataError:
        return CompressedDataError(
            f"{inert(str(self.path))}: unpacking this {self.kind} archive takes more memory than a load may use; "
            "unpack it yourself and load the plain file"
        )

    def _cut(self, what: str) -> ArchiveCut:
        return ArchiveCut(
            f"{inert(str(self.path))}: {self.kind} archive, byte {self._compressed_read} of {self.size} (decompressed "
            f"{self.position + self._gathered}): {what}. What came before is loaded; copy the file again and load it "
            "again"
        )

    def _damaged(self, what: str) -> ArchiveDamaged:
        return ArchiveDamaged(
            f"{inert(str(self.path))}: damaged {self.kind} archive near byte {self._compressed_read} of {self.size} "
            f"(decompressed {self.position + self._gathered}): {what}. The data before this position cannot be "
            "trusted either, so nothing is loaded; copy the file again, or unpack what can be saved and load the "
            "plain file"
        )

    def check(self) -> None:
        """Verify the whole archive before anything of it is stored; the position of this stream does not change.

        An archive that merely ends early, or that other data follow, passes: all that it contains is intact.

        Raises:
            ArchiveDamaged: it fails its own checksum: the data read before differ from the data packed.
            ReadingStopped: `stop` returned True.
        """
        if self._is_checked:
            return
        with self._os_errors_as_input_errors():
            descriptor = os.dup(self._descriptor)
        with LogStream(
            self.path,
            max_ratio=self.max_ratio,
            grace_bytes=self.grace_bytes,
            descriptor=descriptor,
            sizes=self.sizes,
        ) as archive:
            archive.stop, archive.reads_packed = self.stop, self.reads_packed
            try:
                while archive.read():
                    pass
            except ArchiveDamaged:
                raise
            except CompressedDataError:
                pass  # loading reports it
        self._is_checked = True


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _open(path: Path) -> int:
    """Open a regular file and return its descriptor; never blocks on a FIFO."""
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
        _refuse_irregular(os.fstat(descriptor).st_mode, name)  # it may have been replaced since the first check
    except InputNotReadable:
        os.close(descriptor)
        raise
    except OSError as error:
        os.close(descriptor)
        raise InputNotReadable(f"{name}: {error.strerror}; check the disk or the network share it is on") from error
    return descriptor


def _refuse_irregular(mode: int, name: str) -> None:
    if not stat.S_ISREG(mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "not a file")
        raise InputNotReadable(f"{name} is {kind}: only regular files are loaded; save the log to a file first")
