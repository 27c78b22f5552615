"""VirusTotal lookups made and logged by Cowrie itself: the stored events, in the order of their ids."""

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
"""How many ids before the last one read to resume. On PostgreSQL ids are assigned before the transaction commits: a
late commit adds ids below those already read, by no more than all loaders together store in one of their
transactions. Reading an event again changes nothing."""

_LARGEST_ID = 2**63 - 1


class ScanfileEvent(NamedTuple):
    """One event. `payload` is the JSON text; None if it is too long to be read."""

    id: int
    payload: str | None


class LoggedScan(NamedTuple):
    """Content of one event: the file, the time, and how many of how many engines detected something."""

    sha256: str
    at: dt.datetime
    positives: int | None
    total: int | None


def scanfile_events(connection: Connection, after_id: int, limit: int) -> Iterator[ScanfileEvent]:
    """Yield the next events in the order of their ids, through the index on the type.

    Args:
        connection: in a transaction.
        after_id: start after this id.
        limit: largest number of events.
    """
    for event in events_of_type(connection, SCANFILE, after_id, _LARGEST_ID, limit):
        yield ScanfileEvent(event.id, event.payload)


def are_recorded(connection: Connection, scans: Sequence[LoggedScan], *, staged: bool) -> list[bool]:
    """Return for each event whether storing it would add nothing.

    That is the case if the cache has the answer of the same moment, or a later answer and the history has this one.
    Time and counts are compared, not the verdict derived from them: an event is not re-evaluated because the threshold
    for a verdict changed.

    Args:
        connection: in a transaction.
        scans: the content of the events.
        staged: whether answers are staged, where one older than the cached one adds nothing.
    """
    hashes = sorted({scan.sha256 for scan in scans})
    cached: dict[str, dt.datetime] = {}
    known: set[str] = set()
    spans: dict[str, list[Any]] = {}
    for chunk in chunks(hashes):
        answers = select(CACHE.c.key, CACHE.c.fetched_at).where(_is_ours(CACHE.c.provider), CACHE.c.key.in_(chunk))
        cached.update((row.key, row.fetched_at) for row in connection.execute(answers))
        known.update(connection.scalars(select(HASHES.c.sha256).where(HASHES.c.sha256.in_(chunk))))
        for row in connection.execute(_SPANS.where(HISTORY.c.sha256.in_(chunk))):
            spans.setdefault(row.sha256, []).append(row)
    return [
        _is_recorded(
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


def _is_recorded(scan: LoggedScan, cached_at: dt.datetime | None, spans: Sequence[Any] | None) -> bool:
    """Return whether an event is recorded; `spans` are those of the history, None if the file has no history."""
    if cached_at is None or cached_at < scan.at:
        return False
    if cached_at == scan.at or spans is None:
        return True
    counts = (scan.positives, scan.total)
    return any(
        span.fetched_at <= scan.at <= span.confirmed_at and (span.positives, span.total) == counts for span in spans
    )
