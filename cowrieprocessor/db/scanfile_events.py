"""What Cowrie itself asked VirusTotal and wrote into its log: the stored events, in the order of their ids."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection

from cowrieprocessor.db.backfill_events import events_of_type

SCANFILE = "cowrie.virustotal.scanfile"
"""The type of these events. Source: Cowrie, docs/OUTPUT.rst."""

ID_SLACK = 100_000
"""By how many ids behind the last one seen to begin again. On PostgreSQL ids are given before the transaction commits:
what a loader commits late lies behind ids that were seen already, by no more than all loaders together store in one of
their transactions. Events that are looked at again change nothing."""

_LARGEST_ID = 2**63 - 1


class ScanfileEvent(NamedTuple):
    """One such event. `payload` is the JSON text; None where it is too long to be read."""

    id: int
    payload: str | None


def scanfile_events(connection: Connection, after_id: int, limit: int) -> list[ScanfileEvent]:
    """Return the next of these events, in the order of their ids, through the index on the type.

    Args:
        connection: in a transaction.
        after_id: those behind this id.
        limit: how many at most.
    """
    found = events_of_type(connection, SCANFILE, after_id, _LARGEST_ID, limit)
    return [ScanfileEvent(event.id, event.payload) for event in found]
