"""Import of exported v4-only state: rows are merged into a database at version 4 without losing newer data.

Merges are idempotent, and may run before or after the backfill.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Table, bindparam, select, text, tuple_, update

from cowrieprocessor.db.enrichment.verdict_aggregation import aggregate_again
from cowrieprocessor.db.enrichment.verdict_history import merge_history
from cowrieprocessor.db.ingest import sensor_names
from cowrieprocessor.db.jobs import MIGRATION_JOB
from cowrieprocessor.db.models import FILES, HASHES
from cowrieprocessor.db.saved_rows import SavedRows
from cowrieprocessor.db.upgrade.v4_state import SAVED, TABLES, Row

ROWS_AT_ONCE = 400
"""Maximum number of rows in one call of `merge`."""

VERDICTS, EVENTS, DEAD = TABLES["file_verdicts"], TABLES["raw_events"], TABLES["dead_letter_events"]
_JOBS_OF_ONE_DATABASE = (MIGRATION_JOB, "backfill", "planned-files")
"""Prefixes of the names of jobs that describe the database they ran on, and are not imported into another one."""
_ENDED = frozenset({"done", "failed", "stopped"})
Key = tuple[Any, ...]
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Merged:
    """Outcome of a merge: rows added, rows updated, and rows that changed nothing."""

    added: int = 0
    updated: int = 0
    known: int = 0

    def __add__(self, other: Merged) -> Merged:
        """Return the sums."""
        return Merged(self.added + other.added, self.updated + other.updated, self.known + other.known)


def merge(connection: Connection, name: str, rows: Sequence[Row]) -> Merged:
    """Merge rows of one table: add rows with new keys, and change stored rows by what the table declares.

    Args:
        connection: holds the write lock.
        name: the table, one with saved rows.
        rows: at most ROWS_AT_ONCE rows with the columns that `from_json` returns.
    """
    table_merge = _BY_TABLE.get(name, _merge_by_key)
    return table_merge(connection, TABLES[name], rows)


def _merge_by_key(connection: Connection, table: Table, rows: Sequence[Row]) -> Merged:
    """Insert rows with new keys, and update stored rows by the rules of their table."""
    if not rows:
        return Merged()
    declared = SAVED[table.name]
    stored = _stored(connection, table, declared.key, rows)
    absent = {_key(row, declared.key): row for row in rows if _key(row, declared.key) not in stored}
    added = _add(connection, table, list(absent.values())) if absent else 0
    changes = _changes(declared, stored, rows)
    now = dt.datetime.now(dt.UTC)
    touched = {column.name: now for column in table.columns if column.onupdate is not None}
    for key, change in changes.items():
        is_row = (table.c[column] == value for column, value in zip(declared.key, key, strict=True))
        connection.execute(update(table).where(*is_row).values(touched | change))
    return Merged(added, len(changes), len(rows) - added - len(changes))


def _changes(declared: SavedRows, stored: dict[Key, Row], rows: Iterable[Row]) -> dict[Key, Row]:
    """Return the changed columns of stored rows by key; `stored` is updated with them."""
    changes: dict[Key, Row] = {}
    for row in rows:
        key = _key(row, declared.key)
        if key in stored and (changed := declared.changes(stored[key], row)):
            stored[key] |= changed
            changes[key] = changes.get(key, {}) | changed
    return changes


def _stored(connection: Connection, table: Table, keys: Sequence[str], rows: Sequence[Row]) -> dict[Key, Row]:
    """Lock the stored rows with the keys of rows, and return them by key."""
    wanted = {_key(row, keys) for row in rows}
    columns = [table.c[key] for key in keys]
    is_wanted = columns[0].in_([key[0] for key in wanted]) if len(keys) == 1 else tuple_(*columns).in_(list(wanted))
    found = connection.execute(select(table).where(is_wanted).order_by(*columns).with_for_update()).mappings()
    return {_key(row, keys): {str(name): value for name, value in row.items()} for row in found}


def _key(row: Mapping[Any, Any], keys: Sequence[str]) -> Key:
    return tuple(row[key] for key in keys)


def _add(connection: Connection, table: Table, rows: Sequence[Row]) -> int:
    """Insert rows, skip those that violate a unique constraint, and return the number of inserted rows."""
    quote = connection.dialect.identifier_preparer.quote
    added = 0
    for names, alike in groupby(rows, key=tuple):
        statement = text(
            f"INSERT INTO {quote(table.name)} ({', '.join(map(quote, names))})"
            f" VALUES ({', '.join(f':{name}' for name in names)}) ON CONFLICT DO NOTHING"
        ).bindparams(*(bindparam(name, type_=table.c[name].type) for name in names))
        added += sum(connection.execute(statement, row).rowcount for row in alike)
    return added


def _merge_usable(connection: Connection, table: Table, rows: Sequence[Row], usable: Sequence[Row]) -> Merged:
    """Merge some of the rows; the others count as known."""
    merged = _merge_by_key(connection, table, usable)
    return Merged(merged.added, merged.updated, len(rows) - merged.added - merged.updated)


def _merge_sensors(connection: Connection, table: Table, rows: Sequence[Row]) -> Merged:
    """Merge names of sensors, and mark the sessions that they are about: a backfill may have passed them already."""
    sensor_names.lock(connection, to_change=True)
    merged = _merge_by_key(connection, table, rows)
    for row in rows if merged.added else ():
        if "identity" in row:
            sensor_names.mark_sessions_of_log(connection, (row["identity"], row["generation"]))
        else:
            sensor_names.mark_sessions_of_sensor(connection, row["name"])
    return merged


def _merge_logs(connection: Connection, table: Table, rows: Sequence[Row]) -> Merged:
    """Merge the checkpoints of the logs whose last value is in this database."""
    return _merge_usable(connection, table, rows, [row for row in rows if _is_last_value_stored(connection, row)])


def _is_last_value_stored(connection: Connection, log: Row) -> bool:
    """Return whether the last value before a log's checkpoint is in this database, as an event or a dead letter.

    After a backup was restored it may be missing. With the checkpoint, loaders would skip events that are stored
    nowhere; without it they look up each event.
    """
    offset = log["next_offset"] - 1
    event = select(EVENTS.c.id).where(
        EVENTS.c.source == log["source"],
        EVENTS.c.source_inode == log["source_inode"],
        EVENTS.c.source_generation == log["source_generation"],
        EVENTS.c.source_offset == offset,
        EVENTS.c.payload_hash == log["last_value_hash"],
    )
    dead = select(DEAD.c.id).where(DEAD.c.source == log["source"], DEAD.c.source_offset == offset)
    return any(connection.execute(query.limit(1)).first() is not None for query in (event, dead))


def _merge_jobs(connection: Connection, table: Table, rows: Sequence[Row]) -> Merged:
    """Merge the jobs that do not describe one database, those that had not ended as stopped."""
    stopped = {"state": "stopped", "reason": "the database was rolled back to version 3"}
    transferable = [row for row in rows if not row["name"].startswith(_JOBS_OF_ONE_DATABASE)]
    ended = [row if row["state"] in _ENDED else row | stopped for row in transferable]
    return _merge_usable(connection, table, rows, ended)


def _merge_history(connection: Connection, table: Table, rows: Sequence[Row]) -> Merged:
    """Merge verdict spans: insert new ones, and extend stored ones to the later confirmation.

    Where both histories have answers of one provider about one hash, the spans of both are ordered, and the hash's
    verdict is aggregated again.
    """
    spans = _stored_spans(connection, sorted({row["sha256"] for row in rows}))
    apart: list[Row] = []
    interleaved: dict[Pair, list[Row]] = {}
    for row in rows:
        target = interleaved.setdefault(_pair(row), []) if _is_among(row, spans.get(_pair(row), ())) else apart
        target.append(row)
    merged = _merge_by_key(connection, table, apart)
    for (sha256, provider), given in sorted(interleaved.items()):
        merge_history(connection, sha256, provider, given)
    for sha256 in _hashes_to_aggregate(spans.keys(), {_pair(row) for row in apart}, interleaved.keys()):
        aggregate_again(connection, sha256, dt.datetime.now(dt.UTC))
    return merged + Merged(added=len(rows) - len(apart))


def _hashes_to_aggregate(stored: Set[Pair], given: Set[Pair], interleaved: Set[Pair]) -> list[str]:
    """Return the hashes with stored answers whose verdict may change: by another provider's, or by interleaved ones."""
    with_new_provider = {sha256 for sha256, _ in given - stored} & {sha256 for sha256, _ in stored}
    return sorted(with_new_provider | {sha256 for sha256, _ in interleaved})


