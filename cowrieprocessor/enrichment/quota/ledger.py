"""The ledger of a key: every request is granted here, and written down, before it is sent.

Processes that share a key share its ledger through `api_quota`; a process that starts again finds it as it was. What
is written is never less than what was sent, so that no limit is passed, whoever is killed when.
"""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from cowrieprocessor.clock import Clock
from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.enrichment.quota import (
    DAY,
    MONTH,
    NOW,
    PAUSED,
    REFUSED,
    QuotaRow,
    lock_ledger,
    quota_rows,
    save,
)
from cowrieprocessor.enrichment.providers.base import KeyQuota, Limits, Provider
from cowrieprocessor.enrichment.quota import circuit_breaker
from cowrieprocessor.enrichment.quota.ledger_state import (
    LONGEST_PAUSE,
    LONGEST_REFUSAL,
    TURN_OF_DAY,
    LedgerState,
    QuotaState,
    Wait,
    ledger_states,
    next_day,
    next_month,
    quota_state_at,
)
from cowrieprocessor.enrichment.quota.rate_limit import MAX_BURST, MAX_PER_MINUTE
from cowrieprocessor.settings.secrets import fingerprint as fingerprint_of

__all__ = ["NO_KEY", "Granted", "Ledger", "LedgerState", "Wait", "ledger_of", "ledger_states"]

NO_KEY = "no-key"
"""What stands for the fingerprint of a source that needs no key."""

MAX_REASON_CHARS = 500
_LARGEST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Granted:
    """One request may be sent now; it is counted already."""

    at: dt.datetime


