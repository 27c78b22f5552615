"""Taking in what v4 once knew: rows merged into a database at version 4, so that nothing newer is lost.

Every merge may be repeated, and may come before or after the backfill.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, bindparam, insert, select, text, tuple_, update

from cowrieprocessor.db.enrichment.file_status import PENDING
from cowrieprocessor.db.enrichment.queue import ANSWERED
from cowrieprocessor.db.enrichment.quota import NOW, PAUSED, REFUSED
from cowrieprocessor.db.enrichment.verdict_aggregation import aggregate_again
from cowrieprocessor.db.enrichment.verdict_history import merge_history
from cowrieprocessor.db.jobs import MIGRATION_JOB
from cowrieprocessor.db.models import FILES, HASHES, Base
from cowrieprocessor.db.upgrade.v4_state import CONTENT_COLUMNS, JUDGEMENT_COLUMNS, V4_STATE, Row, judged_more_recently

ROWS_AT_ONCE = 400
"""How many rows of one table one call of `merge` may get."""

VERDICTS: Table = Base.metadata.tables["file_verdicts"]
EVENTS: Table = Base.metadata.tables["raw_events"]
DEAD: Table = Base.metadata.tables["dead_letter_events"]
_OF_THIS_DATABASE = (MIGRATION_JOB, "backfill", "planned-files")
"""Jobs, by the beginning of their names, that say where a database stands: another's say nothing about this one."""
_ENDED = frozenset({"done", "failed", "stopped"})


@dataclass(frozen=True, slots=True)
class Merged:
    """What came of some rows: added, merged into what was there, or known already."""

    added: int = 0
    updated: int = 0
    known: int = 0

    def __add__(self, other: Merged) -> Merged:
        """Return both together."""
        return Merged(self.added + other.added, self.updated + other.updated, self.known + other.known)


def merge(connection: Connection, name: str, rows: Sequence[Row]) -> Merged:
    """Merge rows of one table.

    Args:
        connection: holds the write lock.
        name: the table, one of KNOWLEDGE.
        rows: at most ROWS_AT_ONCE, of the columns that KNOWLEDGE names.
    """
    if name == "files":
        return _merge_artifacts(connection, rows)
    if name == "file_verdicts":
        return _merge_history(connection, rows)
    if name == "jobs":
        return _merge_by_key(connection, name, _jobs_of_others(rows), len(rows))
    if name == "verdict_propagation":
        return _merge_by_key(connection, name, [row | {"cursor": 0} for row in rows], len(rows))
    if name == "log_files":
        rows_there = [row for row in rows if _its_last_value_is_stored(connection, row)]
        return _merge_by_key(connection, name, rows_there, len(rows))
    return _merge_by_key(connection, name, rows, len(rows))


