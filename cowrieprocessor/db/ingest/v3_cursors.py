"""Version 3's cursors: the last line that it read of each log.

They are read-only and never trusted alone: raw_events is the authority on what is stored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Text, cast, select

from cowrieprocessor.db.ingest.stored_events import SourceKey
from cowrieprocessor.db.models import IngestCursor

_CURSOR = IngestCursor.__table__


class V3Cursor(NamedTuple):
    """Version 3's position in a log: the number of the last line read, and the payload_hash of line 0."""

    source_key: SourceKey
    last_offset: int
    first_hash: str | None


def cursors(connection: Connection) -> list[V3Cursor]:
    """Return all cursors of version 3, one for each path that it followed."""
    rows = connection.execute(
        select(_CURSOR.c.source, _CURSOR.c.inode, _CURSOR.c.last_offset, cast(_CURSOR.c.metadata_json, Text))
    )
    return [_cursor(row) for row in rows]


def _cursor(row: Sequence[Any]) -> V3Cursor:
    source, inode, offset, text = row
    try:
        metadata = json.loads(text or "null")
    except ValueError:
        metadata = None
    if not isinstance(metadata, dict):
        metadata = {}
    generation, first_hash = metadata.get("generation"), metadata.get("first_hash")
    return V3Cursor(
        SourceKey(source, inode, generation if type(generation) is int else 0),
        -1 if offset is None else int(offset),
        first_hash if isinstance(first_hash, str) else None,
    )
