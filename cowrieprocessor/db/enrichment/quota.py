"""The statements about `api_quota`: what was sent under each key, and until when nothing may be.

Whoever changes a ledger locks its row `now` first: processes that share a key take turns.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, insert, select, text, update

from cowrieprocessor.db.models import ApiQuota

__all__ = ["DAY", "MONTH", "NOW", "PAUSED", "REFUSED", "QuotaRow", "known_ledgers", "lock_ledger", "quota_rows", "save"]

NOW, DAY, MONTH, PAUSED, REFUSED = "now", "day", "month", "paused", "refused"
"""The windows that are no dates: the last requests and failures; what the source says may be sent in a day and in a
month; a pause that the source asked for; a key that is not accepted."""

_QUOTA = ApiQuota.metadata.tables["api_quota"]
_NEW_LEDGER = text(
    'INSERT INTO api_quota (provider, key_fingerprint, "window", used) VALUES (:provider, :fingerprint, :window, 0)'
    " ON CONFLICT DO NOTHING"
)


@dataclass(slots=True)
class QuotaRow:
    """One window of one ledger.

    Attributes:
        window: a day (`2026-11-22`) or month (`2026-11`) in UTC, or NOW, DAY, MONTH, PAUSED, REFUSED.
        used: requests sent in it; in NOW failures, in PAUSED rate limits in a row.
        allowed: how many may be sent; in NOW in a minute.
        recent: in NOW, when the last requests were sent, oldest first.
        paused_until: nothing is sent before then.
        reason: why, for people.
        read_at: when the source said what is allowed.
    """

    window: str
    used: int = 0
    allowed: int | None = None
    recent: list[dt.datetime] = field(default_factory=list)
    paused_until: dt.datetime | None = None
    reason: str | None = None
    read_at: dt.datetime | None = None


def lock_ledger(connection: Connection, provider: str, fingerprint: str) -> None:
    """Keep every other process from changing a ledger until the transaction ends; begin it if it is new.

    Args:
        connection: in a write transaction.
        provider: the ledger's name.
        fingerprint: tells its key from others.
    """
    query = select(_QUOTA.c.used).where(*_of(provider, fingerprint), _QUOTA.c.window == NOW).with_for_update()
    if connection.execute(query).first() is None:
        connection.execute(_NEW_LEDGER, {"provider": provider, "fingerprint": fingerprint, "window": NOW})
        connection.execute(query)


def quota_rows(
    connection: Connection, provider: str, fingerprint: str, windows: Collection[str]
) -> dict[str, QuotaRow]:
    """Return some windows of a ledger; one that has no row yet is empty."""
    query = select(_QUOTA).where(*_of(provider, fingerprint), _QUOTA.c.window.in_(sorted(windows)))
    found = {row["window"]: row for row in connection.execute(query).mappings()}
    rows = {window: QuotaRow(window) for window in windows}
    for window, row in found.items():
        rows[window] = QuotaRow(
            window,
            used=row["used"],
            allowed=row["allowed"],
            recent=_moments(row["recent"]),
            paused_until=row["paused_until"],
            reason=row["reason"],
            read_at=row["read_at"],
        )
    return rows


def save(connection: Connection, provider: str, fingerprint: str, rows: Iterable[QuotaRow]) -> None:
    """Write windows of a ledger whole; the transaction holds its lock."""
    for row in rows:
        values: dict[str, Any] = {
            "used": row.used,
            "allowed": row.allowed,
            "recent": [moment.isoformat() for moment in row.recent] or None,
            "paused_until": row.paused_until,
            "reason": row.reason,
            "read_at": row.read_at,
        }
        done = connection.execute(
            update(_QUOTA).where(*_of(provider, fingerprint), _QUOTA.c.window == row.window).values(values)
        )
        if not done.rowcount:
            key = {"provider": provider, "key_fingerprint": fingerprint, "window": row.window}
            connection.execute(insert(_QUOTA).values(key | values))


def known_ledgers(connection: Connection) -> list[tuple[str, str]]:
    """Return name and key fingerprint of every ledger there is, by name."""
    query = select(_QUOTA.c.provider, _QUOTA.c.key_fingerprint).where(_QUOTA.c.window == NOW)
    return sorted((row.provider, row.key_fingerprint) for row in connection.execute(query))


def _of(provider: str, fingerprint: str) -> tuple[Any, Any]:
    return _QUOTA.c.provider == provider, _QUOTA.c.key_fingerprint == fingerprint


def _moments(stored: object) -> list[dt.datetime]:
    """Return the times of a stored list, sorted; what is no time counts as none."""
    moments = []
    for text_ in stored if isinstance(stored, list) else []:
        try:
            moment = dt.datetime.fromisoformat(text_)
        except (TypeError, ValueError):
            continue
        moments.append(moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC))
    return sorted(moments)
