"""The logs in a file that holds some: members of zip and tar archives, and what is compressed twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from cowrieprocessor.errors import HoldsFiles, InputNotReadable
from cowrieprocessor.loader.reading.archives.spool import spooled
from cowrieprocessor.loader.reading.archives.tar_members import tar_members
from cowrieprocessor.loader.reading.archives.zip_members import zip_members
from cowrieprocessor.loader.reading.decompressors import CONTAINERS
from cowrieprocessor.loader.reading.log_names import is_log_name
from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.sanitize import inert

MAX_LAYERS = 3
"""How often a log may be compressed, archives included."""

_NO_LIMIT = 1e15
"""The ratio of what was packed here: the archive that it comes from was held to the limit already."""


def each_log(stream: LogStream, holds: HoldsFiles, load: Callable[[LogStream], None]) -> None:
    """Call `load` with every log in a file; it may leave the log unread, and must not close it.

    Args:
        stream: the file.
        holds: what its reading raised.
        load: gets a log as a stream of its own, under the name `archive!member`; raises HoldsFiles if that holds files.

    Raises:
        InputNotReadable: there is no log in it, it is encrypted, or archives are nested.
        InputError: it cannot be read, or is damaged; the logs before that were loaded.
    """
    _each_log(stream, holds.kind, load, layers=1, in_container=False)


def _each_log(
    stream: LogStream, kind: str, load: Callable[[LogStream], None], *, layers: int, in_container: bool
) -> None:
    if layers > MAX_LAYERS or (kind in CONTAINERS and in_container):
        raise InputNotReadable(
            f"{inert(str(stream.path))}: archives in archives are not read; unpack it and load the plain files"
        )
    is_opened = kind == "tar" or (kind == "zip" and stream.kind is None)
    for log in _logs_in(stream, kind):
        with log:
            try:
                load(log)
            except HoldsFiles as inner:
                _each_log(log, inner.kind, load, layers=layers + 1, in_container=in_container or is_opened)


def _logs_in(stream: LogStream, kind: str) -> Iterator[LogStream]:
    stream.reads_packed = True
    stream.rewind()
    if kind == "tar":
        yield from _logs_in_tar(stream)
    elif kind == "zip" and stream.kind is None:
        yield from _logs_in_zip(stream)
    else:
        stream.check()
        yield _as_log(stream.read, stream, stream.path)


def _logs_in_tar(stream: LogStream) -> Iterator[LogStream]:
    """Yield the logs in a tar archive, which is checked as a whole first if it is compressed."""
    if stream.kind is not None:
        stream.check()
    found = 0
    for member in tar_members(stream):
        if not _is_log(member.name):
            continue
        if member.is_sparse:
            raise InputNotReadable(f"{inert(str(stream.path))}: sparse files in tar archives are not read; unpack it")
        found += 1
        yield _as_log(member.read, stream, _path(stream.path, member.name))
    _refuse_without_logs(stream, found)


def _logs_in_zip(stream: LogStream) -> Iterator[LogStream]:
    found = 0
    for member in zip_members(stream, _is_log):
        found += 1
        yield _as_log(member.read, stream, _path(stream.path, member.name))
    _refuse_without_logs(stream, found)


def _as_log(read: Callable[[], bytes], archive: LogStream, path: Path) -> LogStream:
    """Return a log of its own; its inode is that of the file it comes from."""
    descriptor, is_kept = spooled(read, path)
    log = LogStream(
        path,
        max_ratio=archive.max_ratio if is_kept else _NO_LIMIT,
        grace_bytes=archive.grace_bytes,
        descriptor=descriptor,
        sizes=archive.sizes,
    )
    if is_kept and archive.kind is not None:
        log.max_ratio *= min(1.0, archive.size / max(1, log.size))  # the whole counts, not each layer
    log.inode = archive.inode
    log.stop = archive.stop
    return log


def _is_log(name: str) -> bool:
    return is_log_name(PurePosixPath(name).name)


def _path(archive: Path, name: str) -> Path:
    """Return the name of a log in an archive, in which no part leads out of it."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
    return Path(f"{archive}!{'/'.join(parts)}")


def _refuse_without_logs(stream: LogStream, found: int) -> None:
    if not found:
        raise InputNotReadable(
            f"{inert(str(stream.path))}: no logs in this archive; logs are files named like cowrie.json, "
            "cowrie.json.2026-01-31 or cowrie.json.1.gz. Unpack it and name a file to load it whatever it is called"
        )
