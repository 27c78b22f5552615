"""Runs enrichment: lets the sources take turns within quota, stores their verdicts and propagates them to `files`.

The steps for one file are in `cowrieprocessor.enrichment.file_enrichment`; here is the loop around them, with progress,
waiting and stopping. Any number of processes may run it at once. Each transaction is complete in itself: a run that is
killed anywhere continues where it was, and no request is sent that is not in the ledger.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy import Engine

from cowrieprocessor.clock import Clock, SystemClock
from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.enrichment.candidate_cache import end_search_pauses
from cowrieprocessor.db.enrichment.claims import ask_first, note_skipped
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy
from cowrieprocessor.db.jobs import (
    DONE,
    FAILED,
    INTERRUPTED,
    PAUSED,
    RUNNING,
    STOPPED,
    UNEXPECTED,
    WAITING,
    add_counters,
    save_job,
    shared_job,
)
from cowrieprocessor.db.migrations import require_current
from cowrieprocessor.enrichment.expiry import Ttl
from cowrieprocessor.enrichment.file_enrichment import Bounds, FileEnrichment
from cowrieprocessor.enrichment.http import HttpClient
from cowrieprocessor.enrichment.lookup import Lookup
from cowrieprocessor.enrichment.providers.base import Limits, Provider
from cowrieprocessor.enrichment.providers.registry import SOURCES, configured_providers
from cowrieprocessor.enrichment.providers.v3_cache import ImportedCache
from cowrieprocessor.enrichment.providers.virustotal import VirusTotal
from cowrieprocessor.enrichment.providers.virustotal_upload import Uploads
from cowrieprocessor.enrichment.quota.ledger import ledger_of
from cowrieprocessor.enrichment.scheduler import SHORT_WAIT_S, Pause, Scheduler
from cowrieprocessor.enrichment.verdict_repository import (
    Counters,
    VerdictRepository,
)
from cowrieprocessor.errors import ConfigurationError, DatabaseError
from cowrieprocessor.jobs.enrichment.answer_writer import AnswerWriter
from cowrieprocessor.jobs.enrichment.cache_import import import_cache
from cowrieprocessor.jobs.enrichment.cache_replay import import_cowrie_verdicts, replay_cache
from cowrieprocessor.jobs.enrichment.propagate import Propagation
from cowrieprocessor.jobs.enrichment.reevaluate import Reevaluation
from cowrieprocessor.jobs.enrichment.run_result import EnrichOptions, EnrichProgress, EnrichResult, has_answers
from cowrieprocessor.jobs.runtime.process_identity import this_process
from cowrieprocessor.jobs.runtime.throttle import Throttle
from cowrieprocessor.settings import Settings

__all__ = ["EnrichOptions", "EnrichProgress", "EnrichResult", "enrich", "import_v3_cache", "policy_of", "ttl_of"]

JOB = "enrich"
REPLAY_EVERY_S = 3600.0
"""How often `--watch` imports from the cache and from Cowrie's events what costs no request."""

MAX_WAIT_S = 300.0
"""The longest single wait, after which a machine that slept, or a clock that was set, is noticed."""

PROGRESS_EVERY_S = 5.0


def enrich(
    engine: Engine,
    settings: Settings,
    options: EnrichOptions | None = None,
    *,
    clock: Clock | None = None,
    stop: threading.Event | None = None,
    notify: Callable[[str], None] = lambda _text: None,
    on_progress: Callable[[EnrichProgress], None] = lambda _progress: None,
) -> EnrichResult:
    """Ask the sources about files until no question is left, or the quota allows no more.

    Args:
        engine: the database.
        settings: sources, keys, limits, and how long answers are valid.
        options: which files and sources, and in which order.
        clock: the current time; by default the system's.
        stop: once set, the run finishes and stores the request in flight, and ends.
        notify: called with one line for the operator.
        on_progress: called every few seconds while it works, and at each wait.

    Raises:
        ConfigurationError: a source is not known, or has no key.
        DatabaseError: the database cannot serve; what was committed is kept.
    """
    require_current(engine)
    run = _Run(engine, settings, options or EnrichOptions(), clock or SystemClock(), stop or threading.Event())
    run.notify, run.on_progress = notify, on_progress
    return run.run()


def import_v3_cache(
    engine: Engine,
    folder: Path,
    settings: Settings,
    *,
    clock: Clock | None = None,
    notify: Callable[[str], None] = lambda _text: None,
    on_progress: Callable[[ImportedCache], None] = lambda _result: None,
) -> ImportedCache:
    """Import the cache folder of v3, and propagate its verdicts to the rows of `files`.

    Args:
        engine: the database.
        folder: the cache.
        settings: how long answers are valid, and how many engines make a file malicious.
        clock: the current time; by default the system's.
        notify: called with the reason of each wait.
        on_progress: called with the result so far after each hundred answers.

    Raises:
        InputNotFound, InputNotReadable: there is no such folder, or it cannot be read.
        DatabaseError: the database cannot serve; what was committed is kept.
    """
    require_current(engine)
    reader = VirusTotal(settings.virustotal_url, None, Limits(), malicious_at=settings.virustotal_malicious_at)
    staged, clock = not settings.use_new_enrichment, clock or SystemClock()
    writer = AnswerWriter(policy_of(settings), ttl_of(settings), clock, staged=staged)
    throttle = Throttle(engine)
    result = import_cache(folder, reader, writer, throttle, notify=notify, on_progress=on_progress)
    if not staged:
        Propagation(engine, clock, throttle).propagate_all(threading.Event())
    return result


