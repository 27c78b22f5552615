"""Claims: which process queries which provider about which hash next."""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
from collections import Counter
from collections.abc import Sequence

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import dispose, get_engine, write_transaction
from cowrieprocessor.db.enrichment.candidate_search import DUE_ROWS
from cowrieprocessor.db.enrichment.claims import Claimed, ask_first, claim, note_skipped, release
from cowrieprocessor.db.enrichment.provider_verdict import ProviderVerdict
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy
from cowrieprocessor.db.enrichment.verdict_store import store_failure, store_refusal
from tests.enrichment_scene import (
    DAY,
    DECISIVE,
    HL,
    HOUR,
    MB,
    NO_CACHE,
    NOW,
    POLICY,
    VT,
    answer,
    load,
    propagate_all,
    put,
    row,
    rows,
    sha,
    vt_verdict,
)

EMPTY = hashlib.sha256(b"").hexdigest()
NEWLINE = hashlib.sha256(b"\n").hexdigest()


def take(
    engine: Engine,
    provider: str = VT,
    *,
    limit: int = 100,
    now: dt.datetime = NOW,
    policy: Policy = POLICY,
    earlier: Sequence[str] = (),
    oldest: bool = False,
    only: Sequence[str] | None = None,
    due_rows: int = DUE_ROWS,
) -> list[Claimed]:
    """Claim hashes for a quarter of an hour, on a machine of any speed."""
    return claim(
        engine,
        provider,
        limit=limit,
        now=now,
        lease_s=900,
        policy=policy,
        earlier=earlier,
        order="oldest" if oldest else "turn",
        only=only,
        due_rows=due_rows,
        cache_timing=NO_CACHE,
    )


def hashes(claimed: Sequence[Claimed]) -> list[str]:
    """Return the claimed hashes, in order."""
    return [item.sha256 for item in claimed]


def fail(
    engine: Engine, sha256: str, provider: str = VT, *, again: dt.datetime = NOW + HOUR, now: dt.datetime = NOW
) -> None:
    """Store a failure."""
    with write_transaction(engine) as connection:
        store_failure(
            connection,
            sha256,
            provider,
            kind="timeout",
            reason="no answer within 30 s",
            next_attempt_at=again,
            policy=POLICY,
            now=now,
        )


def test_a_hash_in_many_sessions_is_claimed_once(engine: Engine) -> None:
    """The queue is by hash, not by session: one claim, whatever the number of sessions."""
    load(engine, [(f"s{number}", sha(number % 3)) for number in range(30)])

    claimed = take(engine)

    assert sorted(hashes(claimed)) == sorted(sha(number) for number in range(3))
    assert take(engine) == []


def test_the_most_frequent_come_first_then_the_latest(engine: Engine) -> None:
    """Never-queried hashes are ordered by number of sessions, then by when they were last seen."""
    load(engine, [("a", sha(1))], at=NOW)
    load(engine, [("b", sha(2))], at=NOW + HOUR)
    load(engine, [("c", sha(3)), ("d", sha(3))], at=NOW - HOUR)

    assert hashes(take(engine, limit=2)) == [sha(3), sha(2)]
    assert hashes(take(engine)) == [sha(1)]


def test_the_oldest_come_first_on_request(engine: Engine) -> None:
    """With the order `oldest` they are ordered by when they were first seen."""
    load(engine, [("b", sha(2)), ("c", sha(2))], at=NOW)
    load(engine, [("a", sha(1))], at=NOW - HOUR)

    assert hashes(take(engine, oldest=True)) == [sha(1), sha(2)]


def test_failures_do_not_starve_the_rest(engine: Engine) -> None:
    """However many failures are due, never-queried hashes come before them, and they before expired answers."""
    load(engine, [("x", sha(number)) for number in range(6)])
    for item in take(engine, limit=2):
        fail(engine, item.sha256)
    failed = {entry["sha256"] for entry in rows(engine, "enrichment_queue")}
    fresh = [sha(number) for number in range(6) if sha(number) not in failed]
    answer(engine, fresh[0], vt_verdict(0), holds=HOUR)
    later = NOW + 2 * HOUR

    claimed = take(engine, now=later)

    assert [item.reason for item in claimed] == ["new"] * 3 + ["retry"] * 2 + ["expired"]
    assert {item.sha256 for item in claimed[3:5]} == failed
    assert [item.attempts for item in claimed] == [1, 1, 1, 2, 2, 1]


