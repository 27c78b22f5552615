"""The state of enrichment: each source's queue, the quota left under each key, and when the backlog will be done."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from sqlalchemy import Connection

from cowrieprocessor.db.enrichment.queue import SKIPPED
from cowrieprocessor.db.enrichment.staged_answers import replayable_count
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy
from cowrieprocessor.enrichment.providers.base import Provider
from cowrieprocessor.enrichment.providers.registry import SOURCES, lacks_key, names_in_use
from cowrieprocessor.enrichment.quota.ledger import NO_KEY
from cowrieprocessor.enrichment.quota.ledger_state import LedgerState, OverruledLimit, ledger_states, quota_state_at
from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.reporting.forecast import Allowance, done_at
from cowrieprocessor.reporting.queries import enrichment as queries
from cowrieprocessor.reporting.queries.enrichment import EnrichJob, FailureKind, PropagationBacklog, QueueCounts
from cowrieprocessor.reporting.queries.verdict_counts import source_verdict_counts, verdict_counts
from cowrieprocessor.settings import Secret, Settings, fingerprint


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """The state of one source.

    Attributes:
        provider: the source's name.
        ledger: the ledger that counts its requests.
        in_use: whether it is queried: the settings name it or give its key, or it needs no key.
        queue: its hashes by state.
        verdicts: number of hashes by the shown verdict of this source; their sum is the number of all hashes.
    """

    provider: str
    ledger: str
    in_use: bool
    queue: QueueCounts
    verdicts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class LedgerStatus:
    """Requests sent and allowed under one key, and how long the backlog of its sources takes.

    Attributes:
        in_use: whether a source in use counts its requests here.
        used_day, used_month: requests sent today and this month (UTC), of `allowed_*`; None means unlimited.
        paused_until: no request is sent before this time; `reason` says why.
        read_at: when the source itself last reported the key's quota.
        failures: consecutive failures.
        overruled: limits of the settings that do not hold, because the key's own quota is lower.
        requests: requests that the backlog needs, one per hash and source.
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
    overruled: tuple[OverruledLimit, ...]
    requests: int
    done_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class EnrichmentStatus:
    """The state of enrichment at one moment.

    Attributes:
        at: the time of this status.
        staged: USE_NEW_ENRICHMENT=0: only the response cache, the queue and the ledger are written.
        problem: what is wrong with the settings; None if nothing is.
        without_key: sources that are not queried because their key is missing.
        not_named: sources that are not queried because the setting of the sources does not name them.
        verdicts: number of hashes by shown verdict (`SHOWN_VERDICTS`); their sum is the number of all hashes.
        skipped: of these, those that are never sent to any source.
        sources: in the order in which they are queried, plus sources no longer in use that were queried before.
        spreading: new verdicts that have not reached their rows in `files` yet.
        replayable: cached answers that history and hashes lack; None unless staged.
        job: the `enrich` job as last reported; None if it never ran.
    """

    at: dt.datetime
    staged: bool
    problem: str | None
    without_key: tuple[str, ...]
    not_named: tuple[str, ...]
    verdicts: Mapping[str, int]
    skipped: int
    sources: tuple[SourceStatus, ...]
    ledgers: tuple[LedgerStatus, ...]
    failures: tuple[FailureKind, ...]
    spreading: PropagationBacklog
    replayable: int | None
    job: EnrichJob | None


def enrichment_status(connection: Connection, settings: Settings, now: dt.datetime) -> EnrichmentStatus:
    """Return the state of enrichment, whether the job is running, idle, or has never run.

    Args:
        connection: a connection in one read transaction, so that all numbers describe the same state.
        settings: which sources are in use, their keys and limits.
        now: the current time, aware, in UTC.
    """
    providers = {name: make(settings, None) for name, (_, make) in SOURCES.items()}
    in_use = names_in_use(settings)
    policy = Policy(in_use, frozenset(settings.settled_by))
    named = settings.enrichment_providers
    not_named = () if named is None else tuple(name for name in SOURCES if name not in named)
    staged = not settings.use_new_enrichment
    counts = queries.queue_counts(connection, policy, now)
    sources = _sources(connection, counts, providers, in_use)
    verdicts = verdict_counts(connection)
    return EnrichmentStatus(
        at=now,
        staged=staged,
        problem=_settings_problem(settings) or _missing_provider_problem(connection, in_use),
        without_key=tuple(name for name in SOURCES if name not in not_named and lacks_key(settings, name)),
        not_named=not_named,
        verdicts=verdicts,
        skipped=verdicts.get(SKIPPED, 0),
        sources=sources,
        ledgers=_ledgers(connection, settings, providers, sources, now),
        failures=queries.failure_kinds(connection, counts),
        spreading=queries.propagation_backlog(connection),
        replayable=replayable_count(connection) if staged else None,
        job=queries.enrich_job(connection),
    )


