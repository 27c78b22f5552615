"""One entry of Cowrie's downloads folder: what it is, and its content, read once, no link followed.

The folder holds live malware under names that are hashes. Nothing here executes or interprets it; a name is
opened relative to the folder's descriptor with O_NOFOLLOW and O_NONBLOCK, so that neither a symbolic link nor
a FIFO put there can lead or hold the reader.
"""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from cowrieprocessor.sanitize import inert_cut

CHUNK_BYTES = 1 << 20
MIME_TYPE_CHARS = 128
FILE_TYPE_CHARS = 256

_HASH_NAME = re.compile(r"[0-9a-fA-F]{64}")
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
    """A captured file whose content has the hash that its name says. `modified_at` is its mtime in UTC."""

    sha256: str
    sha1: str
    md5: str
    size_bytes: int
    modified_at: dt.datetime
    mime_type: str | None
    file_type: str | None


def sha256_of_name(name: str) -> str | None:
    """Return the hash that a file name is, in lower case, or None if it is no hash."""
    return name.lower() if _HASH_NAME.fullmatch(name) else None


def is_temporary_name(name: str) -> bool:
    """Say whether Cowrie gives such names to files that it is still writing.

    Source: Cowrie's `stdin_`, `redir_`, `sftp_`, `scp_` and `gcc_` names, Python's `tmp*`, and the
    `YYYYmmdd-HHMMSS-…` and `YYYYmmddHHMMSS_…` of old versions.
    """
    return _TEMPORARY_NAME.fullmatch(name) is not None


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
    try:
        fd = os.open(name, _OPEN_FLAGS, dir_fd=folder_fd)
    except OSError as error:
        return _refusal(error)
    try:
        return _read(fd, name.lower(), describe)
    except OSError as error:
        return _refusal(error)
    finally:
        os.close(fd)


def _read(fd: int, expected: str, describe: Describe | None) -> CapturedFile | LeftAlone:
    before = os.fstat(fd)
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
    if sha256.hexdigest() != expected:
        return LeftAlone.MISMATCH
    mime_type, file_type = describe(head) if describe else (None, None)
    return CapturedFile(expected, sha1.hexdigest(), md5.hexdigest(), size, modified_at(after), mime_type, file_type)


def _refusal(error: OSError) -> LeftAlone:
    if error.errno == errno.ELOOP:
        return LeftAlone.SYMLINK
    if error.errno == errno.ENOENT:
        return LeftAlone.VANISHED
    if error.errno in (errno.ENXIO, errno.ENODEV):
        return LeftAlone.SOCKET
    return LeftAlone.UNREADABLE


def modified_at(status: os.stat_result) -> dt.datetime:
    """Return the mtime in UTC, in whole microseconds; one in the future or before 1970 counts as now."""
    now = dt.datetime.now(dt.UTC)
    try:
        moment = dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(microseconds=status.st_mtime_ns // 1000)
    except OverflowError:
        return now
    return moment if status.st_mtime_ns >= 0 and moment <= now else now


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
