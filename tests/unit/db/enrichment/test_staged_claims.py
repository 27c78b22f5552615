"""Staging the change: claims, failures and answers only in the cache, and their replay."""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from cowrieprocessor.db.engine import dispose, get_engine, read_transaction, write_transaction
from cowrieprocessor.db.enrichment.claims import Claimed
from cowrieprocessor.db.enrichment.provider_verdict import ProviderVerdict
from cowrieprocessor.db.enrichment.response_cache import providers_in_cache, store_in_cache
from cowrieprocessor.db.enrichment.staged_candidates import CandidateScope, staged_backlog
from cowrieprocessor.db.enrichment.staged_claims import (
    staged_answer,
    staged_ask_first,
    staged_claim,
    staged_failure,
    staged_release,
    staged_retry_now,
)
from cowrieprocessor.db.enrichment.staged_replay import count_replayable, remove_claims, replayable
from tests.enrichment_scene import (
    DAY,
    HL,
    HOUR,
    MB,
    NO_CACHE,
    NOW,
    POLICY,
    VT,
    T,
    answer,
    load,
    put,
    rows,
    sha,
    vt_verdict,
)

LATER = NOW + dt.timedelta(seconds=900)
EMPTY = hashlib.sha256(b"").hexdigest()


def take(
    engine: Engine,
    provider: str = VT,
    *,
    now: dt.datetime = NOW,
    earlier: Sequence[str] = (),
    limit: int = 100,
    only: Sequence[str] | None = None,
) -> list[Claimed]:
    """Claim hashes for a quarter of an hour, on a machine of any speed."""
    return staged_claim(
        engine,
        provider,
        limit=limit,
        now=now,
        lease_s=900,
        policy=POLICY,
        earlier=earlier,
        only=only,
        cache_timing=NO_CACHE,
    )


def keep(
    engine: Engine,
    sha256: str,
    verdict: str,
    *,
    provider: str = VT,
    at: dt.datetime = NOW,
    holds: dt.timedelta = DAY,
    key: str | None = None,
) -> None:
    """Store an answer in the cache."""
    with write_transaction(engine) as connection:
        store_in_cache(connection, provider, key or sha256, verdict, {}, at, at + holds)


def fail(engine: Engine, sha256: str, *, now: dt.datetime = NOW, again: dt.datetime = NOW + HOUR) -> None:
    """Store a failure."""
    staged_failure(engine, VT, sha256, kind="timeout", now=now, not_before=again)


def hashes(claimed: Sequence[Claimed]) -> list[str]:
    """Return the claimed hashes, in order."""
    return [item.sha256 for item in claimed]


def test_no_other_table_is_touched(engine: Engine) -> None:
    """Claims, failures, releases and answers change only the cache."""
    load(engine, [("a", sha(1)), ("b", sha(2)), ("c", sha(3)), ("c", EMPTY)])
    others = [name for name in T if name != "enrichment_cache"]
    before = {name: rows(engine, name) for name in others}

    assert len(take(engine)) == 3
    fail(engine, sha(1))
    staged_release(engine, VT, [sha(2)])
    keep(engine, sha(3), "clean")

    assert {name: rows(engine, name) for name in others} == before
    assert len(rows(engine, "enrichment_cache")) == 3


def test_order_is_that_of_the_queue(engine: Engine) -> None:
    """Never-queried hashes first, by sessions; then due retries; then expired answers."""
    load(engine, [("a", sha(number)) for number in range(4)])
    load(engine, [("b", sha(3))])
    take(engine, only=[sha(0)])
    fail(engine, sha(0))
    keep(engine, sha(1), "clean", holds=HOUR)

    claimed = take(engine, now=NOW + 2 * HOUR)

    assert [(item.sha256, item.reason, item.attempts) for item in claimed] == [
        (sha(3), "new", 1),
        (sha(2), "new", 1),
        (sha(0), "retry", 2),
        (sha(1), "expired", 1),
    ]


