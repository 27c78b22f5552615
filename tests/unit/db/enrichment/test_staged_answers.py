"""Staging the change: claims and failures in the queue, answers in the cache alone, and what the history lacks."""

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
from cowrieprocessor.db.enrichment.claims import Claimed, ask_first, claim, release, retry_now
from cowrieprocessor.db.enrichment.provider_verdict import ProviderVerdict
from cowrieprocessor.db.enrichment.response_cache import providers_in_cache, store_in_cache
from cowrieprocessor.db.enrichment.staged_answers import (
    remove_claims,
    replayable,
    replayable_count,
    staged_hashes,
    staging_providers,
    take_staged,
)
from cowrieprocessor.db.enrichment.verdict_store import defer_lookup, store_failure, store_rate_limit, store_refusal
from cowrieprocessor.reporting.queries.enrichment import queue_counts
from tests.enrichment_scene import (
    DAY,
    HL,
    HOUR,
    MB,
    NO_CACHE,
    NOW,
    POLICY,
    VT,
    answer,
    dump_other_tables,
    load,
    put,
    row,
    rows,
    sha,
    vt_verdict,
)

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
    return claim(
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


def stage(engine: Engine, sha256: str, verdict: str, *, provider: str = VT, **more: Any) -> None:
    """Store an answer while staged."""
    answer(engine, sha256, ProviderVerdict(verdict, response={"said": verdict}), provider=provider, staged=True, **more)


def fail(
    engine: Engine,
    sha256: str,
    *,
    provider: str = VT,
    kind: str = "timeout",
    now: dt.datetime = NOW,
    again: dt.datetime = NOW + HOUR,
) -> None:
    """Store a failure while staged."""
    failure: dict[str, Any] = {"kind": kind, "reason": "none", "next_attempt_at": again}
    with write_transaction(engine) as connection:
        store_failure(connection, sha256, provider, **failure, policy=POLICY, now=now, staged=True)


def keep(engine: Engine, sha256: str, verdict: str, *, provider: str = VT, at: dt.datetime = NOW) -> None:
    """Store an answer in the cache, as releases did that staged claims there."""
    with write_transaction(engine) as connection:
        store_in_cache(connection, provider, sha256, verdict, {}, at, at + DAY, now=at)


def hashes(claimed: Sequence[Claimed]) -> list[str]:
    """Return the claimed hashes, in order."""
    return [item.sha256 for item in claimed]


def test_no_other_table_is_touched(engine: Engine) -> None:
    """Claims, answers and every other outcome change only the cache and the queue."""
    load(engine, [("a", sha(number)) for number in range(6)] + [("c", EMPTY)])
    before = dump_other_tables(engine)

    assert len(take(engine)) == 6
    stage(engine, sha(0), "malicious")
    fail(engine, sha(1))
    how: dict[str, Any] = {"policy": POLICY, "now": NOW, "staged": True}
    with write_transaction(engine) as connection:
        store_refusal(connection, sha(2), VT, reason="400", **how)
        store_rate_limit(connection, sha(3), VT, reason="429", **how)
        defer_lookup(connection, sha(4), VT, next_attempt_at=NOW + DAY, **how)
    release(engine, VT, [sha(5)])

    assert dump_other_tables(engine) == before
    statuses = {entry["sha256"]: entry["status"] for entry in rows(engine, "enrichment_queue")}
    words = ("answered", "failed", "refused", "rate-limited", "answered")
    assert statuses == {sha(number): word for number, word in enumerate(words)}


def test_staged_answers_are_claimed_like_stored_ones(engine: Engine) -> None:
    """A current answer is not queried again; failures and expired answers are, after hashes never queried."""
    load(engine, [("a", sha(number)) for number in range(4)])
    load(engine, [("b", sha(3))])
    fail(engine, sha(0))
    stage(engine, sha(1), "clean", holds=HOUR)
    stage(engine, sha(2), "unknown", holds=DAY)

    claimed = take(engine, now=NOW + 2 * HOUR)

    assert [(item.sha256, item.reason, item.attempts) for item in claimed] == [
        (sha(3), "new", 1),
        (sha(0), "retry", 2),
        (sha(1), "expired", 1),
    ]


def test_decisive_staged_verdicts_save_the_query(engine: Engine) -> None:
    """A decisive verdict saves the query, and a provider waits for earlier ones, whether staged or not."""
    load(engine, [("a", sha(number)) for number in range(6)])
    stage(engine, sha(0), "known-good", provider=HL)
    stage(engine, sha(1), "unknown", provider=HL)
    stage(engine, sha(2), "malicious", provider=MB, key="url:1")
    stage(engine, sha(5), "malicious", provider="not-in-use", holds=HOUR)
    take(engine, HL, only=[sha(3)])

    assert hashes(take(engine, earlier=[HL])) == [sha(1)]
    fail(engine, sha(3), provider=HL)
    assert hashes(take(engine, earlier=[HL])) == [sha(3)]
    assert hashes(take(engine)) == [sha(4)]
    assert hashes(take(engine, now=NOW + HOUR, only=[sha(0), sha(2), sha(5)])) == [sha(5)]


def test_the_latest_verdict_decides_wherever_it_is(engine: Engine) -> None:
    """A later staged answer takes the decision back, and a later stored one that of a staged answer."""
    load(engine, [("a", sha(number)) for number in range(3)])
    answer(engine, sha(0), ProviderVerdict("malicious"), provider=MB)
    stage(engine, sha(0), "clean", provider=MB, at=NOW + HOUR)
    stage(engine, sha(1), "malicious", provider=MB)
    answer(engine, sha(1), ProviderVerdict("clean"), provider=MB, at=NOW + HOUR)
    answer(engine, sha(2), ProviderVerdict("clean"), provider=MB)
    stage(engine, sha(2), "malicious", provider=MB, at=NOW + HOUR)

    assert set(hashes(take(engine, now=NOW + HOUR))) == {sha(0), sha(1)}


def test_a_staged_answer_counts_as_a_query(engine: Engine) -> None:
    """A later provider does not wait while an earlier one is asked again by hand in a claim that was lost."""
    load(engine, [("a", sha(1))])
    stage(engine, sha(1), "unknown", provider=HL)
    with write_transaction(engine) as connection:
        ask_first(connection, [sha(1)], [HL])
    assert hashes(take(engine, HL)) == [sha(1)]
    assert take(engine, earlier=[HL]) == []
    assert hashes(take(engine, earlier=[HL], now=NOW + HOUR)) == [sha(1)]


def test_a_claim_by_hand_is_what_it_was_after_a_release(engine: Engine) -> None:
    """A hash with a staged answer that was asked for by hand is answered again once it is released and answered."""
    load(engine, [("a", sha(1))])
    stage(engine, sha(1), "malicious")
    with write_transaction(engine) as connection:
        ask_first(connection, [sha(1), sha(9)], [VT])
    (claimed,) = take(engine)
    assert claimed.reason == "asked-for"
    release(engine, VT, [sha(1)])
    assert row(engine, "enrichment_queue")["status"] == "answered"
    take(engine)
    stage(engine, sha(1), "malicious", at=NOW + HOUR)
    assert take(engine, now=NOW + 2 * HOUR) == []


def test_an_answer_under_another_key_counts(engine: Engine) -> None:
    """A provider may store answers by URL: the queue says that the hash has one, and when it expires."""
    load(engine, [("a", sha(1))])
    take(engine)
    stage(engine, sha(1), "suspicious", key="url:1", holds=DAY)

    assert take(engine, now=NOW + DAY - HOUR) == []
    assert [item.reason for item in take(engine, now=NOW + DAY)] == ["expired"]


def test_failed_hashes_are_due_in_short_transactions(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """All failures of a kind are due at once, a few in each transaction; others keep their time."""
    monkeypatch.setattr("cowrieprocessor.db.enrichment.claims.RETRIED_HASHES", 2)
    load(engine, [("a", sha(number)) for number in range(7)])
    take(engine)
    for number in range(6):
        fail(engine, sha(number), kind="timeout" if number < 5 else "server-error")
    commits: list[object] = []
    event.listen(engine, "commit", commits.append)

    retry_now(engine, VT, ["timeout"], NOW + dt.timedelta(minutes=1))

    assert len(commits) >= 3
    assert {sha(number) for number in range(5)} == set(hashes(take(engine, now=NOW + dt.timedelta(minutes=1))))
    retry_now(engine, VT, None, NOW + dt.timedelta(minutes=2))
    assert [sha(5)] == hashes(take(engine, now=NOW + dt.timedelta(minutes=2)))


def test_what_an_answer_tells_of_the_file_is_known_to_later_claims(engine: Engine) -> None:
    """The MD5 that a staged answer tells is what hashlookup asks by; what the hash has itself comes first."""
    load(engine, [("a", sha(1))])
    told = ProviderVerdict("unknown", md5="1" * 32, size_bytes=7)
    answer(engine, sha(1), told, provider=MB, staged=True)
    answer(engine, sha(1), ProviderVerdict("unknown", md5="2" * 32, sha1="3" * 40), at=NOW + HOUR, staged=True)
    (claimed,) = take(engine, HL)
    assert (claimed.md5, claimed.sha1, claimed.size_bytes) == ("1" * 32, "3" * 40, 7)


def test_answers_are_kept_until_they_are_taken(engine: Engine) -> None:
    """Every staged answer of every source is taken once, in the order in which they were given."""
    load(engine, [("a", sha(1)), ("b", sha(2))])
    stage(engine, sha(1), "unknown", at=NOW + HOUR)
    stage(engine, sha(1), "malicious", at=NOW + 3 * HOUR)
    stage(engine, sha(1), "malicious", at=NOW + 3 * HOUR)
    stage(engine, sha(1), "clean", at=NOW)
    stage(engine, sha(1), "suspicious", provider=MB, at=NOW + 2 * HOUR, key="url:1")
    fail(engine, sha(2))
    assert row(engine, "enrichment_cache", provider=VT, key=f"staged:{sha(1)}")["status"] == "malicious"

    with write_transaction(engine) as connection:
        assert staging_providers(connection) == (MB, VT)
        assert staged_hashes(connection, VT, 9) == sorted([sha(1), sha(2)])
        assert replayable_count(connection) == 2
        answers = take_staged(connection, sha(1), [MB, VT], NOW)
        assert [take_staged(connection, sha(number), [MB, VT], NOW) for number in (1, 2)] == [None, []]
        assert staging_providers(connection) == ()

    assert answers is not None
    assert [(one.provider, one.verdict, one.fetched_at - NOW) for one in answers] == [
        (VT, "clean", 0 * HOUR),
        (VT, "unknown", HOUR),
        (MB, "suspicious", 2 * HOUR),
        (VT, "malicious", 3 * HOUR),
    ]
    assert answers[0].response == {"said": "clean"}


def test_an_answer_that_the_history_has_is_not_staged(engine: Engine) -> None:
    """An answer that is imported again while staged waits for nothing."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), vt_verdict(3))
    answer(engine, sha(1), vt_verdict(3), staged=True)
    with read_transaction(engine) as connection:
        assert replayable_count(connection) == 0


def test_claims_of_an_earlier_release_are_removed(engine: Engine) -> None:
    """They keep no hash from being claimed, and are removed source by source; answers stay."""
    load(engine, [("a", sha(number)) for number in range(3)])
    keep(engine, sha(2), "clean")
    for number, status in enumerate(("asking", "failed:timeout", "answered")):
        for provider in (VT, HL):
            until = {"fetched_at": NOW, "expires_at": NOW + DAY}
            put(
                engine,
                "enrichment_cache",
                {"provider": provider, "key": f"claim:{sha(number)}", "status": status} | until,
            )
    assert len(take(engine)) == 3

    remove_claims(engine, VT)

    left = {(entry["provider"], entry["key"]) for entry in rows(engine, "enrichment_cache")}
    assert left == {(VT, sha(2)), *((HL, f"claim:{sha(number)}") for number in range(3))}
    with read_transaction(engine) as connection:
        assert staging_providers(connection) == (HL,)


def test_clock_skew_hides_nothing(engine: Engine) -> None:
    """Failures and staged answers dated far in the future are due at once, and current answers replace them."""
    far = NOW + 3650 * DAY
    load(engine, [("a", sha(number)) for number in range(4)])
    take(engine, now=far, only=[sha(0), sha(1)])
    fail(engine, sha(1), now=far, again=far + HOUR)
    stage(engine, sha(2), "clean", at=far)
    stage(engine, sha(3), "clean", holds=3650 * DAY)
    before = rows(engine, "enrichment_cache")

    claimed = take(engine)

    assert {item.sha256: item.reason for item in claimed} == {sha(0): "new", sha(1): "retry", sha(2): "expired"}
    assert rows(engine, "enrichment_cache") == before
    stage(engine, sha(2), "malicious")
    (kept,) = rows(engine, "enrichment_cache", key=sha(2))
    assert (kept["status"], kept["fetched_at"]) == ("malicious", NOW)
    assert row(engine, "enrichment_cache", key=f"staged:{sha(2)}")["status"] == "malicious"
    assert take(engine) == []
    with write_transaction(engine) as connection:
        answers = take_staged(connection, sha(2), [VT], NOW)
    assert [one.verdict for one in answers or ()] == ["clean", "malicious"]


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
    """Staged answers about a hash are found by provider and key, not by when they expire."""
    load(engine, [("a", sha(number)) for number in range(3)])
    stage(engine, sha(1), "unknown", provider=HL)
    stage(engine, sha(2), "unknown", provider=MB)

    def status() -> None:
        with read_transaction(engine) as connection:
            queue_counts(connection, POLICY, NOW)

    steps = plans(engine, status if asks == "status" else lambda: take(engine, earlier=[HL]))

    assert not [step for step in steps if "ix_enrichment_cache_expires_at" in step]
    of_name = {step.partition("(")[2].split(" LEFT")[0] for step in steps if "SEARCH staged_answer " in step}
    assert of_name == {"provider=? AND key=?)"}
    assert not [step for step in steps if "SCAN staged_answer" in step]


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


def test_no_two_processes_claim_the_same(db_url: str, engine: Engine) -> None:
    """Threads that claim concurrently, some staged and some not, get every hash once."""
    load(engine, [(f"s{number}", sha(number)) for number in range(40)])
    all_claimed: list[str] = []
    start = threading.Barrier(3)

    def work(staged: bool) -> None:
        own = get_engine(db_url)
        try:
            start.wait(30)
            while claimed := take(own, limit=7):
                all_claimed.extend(hashes(claimed))
                for sha256 in hashes(claimed):
                    answer(own, sha256, vt_verdict(0), staged=staged)
        finally:
            dispose(own)

    threads = [threading.Thread(target=work, args=[staged]) for staged in (True, False, True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert Counter(all_claimed) == Counter({sha(number): 1 for number in range(40)})


def test_cached_answers_that_the_history_lacks_are_replayed(engine: Engine) -> None:
    """Answers about known files that are neither in the history nor staged, page by page; claims are not answers."""
    load(engine, [("a", sha(number)) for number in range(6)])
    for number in range(4):
        keep(engine, sha(number), "unknown")
    keep(engine, sha(9), "clean")
    keep(engine, "url:4", "suspicious")
    keep(engine, f"claim:{sha(4)}", "failed:timeout")
    answer(engine, sha(0), ProviderVerdict("unknown"))
    answer(engine, sha(1), vt_verdict(3), at=NOW + HOUR)
    stage(engine, sha(5), "clean")
    with read_transaction(engine) as connection:
        first = replayable(connection, VT, "", 1)
        rest = replayable(connection, VT, first[-1].key, 100)
        counted = replayable_count(connection)
        others = replayable(connection, HL, "", 100)

    assert [item.key for item in [*first, *rest]] == sorted([sha(2), sha(3)])
    assert (counted, others) == (3, [])
