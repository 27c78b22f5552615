"""Statements for `api_quota`: the requests sent with each key, and pauses.

The row `now` of a ledger is its lock: it is locked before any change, which serializes processes that share a key.
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
"""The windows that are not dates: recent requests and failures; the daily and monthly allowance that the provider
reports; a pause that the provider asked for; a rejected key."""

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
        used: requests sent in the window; in NOW consecutive failures, in PAUSED consecutive rate limits.
        allowed: requests allowed in the window; in NOW per minute.
        recent: in NOW, the times of the last requests, oldest first.
        paused_until: no request is sent before this time.
        reason: why, for display.
        read_at: when the provider reported the allowance.
    """

    window: str
    used: int = 0
    allowed: int | None = None
    recent: list[dt.datetime] = field(default_factory=list)
    paused_until: dt.datetime | None = None
    reason: str | None = None
    read_at: dt.datetime | None = None


def lock_ledger(connection: Connection, provider: str, fingerprint: str) -> None:
    """Lock a ledger until the transaction ends; create it if it is new.

    Args:
        connection: in a write transaction.
        provider: the ledger's name.
        fingerprint: identifies its key.
    """
    query = select(_QUOTA.c.used).where(*_of(provider, fingerprint), _QUOTA.c.window == NOW).with_for_update()
    if connection.execute(query).first() is None:
        connection.execute(_NEW_LEDGER, {"provider": provider, "fingerprint": fingerprint, "window": NOW})
        connection.execute(query)


def quota_rows(
    connection: Connection, provider: str, fingerprint: str, windows: Collection[str]
) -> dict[str, QuotaRow]:
    """Return windows of a ledger by name; a window without a row is empty."""
    query = select(_QUOTA).where(*_of(provider, fingerprint), _QUOTA.c.window.in_(sorted(windows)))
    rows = {window: QuotaRow(window) for window in windows}
    for row in connection.execute(query).mappings():
        rows[row["window"]] = QuotaRow(
            row["window"],
            used=row["used"],
            allowed=row["allowed"],
            recent=_moments(row["recent"]),
            paused_until=row["paused_until"],
            reason=row["reason"],
            read_at=row["read_at"],
        )
    return rows


def save(connection: Connection, provider: str, fingerprint: str, rows: Iterable[QuotaRow]) -> None:
    """Store complete windows of a ledger that the transaction has locked."""
    for row in rows:
        values: dict[str, Any] = {
            "used": row.used,
            "allowed": row.allowed,
            "recent": [moment.isoformat() for moment in row.recent] or None,
            "paused_until": row.paused_until,
            "reason": row.reason,
            "read_at": row.read_at,
        }
        updated = connection.execute(
            update(_QUOTA).where(*_of(provider, fingerprint), _QUOTA.c.window == row.window).values(values)
        )
        if not updated.rowcount:
            key = {"provider": provider, "key_fingerprint": fingerprint, "window": row.window}
            connection.execute(insert(_QUOTA).values(key | values))


def known_ledgers(connection: Connection) -> list[tuple[str, str]]:
    """Return name and key fingerprint of every ledger, sorted."""
    query = select(_QUOTA.c.provider, _QUOTA.c.key_fingerprint).where(_QUOTA.c.window == NOW)
    return sorted((row.provider, row.key_fingerprint) for row in connection.execute(query))


def _of(provider: str, fingerprint: str) -> tuple[Any, Any]:
    return _QUOTA.c.provider == provider, _QUOTA.c.key_fingerprint == fingerprint


def _moments(stored: object) -> list[dt.datetime]:
    """Return the times of a stored list, sorted; entries that are not times are ignored."""
    moments = []
    for text_ in stored if isinstance(stored, list) else []:
        try:
            moment = dt.datetime.fromisoformat(text_)
        except (TypeError, ValueError):
            continue
        moments.append(moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC))
    return sorted(moments)
