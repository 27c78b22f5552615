"""Asks one source about files: the ledger grants each request before it is sent and records how the source answered."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence

from cowrieprocessor.clock import Clock
from cowrieprocessor.enrichment.http import HttpClient
from cowrieprocessor.enrichment.providers.base import (
    Failed,
    KeyQuota,
    Outcome,
    Provider,
    RateLimited,
    Refused,
    Reply,
    Request,
    Sample,
)
from cowrieprocessor.enrichment.providers.http_status import describe, retry_after
from cowrieprocessor.enrichment.providers.json_values import parsed
from cowrieprocessor.enrichment.quota import circuit_breaker
from cowrieprocessor.enrichment.quota.ledger import Ledger, Wait
from cowrieprocessor.enrichment.verdict_repository import Counters

READ_QUOTA_EVERY_S = 6 * 3600.0
"""How often a source is asked for the quota of its key: the question may itself cost a request."""

MAX_FAILURE_PAUSE = dt.timedelta(hours=6)
"""The longest pause that the Retry-After of a failure can cause."""

HEALTHY_FAILURES = frozenset({"not-yet"})
"""Kinds of failure that do not count against the source."""


class Lookup:
    """Sends requests to one source within its quota.

    Args:
        provider: builds requests and interprets replies.
        ledger: grants each request before it is sent.
        client: sends requests.
        clock: the current time.
        notify: called with one line for the operator.

    Attributes:
        wait: why a request is not granted now, as far as known; None if one may be.
        rejected: the reason why the source rejects its key; None while it accepts it.
        rejections: how often the source has rejected the key.
        last_failure: why the last request without a usable answer failed; None if none did.
        counters: requests and what came of them, by kind.
    """

    def __init__(
        self, provider: Provider, ledger: Ledger, client: HttpClient, clock: Clock, *, notify: Callable[[str], None]
    ) -> None:
        self.provider = provider
        self.wait: Wait | None = None
        self.rejected: str | None = None
        self.rejections = 0
        self.last_failure: str | None = None
        self.counters: Counters = {}
        self._ledger = ledger
        self._client = client
        self._clock = clock
        self._notify = notify
        self._reads_quota = False

    @property
    def is_available(self) -> bool:
        """Whether the source will answer soon: it may be asked now, or within the minute."""
        return self.wait is None or self.wait.kind == "minute"

    @property
    def quota_is_due(self) -> bool:
        """Whether `read_quota` is to be called before the next question; never with the last request of a day."""
        return self._reads_quota and not self._ledger.has_one_request_left()

    def start(self) -> int:
        """Allow one more try at a source that did not serve, and schedule reading the quota if the last one is old.

        Returns:
            How many requests to the source have failed in a row.
        """
        failures = self._ledger.allow_one_try()
        tells_quota = self.provider.quota_request() is not None
        self._reads_quota = tells_quota and self._ledger.quota_is_stale(READ_QUOTA_EVERY_S)
        if not self._reads_quota:
            self._notify_overruled()
        return failures

    @property
    def is_failing(self) -> bool:
        """Whether the circuit breaker was open, paused or probing, at the last `may_send`."""
        return circuit_breaker.is_open(self._ledger.failures)

    def may_send(self) -> bool:
        """Return whether a request is likely to be granted now; if not, `wait` says until when and why."""
        self.wait = self._ledger.peek()
        return self.wait is None

    def send(self, request: Request) -> Reply | Failed | None:
        """Send one request if the ledger grants it; otherwise set `wait` and return None."""
        granted = self._ledger.reserve()
        if isinstance(granted, Wait):
            self.wait = granted
            return None
        self.count("requests")
        return self._client.send(request)

    def outcomes(self, samples: Sequence[Sample], reply: Reply | Failed) -> dict[str, Outcome]:
        """Return what the reply to one request means, by SHA-256; not necessarily for each file.

        Args:
            samples: the files that were asked about together.
            reply: what `send` returned for the request.
        """
        if isinstance(reply, Failed):
            return {sample.sha256: reply for sample in samples}
        return self.provider.outcomes(samples, reply)

    def read_quota(self) -> bool:
        """Ask the source for the quota of its key; return whether the request was granted."""
        request = self.provider.quota_request()
        if request is None:
            self._reads_quota = False
            return True
        reply = self.send(request)
        if reply is None:
            return False
        self._reads_quota = False
        self.count("quota_requests")
        if isinstance(reply, Failed):
            self.count(f"failed: {reply.kind}")
            self._record_failure(f"{reply.kind}: {reply.reason}", None)
        else:
            self._record_quota(reply, self.provider.quota(reply))
        return True

    def report(self, outcomes: Sequence[Outcome]) -> None:
        """Report to the ledger how the source answered one request: the first outcome against it counts."""
        for outcome in outcomes:
            match outcome:
                case RateLimited(_, retry_at):
                    self.count("rate limited")
                    self._ledger.record_rate_limited(None, retry_at)
                    self._reads_quota = self.provider.quota_request() is not None
                    return
                case Refused(reason, "source"):
                    self._reject_key(reason)
                    return
                case Failed(kind, reason, retry_at) if kind not in HEALTHY_FAILURES:
                    self._record_failure(f"{kind}: {reason}", retry_at)
                    return
        self._ledger.record_success()
        self.rejected = None

    def count(self, event: str) -> None:
        """Add one to a counter."""
        self.counters[event] = self.counters.get(event, 0) + 1

    def _record_quota(self, reply: Reply, quota: KeyQuota | None) -> None:
        if quota is not None:
            self._ledger.record_key_quota(quota)
            self._notify_overruled()
        elif reply.status == 401:
            self._reject_key("401: the key is not accepted")
        elif reply.status == 429:
            self._ledger.record_rate_limited(None, retry_after(reply))
            self._reads_quota = True
        elif reply.status >= 500 or not isinstance(parsed(reply.body), dict):
            kind = "server-error" if reply.status >= 500 else "bad-body"
            self.count(f"failed: {kind}")
            reason = describe(reply, self.provider.name, None, key=self.provider.key)
            self._record_failure(f"{kind}: {reason}", retry_after(reply))
        else:
            self._ledger.record_success()
            self._notify(f"{self.provider.name} does not say what the key may do; the limits of the settings hold")

    def _notify_overruled(self) -> None:
        """Notify the operator of limits that are set higher than the key's own quota, which holds."""
        for limit in self._ledger.overruled():
            self._notify(f"{self.provider.name}: {limit}")

    def _record_failure(self, reason: str, retry_at: dt.datetime | None) -> None:
        self.last_failure = reason
        self._ledger.record_failure(reason)
        if retry_at is not None:
            self._ledger.pause(min(retry_at, self._clock.now() + MAX_FAILURE_PAUSE), reason)

    def _reject_key(self, reason: str) -> None:
        """Take the source out of use because it does not accept the key."""
        self._ledger.record_rejected_key(reason)
        self.rejected = reason
        self.rejections += 1
        self._notify(f"{self.provider.name} is out of use: {reason}")
