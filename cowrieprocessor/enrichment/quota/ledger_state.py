"""How a ledger stands at a moment: what may be sent, what was, and until when nothing may be."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection

from cowrieprocessor.db.enrichment.quota import DAY, MONTH, NOW, PAUSED, REFUSED, QuotaRow, known_ledgers, quota_rows
from cowrieprocessor.enrichment.providers.base import Limits
from cowrieprocessor.enrichment.quota import circuit_breaker
from cowrieprocessor.enrichment.quota.rate_limit import RateLimit

LONGEST_REFUSAL = dt.timedelta(hours=24)
LONGEST_PAUSE = dt.timedelta(days=31)
TURN_OF_DAY = dt.timedelta(seconds=30)
"""So long before and after midnight nothing is sent under a limit by the day: a request on its way, or a clock that is
a little wrong, cannot move it into a day that is used up already."""

SLACK = dt.timedelta(hours=1)
"""So much longer than the longest a pause may seem, where the clocks of two machines differ."""

_UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Wait:
    """No request may be sent now.

    Attributes:
        until: when one may be, as far as is known.
        reason: why not, for people.
        kind: minute (the pace of the key), day or month (used up), paused (the source asked for it, or does not
            accept the key), failures (it keeps failing).
    """

    until: dt.datetime
    reason: str
    kind: Literal["minute", "day", "month", "paused", "failures"]


def day_of(now: dt.datetime) -> str:
    """Return the window of a moment's day in UTC."""
    return now.strftime("%Y-%m-%d")


def month_of(now: dt.datetime) -> str:
    """Return the window of a moment's month in UTC."""
    return now.strftime("%Y-%m")


def next_day(now: dt.datetime) -> dt.datetime:
    """Return when the next day begins in UTC."""
    return _midnight(now) + dt.timedelta(days=1)


def next_month(now: dt.datetime) -> dt.datetime:
    """Return when the next month begins in UTC."""
    return (_midnight(now).replace(day=1) + dt.timedelta(days=32)).replace(day=1)


def windows_at(now: dt.datetime) -> tuple[str, ...]:
    """Return every window that counts at a moment."""
    return NOW, DAY, MONTH, PAUSED, REFUSED, day_of(now), month_of(now)


@dataclass(frozen=True, slots=True)
class LedgerState:
    """A ledger, for people.

    Attributes:
        provider: the ledger's name.
        fingerprint: tells its key from others.
        used_day: requests sent today, in UTC.
        allowed_day: how many may be; None for no bound.
        used_month: requests sent this month.
        allowed_month: how many may be.
        per_minute: how many may be sent a minute.
        waits: why nothing may be sent now; None if it may, or in a moment.
        read_at: when the source said what the key may do; None if it never did.
        failures: how often the source failed in a row.
    """

    provider: str
    fingerprint: str
    used_day: int
    allowed_day: int | None
    used_month: int
    allowed_month: int | None
    per_minute: int | None
    waits: Wait | None
    read_at: dt.datetime | None
    failures: int

    @property
    def paused_until(self) -> dt.datetime | None:
        """Until when nothing may be sent; None if it may, or in a moment."""
        return None if self.waits is None else self.waits.until

    @property
    def reason(self) -> str | None:
        """Why nothing may be sent until then."""
        return None if self.waits is None else self.waits.reason