def test_a_failure_is_not_retried_before_its_time(engine: Engine) -> None:
    """A failure waits for its next attempt."""
    load(engine, [("a", sha(1))])
    (item,) = take(engine)
    fail(engine, item.sha256, again=NOW + HOUR)

    assert take(engine, now=NOW + HOUR - dt.timedelta(seconds=1)) == []
    assert hashes(take(engine, now=NOW + HOUR)) == [sha(1)]


def test_a_current_answer_is_not_queried_again(engine: Engine) -> None:
    """A provider is queried again when its answer has expired, not before."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), vt_verdict(0), holds=7 * DAY)

    assert take(engine, now=NOW + 6 * DAY) == []
    assert [item.reason for item in take(engine, now=NOW + 7 * DAY)] == ["expired"]


def test_a_refusal_is_final_until_asked_for_by_hand(engine: Engine) -> None:
    """A refused hash is queried again only by hand."""
    load(engine, [("a", sha(1))])
    take(engine)
    with write_transaction(engine) as connection:
        store_refusal(connection, sha(1), VT, reason="not for this key", policy=POLICY, now=NOW)

    assert take(engine, now=NOW + 365 * DAY) == []
    with write_transaction(engine) as connection:
        ask_first(connection, [sha(1)], [VT])
    assert [item.reason for item in take(engine)] == ["asked-for"]


def test_a_lease_ends(engine: Engine) -> None:
    """A hash whose claiming process was killed is claimed again when the lease has ended."""
    load(engine, [("a", sha(1))])
    assert len(take(engine)) == 1

    assert take(engine, now=NOW + dt.timedelta(seconds=899)) == []
    (again,) = take(engine, now=NOW + dt.timedelta(seconds=900))
    assert (again.reason, again.attempts) == ("new", 2)


def test_a_killed_process_costs_no_file_its_place(engine: Engine) -> None:
    """Files whose claiming process was killed before the query keep their place before less frequent files."""
    load(engine, [(f"s{number}-{count}", sha(number)) for number in range(6) for count in range(6 - number)])
    assert hashes(take(engine, limit=2)) == [sha(0), sha(1)]

    claimed = take(engine, now=NOW + HOUR, limit=4)

    assert [(item.sha256, item.attempts) for item in claimed] == [(sha(0), 2), (sha(1), 2), (sha(2), 1), (sha(3), 1)]
    assert {item.reason for item in claimed} == {"new"}


def test_a_file_whose_claims_are_lost_repeatedly_comes_last(engine: Engine) -> None:
    """After three claims whose process was killed a file comes after the never-queried ones, among the retries."""
    load(engine, [("a", sha(1)), ("b", sha(1)), ("b", sha(2)), ("c", sha(3)), ("d", sha(3)), ("e", sha(3))])
    for hours in range(3):
        assert hashes(take(engine, now=NOW + hours * HOUR, only=[sha(1)])) == [sha(1)]

    claimed = take(engine, now=NOW + 3 * HOUR)

    assert [(item.sha256, item.reason, item.attempts) for item in claimed] == [
        (sha(3), "new", 1),
        (sha(2), "new", 1),
        (sha(1), "retry", 4),
    ]


def test_a_lost_claim_counts_as_no_query(engine: Engine) -> None:
    """A later provider goes on waiting for one with a lost claim, unless its claims were lost repeatedly."""
    load(engine, [("a", sha(1)), ("b", sha(2))])
    answer(engine, sha(2), ProviderVerdict("unknown"), provider=HL, holds=HOUR)
    take(engine, HL, now=NOW)
    take(engine, HL, now=NOW + HOUR)  # the answer about the second file has expired

    assert take(engine, earlier=[HL], now=NOW + HOUR) == []
    assert hashes(take(engine, earlier=[HL], now=NOW + 2 * HOUR)) == [sha(2)]
    take(engine, HL, now=NOW + 3 * HOUR, only=[sha(1)])
    assert hashes(take(engine, earlier=[HL], now=NOW + 4 * HOUR, only=[sha(1)])) == [sha(1)]


def test_a_hash_asked_for_by_hand_survives_a_killed_process(engine: Engine) -> None:
    """It comes first again after its process was killed, even with a decisive verdict of another provider."""
    load(engine, [("a", sha(1)), ("b", sha(2))])
    answer(engine, sha(1), ProviderVerdict("known-good"), provider=HL)
    with write_transaction(engine) as connection:
        ask_first(connection, [sha(1)], [VT])
    reasons = []
    for hours in range(4):
        (first, *_) = take(engine, now=NOW + hours * HOUR)
        reasons.append((first.sha256, first.reason))
        release(engine, VT, [sha(2)])

    assert reasons == [(sha(1), "asked-for")] * 3 + [(sha(2), "new")]
    assert hashes(take(engine, now=NOW + 5 * HOUR)) == [sha(2), sha(1)]


def test_rows_that_need_no_lookup_are_deferred_once(engine: Engine) -> None:
    """Expired answers and failures about files with a decisive verdict are deferred for a week by the next claim."""
    load(engine, [("a", sha(number)) for number in range(9)])
    fail(engine, sha(0))
    for number in range(1, 9):
        answer(engine, sha(number), vt_verdict(0), holds=number * HOUR)
    for number in range(8):
        answer(engine, sha(number), ProviderVerdict("malicious"), provider=MB)
    later = NOW + DAY

    assert hashes(take(engine, now=later, due_rows=3)) == [sha(8)]
    due = {entry["sha256"]: entry["next_attempt_at"] for entry in rows(engine, "enrichment_queue", provider=VT)}
    assert due == {sha(number): later + 7 * DAY for number in range(8)} | {sha(8): NOW + 8 * HOUR}
    deferred = rows(engine, "enrichment_queue", provider=VT, status="failed")
    assert [entry["last_error"] for entry in deferred] == ["timeout: no answer within 30 s"]
    for number in (0, 5):
        answer(engine, sha(number), ProviderVerdict("unknown"), provider=MB, at=later)
    release(engine, VT, [sha(8)])
    claimed = []
    while some := take(engine, now=later + 7 * DAY, due_rows=3):
        claimed += some
    assert {item.sha256: item.reason for item in claimed} == {sha(0): "retry", sha(8): "expired", sha(5): "expired"}


def test_clock_skew_hides_nothing(engine: Engine) -> None:
    """Failures, claims and answers dated far in the future are due at once, and current answers count again."""
    far = NOW + 3650 * DAY
    load(engine, [(f"s{number}-{count}", sha(number)) for number in range(4) for count in range(4 - number)])
    fail(engine, sha(0), again=far + HOUR, now=far)
    answer(engine, sha(1), vt_verdict(3), at=far - DAY)
    answer(engine, sha(1), vt_verdict(4), at=far)
    assert hashes(take(engine, now=far, only=[sha(2)])) == [sha(2)]
    answer(engine, sha(3), vt_verdict(0), holds=3650 * DAY)  # no clock skew: so the settings say
    tables = ("enrichment_cache", "file_verdicts", "file_hashes")
    before = [rows(engine, table) for table in tables]

    claimed = take(engine) + take(engine)

    assert before == [rows(engine, table) for table in tables]
    assert [(item.sha256, item.reason) for item in claimed] == [
        (sha(2), "new"),
        (sha(0), "retry"),
        (sha(1), "expired"),
    ]
    answer(engine, sha(1), vt_verdict(5))
    assert row(engine, "enrichment_queue", sha256=sha(1), provider=VT)["next_attempt_at"] == NOW + 30 * DAY
    assert [entry["positives"] for entry in rows(engine, "file_verdicts", sha256=sha(1))] == [3, 4, 5]
    assert row(engine, "file_hashes", sha256=sha(1))["vt_positives"] == 5
    assert take(engine) == []


def test_clock_skew_hides_no_named_hash(engine: Engine) -> None:
    """The same applies to a run restricted to some files."""
    load(engine, [("a", sha(1)), ("b", sha(2))])
    for number in (1, 2):
        answer(engine, sha(number), vt_verdict(3), at=NOW + 900 * DAY)

    assert hashes(take(engine, only=[sha(1)])) == [sha(1)]


@pytest.mark.parametrize("state", ["new", "answered", "failed", "asked-for", "asked-for-known"])
def test_a_released_claim_restores_the_queue(engine: Engine, state: str) -> None:
    """A released claim leaves the queue as if it had never been."""
    load(engine, [("a", sha(1))])
    if state in ("answered", "asked-for-known"):
        answer(engine, sha(1), vt_verdict(0), holds=HOUR)
    if state == "failed":
        take(engine)
        fail(engine, sha(1))
    if state.startswith("asked-for"):
        with write_transaction(engine) as connection:
            ask_first(connection, [sha(1)], [VT])
    before = rows(engine, "enrichment_queue")
    later = NOW + 2 * HOUR
    claimed = take(engine, now=later)
    assert hashes(claimed) == [sha(1)]

    release(engine, VT, hashes(claimed))

    assert rows(engine, "enrichment_queue") == before
    assert take(engine, now=later) == claimed


def test_releasing_twice_or_too_late_changes_nothing(engine: Engine) -> None:
    """Only a claimed hash can be released."""
    load(engine, [("a", sha(1))])
    take(engine)
    answer(engine, sha(1), vt_verdict(3))
    before = rows(engine, "enrichment_queue")

    release(engine, VT, [sha(1), sha(2)])

    assert rows(engine, "enrichment_queue") == before


def test_the_empty_file_and_a_newline_are_never_claimed(engine: Engine) -> None:
    """The two skipped hashes are not claimed, not even by hand, and the queue tells why."""
    load(engine, [("a", EMPTY), ("b", NEWLINE), ("c", sha(1))])
    with write_transaction(engine) as connection:
        note_skipped(connection)
        ask_first(connection, [EMPTY, NEWLINE], [VT])

    assert hashes(take(engine)) == [sha(1)]
    skipped = rows(engine, "enrichment_queue", provider="policy")
    assert {entry["sha256"]: entry["status"] for entry in skipped} == {EMPTY: "skipped", NEWLINE: "skipped"}
    assert all("nothing can be learned" in entry["last_error"] for entry in skipped)


def test_a_pending_skipped_hash_becomes_skipped_everywhere(engine: Engine) -> None:
    """A pre-release `files` table may have the empty file as pending: it becomes skipped, and so do its rows."""
    load(engine, [("a", EMPTY)])
    with write_transaction(engine) as connection:
        connection.exec_driver_sql("UPDATE file_hashes SET enrichment_status = 'pending'")
        connection.exec_driver_sql("UPDATE files SET enrichment_status = 'pending'")

    with write_transaction(engine) as connection:
        note_skipped(connection)
    propagate_all(engine)

    assert row(engine, "file_hashes", sha256=EMPTY)["enrichment_status"] == "skipped"
    assert row(engine, "files", shasum=EMPTY)["enrichment_status"] == "skipped"


def test_a_decisive_verdict_of_another_provider_saves_the_query(engine: Engine) -> None:
    """Known-good and malicious are decisive for the other providers; clean is not."""
    load(engine, [("a", sha(1)), ("b", sha(2)), ("c", sha(3))])
    answer(engine, sha(1), ProviderVerdict("known-good"), provider=HL)
    answer(engine, sha(2), vt_verdict(0), provider=MB)
    answer(engine, sha(3), ProviderVerdict("malicious"), provider=MB)

    assert hashes(take(engine)) == [sha(2)]
    nothing_is_decisive = Policy(POLICY.providers, frozenset())
    assert sorted(hashes(take(engine, policy=nothing_is_decisive))) == sorted([sha(1), sha(3)])


def test_a_changed_verdict_is_no_longer_decisive(engine: Engine) -> None:
    """Only a provider's latest verdict can be decisive, not an earlier one."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), ProviderVerdict("malicious"), provider=MB)
    answer(engine, sha(1), ProviderVerdict("unknown"), provider=MB, at=NOW + DAY)

    assert hashes(take(engine, now=NOW + DAY)) == [sha(1)]


