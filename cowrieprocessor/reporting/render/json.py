"""Answers as JSON: exact, for scripts.

Texts are as they are stored, URLs with everything in them. The document is pure ASCII, so that a terminal
sees none of an attacker's characters, and a lone surrogate is no error. Times are ISO 8601 in UTC with `Z`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cowrieprocessor.reporting.reports import Report


def to_json(document: object) -> str:
    """Return a document made of dataclasses, mappings, sequences and scalars as indented ASCII JSON."""
    return json.dumps(plain(document), indent=2, ensure_ascii=True, allow_nan=False)


def plain(value: object) -> Any:
    """Return a value as what JSON knows: dataclasses become objects, times text, NaN and infinity null."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def report_json(report: Report) -> str:
    """Return a report as JSON; docs/reports.md describes its fields."""
    document = plain(report)
    document["period"] = {"kind": report.period.kind.value, "name": report.period.name, **document["period"]}
    document["changes_percent"] = {name: change.percent for name, change in report.changes().items()}
    return to_json(document)
