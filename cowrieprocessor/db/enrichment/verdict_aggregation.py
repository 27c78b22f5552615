"""Aggregation: the columns of a hash, computed from its providers' latest verdicts and its rows of the queue.

They are recomputed from the history and the queue each time, never derived from the previous columns, so that they
cannot drift, whatever the order in which answers arrive.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, select, text, update

from cowrieprocessor.db.enrichment.file_status import PENDING, verdict_of
from cowrieprocessor.db.enrichment.provider_verdict import (
    COWRIE_VIRUSTOTAL,
    MALICIOUS,
    SUSPICIOUS,
    UNKNOWN,
    VERDICTS,
    VIRUSTOTAL,
    ProviderVerdict,
)
from cowrieprocessor.db.enrichment.queue import ANSWERED, FAILED, LEASED, REFUSED, QueueRow, is_rate_limit, queue_rows
from cowrieprocessor.db.enrichment.verdict_history import LatestVerdict, latest_verdicts
from cowrieprocessor.db.models import FILES, HASHES, VERDICT_COLUMNS, VerdictPropagation

__all__ = [
    "ENRICHED",
    "HASH_FAILED",
    "HASH_SKIPPED",
    "Policy",
    "aggregate",
    "aggregate_again",
    "aggregate_verdict",
    "request_propagation",
]

ENRICHED, HASH_FAILED, HASH_SKIPPED = "enriched", "failed", "skipped"
"""The values of `enrichment_status` of a hash other than `pending`."""

_PROPAGATED = (*VERDICT_COLUMNS, "size_bytes")
"""The columns that rows of `files` copy."""

_CONTENT = ("md5", "sha1", "tlsh", "size_bytes", "file_type")
"""Properties of a file's content that a provider's verdict fills in where they are unknown."""

_VT_ATTRIBUTES = {
    "vt_classification": "classification",
    "vt_description": "description",
    "vt_first_seen": "first_seen",
    "vt_last_analysis": "last_analysis",
    "vt_positives": "positives",
    "vt_total": "total",
    "vt_scan_date": "confirmed_at",
}
"""The attribute of a verdict that each vt_* column shows; `vt_malicious` is derived."""

_REQUEST = text(
    "INSERT INTO verdict_propagation (sha256, requested_at, cursor) VALUES (:sha256, :requested_at, 0)"
    " ON CONFLICT (sha256) DO UPDATE SET requested_at = excluded.requested_at, cursor = 0"
).bindparams(bindparam("requested_at", type_=VerdictPropagation.__table__.c.requested_at.type))


@dataclass(frozen=True, slots=True)
class Policy:
    """Which providers are queried, and which verdicts are decisive.

    Attributes:
        providers: the providers in use, in the order in which they are queried.
        settled_by: decisive verdicts, after which no other provider is queried about a hash.
    """

    providers: tuple[str, ...]
    settled_by: frozenset[str]

    def outrank(self, provider: str) -> tuple[str, ...]:
        """Return the providers in use that are queried before `provider`."""
        if provider not in self.providers:
            return self.providers
        return self.providers[: self.providers.index(provider)]


def aggregate(
    connection: Connection, sha256: str, policy: Policy, now: dt.datetime, verdict: ProviderVerdict | None = None
) -> bool:
    """Update the columns of a hash, and request their propagation to `files` if a propagated column changed.

    Args:
        connection: in a write transaction.
        sha256: the hash.
        policy: the providers in use and the decisive verdicts.
        now: the current time.
        verdict: a provider's new verdict, which fills in unknown properties of the content.

    Returns:
        Whether anything changed; False also if there is no such hash.
    """
    current = _locked_row(connection, sha256)
    if current is None:
        return False
    columns = aggregate_verdict(current, latest_verdicts(connection, sha256), queue_rows(connection, sha256), policy)
    if verdict is not None:
        content = {name: getattr(verdict, name) for name in _CONTENT}
        columns |= {name: value for name, value in content.items() if current[name] is None and value is not None}
    return _store(connection, current, columns, now)


def aggregate_again(connection: Connection, sha256: str, now: dt.datetime) -> bool:
    """Update the verdict of a hash from its history, whatever providers are in use; its status stays.

    Args:
        connection: in a write transaction.
        sha256: the hash.
        now: the current time.

    Returns:
        Whether anything changed.
    """
    current = _locked_row(connection, sha256)
    if current is None:
        return False
    columns = aggregate_verdict(current, latest_verdicts(connection, sha256), {}, Policy((), frozenset()))
    unchanged = ("enrichment_status", "next_check_at")
    return _store(connection, current, {name: value for name, value in columns.items() if name not in unchanged}, now)


def aggregate_verdict(
    current: Mapping[Any, Any],
    latest: Mapping[str, LatestVerdict],
    queue: Mapping[str, QueueRow],
    policy: Policy,
) -> dict[str, Any]:
    """Return the columns that a hash should have.

    Args:
        current: its present columns: a skipped hash stays skipped, and a verdict from a pre-release `files` table stays
            until VirusTotal itself was queried.
        latest: the latest verdict of each provider.
        queue: the row of the queue of each provider.
        policy: the providers in use and the decisive verdicts.
    """
    ranked = _ranked(latest, policy)
    vt_columns, pre_release_verdict = _virustotal_columns(current, latest)
    verdicts = [entry.verdict for entry in ranked] + ([pre_release_verdict] if pre_release_verdict else [])
    verdict = min(verdicts, key=VERDICTS.index, default=UNKNOWN)
    is_skipped = current["enrichment_status"] == HASH_SKIPPED
    return {
        **vt_columns,
        "enrichment_status": HASH_SKIPPED if is_skipped else _status(latest, queue, policy),
        "verdict": verdict,
        "family": _family(ranked, verdict),
        "next_check_at": None if is_skipped else _next_check_at(latest, queue, policy),
    }


def request_propagation(connection: Connection, sha256: str, now: dt.datetime) -> None:
    """Request the propagation of a hash's verdict to its rows in `files`, if it has any.

    Rows inserted later copy the current verdict. None is missed, because a transaction locks the hash before it inserts
    such a row, as the caller has locked it.
    """
    if connection.execute(select(FILES.c.id).where(FILES.c.shasum == sha256).limit(1)).first() is not None:
        connection.execute(_REQUEST, {"sha256": sha256, "requested_at": now})


def _locked_row(connection: Connection, sha256: str) -> RowMapping | None:
    """Return the row of a hash, locked until the transaction ends; None if there is no such hash."""
    return connection.execute(select(HASHES).where(HASHES.c.sha256 == sha256).with_for_update()).mappings().first()


def _store(connection: Connection, current: Mapping[Any, Any], columns: Mapping[str, Any], now: dt.datetime) -> bool:
    """Store the columns of a hash that differ, and request their propagation; return whether any differ."""
    changed = {name: value for name, value in columns.items() if current[name] != value}
    if not changed:
        return False
    sha256 = current["sha256"]
    connection.execute(update(HASHES).where(HASHES.c.sha256 == sha256).values(**changed, updated_at=now))
    if changed.keys() & set(_PROPAGATED):
        request_propagation(connection, sha256, now)
    return True


def _ranked(latest: Mapping[str, LatestVerdict], policy: Policy) -> list[LatestVerdict]:
    """Return the verdicts with a known value: of the providers in use, in their order, then of the others by name."""
    rank = {name: number for number, name in enumerate(policy.providers)}
    names = sorted(latest, key=lambda name: (rank.get(name, len(rank)), name))
    return [latest[name] for name in names if latest[name].verdict in VERDICTS]


def _family(ranked: list[LatestVerdict], verdict: str) -> str | None:
    """Return the malware family named by the first provider with the aggregated verdict, if that is a detection."""
    if verdict not in (MALICIOUS, SUSPICIOUS):
        return None
    return next((entry.family for entry in ranked if entry.verdict == verdict and entry.family), None)


def _virustotal_columns(
    current: Mapping[Any, Any], latest: Mapping[str, LatestVerdict]
) -> tuple[dict[str, Any], str | None]:
    """Return the vt_* columns, and the verdict they express if they come from a pre-release `files` table."""
    own, logged = latest.get(VIRUSTOTAL), latest.get(COWRIE_VIRUSTOTAL)
    if own is None and _is_pre_release(current, logged):
        return {name: current[name] for name in VERDICT_COLUMNS if name != "enrichment_status"}, verdict_of(current)
    shown = _shown_verdict(own, logged)
    if shown is None:
        return {**dict.fromkeys(_VT_ATTRIBUTES), "vt_malicious": False}, None
    columns = {column: getattr(shown, attribute) for column, attribute in _VT_ATTRIBUTES.items()}
    return {**columns, "vt_malicious": shown.verdict == MALICIOUS}, None


def _shown_verdict(own: LatestVerdict | None, logged: LatestVerdict | None) -> LatestVerdict | None:
    """Return VirusTotal's own verdict or the one that Cowrie logged: the first that knows the file, else the first."""
    known = (entry for entry in (own, logged) if entry is not None and entry.is_found)
    return next(known, own or logged)


