"""How enrichment stands: what is asked of whom, what the keys may still do, and when the backlog will be done."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection

from cowrieprocessor.db.enrichment.verdict_aggregation import Policy
from cowrieprocessor.enrichment.providers.base import Provider
from cowrieprocessor.enrichment.providers.registry import SOURCES, lacks_key, names_in_use
from cowrieprocessor.enrichment.quota.ledger import NO_KEY
from cowrieprocessor.enrichment.quota.ledger_state import LedgerState, ledger_states, quota_state_at
from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.reporting.forecast import Allowance, done_at
from cowrieprocessor.reporting.queries import enrichment as queries
from cowrieprocessor.reporting.queries.enrichment import EnrichJob, FailureKind, PropagationBacklog, QueueCounts
from cowrieprocessor.reporting.queries.staged_enrichment import replayable_answers, staged_counts, staged_failures
from cowrieprocessor.settings import Secret, Settings, fingerprint


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """How one source stands.

    Attributes:
        provider: the source.
        ledger: where its requests are counted.
        in_use: it is asked: the settings name it or its key is given, or it needs none.
        queue: how many hashes it was asked about, or is to be; where it is staged, by the cache alone.
    """

    provider: str
    ledger: str
    in_use: bool
    queue: QueueCounts


@dataclass(frozen=True, slots=True)
class LedgerStatus:
    """What was sent under one key, what may be, and how long the backlog of its sources takes.

    Attributes:
        in_use: a source in use counts its requests here.
        used_day, used_month: requests sent today and this month (UTC), of `allowed_*`; None where there is no bound.
        paused_until: nothing is sent before then; `reason` says why.
        read_at: when the source itself last said what the key may do.
        failures: how often it failed in a row.
        requests: that the backlog takes, one for each hash and source.
        done_at: when they will have been sent; None if that is more than ten years away.
    """

    ledger: str
    fingerprint: str
    in_use: bool
    used_day: int
    allowed_day: int | None
    used_month: int
    allowed_month: int | None
    per_minute: int | None
    paused_until: dt.datetime | None
    reason: str | None
    read_at: dt.datetime | None
    failures: int
    requests: int
    done_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class EnrichmentStatus:
    """How enrichment stands.

    Attributes:
        at: when this was so.
        staged: USE_NEW_ENRICHMENT=0: only the cache and the ledger are written.
        problem: what is wrong with the settings, if anything is.
        without_key: sources that are not asked because their key is not given.
        verdicts: hashes by their verdict.
        skipped: hashes that no source is ever asked about.
        sources: in the order of asking; those that are not in use as far as they were once asked.
        replayable: answers in the cache that history and hashes do not have yet; None where it is not staged.
    """

    at: dt.datetime
    staged: bool
    problem: str | None
    without_key: tuple[str, ...]
    verdicts: Mapping[str, int]
    skipped: int
    sources: tuple[SourceStatus, ...]
    ledgers: tuple[LedgerStatus, ...]
    failures: tuple[FailureKind, ...]
    spreading: PropagationBacklog
    replayable: int | None
    job: EnrichJob | None


def enrichment_status(connection: Connection, settings: Settings, now: dt.datetime) -> EnrichmentStatus:
    """Return how enrichment stands, whether it runs, rests, or never ran.

    Args:
        connection: a connection in one read transaction, so that all numbers are of one state.
        settings: which sources are in use, their keys and limits.
        now: the present, aware, in UTC.
    """
    providers = {name: make(settings, None) for name, (_, make) in SOURCES.items()}
    in_use, problem = _in_use(settings)
    elsewhere = [name for name in queries.last_used(connection) if name not in in_use]
    if problem is None and elsewhere:
        problem = (
            f"the last run asked {', '.join(elsewhere)} too, whose key or setting is not given here: what waits for "
            "it is not counted"
        )
    policy = Policy(in_use, frozenset(settings.settled_by))
    staged = not settings.use_new_enrichment
    counts = staged_counts(connection, policy, now) if staged else queries.queue_counts(connection, policy, now)
    failed = staged_failures(connection, policy) if staged else queries.failure_kinds(connection, counts)
    sources = tuple(
        SourceStatus(
            provider=name,
            ledger=providers[name].ledger if name in providers else name,
            in_use=name in in_use,
            queue=counts[name],
        )
        for name in (*sorted(counts.keys() - providers.keys()), *providers)
        if name in counts
    )
    return EnrichmentStatus(
        at=now,
        staged=staged,
        problem=problem,
        without_key=tuple(name for name in SOURCES if name not in in_use and lacks_key(settings, name)),
        verdicts=queries.verdict_counts(connection),
        skipped=queries.skipped(connection),
        sources=sources,
        ledgers=_ledgers(connection, settings, providers, sources, now),
        failures=failed,
        spreading=queries.spreading(connection),
        replayable=replayable_answers(connection) if staged else None,
        job=queries.enrich_job(connection),
    )


def _in_use(settings: Settings) -> tuple[tuple[str, ...], str | None]:
    """Return the names of the sources in use in their order, without reading any key; and what is wrong with them."""
    named = settings.enrichment_providers
    known = [name for name in SOURCES if named is None or name in named]
    unknown = [name for name in named or () if name not in SOURCES]
    keyless = [name for name in known if lacks_key(settings, name)]
    problem = None
    if unknown:
        problem = f"COWRIEPROC_ENRICHMENT_PROVIDERS names {', '.join(unknown)}; known are {', '.join(SOURCES)}"
    elif named is not None and keyless:
        problem = f"COWRIEPROC_ENRICHMENT_PROVIDERS names {', '.join(keyless)}, but the key is not given"
    return names_in_use(settings), problem


def _ledgers(
    connection: Connection,
    settings: Settings,
    providers: Mapping[str, Provider],
    sources: tuple[SourceStatus, ...],
    now: dt.datetime,
) -> tuple[LedgerStatus, ...]:
    """Return the ledgers of the keys that are given, then those of other keys that were used this month."""
    limits = {one.ledger: (one.limits, one.own_limits) for one in providers.values()}
    keys: dict[str, str] = {}
    for name, provider in providers.items():
        if any(one.provider == name and one.in_use for one in sources) and provider.ledger not in keys:
            mark = _fingerprint(settings, name)
            if mark is not None:
                keys[provider.ledger] = mark
    given = [
        quota_state_at(connection, ledger, mark, now, *limits[ledger]).state(ledger, mark)
        for ledger, mark in keys.items()
    ]
    others = [
        state
        for state in ledger_states(connection, now, limits)
        if keys.get(state.provider) != state.fingerprint and (state.used_month or state.waits is not None)
    ]
    backlog: dict[str, int] = {}
    for source in sources:
        backlog[source.ledger] = backlog.get(source.ledger, 0) + source.queue.backlog
    return tuple(
        _ledger_status(state, place < len(given), backlog.get(state.provider, 0), now)
        for place, state in enumerate([*given, *others])
    )


def _fingerprint(settings: Settings, name: str) -> str | None:
    """Return what tells the key of a source from others; None if it cannot be read here."""
    setting = SOURCES[name][0]
    if setting is None:
        return NO_KEY
    secret: Secret | None = getattr(settings, setting)
    try:
        return None if secret is None else fingerprint(secret.reveal())
    except ConfigurationError:
        return None


def _ledger_status(state: LedgerState, in_use: bool, requests: int, now: dt.datetime) -> LedgerStatus:
    requests = requests if in_use else 0
    allowance = Allowance(
        per_minute=state.per_minute,
        per_day=state.allowed_day,
        per_month=state.allowed_month,
        used_day=state.used_day,
        used_month=state.used_month,
        not_before=state.paused_until,
    )
    return LedgerStatus(
        ledger=state.provider,
        fingerprint=state.fingerprint,
        in_use=in_use,
        used_day=state.used_day,
        allowed_day=state.allowed_day,
        used_month=state.used_month,
        allowed_month=state.allowed_month,
        per_minute=state.per_minute,
        paused_until=state.paused_until,
        reason=state.reason,
        read_at=state.read_at,
        failures=state.failures,
        requests=requests,
        done_at=done_at(requests, allowance, now),
    )