def _its_last_value_is_stored(connection: Connection, log: Row) -> bool:
    """Return whether the last value that a log's cursor has passed is in this database, as an event or a dead letter.

    After a backup was restored it may not be: with the cursor, loaders would pass over events that nobody has. Without
    it they look up each event.
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
    """Add the rows whose key is not there, and change those of which the given row knows more."""
    if not rows:
        return Merged(known=given)
    table = V4_STATE[name].table
    keys = [column.name for column in table.primary_key.columns]
    before = _stored(connection, table, keys, rows)
    absent = {_key(row, keys): row for row in rows if _key(row, keys) not in before}
    added = _add(connection, table, list(absent.values())) if absent else 0
    changes: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = _key(row, keys)
        if key in before and (changed := _RULES.get(name, _keep)(before[key], row)):
            before[key] |= changed
            changes[key] = changes.get(key, {}) | changed
    for key, change in changes.items():
        mine = (table.c[column] == value for column, value in zip(keys, key, strict=True))
        connection.execute(update(table).where(*mine).values(change))
    return Merged(added, len(changes), given - added - len(changes))


def _stored(
    connection: Connection, table: Table, keys: Sequence[str], rows: Sequence[Row]
) -> dict[tuple[Any, ...], Row]:
    """Return the rows that are there by key, and keep them from changing."""
    wanted = {_key(row, keys) for row in rows}
    columns = [table.c[key] for key in keys]
    named = columns[0].in_([key[0] for key in wanted]) if len(keys) == 1 else tuple_(*columns).in_(list(wanted))
    found = connection.execute(select(table).where(named).order_by(*columns).with_for_update()).mappings()
    return {_key(row, keys): {str(name): value for name, value in row.items()} for row in found}


def _key(row: Mapping[Any, Any], keys: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row[key] for key in keys)


def _add(connection: Connection, table: Table, rows: Sequence[Row]) -> int:
    """Insert rows but those that violate a unique constraint, and return how many were inserted."""
    quote = connection.dialect.identifier_preparer.quote
    names = list(rows[0])
    statement = text(
        f"INSERT INTO {quote(table.name)} ({', '.join(map(quote, names))})"
        f" VALUES ({', '.join(f':{name}' for name in names)}) ON CONFLICT DO NOTHING"
    ).bindparams(*(bindparam(name, type_=table.c[name].type) for name in names))
    return sum(connection.execute(statement, row).rowcount for row in rows)


def _keep(current: Row, given: Row) -> Row:
    return {}


def _merge_hash(current: Row, given: Row) -> Row:
    """Return what of a hash changes: its content where it is not known, its verdict where the given one is newer."""
    changed = {name: given[name] for name in CONTENT_COLUMNS if current[name] is None and given[name] is not None}
    if judged_more_recently(given, current):
        changed |= {name: given[name] for name in JUDGEMENT_COLUMNS if current[name] != given[name]}
    elif not judged_more_recently(current, given):
        changed |= {
            name: given[name]
            for name in ("family", "reputation", "reputation_reasons", "next_check_at")
            if current[name] is None and given[name] is not None
        }
        if current["verdict"] == "unknown" != given["verdict"]:
            changed["verdict"] = given["verdict"]
    return changed | {"updated_at": dt.datetime.now(dt.UTC)} if changed else {}


def _merge_cache(current: Row, given: Row) -> Row:
    return _different(current, given) if given["fetched_at"] > current["fetched_at"] else {}


def _merge_queue(current: Row, given: Row) -> Row:
    if current["status"] == given["status"] == ANSWERED:
        # Each is as good as its answer holds, which the cache keeps the later of.
        later = _is_later(given["next_attempt_at"], current["next_attempt_at"])
        return _different(current, given) if later and not current["priority"] else {}
    untouched = current["status"] == PENDING and current["attempts"] == 0 and current["last_error"] is None
    return _different(current, given) if untouched else {}


def _merge_quota(current: Row, given: Row) -> Row:
    """Return what of a window changes: nothing that was sent is forgotten, and no pause that lasts longer."""
    changed: Row = {}
    if given["window"] in (NOW, PAUSED, REFUSED):
        if _is_later(given["paused_until"], current["paused_until"]):
            changed |= {name: given[name] for name in ("paused_until", "reason", "used")}
    elif given["used"] > current["used"]:
        changed["used"] = given["used"]
    read_later = _is_later(given["read_at"], current["read_at"])
    if given["allowed"] is not None and (read_later or current["allowed"] is None):
        changed |= {"allowed": given["allowed"], "read_at": given["read_at"]}
    here, there = current["recent"] or [], given["recent"] or []
    latest = sorted({*here, *there})[-max(len(here), len(there), 1) :]
    if latest and latest != here:
        changed["recent"] = latest
    return {name: value for name, value in changed.items() if current[name] != value}


def _is_later(one: dt.datetime | None, other: dt.datetime | None) -> bool:
    return one is not None and (other is None or one > other)


def _different(current: Row, given: Row) -> Row:
    return {name: value for name, value in given.items() if current[name] != value}


_RULES: dict[str, Callable[[Row, Row], Row]] = {
    "file_hashes": _merge_hash,
    "enrichment_cache": _merge_cache,
    "enrichment_queue": _merge_queue,
    "api_quota": _merge_quota,
}
"""By table, what of a row that is there changes; of the others it stays as it is."""


def _jobs_of_others(rows: Sequence[Row]) -> list[Row]:
    """Return the jobs that are no business of one database alone; one that had not ended has stopped by now."""
    kept = []
    for row in rows:
        if row["name"].startswith(_OF_THIS_DATABASE):
            continue
        stopped = {"state": "stopped", "reason": "the database was rolled back to version 3"}
        kept.append(row if row["state"] in _ENDED else row | stopped)
    return kept


def _merge_history(connection: Connection, rows: Sequence[Row]) -> Merged:
    """Add the verdicts that are not there; one that is there was confirmed at the later of both times.

    Where both know a source's answers about a hash, the answers of both are put in order, and the hash is judged anew.
    """
    keys = ("sha256", "provider", "fetched_at")
    hashes = sorted({row["sha256"] for row in rows})
    found = connection.execute(select(VERDICTS).where(VERDICTS.c.sha256.in_(hashes))).mappings()
    before = {_key(row, keys): (row["id"], row["confirmed_at"]) for row in found}
    begun: dict[tuple[str, str], list[dt.datetime]] = {}
    for sha256, provider, fetched_at in before:
        begun.setdefault((sha256, provider), []).append(fetched_at)
    new, later = [], []
    shared: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        known, mine = before.get(_key(row, keys)), begun.get((row["sha256"], row["provider"]), [])
        if known is None and not mine:
            new.append(row)
        elif known is None or any(row["fetched_at"] < other <= row["confirmed_at"] for other in mine):
            shared.setdefault((row["sha256"], row["provider"]), []).append(row)
        elif row["confirmed_at"] > known[1]:
            later.append({"row_id": known[0], "moment": row["confirmed_at"]})
    if new:
        connection.execute(insert(VERDICTS), new)
    if later:
        confirmed = update(VERDICTS).where(VERDICTS.c.id == bindparam("row_id"))
        connection.execute(confirmed.values(confirmed_at=bindparam("moment")), later)
    for (sha256, provider), given in sorted(shared.items()):
        merge_history(connection, sha256, provider, given)
    here = {sha256 for sha256, _ in begun}
    for sha256 in sorted({row["sha256"] for row in new if row["sha256"] in here} | {key[0] for key in shared}):
        aggregate_again(connection, sha256, dt.datetime.now(dt.UTC))
    added = len(new) + sum(map(len, shared.values()))
    return Merged(added, len(later), len(rows) - added - len(later))


def _merge_artifacts(connection: Connection, rows: Sequence[Row]) -> Merged:
    """Add files that were found captured, but those that a log names by now."""
    hashes = sorted({row["shasum"] for row in rows})
    # A loader on PostgreSQL locks the hash before it looks for artifact rows, so that neither misses the other's.
    connection.execute(
        select(HASHES.c.sha256).where(HASHES.c.sha256.in_(hashes)).order_by(HASHES.c.sha256).with_for_update()
    )
    named = set(
        connection.scalars(
            select(FILES.c.shasum).distinct().where(FILES.c.shasum.in_(hashes), FILES.c.origin != "artifact")
        )
    )
    lacking = [row for row in rows if row["shasum"] not in named]
    added = _add(connection, FILES, lacking) if lacking else 0
    return Merged(added, 0, len(rows) - added)
