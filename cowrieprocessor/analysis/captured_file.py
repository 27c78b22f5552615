"""One entry of Cowrie's downloads folder: what it is, and its content, read once, no link followed.

The folder holds live malware under names that are hashes. Nothing here executes or interprets it; a name is
opened relative to the folder's descriptor with O_NOFOLLOW and O_NONBLOCK, so that neither a symbolic link nor
a FIFO put there can lead or hold the reader.
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
"""What a redirect wrote was captured for good when nobody wrote to it for so long: Cowrie ends idle sessions after
minutes, and then renames what it means to log."""

LEFTOVER_SURE_AGE_S = 24 * 3600
"""After so long it is taken even where the system says that it is open: network file systems always say so."""

_HASH_NAME = re.compile(r"[0-9a-fA-F]{64}")
_LEFTOVER_NAME = re.compile(r"redir_[0-9a-f]+")
_TEMPORARY_NAME = re.compile(r"(?:stdin|redir|sftp|scp|gcc)_[0-9a-f]+|tmp.*|\d{8}-?\d{6}[-_].*", re.DOTALL)
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

Describe = Callable[[bytes], tuple[str | None, str | None]]
"""What tells the MIME type and a description from the first bytes of a file."""


class LeftAlone(StrEnum):
    """Why an entry of the folder was not taken as a captured file."""

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
        first_modified_at: its mtime in UTC, of several copies the earliest; None where that cannot be true.
        last_modified_at: the same, of several copies the latest.
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
        """Return this file with the times of a copy of it taken in."""
        first = [at for at in (self.first_modified_at, copy.first_modified_at) if at]
        last = [at for at in (self.last_modified_at, copy.last_modified_at) if at]
        return replace(self, first_modified_at=min(first, default=None), last_modified_at=max(last, default=None))


def sha256_of_name(name: str) -> str | None:
    """Return the hash that a file name is, in lower case, or None if it is no hash."""
    return name.lower() if _HASH_NAME.fullmatch(name) else None


def is_temporary_name(name: str) -> bool:
    """Say whether Cowrie gives such names to files that it is still writing.

    Source: Cowrie's `stdin_`, `redir_`, `sftp_`, `scp_` and `gcc_` names, Python's `tmp*`, and the
    `YYYYmmdd-HHMMSS-…` and `YYYYmmddHHMMSS_…` of old versions.
    """
    return _TEMPORARY_NAME.fullmatch(name) is not None


def is_leftover_name(name: str) -> bool:
    """Say whether it is the temporary name of what a shell redirect (`>`, `>>`) writes.

    When a session ends, Cowrie renames these files to their hash and logs them, or removes the empty ones. Some it
    forgets: 3.1.4 all that `busybox echo … > file` wrote, the usual way of a Mirai loader. They stay under this name.
    """
    return _LEFTOVER_NAME.fullmatch(name) is not None


def not_a_file(mode: int) -> LeftAlone | None:
    """Return why something of that `st_mode` is no file to read, or None for a regular file."""
    if stat.S_ISREG(mode):
        return None
    if stat.S_ISLNK(mode):
        return LeftAlone.SYMLINK
    if stat.S_ISDIR(mode):
        return LeftAlone.FOLDER
    if stat.S_ISFIFO(mode):
        return LeftAlone.FIFO
    return LeftAlone.SOCKET if stat.S_ISSOCK(mode) else LeftAlone.DEVICE


def read_captured(folder_fd: int, name: str, describe: Describe | None = None) -> CapturedFile | LeftAlone:
    """Read one file of the folder to its end, once, and return its hashes, size and type.

    Args:
        folder_fd: the open folder that holds the file.
        name: the file's name, 64 hexadecimal characters.
        describe: tells MIME type and description from the first bytes; None leaves them unknown.

    Returns:
        The file, or why it was left alone: MISMATCH when its content has another hash than its name, CHANGING
        when it changed while it was read.
    """
    return _open_and_read(folder_fd, name, lambda fd: _read(fd, os.fstat(fd), name.lower(), describe))


def read_leftover(folder_fd: int, name: str, describe: Describe | None = None) -> CapturedFile | LeftAlone:
    """Read what a redirect left under its temporary name, as `read_captured` does; its hash is not known before.

    Returns:
        The file, or why it was left alone: TEMPORARY when it is empty, was written to in the last hour, or is open
        for writing and was written to in the last day.
    """

    def read(fd: int) -> CapturedFile | LeftAlone:
        status = os.fstat(fd)
        age_s = time.time() - status.st_mtime
        is_waiting = age_s < LEFTOVER_AGE_S or (age_s < LEFTOVER_SURE_AGE_S and _has_writer(fd))
        if stat.S_ISREG(status.st_mode) and (not status.st_size or is_waiting):
            return LeftAlone.TEMPORARY
        return _read(fd, status, None, describe)

    return _open_and_read(folder_fd, name, read)


def _open_and_read(
    folder_fd: int, name: str, read: Callable[[int], CapturedFile | LeftAlone]
) -> CapturedFile | LeftAlone:
    try:
        fd = os.open(name, _OPEN_FLAGS, dir_fd=folder_fd)
    except OSError as error:
        return _refusal(error)
    try:
        return read(fd)
    except OSError as error:
        return _refusal(error)
    finally:
        os.close(fd)


def _has_writer(fd: int) -> bool:
    """Say whether somebody has the file open for writing; no, where the system does not tell.

    A read lease is granted only where nobody has. It is given back at once; who opens the file in between waits so
    long, and the signal for us that goes with it is one that is ignored.

    Source: fcntl(2), F_SETLEASE.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _read(fd: int, before: os.stat_result, expected: str | None, describe: Describe | None) -> CapturedFile | LeftAlone:
    """Read a file to its end; `expected` is the hash that it has to have, None where that is not known."""
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
    while chunk := os.read(fd, CHUNK_BYTES):
        head = head or chunk
        size += len(chunk)
        if size > before.st_size:
            return LeftAlone.CHANGING
        for digest in (sha256, sha1, md5):
            digest.update(chunk)
    after = os.fstat(fd)
    if size != before.st_size or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        return LeftAlone.CHANGING
    found = sha256.hexdigest()
    if expected not in (None, found):
        return LeftAlone.MISMATCH
    mime_type, file_type = describe(head) if describe else (None, None)
    moment = modified_at(after)
    return CapturedFile(found, sha1.hexdigest(), md5.hexdigest(), size, moment, moment, mime_type, file_type)


def _refusal(error: OSError) -> LeftAlone:
    if error.errno == errno.ELOOP:
        return LeftAlone.SYMLINK
    if error.errno == errno.ENOENT:
        return LeftAlone.VANISHED
    if error.errno in (errno.ENXIO, errno.ENODEV):
        return LeftAlone.SOCKET
    return LeftAlone.UNREADABLE


def modified_at(status: os.stat_result) -> dt.datetime | None:
    """Return the mtime in UTC, in whole microseconds; None for one in the future or before 1970."""
    try:
        moment = dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(microseconds=status.st_mtime_ns // 1000)
    except OverflowError:
        return None
    return moment if status.st_mtime_ns >= 0 and moment <= dt.datetime.now(dt.UTC) else None


def type_describer() -> Describe | None:
    """Return what tells file types by libmagic, or None where the extra `[analysis]` is not installed."""
    with suppress(ImportError):  # the system's own library serves as well
        import pylibmagic  # noqa: F401  # lets python-magic find the library that the wheel carries
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
