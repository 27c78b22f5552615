"""Query results as JSON: exact, for scripts.

Texts are as stored, and URLs keep their credentials. The document is pure ASCII, so that it is harmless on a terminal
and a lone surrogate is not an error. Times are ISO 8601 in UTC with `Z`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cowrieprocessor.reporting.reports import Report


MAX_DEPTH = 100
NESTED_DEEPER = "… (nested deeper)"
"""Stands for what an event nests deeper than `MAX_DEPTH`: few parsers read that. The event itself is stored whole."""


def to_json(document: object) -> str:
    """Return a document made of dataclasses, mappings, sequences and scalars as indented ASCII JSON."""
    return json.dumps(plain(document), indent=2, ensure_ascii=True, allow_nan=False)


def plain(value: object, depth: int = MAX_DEPTH) -> Any:
    """Return a value made of JSON types: dataclasses become objects, times text, NaN and infinity null.

    Args:
        value: the value.
        depth: how deep objects and arrays may be nested; `NESTED_DEEPER` takes the place of those below.

    Raises:
        TypeError: the value, or a part of it, has no JSON equivalent.
    """
    if value is None or isinstance(value, str | int | float | dt.datetime):
        return _plain_scalar(value)
    if not depth:
        return NESTED_DEEPER
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name), depth - 1) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, depth - 1) for item in value]
    raise TypeError(f"{type(value).__name__} has no JSON equivalent")


def _plain_scalar(value: str | float | dt.datetime | None) -> str | float | None:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
    return value


_FOR_TEXT = ("completeness", "lists_files", "earlier_session", "newest", "is_to_come")
"""Fields of a report that choose the words and commands of its text."""


def report_json(report: Report) -> str:
    """Return a report as JSON; docs/reports.md describes its fields."""
    document = plain(report) | report.completeness.fields()
    for name in _FOR_TEXT:
        del document[name]
    document["period"] = {"kind": report.period.kind.value, "name": report.period.name, **document["period"]}
    document["left_out"] = report.left_out()
    document["changes_percent"] = {name: change.percent for name, change in report.changes().items()}
    return to_json(document)
