"""Stores the damaged places of a batch, and a dead letter for each value that no other copy of the log has whole.

Copies of a log share dead letters: the same bytes after the same value have as many as the log that has most of them.
Where a better copy has events in a damaged place, the dead letter of that place is withdrawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from cowrieprocessor.db.ingest import log_damage as table
from cowrieprocessor.db.ingest.damage_kinds import NUL
from cowrieprocessor.db.ingest.log_damage import Damage, Log
from cowrieprocessor.loader.joined_halves import join_beginning
from cowrieprocessor.loader.rows.batch import DEAD_LETTERS, BatchRows
from cowrieprocessor.loader.torn_letters import Loading, withdraw


def store_damage(connection: Connection, rows: BatchRows, copies: Sequence[Log], loading: Loading) -> Counter[str]:
    """Store the damaged places of a batch; dead letters that are to be stored are added to its rows.

    Args:
        connection: in the batch's transaction, after the log's checkpoint was stored.
        rows: the batch.
        copies: damaged copies of the log with the same byte positions.
        loading: the load.

    Returns:
        What changed beyond the counters of the batch, by counter.
    """
    changes: Counter[str] = Counter()
    log = (rows.log["identity"], rows.log["generation"])
    for place in rows.damage:
        changes += _store_place(connection, log, place, rows, copies, loading)
    for copy in copies:
        changes += _withdraw_letters(connection, log, copy, rows)
    return changes + _withdraw_letters_of_lines(connection, log, rows)


def _store_place(
    connection: Connection,
    log: Log,
    place: dict[str, Any],
    rows: BatchRows,
    copies: Sequence[Log],
    loading: Loading,
) -> Counter[str]:
    letter: list[Any] = place.get("letter", [])
    damage = Damage(*log, **{name: value for name, value in place.items() if name != "letter"})
    if damage.kind == NUL:
        table.add(connection, [damage])
        return Counter()
    is_whole = any(_is_whole(connection, copy, damage) for copy in copies)
    wants_letter = _has_most(connection, damage) and not (is_whole or table.has_event_in_copy(connection, damage))
    table.add(connection, [damage])
    changes = join_beginning(connection, damage, loading) if damage.raw is not None else None
    if changes is None and wants_letter:
        table.update_row(connection, replace(damage, has_letter=True))
        rows.dead_letters.append(letter)
    else:
        rows.counters[DEAD_LETTERS] -= 1
    return changes or Counter()


def _has_most(connection: Connection, damage: Damage) -> bool:
    """Return whether no other log has more values of these bytes after the same value than the log has before this."""
    counts = table.counts_by_log(connection, damage.digest, damage.context)
    own = counts.pop(damage.log, 0)
    # Logs that are read again have dead letters of which not every value is known any more.
    return own >= max([table.count_letters(connection, damage.digest, damage.context), *counts.values()])


def _is_whole(connection: Connection, copy: Log, damage: Damage) -> bool:
    """Return whether a copy was read beyond a damaged place and is not damaged there."""
    if table.log_of(connection, copy)["byte_pos"] < damage.byte_end:
        return False
    return not table.overlapping(connection, copy, damage.byte_start, damage.byte_end)


def _withdraw_letters(connection: Connection, log: Log, copy: Log, rows: BatchRows) -> Counter[str]:
    """Withdraw the dead letters of a copy where this log, which is read now, is not damaged."""
    changes: Counter[str] = Counter()
    begin, end = rows.stored_bytes or 0, rows.log["byte_pos"]
    for damage in table.overlapping(connection, copy, begin, end):
        if not damage.has_letter or not begin < damage.byte_end <= end:
            continue
        if not table.overlapping(connection, log, damage.byte_start, damage.byte_end):
            changes += withdraw(connection, damage)
    return changes


def _withdraw_letters_of_lines(connection: Connection, log: Log, rows: BatchRows) -> Counter[str]:
    """Withdraw the dead letters of copies where this log has an event, on the same line and after the same value."""
    changes: Counter[str] = Counter()
    if not rows.order:
        return changes
    before = {int(offset): value_hash for offset, value_hash in rows.order}
    for damage in table.letters_of_copies(connection, log, rows.order[0][0], rows.order[-1][0]):
        if damage.context and before.get(damage.source_offset) == damage.context:
            changes += withdraw(connection, damage)
    return changes
