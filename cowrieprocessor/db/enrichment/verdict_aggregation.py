"""The judgement: what the row of a hash says, made of what its sources last said and of how the queue stands.

It is computed anew from the history and the queue each time, never carried on from what the row said before; so it
cannot drift from them, whatever the order in which answers came.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, select, text, update

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
from cowrieprocessor.db.enrichment.queue import ANSWERED, FAILED, LEASED, REFUSED, QueueRow, queue_rows
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
"""What `enrichment_status` of a hash may be beside `pending`."""

_COPIED = (*VERDICT_COLUMNS, "size_bytes")
"""What rows of `files` copy."""

_CONTENT = ("md5", "sha1", "tlsh", "size_bytes", "file_type")
"""What of a file's content sources tell where nothing is known."""

_REQUEST = text(
    "INSERT INTO verdict_propagation (sha256, requested_at, cursor) VALUES (:sha256, :requested_at, 0)"
    " ON CONFLICT (sha256) DO UPDATE SET requested_at = excluded.requested_at, cursor = 0"
).bindparams(bindparam("requested_at", type_=VerdictPropagation.__table__.c.requested_at.type))


@dataclass(frozen=True, slots=True)
class Policy:
    """Which sources are asked, and when enough is known.

    Attributes:
        providers: the sources in use, in the order in which they are asked.
        settled_by: verdicts after which no other source is asked about a hash.
    """

    providers: tuple[str, ...]
    settled_by: frozenset[str]

    def outrank(self, provider: str) -> tuple[str, ...]:
        """Return the sources in use that are asked before another one."""
        if provider not in self.providers:
            return self.providers
        return self.providers[: self.providers.index(provider)]


def aggregate(
    connection: Connection, sha256: str, policy: Policy, now: dt.datetime, finding: ProviderVerdict | None = None
) -> bool:
    """Bring the row of a hash up to date, and ask for its rows in `files` to follow where they copy what changed.

    Args:
        connection: in a write transaction.
        sha256: the hash.
        policy: which sources are asked, and when enough is known.
        now: the time.
        finding: what a source said just now; of the content it tells what is not known yet.

    Returns:
        Whether anything changed; False too where there is no such hash.
    """
    current = connection.execute(select(HASHES).where(HASHES.c.sha256 == sha256).with_for_update()).mappings().first()
    if current is None:
        return False
    wanted = aggregate_verdict(current, latest_verdicts(connection, sha256), queue_rows(connection, sha256), policy)
    if finding is not None:
        told = {name: getattr(finding, name) for name in _CONTENT}
        wanted |= {name: said for name, said in told.items() if current[name] is None and said is not None}
    return _change(connection, current, wanted, now)


def aggregate_again(connection: Connection, sha256: str, now: dt.datetime) -> bool:
    """Bring the verdict of a hash up to date with its history, whoever is in use; its status stays.

    Args:
        connection: in a write transaction.
        sha256: the hash.
        now: the time.

    Returns:
        Whether anything changed.
    """
    current = connection.execute(select(HASHES).where(HASHES.c.sha256 == sha256).with_for_update()).mappings().first()
    if current is None:
        return False
    wanted = aggregate_verdict(current, latest_verdicts(connection, sha256), {}, Policy((), frozenset()))
    left = ("enrichment_status", "next_check_at")
    return _change(connection, current, {name: value for name, value in wanted.items() if name not in left}, now)


def aggregate_verdict(
    current: Mapping[Any, Any],
    latest: Mapping[str, LatestVerdict],
    queue: Mapping[str, QueueRow],
    policy: Policy,
) -> dict[str, Any]:
    """Return what the row of a hash is to say.

    Args:
        current: the row as it is: a hash that is never to be asked about stays so, and what a `files` table of the
            plan knew stays until VirusTotal itself was asked.
        latest: by source what it last said.
        queue: by source how it stands in the queue.
        policy: which sources are asked, and when enough is known.
    """
    ranked = _in_order(latest, policy)
    vt_columns, planned = _virustotal_columns(current, latest)
    verdicts = [one.verdict for one in ranked] + ([planned] if planned else [])
    verdict = min(verdicts, key=VERDICTS.index, default=UNKNOWN)
    families = [one.family for one in ranked if one.verdict == verdict and verdict in (MALICIOUS, SUSPICIOUS)]
    status = current["enrichment_status"] if current["enrichment_status"] == HASH_SKIPPED else None
    return {
        **vt_columns,
        "enrichment_status": status or _status(latest, queue, policy),
        "verdict": verdict,
        "family": next((one for one in families if one), None),
        "next_check_at": None if status else _next_check_at(latest, queue, policy),
    }


