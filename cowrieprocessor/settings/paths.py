"""Paths in a settings file."""

from __future__ import annotations

from pathlib import Path


def resolve_path(path: str, folder: Path) -> Path:
    """Return a path with `~` expanded; a relative path is resolved against `folder`."""
    try:
        expanded = Path(path).expanduser()
    except RuntimeError:  # no user is called `name`: `~name` is a file name
        expanded = Path(path)
    return folder / expanded
