"""What costs no request: verdicts that Cowrie logged itself, and answers in the cache that the history lacks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.enrichment_cache import store_in_cache
from cowrieprocessor.db.findings import COWRIE_VIRUSTOTAL, Finding
from cowrieprocessor.db.judgement import Policy
from cowrieprocessor.db.scanfile_events import ID_SLACK, scanfile_events
from cowrieprocessor.db.staged_claims import replayable
from cowrieprocessor.db.verdict_store import lock_hashes, store_answer
from cowrieprocessor.enrichment.book import Counters, finding_in, with_expiry
from cowrieprocessor.enrichment.clock import Clock
from cowrieprocessor.enrichment.cowrie_log import CowrieLog, Scan
from cowrieprocessor.enrichment.expiry import Ttl
from cowrieprocessor.enrichment.provider import Provider
from cowrieprocessor.jobs.records import DONE, load_job, save_job, shared_job

COWRIE_JOB = "enrich-cowrie-log"
ROWS_AT_ONCE = 200
"""Answers in one transaction: short beside a loader."""


def take_cowries_own(
    engine: Engine,
    malicious_at: int,
    policy: Policy,
    ttl: Ttl,
    clock: Clock,
    *,
    staged: bool,
    stop: threading.Event,
) -> Counters:
    """Take in what Cowrie's own plug-in learned of VirusTotal, from events that were not looked at before.

    Args:
        engine: the database.
        malicious_at: how many engines make a file malicious.
        policy: the sources in use, and what settles a file.
        ttl: how long answers hold, from the event's time on.
        clock: the time.
        staged: write the cache alone; then every event is looked at each time.
        stop: once set, it ends after the transaction.

    Returns:
        How many events there were: `cowrie-virustotal`, and `cowrie-virustotal unreadable`.
    """
    counters: Counters = {}
    log = CowrieLog(malicious_at)
    with read_transaction(engine) as connection:
        job = None if staged else load_job(connection, COWRIE_JOB)
    # Ids of concurrent transactions come out of order on PostgreSQL: some are looked at again, which changes nothing.
    seen = int(job.cursor.get("last_id", 0)) if job is not None else 0
    after = max(0, seen - ID_SLACK)
    while not stop.is_set():
        with read_transaction(engine) as connection:
            events = scanfile_events(connection, after, ROWS_AT_ONCE)
        if not events:
            break
        read = [(event.id, log.scan(event.payload or "")) for event in events]
        with write_transaction(engine) as connection:
            lock_hashes(connection, [said.sha256 for _, said in read if said is not None])
            for event_id, said in read:
                if event_id > seen:
                    what = COWRIE_VIRUSTOTAL if said is not None else f"{COWRIE_VIRUSTOTAL} unreadable"
                    counters[what] = counters.get(what, 0) + 1
                if said is not None:
                    _keep(connection, COWRIE_VIRUSTOTAL, said, policy, ttl, clock, staged=staged)
            after = events[-1].id
            if not staged and after > seen:
                _save_place(connection, after)
    return counters


def replay_cache(
    engine: Engine,
    providers: Sequence[Provider],
    malicious_at: int,
    policy: Policy,
    ttl: Ttl,
    clock: Clock,
    *,
    stop: threading.Event,
) -> Counters:
    """Write down what the cache knows and the history does not: after USE_NEW_ENRICHMENT=0, or of hashes new since.

    Args:
        engine: the database.
        providers: who can read the answers, in use or not.
        malicious_at: how many engines make a file malicious.
        policy: the sources in use, and what settles a file.
        ttl: how long answers hold.
        clock: the time.
        stop: once set, it ends after the transaction.

    Returns:
        How many answers of each source were taken: `cache`.
    """
    counters: Counters = {}
    readers: dict[str, Callable[[Mapping[str, Any]], Finding]] = {one.name: one.finding for one in providers}
    readers[COWRIE_VIRUSTOTAL] = CowrieLog(malicious_at).finding
    for name, finding_of in readers.items():
        after = ""
        while not stop.is_set():
            with read_transaction(engine) as connection:
                entries = replayable(connection, name, after, ROWS_AT_ONCE)
            if not entries:
                break
            with write_transaction(engine) as connection:
                lock_hashes(connection, [entry.key for entry in entries])
                for entry in entries:
                    said = finding_in(entry, finding_of)
                    store_answer(
                        connection,
                        entry.key,
                        name,
                        entry.key,
                        said,
                        fetched_at=entry.fetched_at,
                        expires_at=entry.expires_at,
                        policy=policy,
                        now=clock.now(),
                    )
            after = entries[-1].key
            counters["cache"] = counters.get("cache", 0) + len(entries)
    return counters


def _keep(
    connection: Connection, provider: str, said: Scan, policy: Policy, ttl: Ttl, clock: Clock, *, staged: bool
) -> None:
    finding, at = said.finding, min(said.scanned_at, clock.now())  # a sensor's clock may be ahead
    until = with_expiry(connection, provider, said.sha256, finding, at, ttl)
    if staged:
        store_in_cache(connection, provider, said.sha256, finding.verdict, finding.response, at, until)
        return
    store_answer(
        connection,
        said.sha256,
        provider,
        said.sha256,
        finding,
        fetched_at=at,
        expires_at=until,
        policy=policy,
        now=clock.now(),
    )


def _save_place(connection: Connection, last_id: int) -> None:
    job = shared_job(connection, COWRIE_JOB, DONE)
    job.state = DONE
    job.cursor["last_id"] = max(last_id, int(job.cursor.get("last_id", 0)))
    save_job(connection, job)
