"""Stored texts as they are shown: a backslash once, as it was typed."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, func


def visible(column: Any) -> ColumnElement[str | None]:
    """Return a column of inert texts as `sanitize.visible` returns each of them."""
    return func.replace(column, "\\\\", "\\")
