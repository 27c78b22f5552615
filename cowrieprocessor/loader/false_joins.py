"""Takes an event back that was joined from two halves, once the log with the first half goes on in another way.

A log that is still being copied ends within a value that is not the last one. With the value that the next log begins
with, it may look like an event that nobody wrote.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from sqlalchemy import Connection

from cowrieprocessor.db.ingest import log_damage as table
from cowrieprocessor.db.ingest import log_removal
from cowrieprocessor.db.ingest.log_damage import Damage
from cowrieprocessor.db.ingest.log_removal import LogEvent, StoredLog
from cowrieprocessor.db.ingest.overlapping_events import take_back_left_out
from cowrieprocessor.db.ingest.removals import count_removal
from cowrieprocessor.db.ingest.stored_events import SourceKey
from cowrieprocessor.loader.joined_halves import join_beginning, joined_with
from cowrieprocessor.loader.recompute import files_in, payloads_of, recompute_sessions
from cowrieprocessor.loader.torn_letters import Loading, forget_end, restore_letter
from cowrieprocessor.loader.torn_values import begins, is_stored

EVENTS_TAKEN_BACK = "events_taken_back"
"""Counter of joined events that were removed because the log with the first half goes on in another way."""


def drop_end(connection: Connection, end: Damage, loading: Loading) -> Counter[str]:
    """Forget the torn end of a file that does not end with it any more, and remove the events that it was joined to.

    An event stays if a log holds it whole, or if another file ends like this.

    Args:
        connection: in a write transaction with the locks on all events and on the names of sensors.
        end: the torn end.
        loading: the load.

    Returns:
        What changed, by counter.
    """
    joined = joined_with(connection, end)
    changes = forget_end(connection, end, loading)
    if end.joined is None or end.moment is None:
        return changes
    if any(other.joined == end.joined for other in table.ends(connection, end.moment, end.moment)):
        return changes
    logs = {beginning.log for beginning in joined}
    for beginning in joined:
        stored = log_removal.log_with(connection, *beginning.log)
        others = log_removal.overlapping_logs(connection, stored, [end.joined])
        if any(other[:2] not in logs for other in others):
            continue
        if not take_back_left_out(connection, beginning.log, end.joined):
            changes += _remove(connection, stored, beginning, end.joined, loading)
        changes += _part(connection, beginning, loading)
    return changes


def _remove(
    connection: Connection, log: StoredLog, beginning: Damage, payload_hash: str, loading: Loading
) -> Counter[str]:
    """Remove a joined event, and recompute its session."""
    row = log_removal.event_at(connection, log, beginning.source_offset)
    if row is None or row.payload_hash != payload_hash:
        return Counter()
    explained = _explained_by(connection, row)
    files = files_in(connection, [row.id])
    table.remove_letter(connection, SourceKey(*log.source_key), beginning, of_stored_event=True)
    log_removal.delete_events(connection, [row.id])
    count_removal(connection)
    recompute_sessions(connection, [row.session_id] if row.session_id else [], files, loading.now)
    for end in explained:
        table.update_row(connection, replace(end, is_explained=is_stored(connection, end)))
    return Counter({EVENTS_TAKEN_BACK: 1})


def _explained_by(connection: Connection, row: LogEvent) -> list[Damage]:
    """Return the torn ends that an event explains."""
    [payload] = payloads_of(connection, [row.id])
    return [end for end in table.explained_ends(connection) if begins(end, payload)]


def _part(connection: Connection, beginning: Damage, loading: Loading) -> Counter[str]:
    """Join a value with another torn end, or give it its dead letter back."""
    beginning = replace(beginning, is_explained=False, joined=None)
    table.update_row(connection, beginning)
    table.move_dead_bytes(connection, beginning.log, beginning.byte_start - beginning.byte_end)
    changes = join_beginning(connection, beginning, loading)
    return restore_letter(connection, beginning, loading) if changes is None else changes
