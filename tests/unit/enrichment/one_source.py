"""One source on one database: what tests of its steps share."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Engine

from cowrieprocessor.db.enrichment.verdict_aggregation import Policy
from cowrieprocessor.enrichment.expiry import Ttl
from cowrieprocessor.enrichment.file_enrichment import Bounds, FileEnrichment, Step
from cowrieprocessor.enrichment.http import HttpClient
from cowrieprocessor.enrichment.lookup import Lookup
from cowrieprocessor.enrichment.providers.base import Provider
from cowrieprocessor.enrichment.providers.virustotal_upload import Uploads
from cowrieprocessor.enrichment.quota.ledger import ledger_of
from cowrieprocessor.enrichment.verdict_repository import VerdictRepository
from tests.stand_ins.clock import ManualClock

DAY_S = 86_400.0
TTL = Ttl(malicious_s=30 * DAY_S, clean_s=7 * DAY_S, unknown_s=DAY_S / 2, unknown_max_s=7 * DAY_S)


def enrichment_by(
    provider: Provider,
    engine: Engine,
    client: HttpClient,
    clock: ManualClock,
    bounds: Bounds | None = None,
    *,
    uploads: Uploads | None = None,
    notify: Callable[[str], None] = lambda _text: None,
) -> FileEnrichment:
    """Return the enrichment of files by one source, as a process that starts has it."""
    lookup = Lookup(provider, ledger_of(engine, provider, clock), client, clock, notify=notify)
    repository = VerdictRepository(engine, Policy((provider.name,), frozenset({"malicious"})), TTL, clock)
    enrichment = FileEnrichment(lookup, repository, clock, bounds, uploads=uploads)
    enrichment.start()
    return enrichment


def steps_until_done(enrichment: FileEnrichment, clock: ManualClock) -> list[Step]:
    """Do steps, waiting as long as the quota wants, until there is nothing to do; return their results."""
    steps = [enrichment.step()]
    while steps[-1] is not Step.NOTHING_TO_DO:
        if enrichment.wait is not None:
            clock.set(enrichment.wait.until)
        steps.append(enrichment.step())
    return steps
