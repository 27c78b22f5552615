"""What a database says, without what depends on when and through which database it was said."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from sqlalchemy import Engine, inspect, select

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.models import Base

MOMENTS_OF_LOADING = frozenset(
    {
        "id",
        "ingest_id",
        "ingest_at",
        "created_at",
        "updated_at",
        "last_updated",
        "started_at",
        "finished_at",
        "owner",
        "progress",
        "stop_requested_at",
    }
)
WHERE_IT_LAY = frozenset({"source_inode", "current_path", "cursor"})
EVENT_TABLES = (
    "raw_events",
    "session_summaries",
    "session_attributes",
    "session_sensors",
    "session_logins",
    "command_stats",
    "files",
    "file_mentions",
    "file_hashes",
    "dead_letter_events",
)
"""What the events of logs become, whatever the logs were called."""

TABLES = (*EVENT_TABLES, "log_files", "jobs")

Contents = dict[str, list[str]]


def logical_contents(engine: Engine, *, tables: Iterable[str] = TABLES, without: Iterable[str] = ()) -> Contents:
    """Return each table's rows as sorted JSON texts, without surrogate keys, load times and places.

    Args:
        engine: the database.
        tables: which tables.
        without: further columns to leave out.
    """
    left_out = MOMENTS_OF_LOADING | WHERE_IT_LAY | set(without)
    contents: Contents = {}
    with read_transaction(engine) as connection:
        present = set(inspect(connection).get_table_names())
        for name in tables:
            if name not in present:
                continue
            table = Base.metadata.tables[name]
            columns = [column for column in table.columns if column.name not in left_out]
            rows = connection.execute(select(*columns)).mappings()
            contents[name] = sorted(
                json.dumps({key: _plain(key, row[key]) for key in row}, sort_keys=True) for row in rows
            )
    return contents


def difference(one: Contents, other: Contents) -> list[str]:
    """Return what only one of two databases says, in words; empty where they say the same."""
    found = []
    for name in sorted(one.keys() | other.keys()):
        left, right = set(one.get(name, [])), set(other.get(name, []))
        found += [f"only in the first, {name}: {row[:600]}" for row in sorted(left - right)[:3]]
        found += [f"only in the second, {name}: {row[:600]}" for row in sorted(right - left)[:3]]
        if len(one.get(name, [])) != len(other.get(name, [])):
            found.append(f"{name}: {len(one.get(name, []))} rows and {len(other.get(name, []))} rows")
    return found


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat()
    if key == "source" and isinstance(value, str):
        return PurePosixPath(value).name
    if key == "source_files" and isinstance(value, list):
        return sorted(PurePosixPath(path).name for path in value)
    return value
