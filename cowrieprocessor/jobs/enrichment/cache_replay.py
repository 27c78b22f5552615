"""What costs no request: verdicts that Cowrie logged itself, and answers in the cache that the history lacks.

Both are read while others write, and stored in short transactions. Where the write-ahead log is not to grow, both end
early; what is left is taken the next time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.enrichment.provider_verdict import COWRIE_VIRUSTOTAL, ProviderVerdict
from cowrieprocessor.db.enrichment.scanfile_events import ID_SLACK, LoggedScan, are_recorded, scanfile_events
from cowrieprocessor.db.enrichment.staged_claims import remove_claims, replayable
from cowrieprocessor.db.jobs import DONE, JobRecord, load_job, save_job, shared_job
from cowrieprocessor.enrichment.providers.base import Provider
from cowrieprocessor.enrichment.providers.cowrie_log import CowrieLog
from cowrieprocessor.enrichment.verdict_repository import Counters, finding_in
from cowrieprocessor.jobs.enrichment.answer_writer import Answer, AnswerWriter
from cowrieprocessor.jobs.runtime.throttle import Throttle

COWRIE_JOB = "enrich-cowrie-log"
ROWS_AT_ONCE = 200
"""Events or answers in memory at a time."""


class _Event(NamedTuple):
    """One event of Cowrie's; no answer where it says nothing, and not `is_new` where that was stored before."""

    id: int
    answer: Answer | None
    is_new: bool


def take_cowries_own(
    engine: Engine, malicious_at: int, writer: AnswerWriter, pace: Throttle, *, stop: threading.Event
) -> Counters:
    """Take in what Cowrie's own plug-in learned of VirusTotal, from events that were not looked at before.

    Args:
        engine: the database.
        malicious_at: how many engines make a file malicious.
        writer: stores the answers; where it writes the cache alone, every event is looked at each time.
        pace: when to write, and for how long.
        stop: once set, it ends after the transaction.

    Returns:
        How many events there were: `cowrie-virustotal`, and `cowrie-virustotal unreadable`.
    """
    counters: Counters = {}
    log = CowrieLog(malicious_at)
    with read_transaction(engine) as connection:
        job = None if writer.staged else load_job(connection, COWRIE_JOB)
    # Ids of concurrent transactions come out of order on PostgreSQL: some are looked at again.
    seen = int(job.cursor.get("last_id", 0)) if job is not None else 0
    after = max(0, seen - ID_SLACK)
    while not stop.is_set() and pace.obstacle() is None:
        with read_transaction(engine) as connection:
            events = _events(connection, log, writer, after)
        if not events:
            break
        while events and not stop.is_set():
            before, after = after, _store_events(writer, pace, events, seen)
            for event in events:
                if max(before, seen) < event.id <= after:
                    what = COWRIE_VIRUSTOTAL if event.answer is not None else f"{COWRIE_VIRUSTOTAL} unreadable"
                    counters[what] = counters.get(what, 0) + 1
            events = [event for event in events if event.id > after]
    return counters


def replay_cache(
    engine: Engine,
    providers: Sequence[Provider],
    malicious_at: int,
    writer: AnswerWriter,
    pace: Throttle,
    *,
    stop: threading.Event,
) -> Counters:
    """Write down what the cache knows and the history does not: after USE_NEW_ENRICHMENT=0, or of hashes new since.

    Args:
        engine: the database.
        providers: who can read the answers, in use or not.
        malicious_at: how many engines make a file malicious.
        writer: stores the answers.
        pace: when to write, and for how long.
        stop: once set, it ends after the transaction.

    Returns:
        How many answers of each source were taken: `cache`.
    """
    counters: Counters = {}
    readers: dict[str, Callable[[Mapping[str, Any]], ProviderVerdict]] = {one.name: one.finding for one in providers}
    readers[COWRIE_VIRUSTOTAL] = CowrieLog(malicious_at).finding
    for name, finding_of in readers.items():
        after = ""
        while not stop.is_set() and pace.obstacle() is None:
            with read_transaction(engine) as connection:
                entries = replayable(connection, name, after, ROWS_AT_ONCE)
            if not entries:
                remove_claims(engine, name, writer.clock.now())
                break
            answers = [
                Answer(name, entry.key, finding_in(entry, finding_of), entry.fetched_at, entry.expires_at)
                for entry in entries
            ]
            while answers and not stop.is_set():
                with pace.transaction() as turn:
                    stored = len(writer.store(turn, answers))
                counters["cache"] = counters.get("cache", 0) + stored
                answers = answers[stored:]
            after = entries[-1].key
    return counters


def _events(connection: Connection, log: CowrieLog, writer: AnswerWriter, after: int) -> list[_Event]:
    """Return the next events, and which of them say what is not known yet."""
    now = writer.clock.now()
    read: list[tuple[int, Answer | None]] = []
    for event in scanfile_events(connection, after, ROWS_AT_ONCE):
        said = log.scan(event.payload or "")
        answer = None
        if said is not None:
            at = min(said.scanned_at, now)  # a sensor's clock may be ahead
            answer = Answer(COWRIE_VIRUSTOTAL, said.sha256, said.finding, at)
        read.append((event.id, answer))
    scans = [
        LoggedScan(answer.sha256, answer.fetched_at, answer.finding.positives, answer.finding.total)
        for _, answer in read
        if answer is not None
    ]
    known = iter(are_recorded(connection, scans, staged=writer.staged))
    return [_Event(event_id, answer, answer is not None and not next(known)) for event_id, answer in read]


def _store_events(writer: AnswerWriter, pace: Throttle, events: Sequence[_Event], seen: int) -> int:
    """Store what the first of some events say, and the place behind them; return the place."""
    new = [(event.id, event.answer) for event in events if event.is_new and event.answer is not None]
    last = events[-1].id
    if not new and (writer.staged or last <= seen):
        return last
    with pace.transaction() as turn:
        # One process at a time has the place: two that store the same files in other orders never meet.
        job = None if writer.staged else shared_job(turn.connection, COWRIE_JOB, DONE)
        stored = len(writer.store(turn, [answer for _, answer in new]))
        place = last if stored == len(new) else new[stored][0] - 1
        if job is not None and place > seen:
            _save_place(turn.connection, job, place)
    return place


def _save_place(connection: Connection, job: JobRecord, last_id: int) -> None:
    job.state = DONE
    job.cursor["last_id"] = max(last_id, int(job.cursor.get("last_id", 0)))
    save_job(connection, job)
