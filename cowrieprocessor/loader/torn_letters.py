"""The dead letters of torn values, and what their rows are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from cowrieprocessor.db.ingest import log_damage as table
from cowrieprocessor.db.ingest.damage_kinds import TORN_END
from cowrieprocessor.db.ingest.log_damage import Damage
from cowrieprocessor.db.ingest.statements import LoadingStatements
from cowrieprocessor.db.ingest.stored_events import SourceKey
from cowrieprocessor.events import REFUSED_NOT_JSON, Refused
from cowrieprocessor.loader.logs.checkpoint import Checkpoint
from cowrieprocessor.loader.reading.value_reader import Value
from cowrieprocessor.loader.rows.batch import DEAD_LETTERS, Batch

WITHDRAWN = "dead_letters_withdrawn"
"""Counter of dead letters that were deleted because what was torn is stored now."""

_TORN = Refused(REFUSED_NOT_JSON, "the log ends within it")
_REST = Refused(REFUSED_NOT_JSON, "the log begins within it")


@dataclass(frozen=True, slots=True)
class Loading:
    """What the rows of torn values carry of the load that writes them."""

    ingest_id: str
    now: str
    fills_event_columns: bool


def add_letter(connection: Connection, damage: Damage, loading: Loading) -> Counter[str]:
    """Store the dead letter of a torn end, or of a value that is the rest of one."""
    row = table.log_of(connection, damage.log)
    refused, more = (_TORN, {"torn": True}) if damage.kind == TORN_END else (_REST, {})
    value = Value((damage.raw or b"").strip(), None, damage.source_offset, damage.byte_start, damage.byte_end, refused)
    letter = batch_at(row, damage, loading).dead_letter(value, damage.source_offset, refused, more)
    statements = LoadingStatements(connection)
    try:
        statements.insert_dead_letters([letter])
    finally:
        statements.close()
    table.update_row(connection, replace(damage, has_letter=True))
    return Counter({DEAD_LETTERS: 1})


def withdraw(connection: Connection, damage: Damage, joined: str | None = None) -> Counter[str]:
    """Delete the dead letter of a damaged place because its bytes are stored now, and note that.

    Args:
        connection: in a write transaction.
        damage: the place.
        joined: the hash of the event, if the bytes are a half of it.
    """
    changes = _withdraw(connection, damage)
    table.update_row(connection, replace(damage, has_letter=False, is_explained=True, joined=joined or damage.joined))
    return changes


def restore_letter(connection: Connection, damage: Damage, loading: Loading) -> Counter[str]:
    """Store the dead letter of a value that is not part of an event after all, unless a copy of the log has it."""
    if any(other.has_letter for other in table.same_values(connection, damage)):
        return Counter()
    return add_letter(connection, damage, loading)


def forget_end(connection: Connection, end: Damage, loading: Loading) -> Counter[str]:
    """Forget the torn end of a file that does not end with it any more.

    Another file that ends with it keeps the dead letter.
    """
    changes = _withdraw(connection, end)
    table.remove(connection, end)
    if changes:
        others = [other for other in table.same_values(connection, end) if not other.is_explained]
        if others and not any(other.has_letter for other in others):
            changes += add_letter(connection, others[0], loading)
    return changes


def _withdraw(connection: Connection, damage: Damage) -> Counter[str]:
    if not damage.has_letter:
        return Counter()
    row = table.log_of(connection, damage.log)
    is_removed = table.remove_letter(connection, source_key_of(row), damage)
    return Counter({WITHDRAWN: int(is_removed)}) if is_removed else Counter()


def batch_at(row: Mapping[str, Any], damage: Damage, loading: Loading) -> Batch:
    """Return a batch for rows of a log at a damaged place."""
    checkpoint = Checkpoint(
        identity=row["identity"],
        generation=row["generation"],
        source=row["source"],
        source_inode=row["source_inode"],
        source_generation=row["source_generation"],
        current_path=row["current_path"],
        next_offset=damage.source_offset,
    )
    return Batch(checkpoint, loading.ingest_id, loading.now, loading.fills_event_columns)


def source_key_of(row: Mapping[str, Any]) -> SourceKey:
    """Return the values that a log's rows in `raw_events` have; `row` is of `log_files`."""
    return SourceKey(row["source"], row["source_inode"], row["source_generation"])
