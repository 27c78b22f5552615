"""The state of a ledger at a moment: what was sent, what may be sent, and until when nothing may be."""

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
from cowrieprocessor.wording import plural

KEY_REJECTED_PAUSE = dt.timedelta(hours=24)
MAX_PAUSE = dt.timedelta(days=31)
MIDNIGHT_MARGIN = dt.timedelta(seconds=30)
"""Under a limit by day or month nothing is sent for this long before and after midnight: a request in flight, or a
clock that is slightly off, cannot count in a day that is already used up."""

CLOCK_SKEW = dt.timedelta(hours=1)
"""How much longer than its maximum a pause may appear because the clocks of two machines differ."""

_UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Wait:
    """No request may be sent now.

    Attributes:
        until: the earliest time for the next request, as far as is known.
        reason: why, for people.
        kind: minute (the rate limit), day or month (used up), paused (the source asked for it, or does not accept the
            key), failures (it keeps failing).
    """

    until: dt.datetime
    reason: str
    kind: Literal["minute", "day", "month", "paused", "failures"]


def day_of(now: dt.datetime) -> str:
    """Return the name of the day's window, in UTC."""
    return now.strftime("%Y-%m-%d")


def month_of(now: dt.datetime) -> str:
    """Return the name of the month's window, in UTC."""
    return now.strftime("%Y-%m")


def next_day(now: dt.datetime) -> dt.datetime:
    """Return when the next day begins in UTC."""
    return _midnight(now) + dt.timedelta(days=1)


def next_month(now: dt.datetime) -> dt.datetime:
    """Return when the next month begins in UTC."""
    return (_midnight(now).replace(day=1) + dt.timedelta(days=32)).replace(day=1)


def windows_at(now: dt.datetime) -> tuple[str, ...]:
    """Return the name of every window that counts at a moment."""
    return NOW, DAY, MONTH, PAUSED, REFUSED, day_of(now), month_of(now)


@dataclass(frozen=True, slots=True)
class OverruledLimit:
    """A limit of the settings that does not hold, because the key's own quota is lower.

    Attributes:
        setting: the name of the setting.
        window: minute, day or month.
        set_to: requests that the setting allows.
        allowed: requests that the key allows.
    """

    setting: str
    window: Literal["minute", "day", "month"]
    set_to: int
    allowed: int

    def __str__(self) -> str:
        """Return it as a sentence without its end."""
        allowed = plural(self.allowed, f"request a {self.window}", f"requests a {self.window}")
        return f"the key allows {allowed}, not the {self.set_to:,} of {self.setting}"


