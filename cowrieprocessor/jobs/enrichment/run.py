"""Enrichment: what other people know about every captured file, within quota, kept and spread to all its rows.

Any number of processes may run it at once. What it writes is whole in each transaction: killed anywhere, it goes on
where it was, and no request is sent that is not in the ledger.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine

from cowrieprocessor.clock import Clock, SystemClock
from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.enrichment.candidate_cache import end_search_pauses
from cowrieprocessor.db.enrichment.claims import Order, ask_first, note_skipped
from cowrieprocessor.db.enrichment.staged_claims import staged_ask_first
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy
from cowrieprocessor.db.jobs import (
    DONE,
    FAILED,
    PAUSED,
    RUNNING,
    STOPPED,
    WAITING,
    add_counters,
    save_job,
    shared_job,
)
from cowrieprocessor.db.migrations import require_current
from cowrieprocessor.enrichment.expiry import Ttl
from cowrieprocessor.enrichment.http import HttpClient
from cowrieprocessor.enrichment.lookup import Bounds, Lookup
from cowrieprocessor.enrichment.providers.base import Limits, Provider
from cowrieprocessor.enrichment.providers.registry import SOURCES, configured
from cowrieprocessor.enrichment.providers.v3_cache import ImportedCache
from cowrieprocessor.enrichment.providers.virustotal import VirusTotal
from cowrieprocessor.enrichment.providers.virustotal_upload import Uploads
from cowrieprocessor.enrichment.quota.ledger import ledger_of
from cowrieprocessor.enrichment.scheduler import SHORT_WAIT_S, Pause, Scheduler
from cowrieprocessor.enrichment.verdict_repository import (
    Counters,
    StagedVerdictRepository,
    TableVerdictRepository,
    VerdictRepository,
)
from cowrieprocessor.errors import ConfigurationError, DatabaseError
from cowrieprocessor.jobs.enrichment.answer_writer import AnswerWriter
from cowrieprocessor.jobs.enrichment.cache_import import import_cache
from cowrieprocessor.jobs.enrichment.cache_replay import replay_cache, take_cowries_own
from cowrieprocessor.jobs.enrichment.propagate import Propagation
from cowrieprocessor.jobs.enrichment.reevaluate import Reevaluation
from cowrieprocessor.jobs.runtime.throttle import Throttle
from cowrieprocessor.settings import Settings

JOB = "enrich"
REPLAY_EVERY_S = 3600.0
"""How often `--watch` looks into the cache and Cowrie's events for what can be had without a request."""

LONGEST_WAIT_S = 300.0
"""How long is waited at a time: a machine that slept, or a clock that was set, is noticed so soon."""

SAY_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class EnrichProgress:
    """How far a run is.

    Attributes:
        state: running, waiting or paused.
        files: files that requests were sent about by this run.
        limit: how many it may be.
        counters: what came of them, by source and kind.
        until: while it waits: until when.
        reason: why it waits.
    """

    state: str
    files: int
    limit: int | None
    counters: dict[str, Counters]
    until: dt.datetime | None = None
    reason: str | None = None


@dataclass(slots=True)
class EnrichResult:
    """What a run did.

    Attributes:
        files: files that requests were sent about; without a limit those of the source that was asked most.
        counters: by source, what came of it: requests, found, unknown, cached, failed, …
        replayed: answers taken from the cache without a request, and from Cowrie's own events.
        rows_updated: rows of `files` that got a new verdict.
        staged: whether only the cache was written.
        stopped: it was asked to stop before its end.
        refused: by source, why it does not accept its key.
        paused_until: when the first source that could not go on may be asked again.
        reasons: by source, why it could not go on.
    """

    files: int = 0
    counters: dict[str, Counters] = field(default_factory=dict)
    replayed: Counters = field(default_factory=dict)
    rows_updated: int = 0
    staged: bool = False
    stopped: bool = False
    refused: dict[str, str] = field(default_factory=dict)
    paused_until: dt.datetime | None = None
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EnrichOptions:
    """What a run is to do.

    Attributes:
        limit: files to send requests about, at most.
        providers: the names of the sources to use; None for all that are configured.
        watch: go on for ever: wait for quota, retries and new files.
        order: which files come first among those never asked about: `turn` (most sessions first) or `oldest`.
        only: ask about these files now, whatever is known of them.
    """

    limit: int | None = None
    providers: tuple[str, ...] | None = None
    watch: bool = False
    order: Order = "turn"
    only: tuple[str, ...] | None = None


