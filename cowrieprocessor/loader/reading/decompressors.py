"""Decompressors for the members of an archive; the compression is recognized by its magic bytes."""

from __future__ import annotations

import bz2
import lzma
import re
import zlib
from typing import Any, Protocol

ZSTD_FEED_SIZE = 1 << 10  # zstandard cannot bound its output: 1 KiB of input expands to at most 32 MiB
MEMBER_FEED_SIZE = 1 << 12  # the most that is lost before a damaged byte
MAGIC_BYTES = 6
_ZSTD_MAX_WINDOW = 1 << 26
_XZ_MEMORY_LIMIT = 100 << 20

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    **{bytes([first]) + b"\x2a\x4d\x18": "zstd" for first in range(0x50, 0x60)},  # a skippable frame
}


CONTAINERS = ("zip", "tar")
"""Archives that hold files."""

HEAD_BYTES = 512
"""How much of a file `container_of` needs."""

_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_TAR_CHECKSUM = slice(148, 156)
_OCTAL = re.compile(rb"[0-7]{1,7}")


class Decompressor(Protocol):
    """A decompressor for one member of an archive."""

    @property
    def eof(self) -> bool:
        """Whether the end of the member was reached."""

    @property
    def unused_data(self) -> bytes:
        """Input after the end of the member."""

    @property
    def needs_input(self) -> bool:
        """Whether it needs more input to produce output."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Decompress `data` and return at most `max_length` bytes; the rest comes with the next calls."""
        ...


class _Zlib:
    """A gzip member."""

    def __init__(self) -> None:
        self._member: Any
        try:
            from isal import isal_zlib  # several times as fast, but has no wheel for every platform
        except ImportError:
            self._member = zlib.decompressobj(wbits=31)
        else:
            self._member = isal_zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return bool(self._member.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._member.unused_data)

    @property
    def needs_input(self) -> bool:
        return not self._member.unconsumed_tail

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return bytes(self._member.decompress(self._member.unconsumed_tail + data, max_length))


class _Zstd:
    """A Zstandard frame."""

    needs_input = True

    def __init__(self) -> None:
        import zstandard

        self._frame = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW).decompressobj()

    @property
    def eof(self) -> bool:
        return self._frame.eof

    @property
    def unused_data(self) -> bytes:
        return self._frame.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return self._frame.decompress(data)


def kind_of(head: bytes) -> str | None:
    """Return the compression of a file with this head, or None for a plain file."""
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


def container_of(head: bytes) -> str | None:
    """Return zip or tar for an archive of files with this head, else None.

    Source: the first header of a tar archive proves itself by its checksum, in any of its formats.
    """
    if head.startswith(_ZIP_MAGIC):
        return "zip"
    if len(head) < HEAD_BYTES or not _OCTAL.fullmatch(digits := head[_TAR_CHECKSUM].strip(b" \0")):
        return None
    blanks = b" " * (_TAR_CHECKSUM.stop - _TAR_CHECKSUM.start)
    total = sum(head[: _TAR_CHECKSUM.start] + blanks + head[_TAR_CHECKSUM.stop : HEAD_BYTES])
    return "tar" if int(digits, 8) == total else None


def new_member(kind: str) -> Decompressor:
    """Return a decompressor for one member of this kind: gzip, bzip2, xz or zstd."""
    if kind == "gzip":
        return _Zlib()
    if kind == "bzip2":
        return bz2.BZ2Decompressor()
    if kind == "xz":
        return lzma.LZMADecompressor(memlimit=_XZ_MEMORY_LIMIT)
    return _Zstd()


def member_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that decompressors raise for damaged members."""
    import zstandard

    errors: list[Any] = [zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError, ValueError]
    try:
        from isal import isal_zlib

    except ImportError:
        return tuple(errors)
    return (*errors, isal_zlib.error)