def _pair(row: Row) -> Pair:
    return row["sha256"], row["provider"]


def _stored_spans(connection: Connection, hashes: Sequence[str]) -> dict[Pair, set[dt.datetime]]:
    """Return when the stored spans of some hashes begin, by hash and provider."""
    columns = (VERDICTS.c.sha256, VERDICTS.c.provider, VERDICTS.c.fetched_at)
    spans: dict[Pair, set[dt.datetime]] = {}
    for sha256, provider, fetched_at in connection.execute(select(*columns).where(VERDICTS.c.sha256.in_(hashes))):
        spans.setdefault((sha256, provider), set()).add(fetched_at)
    return spans


def _is_among(row: Row, begins: Collection[dt.datetime]) -> bool:
    """Return whether a span begins between stored ones, or goes on over the beginning of one."""
    goes_over = any(row["fetched_at"] < begin <= row["confirmed_at"] for begin in begins)
    return bool(begins) and (row["fetched_at"] not in begins or goes_over)


def _merge_artifacts(connection: Connection, table: Table, rows: Sequence[Row]) -> Merged:
    """Insert files found by scanning captured files, except those that a log names by now."""
    hashes = sorted({row["shasum"] for row in rows})
    # Loaders on PostgreSQL lock the hash before they search artifact rows, so neither side misses the other's rows.
    connection.execute(
        select(HASHES.c.sha256).where(HASHES.c.sha256.in_(hashes)).order_by(HASHES.c.sha256).with_for_update()
    )
    named = set(
        connection.scalars(
            select(FILES.c.shasum).distinct().where(FILES.c.shasum.in_(hashes), FILES.c.origin != "artifact")
        )
    )
    return _merge_usable(connection, table, rows, [row for row in rows if row["shasum"] not in named])


_BY_TABLE: Mapping[str, Callable[[Connection, Table, Sequence[Row]], Merged]] = {
    "file_verdicts": _merge_history,
    "files": _merge_artifacts,
    "jobs": _merge_jobs,
    "log_files": _merge_logs,
    "log_sensors": _merge_sensors,
    "renamed_sensors": _merge_sensors,
}
"""The tables whose rows depend on what is in others."""
