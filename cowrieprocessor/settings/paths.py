"""Paths that stand in a file of settings."""

from __future__ import annotations

from pathlib import Path


def located(path: str, folder: Path) -> Path:
    """Return a path with `~` as the home folder; a relative one is relative to the folder."""
    try:
        expanded = Path(path).expanduser()
    except RuntimeError:  # nobody is called as `~name` says: then it is the name of a file
        expanded = Path(path)
    return folder / expanded
