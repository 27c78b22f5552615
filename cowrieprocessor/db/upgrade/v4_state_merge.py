"""Import of exported v4-only state: rows are merged into a database at version 4 without losing newer data.

Merges are idempotent, and may run before or after the backfill.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, bindparam, insert, select, text, tuple_, update

from cowrieprocessor.db.enrichment.file_status import PENDING
from cowrieprocessor.db.enrichment.queue import ANSWERED, RATE_LIMITED
from cowrieprocessor.db.enrichment.quota import NOW, PAUSED, REFUSED
from cowrieprocessor.db.enrichment.verdict_aggregation import aggregate_again
from cowrieprocessor.db.enrichment.verdict_history import merge_history
from cowrieprocessor.db.ingest import sensor_names
from cowrieprocessor.db.jobs import MIGRATION_JOB
from cowrieprocessor.db.models import FILES, HASHES, Base
from cowrieprocessor.db.upgrade.v4_state import CONTENT_COLUMNS, HASH_VERDICT_COLUMNS, V4_STATE, Row, has_newer_verdict

ROWS_AT_ONCE = 400
"""Maximum number of rows in one call of `merge`."""

VERDICTS: Table = Base.metadata.tables["file_verdicts"]
EVENTS: Table = Base.metadata.tables["raw_events"]
DEAD: Table = Base.metadata.tables["dead_letter_events"]
_JOBS_OF_ONE_DATABASE = (MIGRATION_JOB, "backfill", "planned-files")
"""Prefixes of the names of jobs that describe the database they ran on, and are not imported into another one."""
Key = tuple[Any, ...]
Rule = Callable[[Row, Row], Row]
"""Returns the columns of a stored row that a given row changes."""

_ENDED = frozenset({"done", "failed", "stopped"})


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
    """Merge rows of one table.

    Args:
        connection: holds the write lock.
        name: the table, a key of V4_STATE.
        rows: at most ROWS_AT_ONCE rows with the columns that V4_STATE lists for the table.
    """
    if name == "files":
        return _merge_artifacts(connection, rows)
    if name == "file_verdicts":
        return _merge_history(connection, rows)
    if name == "jobs":
        return _merge_by_key(connection, name, _transferable_jobs(rows), len(rows))
    if name == "verdict_propagation":
        return _merge_by_key(connection, name, [row | {"cursor": 0} for row in rows], len(rows))
    if name == "log_files":
        usable = [row for row in rows if _is_last_value_stored(connection, row)]
        return _merge_by_key(connection, name, usable, len(rows))
    if name in ("log_sensors", "renamed_sensors"):
        return _merge_sensors(connection, name, rows)
    return _merge_by_key(connection, name, rows, len(rows))


def _merge_sensors(connection: Connection, name: str, rows: Sequence[Row]) -> Merged:
    """Merge names of sensors, and mark the sessions that they are about: a backfill may have passed them already."""
    sensor_names.lock(connection, to_change=True)
    merged = _merge_by_key(connection, name, rows, len(rows))
    for row in rows if merged.added else ():
        if "identity" in row:
            sensor_names.mark_sessions_of_log(connection, (row["identity"], row["generation"]))
        else:
            sensor_names.mark_sessions_of_sensor(connection, row["name"])
    return merged


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


def _merge_by_key(connection: Connection, name: str, rows: Sequence[Row], given: int) -> Merged:
    """Insert rows with new keys, and update stored rows by the rule of their table.

    Args:
        connection: holds the write lock.
        name: the table.
        rows: the rows to merge.
        given: number of rows before unusable ones were left out; these count as known.
    """
    if not rows:
        return Merged(known=given)
    table = V4_STATE[name].table
    keys = [column.name for column in table.primary_key.columns]
    stored = _stored(connection, table, keys, rows)
    absent = {_key(row, keys): row for row in rows if _key(row, keys) not in stored}
    added = _add(connection, table, list(absent.values())) if absent else 0
    changes = _changes(stored, [(_key(row, keys), row) for row in rows], _RULES.get(name, _change_nothing))
    for key, change in changes.items():
        is_row = (table.c[column] == value for column, value in zip(keys, key, strict=True))
        connection.execute(update(table).where(*is_row).values(change))
    return Merged(added, len(changes), given - added - len(changes))


def _changes(stored: dict[Key, Row], rows: Iterable[tuple[Key, Row]], rule: Rule) -> dict[Key, Row]:
    """Return the changed columns of stored rows by key; `stored` is updated with them."""
    changes: dict[Key, Row] = {}
    for key, row in rows:
        if key in stored and (changed := rule(stored[key], row)):
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
    names = list(rows[0])
    statement = text(
        f"INSERT INTO {quote(table.name)} ({', '.join(map(quote, names))})"
        f" VALUES ({', '.join(f':{name}' for name in names)}) ON CONFLICT DO NOTHING"
    ).bindparams(*(bindparam(name, type_=table.c[name].type) for name in names))
    return sum(connection.execute(statement, row).rowcount for row in rows)


def _change_nothing(current: Row, given: Row) -> Row:
    return {}


def _merge_hash(current: Row, given: Row) -> Row:
    """Return the changes of a hash: missing content is filled in, a newer verdict replaces the stored one."""
    changed = _missing(current, given, CONTENT_COLUMNS) | _merge_verdict(current, given)
    return changed | {"updated_at": dt.datetime.now(dt.UTC)} if changed else {}


def _merge_verdict(current: Row, given: Row) -> Row:
    """Return the changes of a hash's verdict: the newer one counts, of two equally old ones the gaps are filled in."""
    if has_newer_verdict(given, current):
        return {name: given[name] for name in HASH_VERDICT_COLUMNS if current[name] != given[name]}
    if has_newer_verdict(current, given):
        return {}
    changed = _missing(current, given, ("family", "reputation", "reputation_reasons", "next_check_at"))
    if current["verdict"] == "unknown" != given["verdict"]:
        changed["verdict"] = given["verdict"]
    return changed


