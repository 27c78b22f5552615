"""One source at work: the next files are claimed, looked up in the cache, asked about within quota, and kept."""

from __future__ import annotations

import datetime as dt
import enum
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from cowrieprocessor.clock import Clock
from cowrieprocessor.db.enrichment.claims import Claimed
from cowrieprocessor.enrichment.http import HttpClient
from cowrieprocessor.enrichment.providers.base import (
    Failed,
    Found,
    Outcome,
    Provider,
    RateLimited,
    Refused,
    Reply,
    Request,
    Sample,
    Unknown,
)
from cowrieprocessor.enrichment.providers.http_status import retry_after
from cowrieprocessor.enrichment.providers.virustotal import Uploaded
from cowrieprocessor.enrichment.providers.virustotal_upload import ANALYSED_AFTER, UPLOAD_TRIES, Uploads
from cowrieprocessor.enrichment.quota.ledger import Ledger, Wait
from cowrieprocessor.enrichment.verdict_repository import LEASE_S, Counters, VerdictRepository, finding_in, unknown

READ_QUOTA_EVERY_S = 6 * 3600.0
"""How often a source is asked what its key may do: it may cost a request."""

CLAIMED_AT_ONCE = 20
"""How many files are claimed at once: enough that looking for them costs little, and no more than a minute's work."""

_HALF_A_LEASE = dt.timedelta(seconds=LEASE_S / 2)

LONGEST_ASKED_PAUSE = dt.timedelta(hours=6)
"""How long at most a source is left alone because a failure said so."""

SOUND_KINDS = frozenset({"not-yet"})
"""Kinds of failure that say nothing against the source."""


class Step(enum.Enum):
    """What came of letting a source work."""

    DONE_SOMETHING = "done something"
    NOTHING_TO_DO = "nothing to do"
    HAS_TO_WAIT = "has to wait"


@dataclass(slots=True)
class Bounds:
    """How many files a run may ask about; files that one source was asked about may be asked about at the others.

    Attributes:
        limit: so many files at most; None for no bound.
        asked: the files that requests were sent about, if there is a limit.
        only: these files and no others, if any are named.
    """

    limit: int | None = None
    asked: set[str] = field(default_factory=set)
    only: tuple[str, ...] | None = None

    def room(self) -> int | None:
        """Return how many more files may be asked about; None for no bound."""
        return None if self.limit is None else max(0, self.limit - len(self.asked))

    def note(self, hashes: Collection[str]) -> None:
        """Note that requests were sent about files; where there is no limit nobody has to remember which."""
        if self.limit is not None:
            self.asked |= set(hashes)

    def beyond(self, hashes: Sequence[str]) -> list[str]:
        """Return which of these files are beyond the limit, because other sources used it up meanwhile."""
        room = self.room()
        return [] if room is None else [one for one in hashes if one not in self.asked][room:]