class Ledger:
    """What may be sent under one key, shared by every process that uses it.

    Args:
        engine: on the database that the processes share.
        name: the ledger's name; sources under one limit have one name.
        fingerprint: tells the key from others, and does not lead back to it.
        limits: what the settings, or the source's public terms, allow.
        own_limits: of these, what the user set: what the source says of the key can lower it, never raise it.
        clock: the time.
    """

    def __init__(
        self, engine: Engine, name: str, fingerprint: str, limits: Limits, own_limits: Limits, clock: Clock
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self._engine = engine
        self._limits = limits
        self._own_limits = own_limits
        self._clock = clock
        self._has_troubles = True
        self._is_trial = False

    def reserve(self) -> Granted | Wait:
        """Grant one request and count it, in one transaction; or say why not.

        What it grants is spent, whether the request is then sent or not.
        """
        with self._changing() as standing:
            now, row = standing.now, standing.rows[NOW]
            row.recent = standing.pace.settled(row.recent, now) if standing.pace else row.recent[-MAX_BURST:]
            self._has_troubles = _has_troubles(standing)
            wait = standing.wait()
            if wait is not None:
                return wait
            self._is_trial = standing.is_on_trial
            if self._is_trial:
                row.paused_until = now + dt.timedelta(seconds=circuit_breaker.pause_s(row.used))
            row.recent = sorted([*row.recent, now])[-MAX_BURST:]
            for window, allowed in ((standing.day, standing.per_day), (standing.month, standing.per_month)):
                window.used += 1
                window.allowed = allowed
            return Granted(now)

    def peek(self) -> Wait | None:
        """Return why nothing may be sent now, without counting anything; None if `reserve` is likely to grant."""
        with read_transaction(self._engine) as connection:
            return self._standing(connection).peek()

    def state(self, connection: Connection) -> LedgerState:
        """Return how the ledger stands, for people."""
        return self._standing(connection).state(self.name, self.fingerprint)

    def needs_reading(self, max_age_s: float) -> bool:
        """Return whether the source was not asked for so many seconds what the key may do."""
        with read_transaction(self._engine) as connection:
            standing = self._standing(connection)
        read_at = standing.rows[NOW].read_at
        return read_at is None or abs(standing.now - read_at) >= dt.timedelta(seconds=max_age_s)

    def learned(self, quota: KeyQuota) -> None:
        """Write down what the source says of the key. What it does not say, or says to be 0, is not stated."""
        with self._changing() as standing:
            _learn(standing, quota)
            _close_breaker(standing)
            self._is_trial = False

    def after_rate_limited(self, quota: KeyQuota | None, retry_at: dt.datetime | None) -> Wait:
        """Pause, because the source wants fewer requests, and return for how long and why.

        Args:
            quota: what it says of the key, if it was asked.
            retry_at: when it may be asked again, if it said so.
        """
        with self._changing() as standing:
            if quota is not None:
                _learn(standing, quota)
            row = standing.rows[PAUSED]
            if not standing.is_paused(PAUSED):  # else this answers a request that was sent before the pause
                row.used += 1
            wait = _after_rate_limited(standing, retry_at)
            _pause(standing, wait.until, wait.reason)
            _close_breaker(standing)
            self._has_troubles, self._is_trial = True, False
            return standing.wait() or wait

    def pause(self, until: dt.datetime, reason: str) -> None:
        """Let nothing be sent before a moment, at most 31 days ahead; a pause that lasts longer stays."""
        with self._changing() as standing:
            _pause(standing, until, reason)

    def refused(self, reason: str) -> None:
        """Send nothing more for a day: the source does not accept the key."""
        with self._changing() as standing:
            row = standing.rows[REFUSED]
            row.paused_until, row.reason = standing.now + LONGEST_REFUSAL, _bounded(reason)
            _close_breaker(standing)
            self._has_troubles, self._is_trial = True, False

    def retry_refused(self) -> None:
        """Let a key that was refused be tried again: called once when a process starts."""
        with read_transaction(self._engine) as connection:
            row = quota_rows(connection, self.name, self.fingerprint, (REFUSED,))[REFUSED]
        if row.paused_until is not None:
            with self._changing() as standing:
                standing.rows[REFUSED] = QuotaRow(REFUSED)

    def succeeded(self) -> None:
        """Note that the source answered as it should; this ends what was noted against it, but no pause it wanted."""
        if not self._has_troubles:
            return
        with self._changing() as standing:
            _close_breaker(standing)
            standing.rows[PAUSED].used = 0
            standing.rows[REFUSED] = QuotaRow(REFUSED)
            self._has_troubles = self._is_trial = False

    def failed(self, reason: str) -> None:
        """Note that no usable answer came; after five in a row nothing is sent for a while."""
        with self._changing() as standing:
            row = standing.rows[NOW]
            if standing.is_paused(NOW) and not self._is_trial:
                return  # it answers a request that was sent before the pause
            self._has_troubles, self._is_trial = True, False
            row.used += 1
            row.reason = _bounded(f"{row.used} failures in a row, the last one: {reason}")
            if circuit_breaker.is_open(row.used):
                row.paused_until = standing.now + dt.timedelta(seconds=circuit_breaker.pause_s(row.used))

    @contextmanager
    def _changing(self) -> Iterator[QuotaState]:
        """Yield how the ledger stands, and hold its lock; what is changed of it is written at the end."""
        with write_transaction(self._engine) as connection:
            lock_ledger(connection, self.name, self.fingerprint)
            standing = self._standing(connection)
            before = copy.deepcopy(standing.rows)
            yield standing
            changed = [row for window, row in standing.rows.items() if row != before[window]]
            save(connection, self.name, self.fingerprint, changed)

    def _standing(self, connection: Connection) -> QuotaState:
        return quota_state_at(
            connection, self.name, self.fingerprint, self._clock.now(), self._limits, self._own_limits
        )


def ledger_of(engine: Engine, provider: Provider, clock: Clock) -> Ledger:
    """Return the ledger of a source under its key."""
    fingerprint = NO_KEY if provider.key is None else fingerprint_of(provider.key)
    return Ledger(engine, provider.ledger, fingerprint, provider.limits, provider.own_limits, clock)


def _has_troubles(standing: QuotaState) -> bool:
    rows = standing.rows
    return bool(rows[NOW].used or rows[PAUSED].used or rows[REFUSED].paused_until)


def _close_breaker(standing: QuotaState) -> None:
    row = standing.rows[NOW]
    row.used, row.paused_until, row.reason = 0, None, None


def _learn(standing: QuotaState, quota: KeyQuota) -> None:
    rows, now = standing.rows, standing.now
    rows[NOW].read_at = now
    if hourly := _stated(quota.hourly_allowed):
        rows[NOW].allowed = min(max(1, hourly // 60), MAX_PER_MINUTE)
    for limit, allowed in ((rows[DAY], quota.daily_allowed), (rows[MONTH], quota.monthly_allowed)):
        if _stated(allowed):
            limit.allowed, limit.read_at = _stated(allowed), now
    for window, used in ((standing.day, quota.daily_used), (standing.month, quota.monthly_used)):
        window.used, window.read_at = max(window.used, _stated(used) or 0), now
    standing.day.allowed, standing.month.allowed = standing.per_day, standing.per_month


def _after_rate_limited(standing: QuotaState, retry_at: dt.datetime | None) -> Wait:
    now, times = standing.now, max(1, standing.rows[PAUSED].used)
    if retry_at is not None and retry_at > now:
        return Wait(min(retry_at, now + LONGEST_PAUSE), "the source asked for a pause until then", "paused")
    if standing.month_is_used_up:
        return Wait(next_month(now) + TURN_OF_DAY, "the source says that the month's requests are used up", "month")
    if standing.day_is_used_up:
        return Wait(next_day(now) + TURN_OF_DAY, "the source says that the day's requests are used up", "day")
    reason = "the source wants fewer requests" + (f", {times} times in a row" if times > 1 else "")
    return Wait(now + dt.timedelta(seconds=circuit_breaker.doubled(times)), reason, "paused")


def _pause(standing: QuotaState, until: dt.datetime, reason: str) -> None:
    row = standing.rows[PAUSED]
    until = min(until, standing.now + LONGEST_PAUSE + TURN_OF_DAY)
    if standing.is_paused(PAUSED) and row.paused_until is not None and row.paused_until >= until:
        return
    row.paused_until, row.reason = until, _bounded(reason)


def _stated(figure: int | None) -> int | None:
    """Return a figure that the source gave, within what a column holds; 0 and less is none."""
    return min(figure, _LARGEST) if figure is not None and figure > 0 else None


def _bounded(reason: str) -> str:
    """Return a reason as every database can keep it."""
    storable = reason[:MAX_REASON_CHARS].replace("\x00", "\N{REPLACEMENT CHARACTER}")
    return storable.encode("utf-8", "replace").decode("utf-8")