@dataclass(slots=True)
class QuotaState:
    """A ledger at a moment.

    Attributes:
        rows: its windows, all of `windows_at(now)`.
        now: the moment.
        limits: what the settings, or the source's public terms, allow.
        own_limits: of these, what the user set.
    """

    rows: dict[str, QuotaRow]
    now: dt.datetime
    limits: Limits
    own_limits: Limits

    @property
    def day(self) -> QuotaRow:
        """What was sent today."""
        return self.rows[day_of(self.now)]

    @property
    def month(self) -> QuotaRow:
        """What was sent this month."""
        return self.rows[month_of(self.now)]

    @property
    def per_minute(self) -> int | None:
        """How many may be sent a minute."""
        return _effective(self.own_limits.per_minute, self.rows[NOW].allowed, self.limits.per_minute)

    @property
    def per_day(self) -> int | None:
        """How many may be sent a day."""
        return _effective(self.own_limits.per_day, self.rows[DAY].allowed, self.limits.per_day)

    @property
    def per_month(self) -> int | None:
        """How many may be sent a month."""
        return _effective(self.own_limits.per_month, self.rows[MONTH].allowed, self.limits.per_month)

    @property
    def pace(self) -> RateLimit | None:
        """How fast requests may follow each other."""
        return RateLimit(self.per_minute) if self.per_minute else None

    @property
    def day_is_used_up(self) -> bool:
        """Whether as many were sent today as may be."""
        return self.per_day is not None and self.day.used >= self.per_day

    @property
    def month_is_used_up(self) -> bool:
        """Whether as many were sent this month as may be."""
        return self.per_month is not None and self.month.used >= self.per_month

    @property
    def is_on_trial(self) -> bool:
        """Whether the source kept failing: one request goes out to see if it works again."""
        return circuit_breaker.is_open(self.rows[NOW].used)

    def is_paused(self, window: str) -> bool:
        """Return whether NOW (for failures), PAUSED or REFUSED says that nothing may be sent.

        A pause that is longer than any we make was written by a clock that was wrong: it does not count.
        """
        until = self.rows[window].paused_until
        return until is not None and self.now < until <= self.now + _LONGEST[window] + SLACK

    def wait(self) -> Wait | None:
        """Return why nothing may be sent now, of several reasons the one that lasts longest; None if it may."""
        waits = [*self._used_up(), *self._pauses(), *self._soon()]
        return max(waits, key=lambda one: one.until, default=None)

    def peek(self) -> Wait | None:
        """Return why nothing may be sent now, if that is certain.

        Requests that were sent by a clock that was set back since do not count: `Ledger.reserve` settles them.
        """
        if self.pace is not None:
            row, latest = self.rows[NOW], self.now + self.pace.window
            row.recent = [moment for moment in row.recent if moment <= latest]
        return self.wait()

    def state(self, name: str, fingerprint: str) -> LedgerState:
        """Return it for people."""
        wait = self.peek()
        return LedgerState(
            provider=name,
            fingerprint=fingerprint,
            used_day=self.day.used,
            allowed_day=self.per_day,
            used_month=self.month.used,
            allowed_month=self.per_month,
            per_minute=self.per_minute,
            waits=None if wait is None or wait.kind == "minute" else wait,
            read_at=self.rows[NOW].read_at,
            failures=self.rows[NOW].used,
        )

    def _used_up(self) -> list[Wait]:
        waits: list[Wait] = []
        if self.month_is_used_up:
            until = next_month(self.now)
            waits.append(Wait(until + TURN_OF_DAY, _used_up_text("month", self.per_month, until), "month"))
        if self.day_is_used_up:
            until = next_day(self.now)
            waits.append(Wait(until + TURN_OF_DAY, _used_up_text("day", self.per_day, until), "day"))
        return waits

    def _pauses(self) -> list[Wait]:
        waits: list[Wait] = []
        for window in (REFUSED, PAUSED):
            row = self.rows[window]
            if self.is_paused(window) and row.paused_until is not None:
                waits.append(Wait(row.paused_until, row.reason or "paused", "paused"))
        row = self.rows[NOW]
        if self.is_paused(NOW) and row.paused_until is not None:
            waits.append(Wait(row.paused_until, row.reason or "it keeps failing", "failures"))
        return waits

    def _soon(self) -> list[Wait]:
        waits: list[Wait] = []
        if self.per_day is not None or self.per_month is not None:
            midnight = _midnight(self.now + TURN_OF_DAY)
            if self.now < midnight + TURN_OF_DAY:
                reason = "the day turns in UTC: nothing is sent for half a minute before and after midnight"
                waits.append(Wait(midnight + TURN_OF_DAY, reason, "minute"))
        next_at = self.pace.next_at(self.rows[NOW].recent) if self.pace else None
        if next_at is not None and next_at > self.now:
            waits.append(Wait(next_at, f"{self.per_minute} requests a minute are allowed", "minute"))
        return waits


def quota_state_at(
    connection: Connection, name: str, fingerprint: str, now: dt.datetime, limits: Limits, own_limits: Limits
) -> QuotaState:
    """Return how one ledger stands."""
    return QuotaState(quota_rows(connection, name, fingerprint, windows_at(now)), now, limits, own_limits)


def ledger_states(
    connection: Connection, now: dt.datetime, limits: Mapping[str, tuple[Limits, Limits]]
) -> list[LedgerState]:
    """Return how every ledger in the database stands, those of keys that are not at hand included.

    Args:
        connection: any.
        now: the time.
        limits: by name of ledger what is allowed, and of it what the user set.
    """
    states = []
    for name, fingerprint in known_ledgers(connection):
        allowed, own = limits.get(name, (_UNLIMITED, _UNLIMITED))
        states.append(quota_state_at(connection, name, fingerprint, now, allowed, own).state(name, fingerprint))
    return states


_LONGEST = {
    NOW: dt.timedelta(seconds=circuit_breaker.LONGEST_PAUSE_S),
    PAUSED: LONGEST_PAUSE + TURN_OF_DAY,
    REFUSED: LONGEST_REFUSAL,
}


def _used_up_text(window: str, allowed: int | None, until: dt.datetime) -> str:
    return f"the {allowed:,} requests a {window} are used up; the next {window} begins {until:%Y-%m-%d %H:%M} UTC"


def _effective(own: int | None, read: int | None, default: int | None) -> int | None:
    """Return a limit: the user's own is never raised, a default gives way to what the source says of the key."""
    if read is None:
        return own if own is not None else default
    return read if own is None else min(own, read)


def _midnight(now: dt.datetime) -> dt.datetime:
    return now.replace(hour=0, minute=0, second=0, microsecond=0)
