"""One entry of Cowrie's downloads folder: its type, and its content, read once without following links.

The folder contains live malware, named by its hash. Nothing here executes or interprets it. Files are opened relative
to the folder's descriptor with O_NOFOLLOW and O_NONBLOCK, so that a symbolic link placed there cannot redirect the
reader, nor a FIFO block it.
"""

from __future__ import annotations

import datetime as dt
import errno
import fcntl
import hashlib
import os
import re
import signal
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum

from cowrieprocessor.sanitize import inert_cut

CHUNK_BYTES = 1 << 20
MIME_TYPE_CHARS = 128
FILE_TYPE_CHARS = 256

LEFTOVER_AGE_S = 3600
"""The output of a redirect is final when it has not been written to for this long: Cowrie ends idle sessions after
minutes, and then renames the files that it logs."""

LEFTOVER_SURE_AGE_S = 24 * 3600
"""After this time it is final even if it appears to be open, as files on network file systems always do."""

_HASH_NAME = re.compile(r"[0-9a-fA-F]{64}")
_LEFTOVER_NAME = re.compile(r"redir_[0-9a-f]+")
_TEMPORARY_NAME = re.compile(r"(?:stdin|redir|sftp|scp|gcc)_[0-9a-f]+|tmp.*|\d{8}-?\d{6}[-_].*", re.DOTALL)
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

Describe = Callable[[bytes], tuple[str | None, str | None]]
"""Returns MIME type and description for the first bytes of a file."""


class SkipReason(StrEnum):
    """Why an entry of the folder is not stored as a captured file."""

    SYMLINK = "symlink"
    FOLDER = "folder"
    FIFO = "fifo"
    SOCKET = "socket"
    DEVICE = "device"
    TEMPORARY = "temporary"
    OTHER_NAME = "other_name"
    VANISHED = "vanished"
    CHANGING = "changing"
    MISMATCH = "mismatch"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class CapturedFile:
    """A captured file.

    Attributes:
        sha256: 64 hexadecimal characters in lower case.
        sha1: likewise, 40.
        md5: likewise, 32.
        size_bytes: its size.
        first_modified_at: its mtime in UTC, of several copies the earliest; None if that is implausible.
        last_modified_at: the same, of several copies the latest.
        mime_type: None if unknown.
        file_type: a description for people; None if unknown.
    """

    sha256: str
    sha1: str
    md5: str
    size_bytes: int
    first_modified_at: dt.datetime | None
    last_modified_at: dt.datetime | None
    mime_type: str | None
    file_type: str | None

    def joined(self, copy: CapturedFile) -> CapturedFile:
        """Return this file with its times extended by those of a copy."""
        first = [at for at in (self.first_modified_at, copy.first_modified_at) if at]
        last = [at for at in (self.last_modified_at, copy.last_modified_at) if at]
        return replace(self, first_modified_at=min(first, default=None), last_modified_at=max(last, default=None))


def sha256_of_name(name: str) -> str | None:
    """Return the file name in lower case if it is a SHA-256, else None."""
    return name.lower() if _HASH_NAME.fullmatch(name) else None


def is_temporary_name(name: str) -> bool:
    """Return whether Cowrie gives such names to files that it is still writing.

    Source: Cowrie's `stdin_`, `redir_`, `sftp_`, `scp_` and `gcc_` names, Python's `tmp*`, and the
    `YYYYmmdd-HHMMSS-…` and `YYYYmmddHHMMSS_…` of old versions.
    """
    return _TEMPORARY_NAME.fullmatch(name) is not None


def is_leftover_name(name: str) -> bool:
    """Return whether this is the temporary name of the output of a shell redirect (`>`, `>>`).

    When a session ends, Cowrie renames these files to their hash and logs them, or removes empty ones. It forgets
    some: 3.1.4 forgets everything that `busybox echo … > file` wrote, the usual method of Mirai loaders. These keep
    their temporary name.
    """
    return _LEFTOVER_NAME.fullmatch(name) is not None


def not_a_file(mode: int) -> SkipReason | None:
    """Return why an entry with this `st_mode` is skipped, or None for a regular file."""
    if stat.S_ISREG(mode):
        return None
    if stat.S_ISLNK(mode):
        return SkipReason.SYMLINK
    if stat.S_ISDIR(mode):
        return SkipReason.FOLDER
    if stat.S_ISFIFO(mode):
        return SkipReason.FIFO
    return SkipReason.SOCKET if stat.S_ISSOCK(mode) else SkipReason.DEVICE