def request_propagation(connection: Connection, sha256: str, now: dt.datetime) -> None:
    """Note that the rows of a hash in `files` are behind; those that come later copy what is current.

    Whoever adds a row of a hash to `files` holds the row of the hash, as does our caller: none is missed.
    """
    if connection.execute(select(FILES.c.id).where(FILES.c.shasum == sha256).limit(1)).first() is not None:
        connection.execute(_REQUEST, {"sha256": sha256, "requested_at": now})


def _change(connection: Connection, current: Mapping[Any, Any], wanted: Mapping[str, Any], now: dt.datetime) -> bool:
    """Change what differs in the row of a hash, and have `files` follow where that is copied."""
    changed = {name: value for name, value in wanted.items() if current[name] != value}
    if not changed:
        return False
    sha256 = current["sha256"]
    connection.execute(update(HASHES).where(HASHES.c.sha256 == sha256).values(**changed, updated_at=now))
    if changed.keys() & set(_COPIED):
        request_propagation(connection, sha256, now)
    return True


def _in_order(latest: Mapping[str, LatestVerdict], policy: Policy) -> list[LatestVerdict]:
    """Return what sources said, those in use first, in their order; all with a verdict that we know."""
    order = {name: place for place, name in enumerate(policy.providers)}
    names = sorted(latest, key=lambda name: (order.get(name, len(order)), name))
    return [latest[name] for name in names if latest[name].verdict in VERDICTS]


def _virustotal_columns(
    current: Mapping[Any, Any], latest: Mapping[str, LatestVerdict]
) -> tuple[dict[str, Any], str | None]:
    """Return the columns that show VirusTotal's findings; and the verdict of those that the plan's table brought."""
    own, logged = latest.get(VIRUSTOTAL), latest.get(COWRIE_VIRUSTOTAL)
    if own is None and _is_of_the_plan(current, logged):
        kept = {name: current[name] for name in VERDICT_COLUMNS if name != "enrichment_status"}
        return kept, verdict_of(current)
    shown = next((one for one in (own, logged) if one is not None and one.is_found), own or logged)
    columns: dict[str, Any] = {
        "vt_classification": shown.classification if shown else None,
        "vt_description": shown.description if shown else None,
        "vt_malicious": shown is not None and shown.verdict == MALICIOUS,
        "vt_first_seen": shown.first_seen if shown else None,
        "vt_last_analysis": shown.last_analysis if shown else None,
        "vt_positives": shown.positives if shown else None,
        "vt_total": shown.total if shown else None,
        "vt_scan_date": shown.confirmed_at if shown else None,
    }
    return columns, None


def _is_of_the_plan(current: Mapping[Any, Any], logged: LatestVerdict | None) -> bool:
    """Return whether the columns show what no history explains: a `files` table of the plan brought it.

    Such a verdict gives way to what Cowrie logged later.
    """
    if current["vt_scan_date"] is None:
        return bool(current["vt_malicious"]) and logged is None
    return logged is None or current["vt_scan_date"] > logged.confirmed_at


def _status(latest: Mapping[str, LatestVerdict], queue: Mapping[str, QueueRow], policy: Policy) -> str:
    if any(one.verdict in policy.settled_by for one in latest.values()):
        return ENRICHED
    standing = [_standing(queue.get(name), name in latest) for name in policy.providers]
    if not standing:
        return ENRICHED if latest else PENDING
    if all(one in (ANSWERED, REFUSED) for one in standing):
        return ENRICHED
    return HASH_FAILED if FAILED in standing else PENDING


def _standing(row: QueueRow | None, has_answered: bool) -> str:
    """Return how a source stands to a hash, also while it is being asked once more."""
    if row is None:
        return PENDING
    if row.status != LEASED:
        return row.status
    if row.last_error is not None:
        return FAILED
    return ANSWERED if has_answered else PENDING


def _next_check_at(
    latest: Mapping[str, LatestVerdict], queue: Mapping[str, QueueRow], policy: Policy
) -> dt.datetime | None:
    """Return when the next source is to be asked again about a hash that was asked about; None if none is."""
    settling = {name for name, one in latest.items() if name in policy.providers and one.verdict in policy.settled_by}
    moments = []
    for name in policy.providers:
        row = queue.get(name)
        if row is None or row.next_attempt_at is None or row.priority:
            continue
        others = settling & set(policy.outrank(name)) if name in latest else settling - {name}
        if not others:
            moments.append(row.next_attempt_at)
    return min(moments, default=None)