def enrich(
    engine: Engine,
    settings: Settings,
    options: EnrichOptions | None = None,
    *,
    clock: Clock | None = None,
    stop: threading.Event | None = None,
    say: Callable[[str], None] = lambda _text: None,
    on_progress: Callable[[EnrichProgress], None] = lambda _progress: None,
) -> EnrichResult:
    """Ask the sources about files until there is nothing more to ask, or nothing more may be asked.

    Args:
        engine: the database.
        settings: sources, keys, limits, how long answers hold.
        options: how much, of whom, in which order.
        clock: the time.
        stop: once set, the request in flight is finished and kept, and the run ends.
        say: told about what an operator has to know, in one line.
        on_progress: told about each few seconds' work and each wait.

    Raises:
        ConfigurationError: a source is not known, or has no key.
        DatabaseError: the database cannot serve; what was committed is kept.
    """
    require_current(engine)
    run = _Run(engine, settings, options or EnrichOptions(), clock or SystemClock(), stop or threading.Event())
    run.say, run.on_progress = say, on_progress
    return run.run()


def import_v3_cache(
    engine: Engine,
    folder: Path,
    settings: Settings,
    *,
    clock: Clock | None = None,
    say: Callable[[str], None] = lambda _text: None,
    on_progress: Callable[[ImportedCache], None] = lambda _result: None,
) -> ImportedCache:
    """Take in the cache folder of v3, and spread what it says to the rows of `files`.

    Args:
        engine: the database.
        folder: the cache.
        settings: how long answers hold, and what makes a file malicious.
        clock: the time.
        say: told why it waits.
        on_progress: told after each hundred answers.

    Raises:
        InputNotFound, InputNotReadable: there is no such folder, or it cannot be read.
        DatabaseError: the database cannot serve; what was committed is kept.
    """
    require_current(engine)
    reader = VirusTotal(settings.virustotal_url, None, Limits(), malicious_at=settings.virustotal_malicious_at)
    staged, clock = not settings.use_new_enrichment, clock or SystemClock()
    writer = AnswerWriter(policy_of(settings), ttl_of(settings), clock, staged=staged)
    pace = Throttle(engine)
    result = import_cache(folder, reader, writer, pace, say=say, on_progress=on_progress)
    if not staged:
        Propagation(engine, clock, pace).all(threading.Event())
    return result


def policy_of(settings: Settings) -> Policy:
    """Return the sources in use and what settles a file, as the settings say."""
    return Policy(tuple(one.name for one in configured(settings)), frozenset(settings.settled_by))


def ttl_of(settings: Settings) -> Ttl:
    """Return how long answers hold, as the settings say."""
    return Ttl(settings.ttl_malicious_s, settings.ttl_clean_s, settings.ttl_unknown_s, settings.ttl_unknown_max_s)