def read_captured(
    folder_fd: int, name: str, describe: Describe | None = None, *, chunk_bytes: int = CHUNK_BYTES
) -> CapturedFile | SkipReason:
    """Read one file of the folder, once, and return its hashes, size and type.

    Args:
        folder_fd: descriptor of the folder.
        name: the file's name, 64 hexadecimal characters.
        describe: returns MIME type and description for the first bytes; None leaves them unknown.
        chunk_bytes: bytes per read.

    Returns:
        The file, or why it was skipped: MISMATCH if its content does not have the hash that is its name, CHANGING if
        it changed while it was read.
    """
    return _open_and_read(folder_fd, name, lambda fd: _read(fd, os.fstat(fd), name.lower(), describe, chunk_bytes))


def read_leftover(
    folder_fd: int, name: str, describe: Describe | None = None, *, chunk_bytes: int = CHUNK_BYTES
) -> CapturedFile | SkipReason:
    """Read the output of a redirect under its temporary name, as `read_captured` does; its hash is not known yet.

    Returns:
        The file, or why it was skipped: TEMPORARY if it is empty, was written to in the last hour, or is open for
        writing and was written to in the last day.
    """

    def read(fd: int) -> CapturedFile | SkipReason:
        status = os.fstat(fd)
        age_s = time.time() - status.st_mtime
        is_unfinished = age_s < LEFTOVER_AGE_S or (age_s < LEFTOVER_SURE_AGE_S and _has_writer(fd))
        if stat.S_ISREG(status.st_mode) and (not status.st_size or is_unfinished):
            return SkipReason.TEMPORARY
        return _read(fd, status, None, describe, chunk_bytes)

    return _open_and_read(folder_fd, name, read)


def _open_and_read(
    folder_fd: int, name: str, read: Callable[[int], CapturedFile | SkipReason]
) -> CapturedFile | SkipReason:
    try:
        fd = os.open(name, _OPEN_FLAGS, dir_fd=folder_fd)
    except OSError as error:
        return _skip_reason(error)
    try:
        return read(fd)
    except OSError as error:
        return _skip_reason(error)
    finally:
        os.close(fd)


def _has_writer(fd: int) -> bool:
    """Return whether a process has the file open for writing; False if the file system cannot tell.

    A read lease is granted only if no process has. It is released at once; a process that opens the file meanwhile
    waits for that, and the signal then sent to this process is one that is ignored by default.

    Source: fcntl(2), F_SETLEASE.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _read(
    fd: int, before: os.stat_result, expected: str | None, describe: Describe | None, chunk_bytes: int
) -> CapturedFile | SkipReason:
    """Read a file to its end; `expected` is the hash that it must have, None if that is not known."""
    reason = not_a_file(before.st_mode)
    if reason is not None:
        return reason
    sha256, sha1, md5 = (
        hashlib.sha256(),
        hashlib.sha1(usedforsecurity=False),
        hashlib.md5(usedforsecurity=False),
    )
    head = b""
    size = 0
    while chunk := os.read(fd, chunk_bytes):
        head = head or chunk
        size += len(chunk)
        if size > before.st_size:
            return SkipReason.CHANGING
        for digest in (sha256, sha1, md5):
            digest.update(chunk)
    after = os.fstat(fd)
    if size != before.st_size or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        return SkipReason.CHANGING
    actual = sha256.hexdigest()
    if expected not in (None, actual):
        return SkipReason.MISMATCH
    mime_type, file_type = describe(head) if describe else (None, None)
    moment = modified_at(after)
    return CapturedFile(actual, sha1.hexdigest(), md5.hexdigest(), size, moment, moment, mime_type, file_type)


def _skip_reason(error: OSError) -> SkipReason:
    if error.errno == errno.ELOOP:
        return SkipReason.SYMLINK
    if error.errno == errno.ENOENT:
        return SkipReason.VANISHED
    if error.errno in (errno.ENXIO, errno.ENODEV):
        return SkipReason.SOCKET
    return SkipReason.UNREADABLE


def modified_at(status: os.stat_result) -> dt.datetime | None:
    """Return the mtime in UTC, truncated to microseconds; None if it is in the future or before 1970."""
    try:
        moment = dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(microseconds=status.st_mtime_ns // 1000)
    except OverflowError:
        return None
    return moment if status.st_mtime_ns >= 0 and moment <= dt.datetime.now(dt.UTC) else None


def type_describer() -> Describe | None:
    """Return a function that detects file types with libmagic, or None if the extra `[analysis]` is not installed."""
    with suppress(ImportError):  # the system's own library works as well
        import pylibmagic  # noqa: F401  # lets python-magic find the library in the wheel
    try:
        import magic
    except ImportError:
        return None
    by_mime, by_text = magic.Magic(mime=True), magic.Magic()

    def describe(head: bytes) -> tuple[str | None, str | None]:
        try:
            mime_type, file_type = by_mime.from_buffer(head), by_text.from_buffer(head)
        except magic.MagicException:
            return None, None
        return inert_cut(mime_type, MIME_TYPE_CHARS), inert_cut(file_type, FILE_TYPE_CHARS)

    return describe
