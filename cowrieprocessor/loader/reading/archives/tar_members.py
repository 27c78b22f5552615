"""The files in a tar archive, read from front to back.

Source: POSIX.1-2001 (pax), "ustar Interchange Format"; GNU tar manual, "Basic Tar Format". Python's `tarfile` reads
names of any length into memory, so only its decoder of a header is used.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from cowrieprocessor.errors import ArchiveCut, CompressedDataError, InputNotReadable
from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.sanitize import inert
from cowrieprocessor.wording import plural

_BLOCK = tarfile.BLOCKSIZE
_MAX_NAME_BYTES = 64 << 10
_REGULAR = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE})
_LONG_NAMES = frozenset({tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE})


class TarMember:
    """A file in a tar archive; it has to be read before the next one, and what is not read is skipped.

    Attributes:
        name: its name in the archive.
        is_sparse: whether it is stored with holes, which are not read.
    """

    def __init__(self, stream: LogStream, name: str, size: int, *, is_sparse: bool) -> None:
        self.name = name
        self.is_sparse = is_sparse
        self._stream = stream
        self._left = size
        self._padding = -size % _BLOCK

    def read(self) -> bytes:
        """Return the next bytes, empty at the end.

        Raises:
            ArchiveCut: the archive ends early.
        """
        if not self._left:
            return b""
        data = self._stream.read_up_to(self._left)
        if not data:
            raise ArchiveCut(f"{inert(str(self._stream.path))}: the tar archive ends early")
        self._left -= len(data)
        return data

    def skip(self) -> None:
        """Skip what was not read."""
        self._stream.skip(self._left + self._padding)
        self._left = self._padding = 0


class _Names(NamedTuple):
    """What a header before a file says of it.

    Attributes:
        name: its name.
        size: its size.
    """

    name: str | None = None
    size: int | None = None


def tar_members(stream: LogStream) -> Iterator[TarMember]:
    """Yield the regular files in a tar archive.

    Raises:
        CompressedDataError: a header is damaged.
        InputNotReadable: a name is too long.
        InputError: the archive cannot be read.
    """
    names = _Names()
    while (header := stream.read_exactly(_BLOCK)).strip(b"\0"):
        info = _header(header, stream)
        member = TarMember(
            stream,
            names.name or info.name,
            info.size if names.size is None else names.size,
            is_sparse=info.type == tarfile.GNUTYPE_SPARSE,
        )
        if info.type in _LONG_NAMES:
            names = _long_name(member, info, names, stream)
        elif info.type in _REGULAR or member.is_sparse:
            yield member
            names = _Names()
        elif info.type != tarfile.XGLTYPE:
            names = _Names()
        member.skip()


def _header(header: bytes, stream: LogStream) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        if len(header) < _BLOCK:
            raise ArchiveCut(f"{inert(str(stream.path))}: the tar archive ends early") from error
        raise CompressedDataError(
            f"{inert(str(stream.path))}: damaged tar archive near byte {stream.position}: {error}; what came before is "
            "loaded; copy the file again, or unpack what can be saved and load the plain files"
        ) from error


def _long_name(member: TarMember, info: tarfile.TarInfo, names: _Names, stream: LogStream) -> _Names:
    """Return the names that an extra header gives to the file after it."""
    if info.size > _MAX_NAME_BYTES:
        raise InputNotReadable(
            f"{inert(str(stream.path))}: a name in this tar archive takes {plural(info.size, 'byte')}; "
            "unpack it and load the plain files"
        )
    data = b""
    while piece := member.read():
        data += piece
    if info.type == tarfile.GNUTYPE_LONGNAME:
        return names._replace(name=data.rstrip(b"\0").decode("utf-8", "surrogateescape"))
    for keyword, value in _pax_records(data):
        if keyword == b"path":
            names = names._replace(name=value.decode("utf-8", "surrogateescape"))
        elif keyword == b"size" and value.isdigit():
            names = names._replace(size=int(value))
    return names


def _pax_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield keyword and value of each record: length, blank, keyword, `=`, value, line feed."""
    while data:
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(data):
            return
        keyword, _, value = data[len(length) + 1 : int(length)].removesuffix(b"\n").partition(b"=")
        yield keyword, value
        data = data[int(length) :]