def _missing(current: Row, given: Row, names: Iterable[str]) -> Row:
    """Return the given values of columns that are NULL in the stored row."""
    return {name: given[name] for name in names if current[name] is None and given[name] is not None}


def _merge_cache(current: Row, given: Row) -> Row:
    """Return the changes of a cached response: the newer response replaces the stored one."""
    return _different(current, given) if given["fetched_at"] > current["fetched_at"] else {}


def _merge_queue(current: Row, given: Row) -> Row:
    """Return the changes of a queue entry: one without an outcome is replaced; a rate limit replaces none."""
    if current["status"] == given["status"] == ANSWERED:
        # The later expiry counts, because the cache keeps the newer answer.
        expires_later = _is_later(given["next_attempt_at"], current["next_attempt_at"])
        return _different(current, given) if expires_later and not current["priority"] else {}
    untouched = current["status"] == PENDING and current["attempts"] == 0 and current["last_error"] is None
    has_no_outcome = untouched or current["status"] == RATE_LIMITED
    return _different(current, given) if has_no_outcome and given["status"] != RATE_LIMITED else {}


def _merge_quota(current: Row, given: Row) -> Row:
    """Return the changes of a quota window: no sent request is forgotten, and no pause is shortened."""
    changed = _merge_usage(current, given) | _merge_allowance(current, given) | _merge_recent(current, given)
    return {name: value for name, value in changed.items() if current[name] != value}


def _merge_usage(current: Row, given: Row) -> Row:
    """Return the changes of a window's pause, or of its number of requests: the longer pause, the larger number."""
    if given["window"] in (NOW, PAUSED, REFUSED):
        is_longer = _is_later(given["paused_until"], current["paused_until"])
        return {name: given[name] for name in ("paused_until", "reason", "used")} if is_longer else {}
    return {"used": given["used"]} if given["used"] > current["used"] else {}


def _merge_allowance(current: Row, given: Row) -> Row:
    """Return the changes of the allowance that the provider stated: the one that was read last."""
    is_newer = current["allowed"] is None or _is_later(given["read_at"], current["read_at"])
    if given["allowed"] is None or not is_newer:
        return {}
    return {"allowed": given["allowed"], "read_at": given["read_at"]}


def _merge_recent(current: Row, given: Row) -> Row:
    """Return the changes of the times of recent requests: the latest of both rows, as many as the longer list has."""
    stored, more = current["recent"] or [], given["recent"] or []
    latest = sorted({*stored, *more})[-max(len(stored), len(more), 1) :]
    return {"recent": latest} if latest and latest != stored else {}


def _is_later(moment: dt.datetime | None, other: dt.datetime | None) -> bool:
    return moment is not None and (other is None or moment > other)


def _different(current: Row, given: Row) -> Row:
    return {name: value for name, value in given.items() if current[name] != value}


