"""What the name of a log says: whether it is one, whether it is still written, and where it comes in the rotation."""

from __future__ import annotations

import os
import re
from pathlib import Path

_LOG_NAME = re.compile(r"\.(?:json|jsonl|ndjson)(?:[._-].*)?$", re.IGNORECASE)
_COMPRESSED = re.compile(r"\.(?:gz|bz2|xz|zst|zstd|zip|tar|tgz|tar\.(?:gz|bz2|xz|zst))$", re.IGNORECASE)
_DATED = re.compile(r"[._-](\d{4}-?\d\d-?\d\d)(?:[._T-]?(\d[\d_:-]*))?$")
_NUMBERED = re.compile(r"\.(\d{1,6})$")
_HIGHEST_NUMBER = 999_999
_BY_DATE, _BY_NUMBER, _LIVE = range(3)

RotationOrder = tuple[str, str]
"""Folder and name order of a log; sorts logs in the order in which they were written."""


def name_order(name: str) -> str:
    """Return a sort key: by log, then dated logs by date, numbered logs from the highest, the live log last.

    A text rather than a tuple, because it takes a third of the memory; no name has a NUL in it.
    """
    bare = _COMPRESSED.sub("", name)
    if match := _DATED.search(bare):
        return f"{bare[: match.start()]}\0{_BY_DATE}{match[1].replace('-', '')}{match[2] or ''}\0{name}"
    if match := _NUMBERED.search(bare):
        return f"{bare[: match.start()]}\0{_BY_NUMBER}{_HIGHEST_NUMBER - int(match[1]):06d}\0{name}"
    return f"{bare}\0{_LIVE}\0{name}"


def name_of(key: str) -> str:
    """Return the name that a sort key is of."""
    return key.rpartition("\0")[2]


def rotation_order(path: Path) -> RotationOrder:
    """Return the sort key of a path: folder by folder, in each as `name_order` says."""
    return str(path.parent), name_order(path.name)


def log_name(path: str) -> tuple[str, str]:
    """Return the folder and the name that a log and all files rotated from it share."""
    folder, order = rotation_order(Path(path))
    return folder, order.partition("\0")[0]


def has_later_log(path: Path) -> bool:
    """Return whether the folder of a rotated log has a log that continues it."""
    log, place, _ = name_order(path.name).split("\0")
    try:
        names = [entry.name for entry in os.scandir(path.parent)]
    except OSError:
        return False
    others = (name_order(name).split("\0") for name in names if is_log_name(name))
    return any(other[0] == log and other[1] > place for other in others)


def is_live_name(path: str) -> bool:
    """Return whether a log is named like one still being written: no date, number or compression suffix."""
    name = path.rpartition("/")[2]
    return not (_COMPRESSED.search(name) or _DATED.search(name) or _NUMBERED.search(name))


def is_packed_name(path: str) -> bool:
    """Return whether a file has the name of a compressed file."""
    return _COMPRESSED.search(path) is not None


def is_log_name(name: str) -> bool:
    """Return whether a file in a folder has the name of a Cowrie JSON log."""
    return _LOG_NAME.search(name) is not None and not name.startswith(".")