@dataclass(frozen=True, slots=True)
class LedgerState:
    """The state of a ledger, for people.

    Attributes:
        provider: the ledger's name.
        fingerprint: identifies its key without disclosing it.
        used_day: requests sent today, in UTC.
        allowed_day: requests allowed a day; None for no limit.
        used_month: requests sent this month, in UTC.
        allowed_month: requests allowed a month; None for no limit.
        per_minute: requests allowed a minute; None for no limit.
        waits: why nothing may be sent now; None if something may, or may within the minute.
        read_at: when the source last reported the quota of the key; None if it never did.
        failures: failures in a row.
        overruled: limits of the settings that are higher than the key's own quota.
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
    overruled: tuple[OverruledLimit, ...] = ()

    @property
    def paused_until(self) -> dt.datetime | None:
        """Until when nothing may be sent; None if something may, or may within the minute."""
        return None if self.waits is None else self.waits.until

    @property
    def reason(self) -> str | None:
        """Why nothing may be sent until `paused_until`."""
        return None if self.waits is None else self.waits.reason


@dataclass(slots=True)
class QuotaState:
    """What a ledger has counted and what it allows, at a moment.

    Attributes:
        name: the ledger's name.
        rows: its windows by name, all of `windows_at(now)`.
        now: the moment.
        limits: what the settings, or the source's public terms, allow.
        own_limits: those of them that the user set.
    """

    name: str
    rows: dict[str, QuotaRow]
    now: dt.datetime
    limits: Limits
    own_limits: Limits

    @property
    def day(self) -> QuotaRow:
        """Today's window, in UTC."""
        return self.rows[day_of(self.now)]

    @property
    def month(self) -> QuotaRow:
        """This month's window, in UTC."""
        return self.rows[month_of(self.now)]

    @property
    def per_minute(self) -> int | None:
        """Requests allowed a minute; None for no limit."""
        return _effective(self.own_limits.per_minute, self.rows[NOW].allowed, self.limits.per_minute)

    @property
    def per_day(self) -> int | None:
        """Requests allowed a day; None for no limit."""
        return _effective(self.own_limits.per_day, self.rows[DAY].allowed, self.limits.per_day)

    @property
    def per_month(self) -> int | None:
        """Requests allowed a month; None for no limit."""
        return _effective(self.own_limits.per_month, self.rows[MONTH].allowed, self.limits.per_month)

    @property
    def rate_limit(self) -> RateLimit | None:
        """The rate limit; None for no limit."""
        return RateLimit(self.per_minute) if self.per_minute else None

    @property
    def day_is_used_up(self) -> bool:
        """Whether the day's limit is reached."""
        return self.per_day is not None and self.day.used >= self.per_day

    @property
    def month_is_used_up(self) -> bool:
        """Whether the month's limit is reached."""
        return self.per_month is not None and self.month.used >= self.per_month

    @property
    def requests_left(self) -> int | None:
        """Requests that the limits of day and month still allow; None for no such limit."""
        windows = ((self.day, self.per_day), (self.month, self.per_month))
        left = [max(0, allowed - row.used) for row, allowed in windows if allowed is not None]
        return min(left, default=None)

    @property
    def overruled(self) -> tuple[OverruledLimit, ...]:
        """The limits that the user set higher than the key's own quota, which holds."""
        own, rows = self.own_limits, self.rows
        windows: tuple[tuple[Literal["minute", "day", "month"], int | None, int | None], ...] = (
            ("minute", own.per_minute, rows[NOW].allowed),
            ("day", own.per_day, rows[DAY].allowed),
            ("month", own.per_month, rows[MONTH].allowed),
        )
        return tuple(
            OverruledLimit(f"{self.name}_per_{window}", window, set_to, allowed)
            for window, set_to, allowed in windows
            if set_to is not None and allowed is not None and allowed < set_to
        )

    @property
    def is_half_open(self) -> bool:
        """Whether the source kept failing, so that the next request only probes whether it works again."""
        return circuit_breaker.is_open(self.rows[NOW].used)

    def is_paused(self, window: str) -> bool:
        """Return whether the window NOW (failures), PAUSED or REFUSED pauses the source.

        A pause longer than its maximum was written by a wrong clock and does not count.
        """
        until = self.rows[window].paused_until
        return until is not None and self.now < until <= self.now + _MAX_PAUSES[window] + CLOCK_SKEW

    def wait(self) -> Wait | None:
        """Return why nothing may be sent now, the reason that lasts longest; None if something may."""
        waits = [*self._exhausted_windows(), *self._pauses(), *self._short_waits()]
        return max(waits, key=lambda wait: wait.until, default=None)

    def peek(self) -> Wait | None:
        """Return why nothing may be sent now, if that is certain.

        Requests sent before the clock was set back do not count: `Ledger.reserve` corrects their times.
        """
        if self.rate_limit is not None:
            row, latest = self.rows[NOW], self.now + self.rate_limit.window
            row.recent = [moment for moment in row.recent if moment <= latest]
        return self.wait()

    def state(self, fingerprint: str) -> LedgerState:
        """Return the state for people, under the fingerprint of its key."""
        wait = self.peek()
        return LedgerState(
            provider=self.name,
            fingerprint=fingerprint,
            used_day=self.day.used,
            allowed_day=self.per_day,
            used_month=self.month.used,
            allowed_month=self.per_month,
            per_minute=self.per_minute,
            waits=None if wait is None or wait.kind == "minute" else wait,
            read_at=self.rows[NOW].read_at,
            failures=self.rows[NOW].used,
            overruled=self.overruled,
        )

    def _exhausted_windows(self) -> list[Wait]:
        waits: list[Wait] = []
        if self.month_is_used_up:
            until = next_month(self.now)
            waits.append(Wait(until + MIDNIGHT_MARGIN, _used_up_text("month", self.per_month, until), "month"))
        if self.day_is_used_up:
            until = next_day(self.now)
            waits.append(Wait(until + MIDNIGHT_MARGIN, _used_up_text("day", self.per_day, until), "day"))
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

    def _short_waits(self) -> list[Wait]:
        waits: list[Wait] = []
        if self.per_day is not None or self.per_month is not None:
            midnight = _midnight(self.now + MIDNIGHT_MARGIN)
            if self.now < midnight + MIDNIGHT_MARGIN:
                reason = "the day turns in UTC: nothing is sent for half a minute before and after midnight"
                waits.append(Wait(midnight + MIDNIGHT_MARGIN, reason, "minute"))
        next_at = self.rate_limit.next_at(self.rows[NOW].recent) if self.rate_limit else None
        if next_at is not None and next_at > self.now:
            allowed = plural(self.per_minute or 0, "request a minute is", "requests a minute are")
            waits.append(Wait(next_at, f"{allowed} allowed", "minute"))
        return waits


def quota_state_at(
    connection: Connection, name: str, fingerprint: str, now: dt.datetime, limits: Limits, own_limits: Limits
) -> QuotaState:
    """Read the state of one ledger at `now`."""
    return QuotaState(name, quota_rows(connection, name, fingerprint, windows_at(now)), now, limits, own_limits)


def ledger_states(
    connection: Connection, now: dt.datetime, limits: Mapping[str, tuple[Limits, Limits]]
) -> list[LedgerState]:
    """Return the state of every ledger in the database, including those of keys that the settings do not give.

    Args:
        connection: any.
        now: the current time.
        limits: what is allowed, and what of it the user set, by the ledger's name.
    """
    states = []
    for name, fingerprint in known_ledgers(connection):
        allowed, own = limits.get(name, (_UNLIMITED, _UNLIMITED))
        states.append(quota_state_at(connection, name, fingerprint, now, allowed, own).state(fingerprint))
    return states


_MAX_PAUSES = {
    NOW: dt.timedelta(seconds=circuit_breaker.MAX_PAUSE_S),
    PAUSED: MAX_PAUSE + MIDNIGHT_MARGIN,
    REFUSED: KEY_REJECTED_PAUSE,
}


def _used_up_text(window: str, allowed: int | None, until: dt.datetime) -> str:
    requests = plural(allowed or 0, f"request a {window} is", f"requests a {window} are")
    return f"the {requests} used up; the next {window} begins {until:%Y-%m-%d %H:%M} UTC"


def _effective(own: int | None, read: int | None, default: int | None) -> int | None:
    """Return the effective limit: what the source reports lowers the user's own limit and replaces a default."""
    if read is None:
        return own if own is not None else default
    return read if own is None else min(own, read)


def _midnight(now: dt.datetime) -> dt.datetime:
    return now.replace(hour=0, minute=0, second=0, microsecond=0)
