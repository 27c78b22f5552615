"""Enriches files with the verdicts of one source: claim candidates, look them up within quota, store the outcomes.

    claim    the next files to ask about, so that no other process asks about them too
    look up  in the cache of answers first, then at the source, as soon as its quota allows the request
    store    verdicts, failures and refusals, through the repository

`FileEnrichment.step` does one of these at a time. What runs the steps of several sources in turn, shows progress and
stops on request is `cowrieprocessor.jobs.enrichment.run.enrich`.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from cowrieprocessor.clock import Clock
from cowrieprocessor.db.enrichment.claims import Claimed
from cowrieprocessor.enrichment.lookup import Lookup
from cowrieprocessor.enrichment.providers.base import Failed, Found, Outcome, RateLimited, Refused, Sample, Unknown
from cowrieprocessor.enrichment.providers.virustotal import Uploaded
from cowrieprocessor.enrichment.providers.virustotal_upload import ANALYSIS_TIME, UPLOAD_TRIES, Uploads
from cowrieprocessor.enrichment.quota import circuit_breaker
from cowrieprocessor.enrichment.quota.ledger import Wait
from cowrieprocessor.enrichment.verdict_repository import (
    LEASE_S,
    Counters,
    VerdictRepository,
    stored_verdict,
    unknown_verdict,
)

__all__ = ["CLAIMED_AT_ONCE", "Bounds", "FileEnrichment", "Step"]

CLAIMED_AT_ONCE = 20
"""How many files are claimed at once: enough to make the search cheap, and no more than a minute's work."""

UNREACHABLE = ("timeout", "connection")
"""Kinds of failure that say nothing of the file: the source was not reached."""

RETRY_EVERY = dt.timedelta(hours=1)
"""How often at most the end of an outage lets all failed files be due: some may fail whenever they are asked about."""

_HALF_A_LEASE = dt.timedelta(seconds=LEASE_S / 2)


class Step(enum.Enum):
    """The result of one step."""

    DONE_SOMETHING = "done something"
    NOTHING_TO_DO = "nothing to do"
    HAS_TO_WAIT = "has to wait"


@dataclass(slots=True)
class Bounds:
    """Which files a run may ask about; the limit counts a file once, however many sources are asked about it.

    Attributes:
        limit: the most files; None for no limit.
        asked: SHA-256 of the files that requests were sent about; kept only if there is a limit.
        only: SHA-256 of the only files to ask about; None for all.
    """

    limit: int | None = None
    asked: set[str] = field(default_factory=set)
    only: tuple[str, ...] | None = None

    def remaining(self) -> int | None:
        """Return how many more files may be asked about; None for no limit."""
        return None if self.limit is None else max(0, self.limit - len(self.asked))

    def note(self, hashes: Collection[str]) -> None:
        """Record that requests were sent about files."""
        if self.limit is not None:
            self.asked |= set(hashes)

    def beyond(self, hashes: Sequence[str]) -> list[str]:
        """Return those of `hashes` that exceed the limit because other sources have used it up since the claim."""
        remaining = self.remaining()
        return [] if remaining is None else [sha256 for sha256 in hashes if sha256 not in self.asked][remaining:]