def test_current_answers_failures_and_claims_are_not_claimed(engine: Engine) -> None:
    """A current answer is not queried again, a failure not before its time, a claimed hash not by another."""
    load(engine, [("a", sha(1)), ("b", sha(2)), ("c", sha(3))])
    take(engine)
    keep(engine, sha(1), "unknown", holds=12 * HOUR)
    fail(engine, sha(2), again=NOW + HOUR)

    assert take(engine, now=NOW + dt.timedelta(seconds=899)) == []
    (left,) = take(engine, now=LATER)
    assert (left.sha256, left.reason, left.attempts) == (sha(3), "new", 2)
    assert hashes(take(engine, now=NOW + HOUR, only=[sha(1), sha(2)])) == [sha(2)]
    assert [item.reason for item in take(engine, now=NOW + 12 * HOUR, only=[sha(1)])] == ["expired"]


def test_an_answer_under_another_key_counts(engine: Engine) -> None:
    """A provider may store answers by URL: the claim records that the hash has one, and when it expires."""
    load(engine, [("a", sha(1))])
    take(engine)
    keep(engine, sha(1), "suspicious", key="url:1")
    with write_transaction(engine) as connection:
        staged_answer(connection, VT, sha(1), "url:1", NOW + DAY)

    assert take(engine, now=NOW + DAY - HOUR) == []
    assert [item.reason for item in take(engine, now=NOW + DAY)] == ["expired"]


def test_released_hashes_are_claimed_again(engine: Engine) -> None:
    """A released claim leaves nothing, or the earlier failure with its time."""
    load(engine, [("a", sha(1)), ("b", sha(2))])
    take(engine, only=[sha(2)])
    fail(engine, sha(2), again=NOW + HOUR)
    first = take(engine, now=NOW + HOUR)

    staged_release(engine, VT, [sha(1), sha(2), sha(3)])

    assert [entry["key"] for entry in rows(engine, "enrichment_cache")] == [f"claim:{sha(2)}"]
    assert take(engine, now=NOW + HOUR) == first


def test_decisive_verdicts_and_earlier_providers_apply_here_too(engine: Engine) -> None:
    """A decisive verdict saves the query, and a provider waits for earlier ones, according to the cache alone."""
    load(engine, [("a", sha(number)) for number in range(5)])
    keep(engine, sha(0), "known-good", provider=HL)
    keep(engine, sha(1), "unknown", provider=HL)
    keep(engine, sha(2), "malicious", provider=MB)
    take(engine, HL, only=[sha(3)])

    assert hashes(take(engine, earlier=[HL])) == [sha(1)]
    staged_failure(engine, HL, sha(3), kind="timeout", now=NOW, not_before=NOW + HOUR)
    assert hashes(take(engine, earlier=[HL])) == [sha(3)]
    assert hashes(take(engine)) == [sha(4)]


def test_a_killed_process_costs_no_file_its_place(engine: Engine) -> None:
    """A file whose claiming process was killed keeps its place three times; then it is among the retries."""
    load(engine, [("a", sha(1)), ("b", sha(1)), ("c", sha(2))])
    got = []
    for hours in range(4):
        claimed = take(engine, now=NOW + hours * HOUR)
        got.append([(item.sha256, item.reason, item.attempts) for item in claimed])
        staged_release(engine, VT, [sha(2)])

    tries = [[(sha(1), "new", number), (sha(2), "new", 1)] for number in (1, 2, 3)]
    assert got == [*tries, [(sha(2), "new", 1), (sha(1), "retry", 4)]]


def test_a_lost_claim_counts_as_no_query(engine: Engine) -> None:
    """A later provider goes on waiting for one with a lost claim, unless its claims were lost repeatedly."""
    load(engine, [("a", sha(1))])
    for hours in range(3):
        take(engine, HL, now=NOW + hours * HOUR)
        assert take(engine, earlier=[HL], now=NOW + hours * HOUR) == []
        assert bool(take(engine, earlier=[HL], now=NOW + (hours + 0.5) * HOUR)) == (hours == 2)


