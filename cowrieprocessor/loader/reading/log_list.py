"""The logs to load, as names by folder: a million of them take 20 MB."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from cowrieprocessor.loader.reading.log_names import name_of, name_order

_NAME = re.compile(rb"[^\0]+")


class LogList:
    """Logs in the order in which they are loaded, each once; those of a folder are kept as names."""

    def __init__(self) -> None:
        self._found: list[Path | _Folder] = []
        self._files: set[Path] = set()
        self._folders: dict[str, _Folder] = {}

    def add_file(self, path: Path) -> None:
        """Add a file that is named itself."""
        folder = self._folders.get(str(path.parent))
        if path not in self._files and (folder is None or not folder.has(path.name)):
            self._files.add(path)
            self._found.append(path)

    def add_folders(self, keys: dict[str, list[str]]) -> None:
        """Add the logs of a folder and its subfolders; `keys` are the sort keys of their names, by folder."""
        for path in sorted(keys):
            if path not in self._folders:
                given = {file.name for file in self._files if str(file.parent) == path}
                folder = self._folders[path] = _Folder(path, keys.pop(path), given)
                self._found.append(folder)

    def __len__(self) -> int:
        """Return the number of logs."""
        return sum(1 if isinstance(found, Path) else len(found) for found in self._found)

    def __iter__(self) -> Iterator[Path]:
        """Yield the paths of the logs."""
        for found in self._found:
            if isinstance(found, Path):
                yield found
            else:
                yield from (found.path / name for name in found)

    def added_since(self, earlier: LogList) -> Iterator[Path]:
        """Yield the logs that are not in an earlier list of the same paths."""
        for path, folder in self._folders.items():
            yield from (folder.path / name for name in folder.minus(earlier._folders.get(path)))


class _Folder:
    """The names of the logs in one folder, in their order.

    Args:
        path: the folder.
        keys: the sort keys of the names.
        given: names that come before the folder, because they are named themselves.
    """

    def __init__(self, path: str, keys: list[str], given: set[str]) -> None:
        self.path = Path(path)
        keys.sort()
        self._names = bytearray(b"\0")  # a million bytes objects on the way to it would take 60 MB
        for key in keys:
            if (name := name_of(key)) not in given:
                self._names += os.fsencode(name) + b"\0"

    def __len__(self) -> int:
        return self._names.count(b"\0") - 1

    def __iter__(self) -> Iterator[str]:
        return (os.fsdecode(match.group()) for match in _NAME.finditer(self._names))

    def has(self, name: str) -> bool:
        """Return whether a name is among them."""
        return b"\0%s\0" % os.fsencode(name) in self._names

    def minus(self, other: _Folder | None) -> Iterator[str]:
        """Yield the names that another folder does not have; both are in the same order."""
        others = iter(other or ())
        next_other = next(others, None)
        for name in self:
            key = name_order(name)
            while next_other is not None and name_order(next_other) < key:
                next_other = next(others, None)
            if name != next_other:
                yield name
