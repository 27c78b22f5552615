"""Twins: events that version 3 stored again when it met their log under another name.

Version 3 knew a log by its name, so a log that was rotated or compressed between two loads is there twice. An event
occurred as often as in the log that has most of it, the rule by which loaders tell what is stored already; the rows
beyond that are marked in `twin_events`, and count nowhere. Events that our own loaders stored are there once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Text, cast, delete, exists, func, insert, select

from cowrieprocessor.db.chunks import chunks
from cowrieprocessor.db.columns import GENERATED_FROM_PAYLOAD
from cowrieprocessor.db.dialects.scan import TableScan
from cowrieprocessor.db.ingest.event_scan import is_ours
from cowrieprocessor.db.jobs import MIGRATION_JOB, load_job, save_job
from cowrieprocessor.db.models import Base

_EVENT, _TWIN = Base.metadata.tables["raw_events"], Base.metadata.tables["twin_events"]
_SAVED_COLUMNS = [
    cast(column, Text).label("payload") if column.name == "payload" else column
    for column in _EVENT.columns
    if GENERATED_FROM_PAYLOAD not in column.info
]


class TwinSearch:
    """Finds the twins of sessions.

    Args:
        scan: the database.
        last_v3_id: the largest id of version 3's events at the migration.
    """

    def __init__(self, scan: TableScan, last_v3_id: int) -> None:
        self._scan = scan
        self._is_v3 = f"NOT {is_ours('e', last_v3_id)}"

    def of_sessions(self, connection: Connection, first: str, last: str) -> dict[str, set[int]]:
        """Return the ids of the twins in the sessions `first` to `last`, by session."""
        sql = (
            "SELECT e.session_id FROM raw_events AS e WHERE e.session_id >= ? AND e.session_id <= ?"
            f" AND {self._is_v3} GROUP BY e.session_id HAVING count(DISTINCT e.payload_hash) < count(*)"
        )
        found = {row[0]: self.of_session(connection, row[0]) for row in self._scan.rows(connection, sql, (first, last))}
        return {session_id: twins for session_id, twins in found.items() if twins}

    def of_session(self, connection: Connection, session_id: str) -> set[int]:
        """Return the ids of the twins in one session.

        Of each event the rows of the log with most of it stay, of several logs the one with most of the session; rows
        without an inode, which version 3 stored repeatedly for one line, stay once.
        """
        text = self._scan.sql.json_text("e.payload")
        log = "source, inode, generation"
        sql = f"""
            WITH v3 AS (
                SELECT e.id, coalesce(e.payload_hash, {text}) AS hash, e.source, coalesce(e.source_inode, '') AS inode,
                    e.source_generation AS generation, coalesce(e.source_offset, -e.id) AS line
                FROM raw_events AS e WHERE e.session_id = ? AND {self._is_v3}
            ),
            lines AS (SELECT hash, {log}, line, min(id) AS id FROM v3 GROUP BY hash, {log}, line),
            logs AS (SELECT {log}, count(*) AS events, min(id) AS first FROM lines GROUP BY {log}),
            ranked AS (
                SELECT l.hash, l.source, l.inode, l.generation, row_number() OVER (
                    PARTITION BY l.hash ORDER BY count(*) DESC, max(g.events) DESC, min(g.first)) AS place
                FROM lines AS l JOIN logs AS g
                    ON g.source = l.source AND g.inode = l.inode AND g.generation = l.generation
                GROUP BY l.hash, l.source, l.inode, l.generation
            )
            SELECT v3.id FROM v3 WHERE v3.id NOT IN (
                SELECT l.id FROM lines AS l JOIN ranked AS r ON r.hash = l.hash AND r.source = l.source
                    AND r.inode = l.inode AND r.generation = l.generation AND r.place = 1)
        """
        return {int(row[0]) for row in self._scan.rows(connection, sql, (session_id,))}

    def marked(self, connection: Connection, first: str, last: str) -> dict[str, set[int]]:
        """Return the ids of the events of the sessions `first` to `last` that are marked as twins, by session."""
        sql = (
            "SELECT e.session_id, e.id FROM raw_events AS e WHERE e.session_id >= ? AND e.session_id <= ?"
            " AND EXISTS (SELECT 1 FROM twin_events AS t WHERE t.event_id = e.id)"
        )
        found: dict[str, set[int]] = {}
        for session_id, event_id in self._scan.rows(connection, sql, (first, last)):
            found.setdefault(session_id, set()).add(int(event_id))
        return found

    def mark(self, connection: Connection, session_id: str, twins: set[int]) -> bool:
        """Mark exactly these events of a session as twins; return whether any mark changed."""
        before = self.marked(connection, session_id, session_id).get(session_id, set())
        _delete_marks(connection, sorted(before - twins))
        if added := [{"event_id": event_id} for event_id in sorted(twins - before)]:
            connection.execute(insert(_TWIN), added)
        return before != twins


def twins_after(connection: Connection, event_id: int, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` rows of raw_events that are marked as twins, after an id.

    The newest event of the database is left out: SQLite would give its id to the next event.
    """
    newest = select(func.max(_EVENT.c.id)).scalar_subquery()
    query = (
        select(*_SAVED_COLUMNS)
        .join(_TWIN, _TWIN.c.event_id == _EVENT.c.id)
        .where(_TWIN.c.event_id > event_id, _EVENT.c.id != newest)
        .order_by(_TWIN.c.event_id)
        .limit(limit)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def count_twins(connection: Connection) -> int:
    """Return how many events are marked as twins."""
    return int(connection.execute(select(func.count()).select_from(_TWIN)).scalar_one())


def remove_twins(connection: Connection, event_ids: Sequence[int]) -> int:
    """Delete events that are marked as twins, with their marks; return their number.

    What the migration noted of these rows goes, too, so that a validation does not miss them.
    """
    removed = 0
    for part in chunks(event_ids):
        is_twin = exists().where(_TWIN.c.event_id == _EVENT.c.id)
        removed += connection.execute(delete(_EVENT).where(_EVENT.c.id.in_(part), is_twin)).rowcount
    _delete_marks(connection, event_ids)
    _forget_digests(connection, event_ids)
    return removed


def _delete_marks(connection: Connection, event_ids: Sequence[int]) -> None:
    for part in chunks(event_ids):
        connection.execute(delete(_TWIN).where(_TWIN.c.event_id.in_(part)))


def _forget_digests(connection: Connection, event_ids: Iterable[int]) -> None:
    migration = load_job(connection, MIGRATION_JOB, for_update=True)
    if migration is None:
        return
    digests = migration.cursor.get("digests", {}).get(_EVENT.name, {}).get("rows", {})
    known = digests.keys() & set(map(str, event_ids))
    if not known:
        return
    for event_id in known:
        del digests[event_id]
    save_job(connection, migration)
