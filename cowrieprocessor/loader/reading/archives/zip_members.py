"""The files in a zip archive."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import IO

from cowrieprocessor.errors import ArchiveDamaged, CompressedDataError, InputNotReadable
from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.sanitize import inert
from cowrieprocessor.wording import plural

_ENCRYPTED = 0x1
_MAX_DIRECTORY_BYTES = 16 << 20
_END_RECORD_BYTES = 22 + (1 << 16)
_BOUNDED = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
"""The methods that are unpacked in bounded memory."""


class ZipMember:
    """A file in a zip archive.

    Attributes:
        name: its name in the archive.
        read: returns its next bytes, empty at the end.
    """

    def __init__(self, name: str, read: Callable[[], bytes]) -> None:
        self.name = name
        self.read = read


def zip_members(stream: LogStream, is_wanted: Callable[[str], bool]) -> Iterator[ZipMember]:
    """Yield the files in a zip archive that are wanted; each has to be read before the next one.

    Args:
        stream: the archive.
        is_wanted: judges by the name.

    Raises:
        ArchiveDamaged: it has no directory at its end, as if it was cut, or it fails its own checks.
        CompressedDataError: it expands beyond the allowed ratio.
        InputNotReadable: it is encrypted, or packed in a way that is not read here.
    """
    name = inert(str(stream.path))
    _refuse_large_directory(stream, name)
    total = _Total(stream, name)
    with os.fdopen(os.dup(stream.descriptor), "rb") as file, _damage_named(name), zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.is_dir() or not is_wanted(info.filename):
                continue
            _refuse_unreadable(info, name)
            with closing(archive.open(info)) as member:
                yield ZipMember(info.filename, partial(total.read, member))


@contextmanager
def _damage_named(name: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        raise ArchiveDamaged(
            f"{name}: damaged or incomplete zip archive: {error}; copy the file again, or unpack what can be saved and "
            "load the plain files"
        ) from error


class _Total:
    """Counts the bytes unpacked, and refuses what expands too much."""

    def __init__(self, stream: LogStream, name: str) -> None:
        self._stream = stream
        self._name = name
        self._unpacked = 0

    def read(self, member: IO[bytes]) -> bytes:
        stream = self._stream
        with _damage_named(self._name):
            data = member.read(stream.sizes.piece_bytes)
        self._unpacked += len(data)
        if self._unpacked > stream.grace_bytes and self._unpacked > stream.max_ratio * stream.size:
            size = plural(stream.size, "compressed byte expands", "compressed bytes expand")
            raise CompressedDataError(
                f"{self._name}: {size} to more than {plural(self._unpacked, 'byte')}, a ratio of "
                f"more than {stream.max_ratio:g}: refused as a decompression bomb; if it really holds logs, raise "
                "COWRIEPROC_MAX_RATIO"
            )
        return data


def _refuse_unreadable(info: zipfile.ZipInfo, name: str) -> None:
    if info.flag_bits & _ENCRYPTED:
        raise InputNotReadable(f"{name}: {inert(info.filename)} in it is encrypted; unpack it and load the plain files")
    if info.compress_type not in _BOUNDED:
        raise InputNotReadable(
            f"{name}: {inert(info.filename)} in it is packed with method {info.compress_type}, which is not read here; "
            "unpack it and load the plain files"
        )


def _refuse_large_directory(stream: LogStream, name: str) -> None:
    """Refuse an archive whose list of files would not fit into the memory of a load."""
    end = os.pread(stream.descriptor, _END_RECORD_BYTES, max(0, stream.size - _END_RECORD_BYTES))
    at = end.rfind(b"PK\5\6")
    size_bytes = int.from_bytes(end[at + 12 : at + 16], "little") if at >= 0 else 0
    if size_bytes > _MAX_DIRECTORY_BYTES:
        raise InputNotReadable(f"{name}: this zip archive lists too many files; unpack it and load the plain files")