def test_hashes_asked_for_by_hand_come_first(engine: Engine) -> None:
    """They are claimed once, whatever the cache has, also after a release or a lost claim."""
    load(engine, [("a", sha(number)) for number in range(4)])
    keep(engine, sha(0), "malicious")
    keep(engine, sha(1), "known-good", provider=HL)
    take(engine, only=[sha(2)])
    wanted = [sha(number) for number in range(4)]
    with write_transaction(engine) as connection:
        staged_ask_first(connection, [*wanted, sha(9)], [VT], NOW)

    claimed = take(engine, earlier=[HL], only=wanted)
    assert {item.sha256: item.reason for item in claimed} == {sha(number): "asked-for" for number in (0, 1, 3)}
    assert take(engine, only=wanted) == []
    staged_release(engine, VT, [sha(0)])
    assert [(item.sha256, item.attempts) for item in take(engine, only=wanted)] == [(sha(0), 1)]
    later = NOW + HOUR
    lost = take(engine, only=[sha(0), sha(1)], now=later)
    assert [(item.reason, item.attempts) for item in lost] == [("asked-for", 2)] * 2
    for item in lost:
        keep(engine, item.sha256, "malicious", at=later)
        with write_transaction(engine) as connection:
            staged_answer(connection, VT, item.sha256, item.sha256, later + DAY)
    assert take(engine, only=[sha(0), sha(1)], now=later + HOUR) == []


