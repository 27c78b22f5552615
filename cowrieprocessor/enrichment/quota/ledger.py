"""The ledger of a key grants every request and counts it in the database before it is sent.

Processes that share a key share its ledger through `api_quota`, and a restarted process finds it unchanged. The ledger
never counts less than was sent, so no limit is exceeded, whichever process is killed when.
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
    KEY_REJECTED_PAUSE,
    MAX_PAUSE,
    MIDNIGHT_MARGIN,
    LedgerState,
    OverruledLimit,
    QuotaState,
    Wait,
    ledger_states,
    next_day,
    next_month,
    quota_state_at,
)
from cowrieprocessor.enrichment.quota.rate_limit import MAX_BURST, MAX_PER_MINUTE
from cowrieprocessor.settings.secrets import fingerprint as fingerprint_of
from cowrieprocessor.wording import plural

__all__ = ["NO_KEY", "Granted", "Ledger", "LedgerState", "Wait", "ledger_of", "ledger_states"]

NO_KEY = "no-key"
"""The fingerprint of a source that needs no key."""

MAX_REASON_CHARS = 500
_MAX_INTEGER = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Granted:
    """One request may be sent now; it is already counted."""

    at: dt.datetime


class Ledger:
    """What may be sent under one key, shared by every process that uses it.

    Args:
        engine: the database that the processes share.
        name: the ledger's name; sources that share a limit share it.
        fingerprint: identifies the key without disclosing it.
        limits: what the settings, or the source's public terms, allow.
        own_limits: those of them that the user set; what the source reports of the key can lower them, never raise.
        clock: the current time.

    Attributes:
        failures: how many requests had failed in a row at the last `peek`.
    """

    def __init__(
        self, engine: Engine, name: str, fingerprint: str, limits: Limits, own_limits: Limits, clock: Clock
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.failures = 0
        self._engine = engine
        self._limits = limits
        self._own_limits = own_limits
        self._clock = clock
        self._has_failures = True
        self._is_probing = False

    def reserve(self) -> Granted | Wait:
        """Grant one request and count it in one transaction, or return why none may be sent.

        A granted request is spent, whether or not it is then sent.
        """
        with self._transaction() as state:
            now, row = state.now, state.rows[NOW]
            row.recent = state.rate_limit.normalized(row.recent, now) if state.rate_limit else row.recent[-MAX_BURST:]
            self._has_failures = _has_failures(state)
            wait = state.wait()
            if wait is not None:
                return wait
            self._is_probing = state.is_half_open
            if self._is_probing:
                row.paused_until = now + dt.timedelta(seconds=circuit_breaker.pause_s(row.used))
            row.recent = sorted([*row.recent, now])[-MAX_BURST:]
            for window, allowed in ((state.day, state.per_day), (state.month, state.per_month)):
                window.used += 1
                window.allowed = allowed
            return Granted(now)

    def peek(self) -> Wait | None:
        """Return why nothing may be sent now, without counting anything; None if `reserve` is likely to grant."""
        with read_transaction(self._engine) as connection:
            state = self._quota_state(connection)
        self.failures = state.rows[NOW].used
        return state.peek()

    def state(self, connection: Connection) -> LedgerState:
        """Return the state of the ledger for people."""
        return self._quota_state(connection).state(self.fingerprint)

    def quota_is_stale(self, max_age_s: float) -> bool:
        """Return whether the source was not asked for the quota of the key within the last `max_age_s` seconds."""
        with read_transaction(self._engine) as connection:
            state = self._quota_state(connection)
        read_at = state.rows[NOW].read_at
        return read_at is None or abs(state.now - read_at) >= dt.timedelta(seconds=max_age_s)

    def record_key_quota(self, quota: KeyQuota) -> None:
        """Record the quota that the source reports; a limit that is missing or 0 counts as not stated."""
        with self._transaction() as state:
            _record_key_quota(state, quota)
            _close_breaker(state)
            self._is_probing = False

    def record_rate_limited(self, quota: KeyQuota | None, retry_at: dt.datetime | None) -> Wait:
        """Pause because the source wants fewer requests; return until when and why.

        Args:
            quota: what it reports of the key, if it was asked.
            retry_at: when it may be asked again, if it said so.
        """
        with self._transaction() as state:
            if quota is not None:
                _record_key_quota(state, quota)
            row = state.rows[PAUSED]
            if not state.is_paused(PAUSED):  # else this answers a request that was sent before the pause
                row.used += 1
            wait = _rate_limit_pause(state, retry_at)
            _pause(state, wait.until, wait.reason)
            _close_breaker(state)
            self._has_failures, self._is_probing = True, False
            return state.wait() or wait

    def pause(self, until: dt.datetime, reason: str) -> None:
        """Send nothing before `until`, at most 31 days ahead; a pause that lasts longer stays."""
        with self._transaction() as state:
            _pause(state, until, reason)

    def record_rejected_key(self, reason: str) -> None:
        """Send nothing for a day: the source does not accept the key."""
        with self._transaction() as state:
            row = state.rows[REFUSED]
            row.paused_until, row.reason = state.now + KEY_REJECTED_PAUSE, _bounded(reason)
            _close_breaker(state)
            self._has_failures, self._is_probing = True, False

    def allow_one_try(self) -> int:
        """Allow one try with a rejected key, or at a source that kept failing; called once when a process starts.

        A pause that the source asked for stays.

        Returns:
            How many requests have failed in a row.
        """
        with read_transaction(self._engine) as connection:
            rows = quota_rows(connection, self.name, self.fingerprint, (NOW, REFUSED))
        if any(row.paused_until is not None for row in rows.values()):
            with self._transaction() as state:
                state.rows[REFUSED] = QuotaRow(REFUSED)
                state.rows[NOW].paused_until = None
        return rows[NOW].used

    def has_one_request_left(self) -> bool:
        """Return whether the limit of the day or of the month allows exactly one more request."""
        with read_transaction(self._engine) as connection:
            return self._quota_state(connection).requests_left == 1

    def overruled(self) -> tuple[OverruledLimit, ...]:
        """Return the limits that the user set higher than the key's own quota."""
        with read_transaction(self._engine) as connection:
            return self._quota_state(connection).overruled

    def record_success(self) -> None:
        """Record that the source answered as it should: clears recorded failures, but no pause that it asked for."""
        if not self._has_failures:
            return
        with self._transaction() as state:
            _close_breaker(state)
            state.rows[PAUSED].used = 0
            state.rows[REFUSED] = QuotaRow(REFUSED)
            self._has_failures = self._is_probing = False

    def record_failure(self, reason: str) -> None:
        """Record that no usable answer came; after five in a row nothing is sent for a while."""
        with self._transaction() as state:
            row = state.rows[NOW]
            if state.is_paused(NOW) and not self._is_probing:
                return  # it answers a request that was sent before the pause
            self._has_failures, self._is_probing = True, False
            row.used += 1
            row.reason = _bounded(f"{plural(row.used, 'failure')} in a row, the last one: {reason}")
            if circuit_breaker.is_open(row.used):
                row.paused_until = state.now + dt.timedelta(seconds=circuit_breaker.pause_s(row.used))

    @contextmanager
    def _transaction(self) -> Iterator[QuotaState]:
        """Lock the ledger and yield its state; rows that changed are saved at the end."""
        with write_transaction(self._engine) as connection:
            lock_ledger(connection, self.name, self.fingerprint)
            state = self._quota_state(connection)
            before = copy.deepcopy(state.rows)
            yield state
            changed = [row for window, row in state.rows.items() if row != before[window]]
            save(connection, self.name, self.fingerprint, changed)

    def _quota_state(self, connection: Connection) -> QuotaState:
        return quota_state_at(
            connection, self.name, self.fingerprint, self._clock.now(), self._limits, self._own_limits
        )