def test_a_logged_verdict_is_decisive_until_it_expires(engine: Engine) -> None:
    """The verdict of a provider that is never queried again is decisive until it expires."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), vt_verdict(5), provider="cowrie-virustotal", holds=DAY)

    assert take(engine, now=NOW + DAY - HOUR) == []
    assert hashes(take(engine, now=NOW + DAY)) == [sha(1)]


def test_two_decisive_verdicts_do_not_block_each_other(engine: Engine) -> None:
    """Of two providers that call a file malicious the first is queried again, without waiting for the second."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), ProviderVerdict("malicious"), provider=MB)
    answer(engine, sha(1), vt_verdict(9))
    later = NOW + 60 * DAY

    assert hashes(take(engine, VT, now=later)) == []
    assert hashes(take(engine, MB, now=later)) == [sha(1)]


def test_a_provider_waits_for_earlier_ones(engine: Engine) -> None:
    """A provider is queried about a new hash once each available earlier one has answered or failed."""
    load(engine, [("a", sha(1)), ("b", sha(2)), ("c", sha(3))])
    (first,) = take(engine, HL, limit=1)

    assert take(engine, earlier=[HL]) == []
    answer(engine, first.sha256, ProviderVerdict("unknown"), provider=HL)
    assert hashes(take(engine, earlier=[HL])) == [first.sha256]
    (second,) = take(engine, HL, limit=1)
    fail(engine, second.sha256, HL)
    assert hashes(take(engine, earlier=[HL])) == [second.sha256]
    assert len(take(engine, earlier=[])) == 1