class Lookup:
    """One source with its ledger.

    Args:
        provider: what to send, and what answers mean.
        ledger: grants each request before it is sent.
        client: sends.
        book: where claims and answers are kept.
        clock: the time.
        bounds: what the run may ask about; shared by its sources.
        uploads: what to upload when the source does not know it, if anything.
        say: told about what an operator has to know.
    """

    def __init__(
        self,
        provider: Provider,
        ledger: Ledger,
        client: HttpClient,
        book: VerdictRepository,
        clock: Clock,
        bounds: Bounds,
        *,
        uploads: Uploads | None = None,
        say: Callable[[str], None],
    ) -> None:
        self.provider = provider
        self.name = provider.name
        self.counters: Counters = {}
        self.waits: Wait | None = None
        self.refused: str | None = None
        self.is_resting = False
        self.files_asked = 0
        self._ledger = ledger
        self._client = client
        self._book = book
        self._clock = clock
        self._bounds = bounds
        self._uploads = uploads
        self._say = say
        self._claimed: list[Claimed] = []
        self._to_upload: deque[tuple[Claimed, Sample]] = deque()
        self._failed_uploads: dict[str, int] = {}
        self._claimed_at = clock.now()
        self._reads_quota = False

    @property
    def is_available(self) -> bool:
        """Whether it will answer soon: the sources behind it wait for its answer only then."""
        return self.waits is None or self.waits.kind == "minute"

    def start(self) -> None:
        """Begin: a key that was refused may be asked with once more, and what it may do is asked for if that is old."""
        self._ledger.retry_refused()
        self._reads_quota = self.provider.quota_request() is not None and self._ledger.needs_reading(READ_QUOTA_EVERY_S)

    def step(self, earlier: Sequence[str]) -> Step:
        """Do one thing: send one request, or take answers from the cache.

        Args:
            earlier: the available sources before this one, which have to be asked about a file first.
        """
        if self._claimed and self._clock.now() >= self._claimed_at + _HALF_A_LEASE:
            if self._clock.now() < self._claimed_at + 1.5 * _HALF_A_LEASE:
                self.release()
            self._claimed = []  # others may have them by now
        self.waits = self._ledger.peek()
        if self.waits is not None:
            if self.waits.kind != "minute":
                self.release()
            return Step.HAS_TO_WAIT
        if self._uploads is not None and self._to_upload:
            return self._upload(self._uploads)
        if not self._claimed:
            if self.is_resting:
                return Step.NOTHING_TO_DO
            self._claimed_at = self._clock.now()
            self._claimed = self._claim(earlier)
        if not self._claimed:
            self.is_resting = True
            return Step.NOTHING_TO_DO
        if self._take_from_cache():
            return Step.DONE_SOMETHING
        if self._reads_quota:
            return self._read_quota()
        self._give_back(self._bounds.beyond([one.sha256 for one in self._claimed]))
        return self._ask() if self._claimed else Step.NOTHING_TO_DO

    def release(self) -> None:
        """Give back the files that were claimed and not asked about."""
        self._give_back([one.sha256 for one in self._claimed])

    def _give_back(self, hashes: Sequence[str]) -> None:
        if hashes:
            self._book.release(self.name, hashes)
            self._claimed = [one for one in self._claimed if one.sha256 not in hashes]

    def _claim(self, earlier: Sequence[str]) -> list[Claimed]:
        a_minute = self.provider.limits.per_minute or CLAIMED_AT_ONCE
        wanted = max(self.provider.max_samples, min(CLAIMED_AT_ONCE, a_minute))
        room = self._bounds.room()
        only = self._bounds.only
        if room == 0 and only is None:
            only = tuple(sorted(self._bounds.asked))
        elif room is not None and only is None:
            wanted = min(wanted, room)
        claimed = self._book.claim(self.name, limit=wanted, earlier=earlier, only=only)
        askable = [one for one in claimed if self.provider.can_ask(sample_of(one))]
        for one in claimed:
            if one not in askable:
                self._book.pass_over(self.name, one)
        return askable

    def _take_from_cache(self) -> bool:
        """Store the answers that the cache has for claimed files; return whether there was one."""
        keys = {
            one.sha256: self.provider.cache_key(sample_of(one)) for one in self._claimed if one.reason != "asked-for"
        }
        cached = self._book.cached(self.name, sorted(set(keys.values())))
        if not cached:
            return False
        left = []
        for one in self._claimed:
            entry = cached.get(keys.get(one.sha256, ""))
            if entry is None:
                left.append(one)
                continue
            self._book.keep_cached(self.name, one, entry, finding_in(entry, self.provider.finding))
            self._count("cached")
        self._claimed = left
        return True

    def _read_quota(self) -> Step:
        request = self.provider.quota_request()
        if request is None:
            self._reads_quota = False
            return Step.DONE_SOMETHING
        reply = self._send(request)
        if reply is None:
            return Step.HAS_TO_WAIT
        self._reads_quota = False
        self._count("quota_requests")
        if isinstance(reply, Failed):
            self._ledger.failed(f"{reply.kind}: {reply.reason}")
            return Step.DONE_SOMETHING
        quota = self.provider.quota(reply)
        if quota is not None:
            self._ledger.learned(quota)
        elif reply.status == 401:
            self._refuse("401: the key is not accepted")
        elif reply.status == 429:
            self._ledger.after_rate_limited(None, retry_after(reply))
            self._reads_quota = True
        else:
            self._say(f"{self.name} does not say what the key may do; the limits of the settings hold")
        return Step.DONE_SOMETHING

    def _ask(self) -> Step:
        batch = list(self.provider.batch([sample_of(one) for one in self._claimed]))
        reply = self._send(self.provider.request(batch))
        if reply is None:
            return Step.HAS_TO_WAIT
        asked = {sample.sha256 for sample in batch}
        claims = {one.sha256: one for one in self._claimed if one.sha256 in asked}
        self._claimed = [one for one in self._claimed if one.sha256 not in asked]
        self.files_asked += len(asked)
        self._bounds.note(asked)
        outcomes: dict[str, Outcome] = (
            dict.fromkeys(asked, reply) if isinstance(reply, Failed) else self.provider.outcomes(batch, reply)
        )
        for sample in batch:
            missing = Failed("bad-body", "the answer says nothing about this file")
            self._keep(claims[sample.sha256], sample, outcomes.get(sample.sha256, missing))
        self._tell_ledger([outcomes[sha256] for sha256 in asked if sha256 in outcomes])
        return Step.DONE_SOMETHING

    def _send(self, request: Request) -> Reply | Failed | None:
        """Send one request if the ledger grants it; None if it does not."""
        granted = self._ledger.reserve()
        if isinstance(granted, Wait):
            self.waits = granted
            return None
        self._count("requests")
        return self._client.send(request)

    def _keep(self, one: Claimed, sample: Sample, outcome: Outcome) -> None:
        match outcome:
            case Found(finding):
                self._book.answer(self.name, one, self.provider.cache_key(sample), finding)
                self._count("found")
            case Unknown(response):
                self._book.answer(self.name, one, self.provider.cache_key(sample), unknown(response))
                self._count("unknown")
                if self._uploads is not None and self._uploads.has(sample):
                    self._to_upload.append((one, sample))
            case Failed(kind, reason, retry_at):
                self._book.fail(self.name, one, kind, reason, retry_at)
                self._count(f"failed: {kind}")
            case Refused(reason, "file"):
                self._book.refuse(self.name, one, reason)
                self._count("refused")
            case Refused() | RateLimited():
                self._book.release(self.name, [one.sha256])

    def _upload(self, uploads: Uploads) -> Step:
        """Upload the file that was found to be unknown first, as soon as the quota allows it."""
        one, sample = self._to_upload[0]
        outcome = uploads.upload(sample, self._send)
        if self.waits is not None:
            return Step.HAS_TO_WAIT
        if isinstance(outcome, RateLimited):
            self._tell_ledger([outcome])
            return Step.DONE_SOMETHING
        self._to_upload.popleft()
        if isinstance(outcome, Uploaded):
            self._count("uploaded")
            self._book.ask_again(self.name, one, self.provider.cache_key(sample), self._clock.now() + ANALYSED_AFTER)
        elif isinstance(outcome, Failed):
            self._tell_ledger([outcome])
            self._put_off(one, sample)
        return Step.DONE_SOMETHING

    def _put_off(self, one: Claimed, sample: Sample) -> None:
        """Try an upload that failed once more behind the others, but not for ever."""
        tries = self._failed_uploads.get(sample.sha256, 0) + 1
        if tries < UPLOAD_TRIES:
            self._failed_uploads[sample.sha256] = tries
            self._to_upload.append((one, sample))
        else:
            self._failed_uploads.pop(sample.sha256, None)

    def _tell_ledger(self, outcomes: Sequence[Outcome]) -> None:
        """Let the ledger know how the source is doing, by what it answered to one request."""
        for outcome in outcomes:
            match outcome:
                case RateLimited(reason, retry_at):
                    self._count("rate limited")
                    self._ledger.after_rate_limited(None, retry_at)
                    self._reads_quota = self.provider.quota_request() is not None
                    return
                case Refused(reason, "source"):
                    self._refuse(reason)
                    return
                case Failed(kind, reason, retry_at) if kind not in SOUND_KINDS:
                    self._ledger.failed(f"{kind}: {reason}")
                    if retry_at is not None:
                        longest = self._clock.now() + LONGEST_ASKED_PAUSE
                        self._ledger.pause(min(retry_at, longest), f"{kind}: {reason}")
                    return
        self._ledger.succeeded()
        self.refused = None

    def _refuse(self, reason: str) -> None:
        """Take the source out of use, because it does not accept the key."""
        self._ledger.refused(reason)
        self.refused = reason
        self._say(f"{self.name} is out of use: {reason}")
        self.release()

    def _count(self, what: str) -> None:
        self.counters[what] = self.counters.get(what, 0) + 1


def sample_of(one: Claimed) -> Sample:
    """Return a claimed file as providers take it."""
    return Sample(one.sha256, one.md5, one.sha1, one.size_bytes, one.download_url)