def _settings_problem(settings: Settings) -> str | None:
    """Return what is wrong with the sources that the settings name, without reading any key; None if nothing is."""
    named = settings.enrichment_providers
    if named is None:
        return None
    unknown = [name for name in named if name not in SOURCES]
    if unknown:
        return f"COWRIEPROC_ENRICHMENT_PROVIDERS names {', '.join(unknown)}; known are {', '.join(SOURCES)}"
    keyless = [name for name in SOURCES if name in named and lacks_key(settings, name)]
    if keyless:
        return f"COWRIEPROC_ENRICHMENT_PROVIDERS names {', '.join(keyless)}, but the key is not given"
    return None


def _missing_provider_problem(connection: Connection, in_use: tuple[str, ...]) -> str | None:
    """Return a message if the last run used sources that are not configured here; None otherwise."""
    missing = [name for name in queries.last_run_providers(connection) if name not in in_use]
    if not missing:
        return None
    return (
        f"the last run asked {', '.join(missing)} too, whose key or setting is not given here: what waits for "
        "it is not counted"
    )


def _sources(
    connection: Connection,
    counts: Mapping[str, QueueCounts],
    providers: Mapping[str, Provider],
    in_use: tuple[str, ...],
) -> tuple[SourceStatus, ...]:
    """Return the counted sources: names that are not registered first, then the others in the order of queries."""
    verdicts = source_verdict_counts(connection, counts)
    unregistered = sorted(counts.keys() - providers.keys())
    return tuple(
        SourceStatus(
            provider=name,
            ledger=providers[name].ledger if name in providers else name,
            in_use=name in in_use,
            queue=counts[name],
            verdicts=verdicts[name],
        )
        for name in (*unregistered, *providers)
        if name in counts
    )


def _ledgers(
    connection: Connection,
    settings: Settings,
    providers: Mapping[str, Provider],
    sources: tuple[SourceStatus, ...],
    now: dt.datetime,
) -> tuple[LedgerStatus, ...]:
    """Return the ledgers of the configured keys, then those of other keys that were used this month or are paused."""
    limits = {provider.ledger: (provider.limits, provider.own_limits) for provider in providers.values()}
    keys = _ledger_keys(settings, providers, {source.provider for source in sources if source.in_use})
    configured = [
        quota_state_at(connection, ledger, key, now, *limits[ledger]).state(key) for ledger, key in keys.items()
    ]
    others = [
        state
        for state in ledger_states(connection, now, limits)
        if keys.get(state.provider) != state.fingerprint and _is_active(state)
    ]
    backlog = _backlog_by_ledger(sources)
    return (
        *(_ledger_status(state, now, in_use=True, requests=backlog[state.provider]) for state in configured),
        *(_ledger_status(state, now, in_use=False, requests=0) for state in others),
    )


def _is_active(state: LedgerState) -> bool:
    """Return whether a ledger was used this month or may not send now."""
    return state.used_month != 0 or state.waits is not None


def _backlog_by_ledger(sources: Iterable[SourceStatus]) -> Counter[str]:
    """Return the number of requests that wait for each ledger: one per hash and source."""
    backlog: Counter[str] = Counter()
    for source in sources:
        backlog[source.ledger] += source.queue.backlog
    return backlog


def _ledger_keys(settings: Settings, providers: Mapping[str, Provider], in_use: AbstractSet[str]) -> dict[str, str]:
    """Return the key fingerprint of each ledger in use; ledgers whose key cannot be read here are left out."""
    keys: dict[str, str] = {}
    for name, provider in providers.items():
        if name not in in_use or provider.ledger in keys:
            continue
        key = _key_fingerprint(settings, name)
        if key is not None:
            keys[provider.ledger] = key
    return keys


def _key_fingerprint(settings: Settings, name: str) -> str | None:
    """Return the fingerprint of a source's key; None if the key is missing or cannot be read here."""
    setting = SOURCES[name][0]
    if setting is None:
        return NO_KEY
    secret: Secret | None = getattr(settings, setting)
    try:
        return None if secret is None else fingerprint(secret.reveal())
    except ConfigurationError:
        return None


def _ledger_status(state: LedgerState, now: dt.datetime, *, in_use: bool, requests: int) -> LedgerStatus:
    """Return a ledger's state with the forecast for the requests that wait for it."""
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
        overruled=state.overruled,
        requests=requests,
        done_at=done_at(requests, allowance, now),
    )