def ledger_of(engine: Engine, provider: Provider, clock: Clock) -> Ledger:
    """Return the ledger of a provider and its key."""
    fingerprint = NO_KEY if provider.key is None else fingerprint_of(provider.key)
    return Ledger(engine, provider.ledger, fingerprint, provider.limits, provider.own_limits, clock)


def _has_failures(state: QuotaState) -> bool:
    rows = state.rows
    return bool(rows[NOW].used or rows[PAUSED].used or rows[REFUSED].paused_until)


def _close_breaker(state: QuotaState) -> None:
    row = state.rows[NOW]
    row.used, row.paused_until, row.reason = 0, None, None


def _record_key_quota(state: QuotaState, quota: KeyQuota) -> None:
    rows, now = state.rows, state.now
    rows[NOW].read_at = now
    if hourly := _stated(quota.hourly_allowed):
        rows[NOW].allowed = min(max(1, hourly // 60), MAX_PER_MINUTE)
    for limit, allowed in ((rows[DAY], quota.daily_allowed), (rows[MONTH], quota.monthly_allowed)):
        if _stated(allowed):
            limit.allowed, limit.read_at = _stated(allowed), now
    for window, used in ((state.day, quota.daily_used), (state.month, quota.monthly_used)):
        window.used, window.read_at = max(window.used, _stated(used) or 0), now
    state.day.allowed, state.month.allowed = state.per_day, state.per_month


def _rate_limit_pause(state: QuotaState, retry_at: dt.datetime | None) -> Wait:
    """Return the pause after a 429: until `retry_at`, else until the exhausted window ends, else a backoff.

    From the second 429 in a row on the backoff is the least: a source that keeps asking for a second is not asked every
    second.
    """
    now, times = state.now, max(1, state.rows[PAUSED].used)
    backoff_until = now + dt.timedelta(seconds=circuit_breaker.backoff_s(times))
    if retry_at is not None and retry_at > now and (times == 1 or retry_at >= backoff_until):
        return Wait(min(retry_at, now + MAX_PAUSE), "the source asked for a pause until then", "paused")
    if state.month_is_used_up:
        return Wait(next_month(now) + MIDNIGHT_MARGIN, "the source says that the month's requests are used up", "month")
    if state.day_is_used_up:
        return Wait(next_day(now) + MIDNIGHT_MARGIN, "the source says that the day's requests are used up", "day")
    reason = "the source wants fewer requests" + (f", {times} times in a row" if times > 1 else "")
    return Wait(backoff_until, reason, "paused")


def _pause(state: QuotaState, until: dt.datetime, reason: str) -> None:
    row = state.rows[PAUSED]
    until = min(until, state.now + MAX_PAUSE + MIDNIGHT_MARGIN)
    if state.is_paused(PAUSED) and row.paused_until is not None and row.paused_until >= until:
        return
    row.paused_until, row.reason = until, _bounded(reason)


def _stated(figure: int | None) -> int | None:
    """Return a figure that the source reported, cut to what a column stores; None if it is 0 or less."""
    return min(figure, _MAX_INTEGER) if figure is not None and figure > 0 else None


def _bounded(reason: str) -> str:
    """Return a reason that every database can store."""
    storable = reason[:MAX_REASON_CHARS].replace("\x00", "\N{REPLACEMENT CHARACTER}")
    return storable.encode("utf-8", "replace").decode("utf-8")