def _is_pre_release(current: Mapping[Any, Any], logged: LatestVerdict | None) -> bool:
    """Return whether the vt_* columns come from a pre-release `files` table: no history explains them.

    What Cowrie logged later replaces such a verdict.
    """
    if current["vt_scan_date"] is None:
        return bool(current["vt_malicious"]) and logged is None
    return logged is None or current["vt_scan_date"] > logged.confirmed_at


def _status(latest: Mapping[str, LatestVerdict], queue: Mapping[str, QueueRow], policy: Policy) -> str:
    """Return the `enrichment_status` of a hash that is not skipped."""
    if any(entry.verdict in policy.settled_by for entry in latest.values()):
        return ENRICHED
    states = [_queue_state(queue.get(name), name in latest) for name in policy.providers]
    if not states:
        return ENRICHED if latest else PENDING
    if all(state in (ANSWERED, REFUSED) for state in states):
        return ENRICHED
    return HASH_FAILED if FAILED in states else PENDING


def _queue_state(row: QueueRow | None, has_answered: bool) -> str:
    """Return the state of a row of the queue; of a claimed row the state before the claim."""
    if row is None:
        return PENDING
    if row.status != LEASED:
        return row.status
    if row.last_error is not None and not is_rate_limit(row.last_error):
        return FAILED
    return ANSWERED if has_answered else PENDING


def _next_check_at(
    latest: Mapping[str, LatestVerdict], queue: Mapping[str, QueueRow], policy: Policy
) -> dt.datetime | None:
    """Return when the next provider is queried again about a hash; None if none is."""
    deciding = {
        name for name, entry in latest.items() if name in policy.providers and entry.verdict in policy.settled_by
    }
    moments = []
    for name in policy.providers:
        row = queue.get(name)
        if row is None or row.next_attempt_at is None or row.priority:
            continue
        others = deciding & set(policy.outrank(name)) if name in latest else deciding - {name}
        if not others:
            moments.append(row.next_attempt_at)
    return min(moments, default=None)
