"""A log taken out of an archive: a temporary file without a name, compressed, so that it can be read again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from cowrieprocessor.errors import ArchiveCut, InputNotReadable
from cowrieprocessor.filesystems import is_full, os_error_text
from cowrieprocessor.loader.reading.decompressors import MAGIC_BYTES, container_of, kind_of
from cowrieprocessor.sanitize import inert


def spooled(read: Callable[[], bytes], path: Path) -> tuple[int, bool]:
    """Write what is read to a temporary file, and return its descriptor, and whether it is kept as it came.

    What is packed already is kept as it is, anything else is compressed with Zstandard. If the archive ends early, the
    file does, too: reading it raises ArchiveCut where the log was cut.

    Args:
        read: returns the next bytes, empty at the end; may raise ArchiveCut.
        path: the log, for messages.

    Raises:
        InputNotReadable: there is no room for it.
        InputError: what `read` raises.
    """
    try:
        with tempfile.TemporaryFile() as file:
            is_kept = _write(read, file)
            file.flush()
            return os.dup(file.fileno()), is_kept
    except OSError as error:
        remedy = "; make room there, or set TMPDIR to a folder with more" if is_full(error) else ""
        raise InputNotReadable(
            f"{inert(str(path))}: could not be unpacked into {tempfile.gettempdir()}: {os_error_text(error)}{remedy}"
        ) from error


def _write(read: Callable[[], bytes], file: BinaryIO) -> bool:
    import zstandard

    head = b""
    while len(head) < MAGIC_BYTES and (data := read()):
        head += data
    packs = kind_of(head) is None and container_of(head) is None
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    data, is_cut = head, False
    while data:
        file.write(packer.compress(data) if packs else data)
        try:
            data = read()
        except ArchiveCut:
            data, is_cut = b"", True
    if packs:
        file.write(packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK if is_cut else zstandard.COMPRESSOBJ_FLUSH_FINISH))
    return not packs