def policy_of(settings: Settings) -> Policy:
    """Return the sources in use and the decisive verdicts, from the settings."""
    return Policy(tuple(provider.name for provider in configured_providers(settings)), frozenset(settings.settled_by))


def ttl_of(settings: Settings) -> Ttl:
    """Return how long answers are valid, from the settings."""
    return Ttl(settings.ttl_malicious_s, settings.ttl_clean_s, settings.ttl_unknown_s, settings.ttl_unknown_max_s)


class _Run:
    """One run of enrichment."""

    def __init__(
        self, engine: Engine, settings: Settings, options: EnrichOptions, clock: Clock, stop: threading.Event
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._options = options
        self._clock = clock
        self._stop = stop
        self.notify: Callable[[str], None] = lambda _text: None
        self.on_progress: Callable[[EnrichProgress], None] = lambda _progress: None
        self._staged = not settings.use_new_enrichment
        self._owner = this_process()
        self._policy = policy_of(settings)
        self._providers = self._select(configured_providers(settings))
        self._ttl = ttl_of(settings)
        self._bounds = Bounds(options.limit, only=options.only)
        self._throttle = Throttle(engine)
        self._propagation = Propagation(engine, clock, self._throttle)
        self._reevaluation = Reevaluation(engine, self._policy, clock, self._throttle)
        self._saved: Counters = {}
        self._reported_at = time.monotonic()
        self._replayed_at: dt.datetime | None = None
        self._sources: list[FileEnrichment] = []
        self.result = EnrichResult(staged=self._staged)

    def run(self) -> EnrichResult:
        with HttpClient(self._settings.request_timeout_s, self._clock) as client:
            self._sources = self._make_sources(client)
            scheduler = Scheduler(self._sources)
            final = FAILED, UNEXPECTED
            has_ended = False
            try:
                self._save(RUNNING, None)
                self._begin()
                pause = self._work(scheduler)
                if not self._staged:
                    self._propagation.propagate_all(self._stop)
                self._end(scheduler, pause)
                has_ended = True
            except DatabaseError as error:
                final = FAILED, str(error)
                raise
            except KeyboardInterrupt:
                final = STOPPED, INTERRUPTED
                raise
            finally:
                if not has_ended:
                    self._abort(scheduler, *final)
        return self.result

    # --- preparation ---

    def _select(self, providers: Sequence[Provider]) -> list[Provider]:
        names = self._options.providers
        if names is None:
            return list(providers)
        known = {provider.name: provider for provider in providers}
        for name in names:
            if name not in known:
                raise ConfigurationError(
                    f"{name}: not a source in use; in use are {', '.join(known) or 'none'}: give its key "
                    "(see docs/enrichment.md) or correct the name"
                )
        return [provider for provider in providers if provider.name in names]

    def _make_sources(self, client: HttpClient) -> list[FileEnrichment]:
        repository = VerdictRepository(
            self._engine, self._policy, self._ttl, self._clock, self._options.order, staged=self._staged
        )
        sources = []
        for provider in self._providers:
            ledger = ledger_of(self._engine, provider, self._clock)
            lookup = Lookup(provider, ledger, client, self._clock, notify=self.notify)
            uploads = Uploads.of(self._engine, self._settings, provider, self._clock, self.notify)
            sources.append(FileEnrichment(lookup, repository, self._clock, self._bounds, uploads=uploads))
        return sources

    def _begin(self) -> None:
        names, only = [provider.name for provider in self._providers], self._options.only or ()
        with write_transaction(self._engine) as connection:
            if not self._staged:
                note_skipped(connection)
            ask_first(connection, only, names)
        if not self._staged:
            self._reevaluation.start()
        self._replay()
        for source in self._sources:
            source.start()

    def _replay(self) -> None:
        """Store what costs no request: Cowrie's own verdicts, and cached answers that the history lacks."""
        self._replayed_at = self._clock.now()
        writer = AnswerWriter(self._policy, self._ttl, self._clock, staged=self._staged)
        arguments = (self._settings.virustotal_malicious_at, writer, self._throttle)
        add_counters(self.result.replayed, import_cowrie_verdicts(self._engine, *arguments, stop=self._stop))
        providers = [make(self._settings, None) for _, make in SOURCES.values()]
        add_counters(self.result.replayed, replay_cache(self._engine, providers, *arguments, stop=self._stop))

    # --- the loop ---

    def _work(self, scheduler: Scheduler) -> Pause | None:
        """Work until nothing is left to do now; return the pause that ended the work, if one did."""
        searched_again = False
        while not self._stop.is_set():
            if self._work_once(scheduler):
                searched_again = False
                continue
            now = self._clock.now()
            pause = scheduler.pause(now, watch=self._options.watch)
            if pause is not None and self._waits_for(pause, now):
                self._wait(pause, now)
            elif searched_again or not end_search_pauses(self._engine):
                return pause
            else:
                searched_again = True  # what an earlier source answered may have given a later one something to do
        self.result.stopped = True
        return None

    def _work_once(self, scheduler: Scheduler) -> bool:
        """Give each source a turn, and propagate or re-evaluate some verdicts; return whether anything was done."""
        did_something = scheduler.turn()
        if not self._staged:
            did_something = self._propagation.propagate_some() or self._reevaluation.reevaluate_some() or did_something
        self._report(RUNNING)
        return did_something

    def _waits_for(self, pause: Pause, now: dt.datetime) -> bool:
        if self._options.watch:
            return True
        return pause.reason is not None and (pause.until - now).total_seconds() <= SHORT_WAIT_S

    def _wait(self, pause: Pause, now: dt.datetime) -> None:
        if pause.reason is not None:
            self._report(WAITING, pause)
        self._clock.wait(min((pause.until - now).total_seconds(), MAX_WAIT_S), self._stop)
        if (self._clock.now() - (self._replayed_at or now)).total_seconds() >= REPLAY_EVERY_S:
            self._replay()

    # --- the end ---

    def _end(self, scheduler: Scheduler, pause: Pause | None) -> None:
        scheduler.release()
        self._complete_result(scheduler)
        if pause is not None and pause.reason is not None and not self.result.refused:
            self.result.paused_until = pause.until
        if self.result.refused:
            reasons = (f"{name} is out of use: {reason}" for name, reason in self.result.refused.items())
            self._save(FAILED, "; ".join(reasons))
        elif self.result.stopped:
            self._save(STOPPED, "asked to stop; the same command goes on from here")
        elif self.result.has_failed:
            failures = (f"{name}: {reason}" for name, reason in self.result.unanswered.items())
            self._save(FAILED, f"every request failed; the last failure of {'; '.join(failures)}")
        elif pause is not None and pause.reason is not None:
            self._save(PAUSED, _pause_text(pause))
        else:
            self._save(DONE, None)

    def _complete_result(self, scheduler: Scheduler) -> None:
        for source in scheduler.blocked():
            self.result.reasons[source.name] = source.rejected or (source.wait.reason if source.wait else "")
        self.result.refused = {source.name: source.rejected for source in self._sources if source.rejected is not None}
        self.result.unanswered = {
            source.name: source.last_failure
            for source in self._sources
            if source.last_failure is not None and not has_answers(source.counters)
        }
        self.result.files = self._files_asked()
        self.result.rows_updated = self._propagation.rows_changed
        self.result.counters = {source.name: dict(source.counters) for source in self._sources}

    def _abort(self, scheduler: Scheduler, state: str, reason: str) -> None:
        """Release claimed files and save why the run ended, if the database still accepts it."""
        try:
            scheduler.release()
            self._save(state, reason)
        except DatabaseError:
            return

    # --- progress ---

    def _files_asked(self) -> int:
        """Return how many files requests were sent about: exact with a limit, otherwise a lower bound."""
        most = max((source.files_asked for source in self._sources), default=0)
        return most if self._bounds.limit is None else len(self._bounds.asked)

    def _report(self, state: str, pause: Pause | None = None) -> None:
        """Report and save progress: every few seconds, and at each pause."""
        now = time.monotonic()
        if pause is None and now - self._reported_at < PROGRESS_EVERY_S:
            return
        self._reported_at = now
        counters = {source.name: dict(source.counters) for source in self._sources}
        until, reason = (pause.until, pause.reason) if pause else (None, None)
        self.on_progress(EnrichProgress(state, self._files_asked(), self._options.limit, counters, until, reason))
        self._save(state, _pause_text(pause) if pause else None)

    def _save(self, state: str, reason: str | None) -> None:
        """Save the job's row; its counters are the sum over all runs."""
        if self._staged:
            return
        more = self._unsaved()
        now = self._clock.now()
        with write_transaction(self._engine) as connection:
            job = shared_job(connection, JOB, state)
            if state == RUNNING and job.state != RUNNING:
                job.started_at = now
            job.state, job.reason = state, reason
            job.owner = self._owner if state in (RUNNING, WAITING) else {}
            job.finished_at = now if state in (DONE, STOPPED, FAILED) else None
            add_counters(job.counters, more)
            save_job(connection, job)
        add_counters(self._saved, more)

    def _unsaved(self) -> Counters:
        """Return by how much each counter grew since the row was last saved."""
        total: Counters = {f"replayed {kind}": count for kind, count in self.result.replayed.items()}
        total["rows updated"] = self._propagation.rows_changed
        for source in self._sources:
            total |= {f"{source.name} {kind}": count for kind, count in source.counters.items()}
        return {
            kind: count - self._saved.get(kind, 0) for kind, count in total.items() if count != self._saved.get(kind, 0)
        }


def _pause_text(pause: Pause) -> str:
    return f"{pause.reason}; until {pause.until:%Y-%m-%d %H:%M:%S} UTC"
