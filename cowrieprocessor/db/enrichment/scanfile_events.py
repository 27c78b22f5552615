"""What Cowrie itself asked VirusTotal and wrote into its log: the stored events, in the order of their ids."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, select

from cowrieprocessor.db.chunks import chunks
from cowrieprocessor.db.enrichment.provider_verdict import COWRIE_VIRUSTOTAL
from cowrieprocessor.db.enrichment.response_cache import CACHE
from cowrieprocessor.db.enrichment.verdict_history import HISTORY
from cowrieprocessor.db.ingest.event_scan import events_of_type
from cowrieprocessor.db.models import HASHES

__all__ = ["ID_SLACK", "SCANFILE", "LoggedScan", "ScanfileEvent", "are_recorded", "scanfile_events"]

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


class LoggedScan(NamedTuple):
    """What one event says: about which file, when, and how many engines of how many found something."""

    sha256: str
    at: dt.datetime
    positives: int | None
    total: int | None


def scanfile_events(connection: Connection, after_id: int, limit: int) -> Iterator[ScanfileEvent]:
    """Yield the next of these events, in the order of their ids, through the index on the type.

    Args:
        connection: in a transaction.
        after_id: those behind this id.
        limit: how many at most.
    """
    for event in events_of_type(connection, SCANFILE, after_id, _LARGEST_ID, limit):
        yield ScanfileEvent(event.id, event.payload)


def are_recorded(connection: Connection, scans: Sequence[LoggedScan], *, staged: bool) -> list[bool]:
    """Return of each event whether storing what it says would add nothing.

    So it is where the cache has the answer of the same moment, or a later one and the history has this one too. What
    counts is when and how many, not what was made of it: an event is not judged anew because engines count otherwise.

    Args:
        connection: in a transaction.
        scans: what the events say.
        staged: only the cache is written: an answer that is older than the one there adds nothing.
    """
    hashes = sorted({scan.sha256 for scan in scans})
    cached: dict[str, dt.datetime] = {}
    known: set[str] = set()
    spans: dict[str, list[Any]] = {}
    for part in chunks(hashes):
        answers = select(CACHE.c.key, CACHE.c.fetched_at).where(_is_ours(CACHE.c.provider), CACHE.c.key.in_(part))
        cached.update((row.key, row.fetched_at) for row in connection.execute(answers))
        known.update(connection.scalars(select(HASHES.c.sha256).where(HASHES.c.sha256.in_(part))))
        for row in connection.execute(_SPANS.where(HISTORY.c.sha256.in_(part))):
            spans.setdefault(row.sha256, []).append(row)
    return [
        _was_taken_in(
            scan,
            cached.get(scan.sha256),
            spans.get(scan.sha256, ()) if scan.sha256 in known and not staged else None,
        )
        for scan in scans
    ]


def _is_ours(provider: ColumnElement[str]) -> ColumnElement[bool]:
    return provider == COWRIE_VIRUSTOTAL


_SPANS = select(
    HISTORY.c.sha256, HISTORY.c.fetched_at, HISTORY.c.confirmed_at, HISTORY.c.positives, HISTORY.c.total
).where(_is_ours(HISTORY.c.provider))


def _was_taken_in(scan: LoggedScan, cached_at: dt.datetime | None, spans: Sequence[Any] | None) -> bool:
    """Return whether an event is known; `spans` of the history are None where none is kept of the file."""
    if cached_at is None or cached_at < scan.at:
        return False
    if cached_at == scan.at or spans is None:
        return True
    said = (scan.positives, scan.total)
    return any(
        span.fetched_at <= scan.at <= span.confirmed_at and (span.positives, span.total) == said for span in spans
    )
