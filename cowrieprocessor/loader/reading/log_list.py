"""The logs to load, as names by folder: a million of them take less than 200 MB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cowrieprocessor.loader.reading.log_names import name_of


class LogList:
    """Logs in the order in which they are loaded, each once.

    The logs of a folder are kept as sort keys and become paths when they are due; they are sorted when the first one
    is.
    """

    def __init__(self) -> None:
        self._found: list[Path | _Folder] = []
        self._files: set[Path] = set()
        self._folders: dict[str, _Folder] = {}

    def add_file(self, path: Path) -> None:
        """Add a file that is named itself."""
        folder = self._folders.get(str(path.parent))
        if path not in self._files and (folder is None or path.name not in folder):
            self._files.add(path)
            self._found.append(path)

    def add_folders(self, keys: dict[str, list[str]]) -> None:
        """Add the logs of a folder and its subfolders; `keys` are the sort keys of their names, by folder."""
        for path, found in sorted(keys.items()):
            if path not in self._folders:
                given = {file.name for file in self._files if str(file.parent) == path}
                folder = self._folders[path] = _Folder(path, found, given)
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
                yield from found

    def __contains__(self, path: object) -> bool:
        """Return whether a path is one of the logs."""
        if not isinstance(path, Path):
            return False
        folder = self._folders.get(str(path.parent))
        return path in self._files or (folder is not None and path.name in folder)


class _Folder:
    """The names of the logs in one folder, each as its sort key, which ends with the name.

    Args:
        path: the folder.
        keys: the sort keys.
        given: names that come before the folder, because they are named themselves.
    """

    def __init__(self, path: str, keys: list[str], given: set[str]) -> None:
        self._path = path
        self._keys = [key for key in keys if name_of(key) not in given] if given else keys
        self._given = given
        self._is_sorted = False
        self._names: set[str] | None = None

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Path]:
        if not self._is_sorted:
            self._keys.sort()
            self._is_sorted = True
        folder = Path(self._path)
        return (folder / name_of(key) for key in self._keys)

    def __contains__(self, name: str) -> bool:
        if self._names is None:  # asked only where names are given twice, or logs were renamed while others were loaded
            self._names = {name_of(key) for key in self._keys} | self._given
        return name in self._names