def test_only_named_hashes_are_claimed(engine: Engine) -> None:
    """A claim may be restricted to some hashes, or to none at all."""
    load(engine, [("a", sha(number)) for number in range(500)])
    wanted = [sha(number) for number in range(450)]

    assert take(engine, only=[]) == []
    assert sorted(hashes(take(engine, only=wanted, limit=2000))) == sorted(wanted)
    assert take(engine, only=wanted) == []


def test_hashes_asked_for_by_hand_come_first(engine: Engine) -> None:
    """They are claimed first, even with a current answer or a decisive verdict of another provider."""
    load(engine, [("a", sha(1)), ("b", sha(2)), ("b", sha(3)), ("c", sha(3))])
    answer(engine, sha(1), vt_verdict(3))
    answer(engine, sha(2), ProviderVerdict("known-good"), provider=HL)
    with write_transaction(engine) as connection:
        ask_first(connection, [sha(1), sha(2), sha(9)], [VT])

    claimed = take(engine, earlier=[MB])

    assert {item.sha256: item.reason for item in claimed} == {sha(1): "asked-for", sha(2): "asked-for"}
    answer(engine, sha(1), vt_verdict(4), at=NOW + HOUR)
    assert row(engine, "enrichment_queue", sha256=sha(1), provider=VT)["priority"] == 0
    assert sha(1) not in hashes(take(engine, now=NOW + 2 * HOUR))