class _Run:
    """One run."""

    def __init__(
        self, engine: Engine, settings: Settings, options: EnrichOptions, clock: Clock, stop: threading.Event
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._options = options
        self._clock = clock
        self._stop = stop
        self.say: Callable[[str], None] = lambda _text: None
        self.on_progress: Callable[[EnrichProgress], None] = lambda _progress: None
        self._staged = not settings.use_new_enrichment
        self._policy = policy_of(settings)
        self._providers = self._chosen(configured(settings))
        self._ttl = ttl_of(settings)
        self._bounds = Bounds(options.limit, only=options.only)
        self._pace = Throttle(engine)
        self._spreading = Propagation(engine, clock, self._pace)
        self._rejudging = Reevaluation(engine, self._policy, clock, self._pace)
        self._saved: Counters = {}
        self._said_at = time.monotonic()
        self._replayed_at: dt.datetime | None = None
        self._sources: list[Lookup] = []
        self.result = EnrichResult(staged=self._staged)

    def run(self) -> EnrichResult:
        with HttpClient(self._settings.request_timeout_s, self._clock) as client:
            self._sources = self._make_sources(client)
            scheduler = Scheduler(self._sources)
            word = FAILED, "it ended in an unexpected way; the same command goes on from here"
            has_ended = False
            try:
                self._save(RUNNING, None)
                self._begin()
                pause = self._work(scheduler)
                if not self._staged:
                    self._spreading.all(self._stop)
                self._end(scheduler, pause)
                has_ended = True
            except DatabaseError as error:
                word = FAILED, str(error)
                raise
            except KeyboardInterrupt:
                word = STOPPED, "interrupted; the same command goes on from here"
                raise
            finally:
                if not has_ended:
                    self._leave_word(scheduler, *word)
        return self.result

    def _chosen(self, providers: Sequence[Provider]) -> list[Provider]:
        names = self._options.providers
        if names is None:
            return list(providers)
        known = {one.name: one for one in providers}
        for name in names:
            if name not in known:
                raise ConfigurationError(
                    f"{name}: not a source in use; in use are {', '.join(known) or 'none'}: give its key "
                    "(see docs/enrichment.md) or correct the name"
                )
        return [one for one in providers if one.name in names]

    def _make_sources(self, client: HttpClient) -> list[Lookup]:
        kind = StagedVerdictRepository if self._staged else TableVerdictRepository
        book: VerdictRepository = kind(self._engine, self._policy, self._ttl, self._clock, self._options.order)
        made = []
        for provider in self._providers:
            ledger = ledger_of(self._engine, provider, self._clock)
            uploads = Uploads.of(self._engine, self._settings, provider, self._clock, self.say)
            made.append(
                Lookup(provider, ledger, client, book, self._clock, self._bounds, uploads=uploads, say=self.say)
            )
        return made

    def _begin(self) -> None:
        names, only = [one.name for one in self._providers], self._options.only or ()
        if self._staged:
            if only:
                with write_transaction(self._engine) as connection:
                    staged_ask_first(connection, only, names, self._clock.now())
        else:
            with write_transaction(self._engine) as connection:
                note_skipped(connection)
                ask_first(connection, only, names)
            self._rejudging.start()
        self._replay()
        for source in self._sources:
            source.start()

    def _replay(self) -> None:
        """Take what costs no request: Cowrie's own verdicts, and answers in the cache that the history lacks."""
        self._replayed_at = self._clock.now()
        writer = AnswerWriter(self._policy, self._ttl, self._clock, staged=self._staged)
        how = (self._settings.virustotal_malicious_at, writer, self._pace)
        add_counters(self.result.replayed, take_cowries_own(self._engine, *how, stop=self._stop))
        if not self._staged:
            providers = [make(self._settings, None) for _, make in SOURCES.values()]
            add_counters(self.result.replayed, replay_cache(self._engine, providers, *how, stop=self._stop))

    def _work(self, scheduler: Scheduler) -> Pause | None:
        """Work until it is over; return the pause that ended it, if one did."""
        is_sure = False
        while not self._stop.is_set():
            did = scheduler.turn()
            if not self._staged:
                did = self._spreading.some() or self._rejudging.some() or did
            self._progress(RUNNING)
            if did:
                is_sure = False
                continue
            now = self._clock.now()
            pause = scheduler.pause(now, watch=self._options.watch)
            if pause is None or not self._waits_for(pause, now):
                if is_sure or not end_search_pauses(self._engine):
                    return pause
                is_sure = True  # what an earlier source answered meanwhile may have given a later one something to do
                continue
            if pause.reason is not None:
                self._progress(WAITING, pause)
            self._clock.wait(min((pause.until - now).total_seconds(), LONGEST_WAIT_S), self._stop)
            if (self._clock.now() - (self._replayed_at or now)).total_seconds() >= REPLAY_EVERY_S:
                self._replay()
        self.result.stopped = True
        return None

    def _waits_for(self, pause: Pause, now: dt.datetime) -> bool:
        if self._options.watch:
            return True
        return pause.reason is not None and (pause.until - now).total_seconds() <= SHORT_WAIT_S

    def _end(self, scheduler: Scheduler, pause: Pause | None) -> None:
        scheduler.release()
        for source in scheduler.blocked():
            self.result.reasons[source.name] = source.refused or (source.waits.reason if source.waits else "")
        self.result.refused = {source.name: source.refused for source in self._sources if source.refused is not None}
        self.result.files = self._files_asked()
        self.result.rows_updated = self._spreading.rows_changed
        self.result.counters = {source.name: dict(source.counters) for source in self._sources}
        if self.result.refused:
            reasons = (f"{name} is out of use: {reason}" for name, reason in self.result.refused.items())
            self._save(FAILED, "; ".join(reasons))
        elif self.result.stopped:
            self._save(STOPPED, "asked to stop; the same command goes on from here")
        elif pause is not None and pause.reason is not None:
            self.result.paused_until = pause.until
            self._save(PAUSED, f"{pause.reason}; until {pause.until:%Y-%m-%d %H:%M:%S} UTC")
        else:
            self._save(DONE, None)

    def _files_asked(self) -> int:
        """Return about how many files requests were sent: exactly where there is a limit, else at least so many."""
        most = max((source.files_asked for source in self._sources), default=0)
        return most if self._bounds.limit is None else len(self._bounds.asked)

    def _progress(self, state: str, pause: Pause | None = None) -> None:
        now = time.monotonic()
        if pause is None and now - self._said_at < SAY_EVERY_S:
            return
        self._said_at = now
        counters = {source.name: dict(source.counters) for source in self._sources}
        until, reason = (pause.until, pause.reason) if pause else (None, None)
        self.on_progress(EnrichProgress(state, self._files_asked(), self._options.limit, counters, until, reason))
        self._save(state, f"{reason}; until {until:%Y-%m-%d %H:%M:%S} UTC" if pause and until else None)

    def _save(self, state: str, reason: str | None) -> None:
        """Write the job's row; its counters are those of all runs together."""
        if self._staged:
            return
        more = self._unsaved()
        now = self._clock.now()
        with write_transaction(self._engine) as connection:
            job = shared_job(connection, JOB, state)
            if state == RUNNING and job.state != RUNNING:
                job.started_at = now
            job.state, job.reason = state, reason
            job.finished_at = now if state in (DONE, STOPPED, FAILED) else None
            add_counters(job.counters, more)
            save_job(connection, job)
        add_counters(self._saved, more)

    def _unsaved(self) -> Counters:
        total: Counters = {f"replayed {what}": count for what, count in self.result.replayed.items()}
        total["rows updated"] = self._spreading.rows_changed
        for source in self._sources:
            total |= {f"{source.name} {what}": count for what, count in source.counters.items()}
        return {
            what: count - self._saved.get(what, 0) for what, count in total.items() if count != self._saved.get(what, 0)
        }

    def _leave_word(self, scheduler: Scheduler, state: str, reason: str) -> None:
        """Give back what was claimed, and say in the job's row why the run ended, if the database still takes it."""
        try:
            scheduler.release()
            self._save(state, reason)
        except DatabaseError:
            return
