"""Paths in a settings file, and which logs they stand for."""

from __future__ import annotations

from pathlib import Path


def resolve_path(path: str, folder: Path) -> Path:
    """Return a path with `~` expanded; a relative path is resolved against `folder`."""
    try:
        expanded = Path(path).expanduser()
    except RuntimeError:  # no user is called `name`: `~name` is a file name
        expanded = Path(path)
    return folder / expanded


def is_followed(path: str, followed: str) -> bool:
    """Return whether a file belongs to a followed path: it is inside it, is the path itself, or was rotated from it.

    Args:
        path: the file's path.
        followed: the followed path.
    """
    if path.startswith(followed.rstrip("/") + "/"):
        return True
    folder, _, name = path.rpartition("/")
    live_folder, _, live = followed.rpartition("/")
    return folder == live_folder and is_rotated_from(live, name)


def is_rotated_from(live: str, name: str) -> bool:
    """Return whether a file name is that of a live log, or of a log that was rotated from it."""
    return name == live or (name.startswith(live) and name[len(live)] in "._-")