def test_a_claim_has_what_providers_need(engine: Engine) -> None:
    """A claim has the hashes, the size and one URL of the file, whichever of its rows has the URL."""
    load(engine, [("a", sha(1))])
    load(engine, [("b", sha(1))], url="http://203.0.113.5/x")
    with write_transaction(engine) as connection:
        connection.exec_driver_sql("UPDATE file_hashes SET md5 = 'm', sha1 = 's', size_bytes = 7")

    (item,) = take(engine)

    assert item == Claimed(sha(1), "m", "s", 7, "http://203.0.113.5/x", 1, "new")


def test_rows_of_missing_hashes_are_ignored(engine: Engine) -> None:
    """A row of the queue whose hash is gone is never claimed."""
    put(engine, "enrichment_queue", {"sha256": sha(1), "provider": VT, "status": "failed", "next_attempt_at": NOW})

    assert take(engine) == []


@pytest.mark.parametrize("lost", [False, True])
def test_no_two_processes_claim_the_same(db_url: str, engine: Engine, lost: bool) -> None:
    """Threads with their own engines that claim concurrently never get a hash twice.

    Neither new hashes nor those of lost claims.
    """
    now = NOW + HOUR if lost else NOW
    load(engine, [(f"s{number}", sha(number)) for number in range(60)])
    if lost:
        take(engine)
    all_claimed: list[str] = []
    start = threading.Barrier(3)

    def work() -> None:
        own = get_engine(db_url)
        try:
            start.wait(30)
            while claimed := take(own, limit=7, now=now):
                all_claimed.extend(hashes(claimed))
        finally:
            dispose(own)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    all_claimed += hashes(take(engine, now=now))

    assert Counter(all_claimed) == Counter({sha(number): 1 for number in range(60)})


def test_settled_by_is_the_default_of_the_settings() -> None:
    """The scene's decisive verdicts are the default of the settings."""
    from cowrieprocessor.settings.reference import Settings

    assert frozenset(Settings().settled_by) == DECISIVE