def test_failed_claims_are_due_in_short_transactions(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """All failures of a kind are due at once, a few in each transaction; others keep their time."""
    monkeypatch.setattr("cowrieprocessor.db.enrichment.staged_claims.RETRIED_CLAIMS", 2)
    load(engine, [("a", sha(number)) for number in range(7)])
    take(engine)
    for number in range(5):
        fail(engine, sha(number))
    staged_failure(engine, VT, sha(5), kind="server-error", now=NOW, not_before=NOW + HOUR)
    commits: list[object] = []
    event.listen(engine, "commit", commits.append)

    staged_retry_now(engine, VT, ["timeout"], NOW + dt.timedelta(minutes=1))

    assert len(commits) >= 3
    due = take(engine, now=NOW + dt.timedelta(minutes=1))
    assert {sha(number) for number in range(5)} == set(hashes(due))
    staged_retry_now(engine, VT, None, NOW + dt.timedelta(minutes=2))
    assert [sha(5)] == hashes(take(engine, now=NOW + dt.timedelta(minutes=2)))


def test_claims_are_removed_after_the_replay(engine: Engine) -> None:
    """A provider's claims are removed except those in progress; answers stay."""
    load(engine, [("a", sha(number)) for number in range(5)])
    take(engine, only=[sha(0), sha(1), sha(2)])
    fail(engine, sha(1))
    keep(engine, sha(2), "clean")
    with write_transaction(engine) as connection:
        staged_answer(connection, VT, sha(2), sha(2), NOW + DAY)
    take(engine, HL, only=[sha(0)])
    later = NOW + dt.timedelta(minutes=10)
    take(engine, only=[sha(3)], now=later)

    assert remove_claims(engine, VT, LATER) == 3
    left = {(entry["provider"], entry["key"]) for entry in rows(engine, "enrichment_cache")}
    assert left == {(VT, sha(2)), (VT, f"claim:{sha(3)}"), (HL, f"claim:{sha(0)}")}
    assert remove_claims(engine, VT, LATER) == 0
    assert hashes(take(engine, now=LATER, only=[sha(1), sha(2)])) == [sha(1)]


def test_clock_skew_hides_nothing(engine: Engine) -> None:
    """Claims, failures and answers dated far in the future are due at once, and current answers replace them."""
    far = NOW + 3650 * DAY
    load(engine, [("a", sha(number)) for number in range(4)])
    take(engine, now=far, only=[sha(0), sha(1)])
    fail(engine, sha(1), now=far, again=far + HOUR)
    keep(engine, sha(2), "clean", at=far)
    keep(engine, sha(3), "clean", holds=3650 * DAY)

    claimed = take(engine)

    assert {item.sha256: item.reason for item in claimed} == {sha(0): "new", sha(1): "retry", sha(2): "expired"}
    keep(engine, sha(2), "malicious")
    (kept,) = rows(engine, "enrichment_cache", key=sha(2))
    assert (kept["status"], kept["fetched_at"]) == ("malicious", NOW)
    assert take(engine) == []


def plans(engine: Engine, ask: Callable[[], object]) -> list[str]:
    """Return the steps of the plans of all queries that `ask` runs on an SQLite database."""
    steps: list[str] = []

    def explain(connection: Connection, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        raw: Any = connection.connection.driver_connection
        if statement.lstrip().startswith("SELECT"):
            steps.extend(row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))

    event.listen(engine, "before_cursor_execute", explain)
    try:
        ask()
    finally:
        event.remove(engine, "before_cursor_execute", explain)
    return steps


@pytest.mark.parametrize("db_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("asks", ["claim", "status"])
def test_each_hash_is_looked_up_by_key(engine: Engine, asks: str) -> None:
    """Answers and claims of a hash are found by provider and key, not by when they expire."""
    load(engine, [("a", sha(number)) for number in range(3)])
    keep(engine, sha(1), "unknown", provider=HL)
    keep(engine, sha(2), "unknown", provider=MB)

    def status() -> None:
        with read_transaction(engine) as connection:
            staged_backlog(connection, CandidateScope(VT, NOW, POLICY, providers_in_cache(connection)))

    steps = plans(engine, status if asks == "status" else lambda: take(engine, earlier=[HL]))

    assert not [step for step in steps if "ix_enrichment_cache_expires_at" in step]
    for name in ("settling", "answer", "claim", "earlier_answer", "earlier_claim"):
        if asks == "claim" or not name.startswith("earlier"):
            of_name = {step.partition("(")[2].split(" LEFT")[0] for step in steps if f"SEARCH {name} " in step}
            assert (name, of_name) == (name, {"provider=? AND key=?)"})


def test_providers_in_the_cache_are_found_by_index(engine: Engine) -> None:
    """The names of the providers are found without reading their answers."""
    load(engine, [("a", sha(1))])
    with read_transaction(engine) as connection:
        assert providers_in_cache(connection) == ()
    for provider in (VT, HL, "cowrie-virustotal"):
        for number in range(3):
            keep(engine, sha(number), "unknown", provider=provider)
    with read_transaction(engine) as connection:
        assert providers_in_cache(connection) == ("cowrie-virustotal", HL, VT)


def test_refused_hashes_are_not_claimed(engine: Engine) -> None:
    """A refusal in the queue applies while the change is staged."""
    load(engine, [("a", sha(1))])
    put(engine, "enrichment_queue", {"sha256": sha(1), "provider": VT, "status": "refused"})

    assert take(engine) == []


def test_no_two_processes_claim_the_same(db_url: str, engine: Engine) -> None:
    """Threads that claim concurrently get every hash once."""
    load(engine, [(f"s{number}", sha(number)) for number in range(40)])
    all_claimed: list[str] = []
    start = threading.Barrier(3)

    def work() -> None:
        own = get_engine(db_url)
        try:
            start.wait(30)
            while claimed := take(own, limit=7):
                all_claimed.extend(hashes(claimed))
        finally:
            dispose(own)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert Counter(all_claimed) == Counter({sha(number): 1 for number in range(40)})


def test_answers_that_the_history_lacks_are_replayed(engine: Engine) -> None:
    """Answers about known files that the history does not have, page by page; claims are not answers."""
    load(engine, [("a", sha(number)) for number in range(6)])
    take(engine, only=[sha(5)])
    for number in range(4):
        keep(engine, sha(number), "unknown")
    keep(engine, sha(9), "clean")
    keep(engine, sha(4), "suspicious", key="url:4")
    answer(engine, sha(0), ProviderVerdict("unknown"))
    answer(engine, sha(1), vt_verdict(3), at=NOW + HOUR)
    with read_transaction(engine) as connection:
        first = replayable(connection, VT, "", 1)
        rest = replayable(connection, VT, first[-1].key, 100)
        counted = count_replayable(connection, VT)
        others = replayable(connection, HL, "", 100)

    assert [item.key for item in [*first, *rest]] == sorted([sha(2), sha(3)])
    assert (counted, others) == (2, [])


@pytest.mark.parametrize("only", [[], None])
def test_nothing_requested_or_nothing_there_claims_nothing(engine: Engine, only: list[str] | None) -> None:
    """No hash, no claim."""
    assert take(engine, only=only) == []
    assert take(engine, limit=0) == []
