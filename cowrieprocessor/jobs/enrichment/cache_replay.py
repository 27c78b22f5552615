"""Imports what costs no request: verdicts that Cowrie logged, and cached answers that the history lacks.

Both are read without blocking writers, and stored in short transactions. Where the write-ahead log must not grow, both
end early; the next run stores the rest.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.enrichment.provider_verdict import COWRIE_VIRUSTOTAL
from cowrieprocessor.db.enrichment.response_cache import CacheEntry
from cowrieprocessor.db.enrichment.scanfile_events import ID_SLACK, LoggedScan, are_recorded, scanfile_events
from cowrieprocessor.db.enrichment.staged_answers import remove_claims, replayable, staged_hashes
from cowrieprocessor.db.jobs import DONE, JobRecord, add_counters, load_job, save_job, shared_job
from cowrieprocessor.enrichment.providers.base import Provider
from cowrieprocessor.enrichment.providers.cowrie_log import CowrieLog
from cowrieprocessor.enrichment.verdict_repository import Counters, ReadVerdict, stored_verdict
from cowrieprocessor.jobs.enrichment.answer_writer import Answer, AnswerWriter
from cowrieprocessor.jobs.runtime.throttle import Throttle

COWRIE_JOB = "enrich-cowrie-log"
ROWS_AT_ONCE = 200
"""Events or answers in memory at a time."""


def import_cowrie_verdicts(
    engine: Engine,
    malicious_at: int,
    writer: AnswerWriter,
    throttle: Throttle,
    *,
    stop: threading.Event,
    rows_at_once: int = ROWS_AT_ONCE,
) -> Counters:
    """Import VirusTotal's verdicts that Cowrie's own plug-in logged, from the events since the last import.

    Args:
        engine: the database.
        malicious_at: how many engines make a file malicious.
        writer: stores the answers; if it stages them, every event is read each time.
        throttle: decides when to write, and for how long.
        stop: once set, the import ends after the current transaction.
        rows_at_once: events in memory at a time.

    Returns:
        How many events there were: `cowrie-virustotal`, and `cowrie-virustotal unreadable`.
    """
    return _CowrieImport(engine, CowrieLog(malicious_at), writer, throttle, rows_at_once).run(stop)


def replay_cache(
    engine: Engine,
    providers: Sequence[Provider],
    malicious_at: int,
    writer: AnswerWriter,
    throttle: Throttle,
    *,
    stop: threading.Event,
    rows_at_once: int = ROWS_AT_ONCE,
) -> Counters:
    """Store answers that the history lacks: after USE_NEW_ENRICHMENT=0, or cached ones about hashes that are new since.

    A writer that stages answers stages the cached ones as well.

    Args:
        engine: the database.
        providers: interpret the answers of their sources, in use or not.
        malicious_at: how many engines make a file malicious.
        writer: stores the answers.
        throttle: decides when to write, and for how long.
        stop: once set, the replay ends after the current transaction.
        rows_at_once: answers in memory at a time.

    Returns:
        How many answers were stored: `cache`.
    """
    counters: Counters = {}
    readers: dict[str, ReadVerdict] = {provider.name: provider.verdict for provider in providers}
    readers[COWRIE_VIRUSTOTAL] = CowrieLog(malicious_at).verdict
    for name, read_verdict in readers.items():
        while not (writer.staged or stop.is_set()) and throttle.obstacle() is None:
            with read_transaction(engine) as connection:
                hashes = staged_hashes(connection, name, rows_at_once)
            if not hashes:
                break
            with throttle.transaction() as turn:
                _count(counters, writer.store_staged(turn, hashes, readers))
        after = ""
        while not stop.is_set() and throttle.obstacle() is None:
            with read_transaction(engine) as connection:
                entries = replayable(connection, name, after, rows_at_once)
            if not entries:
                remove_claims(engine, name)
                break
            answers = [_cached_answer(name, entry, read_verdict) for entry in entries]
            while answers and not stop.is_set():
                with throttle.transaction() as turn:
                    stored = len(writer.store(turn, answers))
                _count(counters, stored)
                answers = answers[stored:]
            after = entries[-1].key
    return counters


def _count(counters: Counters, stored: int) -> None:
    """Count stored answers, if there are any."""
    add_counters(counters, {"cache": stored} if stored else {})


def _cached_answer(provider: str, entry: CacheEntry, read_verdict: ReadVerdict) -> Answer:
    return Answer(provider, entry.key, stored_verdict(entry.response, read_verdict), entry.fetched_at, entry.expires_at)


class _Event(NamedTuple):
    """One event of Cowrie's plug-in.

    Attributes:
        id: its id in `raw_events`.
        answer: what it says; None if that is unreadable.
        is_new: it has an answer, which is not yet stored.
    """

    id: int
    answer: Answer | None
    is_new: bool


class _CowrieImport:
    """Imports events from the checkpoint of the last import.

    Args:
        engine: the database.
        log: reads events.
        writer: stores answers; if it stages them, there is no checkpoint.
        throttle: decides when to write, and for how long.
        rows_at_once: events in memory at a time.
    """

    def __init__(
        self, engine: Engine, log: CowrieLog, writer: AnswerWriter, throttle: Throttle, rows_at_once: int
    ) -> None:
        self._engine = engine
        self._log = log
        self._writer = writer
        self._throttle = throttle
        self._rows_at_once = rows_at_once
        self._counters: Counters = {}
        self._checkpoint = 0 if writer.staged else _load_checkpoint(engine)

    def run(self, stop: threading.Event) -> Counters:
        """Import until no event is left or `stop` is set; return how many events there were."""
        # Ids of concurrent transactions are committed out of order on PostgreSQL: the last ones are read again.
        after = max(0, self._checkpoint - ID_SLACK)
        while not stop.is_set() and self._throttle.obstacle() is None:
            with read_transaction(self._engine) as connection:
                events = self._read(connection, after)
            if not events:
                break
            while events and not stop.is_set():
                previous, after = after, self._store(events)
                self._count([event for event in events if previous < event.id <= after])
                events = [event for event in events if event.id > after]
        return self._counters

    def _read(self, connection: Connection, after: int) -> list[_Event]:
        """Return the next events after an id."""
        now = self._writer.clock.now()
        read = [
            (event.id, self._answer(event.payload or "", now))
            for event in scanfile_events(connection, after, self._rows_at_once)
        ]
        scans = [
            LoggedScan(answer.sha256, answer.fetched_at, answer.verdict.positives, answer.verdict.total)
            for _, answer in read
            if answer is not None
        ]
        stored = iter(are_recorded(connection, scans, staged=self._writer.staged))
        return [_Event(event_id, answer, answer is not None and not next(stored)) for event_id, answer in read]

    def _answer(self, payload: Mapping[str, Any] | str, now: dt.datetime) -> Answer | None:
        scan = self._log.scan(payload)
        if scan is None:
            return None
        fetched_at = min(scan.scanned_at, now)  # a sensor's clock may be ahead
        return Answer(COWRIE_VIRUSTOTAL, scan.sha256, scan.verdict, fetched_at)

    def _store(self, events: Sequence[_Event]) -> int:
        """Store the answers of the first events, with the checkpoint; return the id up to which events are done."""
        new = [(event.id, event.answer) for event in events if event.is_new and event.answer is not None]
        if new or self._is_ahead(events[-1].id):
            return self._store_new(new, events[-1].id)
        return events[-1].id

    def _store_new(self, new: Sequence[tuple[int, Answer]], last_id: int) -> int:
        with self._throttle.transaction() as turn:
            # The checkpoint is locked first: two processes never lock the same hashes in different orders.
            job = None if self._writer.staged else shared_job(turn.connection, COWRIE_JOB, DONE)
            stored = len(self._writer.store(turn, [answer for _, answer in new]))
            done_id = last_id if stored == len(new) else new[stored][0] - 1
            if job is not None and self._is_ahead(done_id):
                _save_checkpoint(turn.connection, job, done_id)
        return done_id

    def _is_ahead(self, event_id: int) -> bool:
        """Return whether an id is after the checkpoint that this import started from, and so moves it."""
        return not self._writer.staged and event_id > self._checkpoint

    def _count(self, events: Sequence[_Event]) -> None:
        """Count events, but for those up to the checkpoint, which an earlier import has counted."""
        for event in events:
            if event.id > self._checkpoint:
                kind = COWRIE_VIRUSTOTAL if event.answer is not None else f"{COWRIE_VIRUSTOTAL} unreadable"
                self._counters[kind] = self._counters.get(kind, 0) + 1


def _load_checkpoint(engine: Engine) -> int:
    """Return the id of the last imported event; 0 if there is none."""
    with read_transaction(engine) as connection:
        job = load_job(connection, COWRIE_JOB)
    return int(job.cursor.get("last_id", 0)) if job is not None else 0


def _save_checkpoint(connection: Connection, job: JobRecord, last_id: int) -> None:
    job.state = DONE
    job.cursor["last_id"] = max(last_id, int(job.cursor.get("last_id", 0)))
    save_job(connection, job)
