"""What is known of the damage of a log that is removed, and of the logs that shared dead letters or events with it.

A log whose damage was told together with the removed one has to be read again: then it has the dead letters, and the
torn values that are joined, as if the removed log had never been loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Connection

from cowrieprocessor.db.ingest import log_damage as table
from cowrieprocessor.db.ingest.log_damage import Damage, Log
from cowrieprocessor.loader.joined_halves import joined_with
from cowrieprocessor.loader.recompute import payloads_of
from cowrieprocessor.loader.torn_values import begins


def joined_with_end(connection: Connection, log: Log) -> list[Damage]:
    """Forget the torn ends of a removed log, and return the values of other logs that were joined to them.

    They are forgotten, too; the events of both are to be removed, and the logs to be read again.
    """
    ends = [end for end in table.torn_ends(connection, log) if end.is_explained]
    joined = list({beginning for end in ends for beginning in joined_with(connection, end)})
    for damage in (*ends, *joined):
        table.remove(connection, damage)
    return joined


def forget_letters(connection: Connection, log: Log, offsets: Collection[int]) -> set[Log]:
    """Forget the damage of a removed log at the offsets of its dead letters; return the logs that shared these."""
    sharing: set[Log] = set()
    for damage in table.of_log(connection, log):
        if not damage.has_letter or damage.source_offset not in offsets:
            continue
        for other in table.same_values(connection, damage):
            if other.log != log and not other.has_letter:
                sharing.add(other.log)
                table.remove(connection, other)
        table.remove(connection, damage)
    return sharing


def unexplain_ends(connection: Connection, log: Log, event_ids: Sequence[int]) -> set[Log]:
    """Forget the torn ends of other logs whose events are removed, and the values joined to them; return the logs."""
    ends = [end for end in table.explained_ends(connection) if end.log != log]
    if not ends:
        return set()
    payloads = list(payloads_of(connection, event_ids))
    torn = [end for end in ends if any(begins(end, payload) for payload in payloads)]
    torn += [beginning for end in torn for beginning in joined_with(connection, end) if beginning.log != log]
    for damage in torn:
        table.remove(connection, damage)
    return {damage.log for damage in torn}