_RULES: dict[str, Rule] = {
    "file_hashes": _merge_hash,
    "enrichment_cache": _merge_cache,
    "enrichment_queue": _merge_queue,
    "api_quota": _merge_quota,
}
"""By table, how a stored row changes; stored rows of other tables are not changed."""


def _transferable_jobs(rows: Sequence[Row]) -> list[Row]:
    """Return the jobs that do not describe one database, those that had not ended as stopped."""
    jobs = []
    for row in rows:
        if row["name"].startswith(_JOBS_OF_ONE_DATABASE):
            continue
        stopped = {"state": "stopped", "reason": "the database was rolled back to version 3"}
        jobs.append(row if row["state"] in _ENDED else row | stopped)
    return jobs


def _merge_history(connection: Connection, rows: Sequence[Row]) -> Merged:
    """Merge verdict spans: insert new ones, and extend stored ones to the later confirmation.

    Where both histories have answers of one provider about one hash, the spans of both are ordered, and the hash's
    verdict is aggregated again.
    """
    stored = _stored_spans(connection, sorted({row["sha256"] for row in rows}))
    changes = _history_changes(stored, rows)
    if changes.new:
        connection.execute(insert(VERDICTS), changes.new)
    if changes.confirmed:
        extend = update(VERDICTS).where(VERDICTS.c.id == bindparam("row_id"))
        connection.execute(extend.values(confirmed_at=bindparam("moment")), changes.confirmed)
    for (sha256, provider), given in sorted(changes.interleaved.items()):
        merge_history(connection, sha256, provider, given)
    for sha256 in changes.hashes_to_aggregate({sha256 for sha256, _ in stored}):
        aggregate_again(connection, sha256, dt.datetime.now(dt.UTC))
    added = len(changes.new) + sum(map(len, changes.interleaved.values()))
    return Merged(added, len(changes.confirmed), len(rows) - added - len(changes.confirmed))


class _StoredSpan(NamedTuple):
    """Id and last confirmation of a stored verdict span."""

    row_id: int
    confirmed_at: dt.datetime


Spans = dict[tuple[str, str], dict[dt.datetime, _StoredSpan]]
"""Stored verdict spans by (sha256, provider) and fetched_at."""


@dataclass(slots=True)
class _HistoryChanges:
    """Changes that a merge makes to the verdict history.

    Attributes:
        new: rows of providers without a stored answer about the hash.
        confirmed: stored spans to extend, as statement parameters.
        interleaved: rows to order among stored spans, by (sha256, provider).
    """

    new: list[Row] = field(default_factory=list)
    confirmed: list[Row] = field(default_factory=list)
    interleaved: dict[tuple[str, str], list[Row]] = field(default_factory=dict)

    def hashes_to_aggregate(self, stored_hashes: Collection[str]) -> list[str]:
        """Return the hashes with stored answers whose verdict may change."""
        with_new_provider = {row["sha256"] for row in self.new if row["sha256"] in stored_hashes}
        return sorted(with_new_provider | {sha256 for sha256, _ in self.interleaved})


def _stored_spans(connection: Connection, hashes: Sequence[str]) -> Spans:
    spans: Spans = {}
    for row in connection.execute(select(VERDICTS).where(VERDICTS.c.sha256.in_(hashes))).mappings():
        of_provider = spans.setdefault((row["sha256"], row["provider"]), {})
        of_provider[row["fetched_at"]] = _StoredSpan(row["id"], row["confirmed_at"])
    return spans


def _history_changes(stored: Spans, rows: Iterable[Row]) -> _HistoryChanges:
    """Return what each row changes; a row that equals a stored span, or ends earlier, changes nothing."""
    changes = _HistoryChanges()
    for row in rows:
        pair = (row["sha256"], row["provider"])
        spans = stored.get(pair)
        if not spans:
            changes.new.append(row)
            continue
        same = spans.get(row["fetched_at"])
        if same is None or any(row["fetched_at"] < begin <= row["confirmed_at"] for begin in spans):
            changes.interleaved.setdefault(pair, []).append(row)
        elif row["confirmed_at"] > same.confirmed_at:
            changes.confirmed.append({"row_id": same.row_id, "moment": row["confirmed_at"]})
    return changes


def _merge_artifacts(connection: Connection, rows: Sequence[Row]) -> Merged:
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
    unnamed = [row for row in rows if row["shasum"] not in named]
    added = _add(connection, FILES, unnamed) if unnamed else 0
    return Merged(added, 0, len(rows) - added)