class FileEnrichment:
    """Enriches files with the verdicts of one source, one step at a time.

    Any number of processes may do this on one database: a claimed file belongs to one of them until the outcome is
    stored, the file is released, or the claim expires after 15 minutes.

    Args:
        lookup: asks the source within its quota.
        repository: claims files, and stores what the source answers.
        clock: the current time.
        bounds: which files may be asked about; shared by the sources of a run. Default: all.
        uploads: uploads files that the source does not know; None to upload nothing.

    Attributes:
        is_idle: there was nothing to claim; `step` searches for candidates again once this is False.
        files_asked: how many files requests were sent about.
    """

    def __init__(
        self,
        lookup: Lookup,
        repository: VerdictRepository,
        clock: Clock,
        bounds: Bounds | None = None,
        *,
        uploads: Uploads | None = None,
    ) -> None:
        self.is_idle = False
        self.files_asked = 0
        self._lookup = lookup
        self._provider = lookup.provider
        self._repository = repository
        self._clock = clock
        self._bounds = bounds or Bounds()
        self._uploads = uploads
        self._claimed: list[Claimed] = []
        self._claimed_at = clock.now()
        self._to_upload: deque[tuple[Claimed, Sample]] = deque()
        self._failed_uploads: dict[str, int] = {}
        self._was_failing = False
        self._retried_at: dt.datetime | None = None

    @property
    def name(self) -> str:
        """The source's name."""
        return self._provider.name

    @property
    def counters(self) -> Counters:
        """How many requests were sent and what came of them: found, unknown, cached, refused and so on."""
        return self._lookup.counters

    @property
    def wait(self) -> Wait | None:
        """Why the source may not be asked now, and until when; None if it may."""
        return self._lookup.wait

    @property
    def rejected(self) -> str | None:
        """The reason why the source rejects its key; None while it accepts it."""
        return self._lookup.rejected

    @property
    def last_failure(self) -> str | None:
        """Why the last request without a usable answer failed; None if none did."""
        return self._lookup.last_failure

    @property
    def is_available(self) -> bool:
        """Whether the source will answer soon: only then do later sources wait for its answer."""
        return self._lookup.is_available

    def start(self) -> None:
        """Prepare a run: a source that did not serve gets one more try, and an old reading of the quota is renewed.

        Files whose requests failed while the source was out of reach are asked about again at once.
        """
        failures = self._lookup.start()
        if failures:
            kinds = None if circuit_breaker.is_open(failures) else UNREACHABLE
            self._retry(kinds)

    def step(self, earlier: Sequence[str] = ()) -> Step:
        """Do one thing: send one request and store its outcomes, or store answers that the cache has.

        Args:
            earlier: names of the available sources that have to be asked about a file before this one.

        Returns:
            DONE_SOMETHING; HAS_TO_WAIT if the quota allows no request now, `wait` says until when and why;
            NOTHING_TO_DO if no file is left to ask about.

        Raises:
            DatabaseError: the database cannot serve; what was committed is kept.
        """
        self._drop_expired_claims()
        may_send = self._lookup.may_send()
        self._retry_after_outage()
        if not self.is_available and self._bounds.remaining() != 0:
            self.release()
            return Step.HAS_TO_WAIT
        if self._uploads is not None and self._to_upload:
            return self._upload(self._uploads) if may_send else Step.HAS_TO_WAIT
        # Before the quota is waited for: there may be nothing left that needs a request.
        if not self._has_candidates(earlier):
            return Step.NOTHING_TO_DO
        if self._store_cached():
            return Step.DONE_SOMETHING
        self._release(self._bounds.beyond([file.sha256 for file in self._claimed]))
        if not self._claimed:
            return Step.NOTHING_TO_DO
        return self._send() if may_send else self._wait()

    def release(self) -> None:
        """Release the files that were claimed and not asked about."""
        self._release([file.sha256 for file in self._claimed])

    def _retry_after_outage(self) -> None:
        """Let files that failed be due once the source answers again, to this process or to another."""
        has_ended = self._was_failing and not self._lookup.is_failing
        self._was_failing = self._lookup.is_failing
        if has_ended and (self._retried_at is None or self._clock.now() - self._retried_at >= RETRY_EVERY):
            self._retry(None)

    def _retry(self, kinds: Sequence[str] | None) -> None:
        self._repository.retry_now(self.name, kinds)
        self._retried_at = self._clock.now()
        self.is_idle = False

    # --- candidates ---

    def _has_candidates(self, earlier: Sequence[str]) -> bool:
        """Return whether files are claimed, after claiming the next ones if none are."""
        if not self._claimed and not self.is_idle:
            self._claimed_at = self._clock.now()
            self._claimed = self._claim(earlier)
            self.is_idle = not self._claimed
        return bool(self._claimed)

    def _claim(self, earlier: Sequence[str]) -> list[Claimed]:
        """Claim the next files; defer those that the source cannot be asked about."""
        per_minute = self._provider.limits.per_minute or CLAIMED_AT_ONCE
        wanted = max(self._provider.max_samples, min(CLAIMED_AT_ONCE, per_minute))
        remaining, only = self._bounds.remaining(), self._bounds.only
        if remaining == 0 and only is None:
            only = tuple(sorted(self._bounds.asked))
        elif remaining is not None and only is None:
            wanted = min(wanted, remaining)
        claimed = self._repository.claim(self.name, limit=wanted, earlier=earlier, only=only)
        askable = []
        for file in claimed:
            if self._provider.can_ask(sample_of(file)):
                askable.append(file)
            else:
                self._repository.defer(self.name, file)
        return askable

    def _drop_expired_claims(self) -> None:
        """Give up claims at half their lease, and forget them unreleased where others may have claimed the files."""
        age = self._clock.now() - self._claimed_at
        if self._claimed and age >= _HALF_A_LEASE:
            if age < 1.5 * _HALF_A_LEASE:
                self.release()
            self._claimed = []

    def _release(self, hashes: Sequence[str]) -> None:
        if hashes:
            self._repository.release(self.name, hashes)
            self._claimed = [file for file in self._claimed if file.sha256 not in hashes]

    # --- look-up ---

    def _send(self) -> Step:
        """Read the quota of the key if that is due, else ask about the next files."""
        return self._read_quota() if self._lookup.quota_is_due else self._look_up()

    def _wait(self) -> Step:
        """Keep the claims over a wait that ends within the minute; release them before a longer one."""
        if not self.is_available:
            self.release()
        return Step.HAS_TO_WAIT

    def _look_up(self) -> Step:
        """Ask about the next claimed files in one request, and store the outcomes."""
        samples = list(self._provider.batch([sample_of(file) for file in self._claimed]))
        reply = self._lookup.send(self._provider.request(samples))
        if reply is None:
            return Step.HAS_TO_WAIT
        # Before the reply is read: a file whose reply no provider can read was asked about all the same, and keeps its
        # claim, so that the next run asks about others.
        files = self._take(samples)
        outcomes = self._lookup.outcomes(samples, reply)
        missing = Failed("bad-body", "the answer says nothing about this file")
        for sample in samples:
            self._store(files[sample.sha256], sample, outcomes.get(sample.sha256, missing))
        self._report([outcomes[sample.sha256] for sample in samples if sample.sha256 in outcomes])
        return Step.DONE_SOMETHING

    def _take(self, samples: Sequence[Sample]) -> dict[str, Claimed]:
        """Return the claims of files that a request was sent about, by SHA-256; they wait no longer."""
        asked = {sample.sha256 for sample in samples}
        files = {file.sha256: file for file in self._claimed if file.sha256 in asked}
        self._claimed = [file for file in self._claimed if file.sha256 not in asked]
        self.files_asked += len(asked)
        self._bounds.note(asked)
        return files

    def _read_quota(self) -> Step:
        rejections = self._lookup.rejections
        if not self._lookup.read_quota():
            return Step.HAS_TO_WAIT
        self._release_if_rejected_since(rejections)
        return Step.DONE_SOMETHING

    def _report(self, outcomes: Sequence[Outcome]) -> None:
        rejections = self._lookup.rejections
        self._lookup.report(outcomes)
        self._release_if_rejected_since(rejections)

    def _release_if_rejected_since(self, rejections: int) -> None:
        """Release what is left if the source has rejected the key just now: nothing more can be asked."""
        if self._lookup.rejections > rejections:
            self.release()

    # --- storing ---

    def _store_cached(self) -> bool:
        """Store the answers that the cache has for claimed files; return whether it has any."""
        keys = {
            file.sha256: self._provider.cache_key(sample_of(file))
            for file in self._claimed
            if file.reason != "asked-for"
        }
        cached = self._repository.cached(self.name, sorted(set(keys.values())))
        if not cached:
            return False
        missing = []
        for file in self._claimed:
            entry = cached.get(keys.get(file.sha256, ""))
            if entry is None:
                missing.append(file)
                continue
            self._repository.store_cached(
                self.name, file, entry, stored_verdict(entry.response, self._provider.verdict)
            )
            self._lookup.count("cached")
        self._claimed = missing
        return True

    def _store(self, file: Claimed, sample: Sample, outcome: Outcome) -> None:
        """Store one outcome; a file that the source did not answer about for want of quota or key is released."""
        match outcome:
            case Found(verdict):
                self._repository.store_answer(self.name, file, self._provider.cache_key(sample), verdict)
                self._lookup.count("found")
            case Unknown(response):
                verdict = unknown_verdict(response)
                self._repository.store_answer(self.name, file, self._provider.cache_key(sample), verdict)
                self._lookup.count("unknown")
                if self._uploads is not None and self._uploads.has(sample):
                    self._to_upload.append((file, sample))
            case Failed(kind, reason, retry_at):
                self._repository.store_failure(self.name, file, kind, reason, retry_at)
                self._lookup.count(f"failed: {kind}")
            case Refused(reason, "file"):
                self._repository.store_refusal(self.name, file, reason)
                self._lookup.count("refused")
            case RateLimited(reason):
                self._repository.store_rate_limit(self.name, file, reason)
            case Refused():
                self._repository.release(self.name, [file.sha256])

    # --- uploads ---

    def _upload(self, uploads: Uploads) -> Step:
        """Upload the file that has been waiting longest."""
        file, sample = self._to_upload[0]
        outcome = uploads.upload(sample, self._lookup.send)
        if self.wait is not None:
            return Step.HAS_TO_WAIT
        if isinstance(outcome, RateLimited):
            self._report([outcome])
            return Step.DONE_SOMETHING
        self._to_upload.popleft()
        if isinstance(outcome, Uploaded):
            self._lookup.count("uploaded")
            analysed_at = self._clock.now() + ANALYSIS_TIME
            self._repository.expire_at(self.name, file, self._provider.cache_key(sample), analysed_at)
        elif isinstance(outcome, Failed):
            self._report([outcome])
            self._retry_upload(file, sample)
        return Step.DONE_SOMETHING

    def _retry_upload(self, file: Claimed, sample: Sample) -> None:
        """Queue a failed upload again, after the others, up to UPLOAD_TRIES times."""
        tries = self._failed_uploads.get(sample.sha256, 0) + 1
        if tries < UPLOAD_TRIES:
            self._failed_uploads[sample.sha256] = tries
            self._to_upload.append((file, sample))
        else:
            self._failed_uploads.pop(sample.sha256, None)


def sample_of(file: Claimed) -> Sample:
    """Return a claimed file in the form that providers take."""
    return Sample(file.sha256, file.md5, file.sha1, file.size_bytes, file.download_url)
