"""Writing down what came of asking: cache, history, queue and the row of the hash, in one transaction."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.enrichment.claims import ask_first, claim
from cowrieprocessor.db.enrichment.provider_verdict import ProviderVerdict
from cowrieprocessor.db.enrichment.response_cache import cached_answers, store_in_cache
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy
from cowrieprocessor.db.enrichment.verdict_store import lock_hashes, store_failure, store_refusal
from tests.enrichment_scene import (
    DAY,
    HL,
    HOUR,
    MB,
    NOW,
    POLICY,
    VT,
    answer,
    load,
    propagate_all,
    row,
    rows,
    sha,
    vt_verdict,
)

ONE_SOURCE = Policy((VT,), frozenset({"malicious", "known-good"}))


def hash_row(engine: Engine) -> dict[str, Any]:
    """Return the row of the one hash."""
    return row(engine, "file_hashes", sha256=sha(1))


def queue_row(engine: Engine, provider: str = VT) -> dict[str, Any]:
    """Return how a source stands to the one hash."""
    return row(engine, "enrichment_queue", sha256=sha(1), provider=provider)


def fail(engine: Engine, provider: str = VT, *, now: dt.datetime = NOW, policy: Policy = POLICY) -> None:
    """Store a failure about the one hash."""
    with write_transaction(engine) as connection:
        store_failure(
            connection,
            sha(1),
            provider,
            kind="timeout",
            reason="no answer within 30 s",
            next_attempt_at=now + HOUR,
            policy=policy,
            now=now,
        )


def refuse(engine: Engine, provider: str = VT) -> None:
    """Store a refusal about the one hash."""
    with write_transaction(engine) as connection:
        store_refusal(connection, sha(1), provider, reason="malformed hash", policy=POLICY, now=NOW)


def take(engine: Engine, provider: str = VT, *, now: dt.datetime = NOW) -> int:
    """Claim the one hash; return the number of the attempt."""
    (item,) = claim(engine, provider, limit=1, now=now, lease_s=900, policy=ONE_SOURCE)
    return item.attempts


def test_an_answer_is_written_everywhere(engine: Engine) -> None:
    """Cache, history, queue and hash agree, and the rows of `files` are asked to follow."""
    load(engine, [("a", sha(1)), ("b", sha(1))])
    take(engine)
    seen = NOW - 300 * DAY
    said = vt_verdict(
        12,
        70,
        classification="trojan.mirai/ddos",
        description="ELF",
        family="mirai",
        first_seen=seen,
        last_analysis=NOW - DAY,
        md5="m" * 32,
        size_bytes=77,
    )

    answer(engine, sha(1), said, policy=ONE_SOURCE)

    cache = row(engine, "enrichment_cache")
    assert (cache["provider"], cache["key"], cache["status"]) == (VT, sha(1), "malicious")
    assert (cache["response"], cache["fetched_at"], cache["expires_at"]) == ({"positives": 12}, NOW, NOW + 30 * DAY)
    assert queue_row(engine) == {
        "sha256": sha(1),
        "provider": VT,
        "status": "answered",
        "attempts": 0,
        "next_attempt_at": NOW + 30 * DAY,
        "priority": 0,
        "last_error": None,
        "leased_until": None,
    }
    told = row(engine, "file_verdicts")
    assert (told["verdict"], told["positives"], told["total"], told["fetched_at"]) == ("malicious", 12, 70, NOW)
    found = hash_row(engine)
    expected = {
        "vt_classification": "trojan.mirai/ddos",
        "vt_description": "ELF",
        "vt_malicious": True,
        "vt_first_seen": seen,
        "vt_last_analysis": NOW - DAY,
        "vt_positives": 12,
        "vt_total": 70,
        "vt_scan_date": NOW,
        "enrichment_status": "enriched",
        "verdict": "malicious",
        "family": "mirai",
        "next_check_at": NOW + 30 * DAY,
        "md5": "m" * 32,
        "size_bytes": 77,
    }
    assert {name: found[name] for name in expected} == expected
    waiting = row(engine, "verdict_propagation")
    assert (waiting["sha256"], waiting["requested_at"], waiting["cursor"]) == (sha(1), NOW, 0)


def test_a_file_that_is_not_known_is_an_answer_too(engine: Engine) -> None:
    """Unknown is kept with its time: enriched, not malicious, with the moment we looked and no number at all."""
    load(engine, [("a", sha(1))])

    answer(
        engine, sha(1), ProviderVerdict("unknown", response={"error": "NotFoundError"}), holds=HOUR, policy=ONE_SOURCE
    )

    found = hash_row(engine)
    assert (found["verdict"], found["enrichment_status"], found["vt_malicious"]) == ("unknown", "enriched", False)
    assert (found["vt_scan_date"], found["vt_positives"], found["vt_total"]) == (NOW, None, None)
    assert row(engine, "enrichment_cache")["status"] == "unknown"


def test_the_same_answer_again_changes_nothing(engine: Engine) -> None:
    """An answer may be stored twice: after a crash, or when a cache is replayed."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), vt_verdict(3))
    propagate_all(engine)
    tables = ("enrichment_cache", "enrichment_queue", "file_verdicts", "file_hashes", "verdict_propagation")
    before = {name: rows(engine, name) for name in tables}

    answer(engine, sha(1), vt_verdict(3), now=NOW + DAY)

    assert {name: rows(engine, name) for name in tables} == before


def test_an_answer_about_nothing_of_ours_is_cached_alone(engine: Engine) -> None:
    """Of a hash that no session and no folder has, the cache alone is written."""
    answer(engine, sha(1), vt_verdict(3))

    assert len(rows(engine, "enrichment_cache")) == 1
    assert [rows(engine, name) for name in ("enrichment_queue", "file_verdicts", "file_hashes")] == [[], [], []]


def test_a_transaction_that_fails_leaves_nothing(engine: Engine) -> None:
    """Everything is in the caller's transaction: rolled back, nothing of the answer is there."""
    load(engine, [("a", sha(1))])
    tables = ("enrichment_cache", "enrichment_queue", "file_verdicts", "file_hashes", "verdict_propagation")
    before = {name: rows(engine, name) for name in tables}

    class Killed(Exception):
        """Stands for a crash."""

    def half_done() -> None:
        with write_transaction(engine) as connection:
            lock_hashes(connection, [sha(1)])
            store_failure(connection, sha(1), HL, kind="x", reason="y", next_attempt_at=NOW, policy=POLICY, now=NOW)
            raise Killed

    with pytest.raises(Killed):
        half_done()

    assert {name: rows(engine, name) for name in tables} == before


def test_an_older_answer_adds_to_the_history_alone(engine: Engine) -> None:
    """An answer of last year (an imported cache) does not replace this year's, nor when the source is asked again."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), vt_verdict(40, 71))
    before = (hash_row(engine), queue_row(engine), row(engine, "enrichment_cache"))

    answer(engine, sha(1), vt_verdict(2, 60), at=NOW - 365 * DAY, now=NOW + HOUR)

    assert (hash_row(engine), queue_row(engine), row(engine, "enrichment_cache")) == before
    told = sorted(rows(engine, "file_verdicts"), key=lambda entry: entry["fetched_at"])
    assert [entry["positives"] for entry in told] == [2, 40]


def test_an_old_answer_does_not_end_a_claim_or_a_retry(engine: Engine) -> None:
    """What an imported answer that holds no longer says must not make two ask, or a failure forgotten."""
    load(engine, [("a", sha(1))])
    take(engine)
    long_ago = NOW - 365 * DAY
    answer(engine, sha(1), vt_verdict(2), at=long_ago, holds=DAY, now=NOW)
    assert queue_row(engine)["status"] == "leased"
    fail(engine)

    answer(engine, sha(1), vt_verdict(3), at=long_ago + DAY, holds=DAY, now=NOW)

    assert (queue_row(engine)["status"], queue_row(engine)["next_attempt_at"]) == ("failed", NOW + HOUR)
    answer(engine, sha(1), vt_verdict(4), at=NOW - HOUR, holds=DAY, now=NOW)
    assert (queue_row(engine)["status"], queue_row(engine)["attempts"]) == ("answered", 0)


def test_what_was_asked_for_by_hand_is_not_answered_by_the_cache(engine: Engine) -> None:
    """An answer that was not given to this question leaves it standing."""
    load(engine, [("a", sha(1))])
    with write_transaction(engine) as connection:
        ask_first(connection, [sha(1)], [VT])

    answer(engine, sha(1), vt_verdict(4), at=NOW - HOUR, now=NOW)

    assert (queue_row(engine)["status"], queue_row(engine)["priority"]) == ("pending", 1)
    take(engine)
    answer(engine, sha(1), vt_verdict(5))
    assert (queue_row(engine)["status"], queue_row(engine)["priority"]) == ("answered", 0)


def test_a_failure_is_told_apart_and_scheduled(engine: Engine) -> None:
    """A failure keeps its kind, its reason and the number of attempts, and the hash says failed."""
    load(engine, [("a", sha(1))])
    take(engine)
    fail(engine, policy=ONE_SOURCE)

    found = queue_row(engine)
    assert (found["status"], found["attempts"], found["last_error"]) == ("failed", 1, "timeout: no answer within 30 s")
    assert (found["next_attempt_at"], found["leased_until"]) == (NOW + HOUR, None)
    assert (hash_row(engine)["enrichment_status"], hash_row(engine)["next_check_at"]) == ("failed", NOW + HOUR)
    assert take(engine, now=NOW + HOUR) == 2


def test_a_failure_loses_no_verdict(engine: Engine) -> None:
    """When a source fails that had answered before, its verdict stays, and the next answer mends the status."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), vt_verdict(0), holds=HOUR, policy=ONE_SOURCE)
    take(engine, now=NOW + HOUR)
    fail(engine, now=NOW + HOUR, policy=ONE_SOURCE)
    assert (hash_row(engine)["verdict"], hash_row(engine)["enrichment_status"]) == ("clean", "failed")

    answer(engine, sha(1), vt_verdict(0), at=NOW + 2 * HOUR, policy=ONE_SOURCE)

    assert (hash_row(engine)["verdict"], hash_row(engine)["enrichment_status"]) == ("clean", "enriched")


def test_a_late_failure_does_not_undo_an_answer(engine: Engine) -> None:
    """Who took so long that another asked instead cannot turn the answer that holds into a failure."""
    load(engine, [("a", sha(1))])
    take(engine)
    answer(engine, sha(1), vt_verdict(0))

    fail(engine, now=NOW + HOUR)

    assert queue_row(engine)["status"] == "answered"


def test_a_reason_is_stored_bounded_and_storable(engine: Engine) -> None:
    """Whatever a source wrote, its reason fits and both databases take it."""
    load(engine, [("a", sha(1))])
    with write_transaction(engine) as connection:
        store_refusal(connection, sha(1), VT, reason="\0\ud800" + "x" * 9999, policy=POLICY, now=NOW)

    said = queue_row(engine)["last_error"]
    assert (len(said), said[0], said[-1]) == (500, "�", "…")


def test_a_hash_is_enriched_when_every_source_had_its_say(engine: Engine) -> None:
    """Pending until each source in use has answered or refused; failed while one of them has failed."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), ProviderVerdict("unknown"), provider=HL)
    assert hash_row(engine)["enrichment_status"] == "pending"
    refuse(engine, MB)
    assert hash_row(engine)["enrichment_status"] == "pending"
    take(engine)
    fail(engine)
    assert hash_row(engine)["enrichment_status"] == "failed"
    answer(engine, sha(1), vt_verdict(0), at=NOW + HOUR)

    assert hash_row(engine)["enrichment_status"] == "enriched"


def test_a_settled_hash_is_enriched_at_once(engine: Engine) -> None:
    """Known-good settles: nobody else is asked, and the hash does not wait for them; a failed retry is not due."""
    load(engine, [("a", sha(1))])
    take(engine)
    fail(engine)
    answer(engine, sha(1), ProviderVerdict("known-good"), provider=HL)

    found = hash_row(engine)
    assert (found["verdict"], found["enrichment_status"]) == ("known-good", "enriched")
    assert found["next_check_at"] == NOW + 30 * DAY


def test_a_good_name_never_hides_malware(engine: Engine) -> None:
    """Of several sources the gravest verdict counts, and the family is that of the first who says so."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), ProviderVerdict("known-good"), provider=HL)
    answer(engine, sha(1), vt_verdict(30, family="from virustotal"))
    answer(engine, sha(1), ProviderVerdict("malicious", family="from malwarebazaar"), provider=MB)

    found = hash_row(engine)
    assert (found["verdict"], found["family"], found["vt_malicious"]) == ("malicious", "from malwarebazaar", True)
    answer(engine, sha(1), vt_verdict(0), at=NOW + DAY)
    assert (hash_row(engine)["verdict"], hash_row(engine)["vt_malicious"]) == ("malicious", False)
    answer(engine, sha(1), ProviderVerdict("unknown"), provider=MB, at=NOW + DAY)
    assert (hash_row(engine)["verdict"], hash_row(engine)["family"]) == ("known-good", None)


def test_virustotals_own_word_stands_before_what_cowrie_logged(engine: Engine) -> None:
    """The vt_* columns show VirusTotal's own finding where it knows the file, else what Cowrie logged of it."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), vt_verdict(5, 60), provider="cowrie-virustotal", at=NOW - DAY)
    assert (hash_row(engine)["vt_positives"], hash_row(engine)["vt_scan_date"]) == (5, NOW - DAY)
    answer(engine, sha(1), ProviderVerdict("unknown"))
    assert (hash_row(engine)["vt_positives"], hash_row(engine)["vt_scan_date"]) == (5, NOW - DAY)

    answer(engine, sha(1), vt_verdict(0, 70), at=NOW + DAY)

    assert (hash_row(engine)["vt_positives"], hash_row(engine)["vt_scan_date"]) == (0, NOW + DAY)


def test_what_a_table_of_the_plan_knew_stays_until_virustotal_speaks(engine: Engine) -> None:
    """A verdict that came with a `files` table made from the plan is kept beside other sources, until VirusTotal's."""
    load(engine, [("a", sha(1))])
    with write_transaction(engine) as connection:
        connection.exec_driver_sql(
            "UPDATE file_hashes SET vt_malicious = TRUE, vt_positives = 33, vt_scan_date = '2026-01-01 00:00:00.000000'"
        )
    answer(engine, sha(1), ProviderVerdict("known-good"), provider=HL)
    assert (hash_row(engine)["verdict"], hash_row(engine)["vt_positives"]) == ("malicious", 33)

    answer(engine, sha(1), ProviderVerdict("unknown"))

    assert (hash_row(engine)["verdict"], hash_row(engine)["vt_positives"]) == ("known-good", None)


def test_what_is_known_of_the_content_is_not_overwritten(engine: Engine) -> None:
    """Size, hashes and type are filled where they are missing: what a scan of the file found stays."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), vt_verdict(0, size_bytes=10, file_type="elf", tlsh="T1"))
    answer(engine, sha(1), vt_verdict(0, size_bytes=99, file_type="script", sha1="s"), at=NOW + DAY)

    found = hash_row(engine)
    assert [found[name] for name in ("size_bytes", "file_type", "tlsh", "sha1")] == [10, "elf", "T1", "s"]


def test_a_skipped_hash_stays_skipped(engine: Engine) -> None:
    """Whatever is known of the empty file, its status stays."""
    load(engine, [("a", sha(1))])
    with write_transaction(engine) as connection:
        connection.exec_driver_sql("UPDATE file_hashes SET enrichment_status = 'skipped'")

    answer(engine, sha(1), vt_verdict(0))

    found = hash_row(engine)
    assert (found["enrichment_status"], found["verdict"], found["next_check_at"]) == ("skipped", "clean", None)


def test_nothing_waits_where_no_row_copies_it(engine: Engine) -> None:
    """A hash without rows in `files`, and a change that they do not copy, leave no work behind."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), vt_verdict(0))
    propagate_all(engine)
    answer(engine, sha(1), vt_verdict(0, md5="m"))
    assert rows(engine, "verdict_propagation") == []
    with write_transaction(engine) as connection:
        connection.exec_driver_sql("DELETE FROM files")

    answer(engine, sha(1), vt_verdict(9), at=NOW + DAY)

    assert rows(engine, "verdict_propagation") == []


def test_the_cache_keeps_the_latest_answer(engine: Engine) -> None:
    """A later answer replaces an earlier one, never the other way round; sources and questions do not mix."""
    with write_transaction(engine) as connection:
        assert store_in_cache(connection, VT, "k", "clean", {"n": 1}, NOW, NOW + DAY)
        assert not store_in_cache(connection, VT, "k", "malicious", {"n": 0}, NOW - HOUR, NOW + 9 * DAY)
        assert store_in_cache(connection, VT, "k", "unknown", None, NOW + HOUR, NOW + DAY)
        assert store_in_cache(connection, HL, "k", "clean", {"n": 2}, NOW, NOW + DAY)
        keys = ["k", *(f"other {number}" for number in range(900))]
        found = cached_answers(connection, VT, keys)

    assert {key: (item.status, item.fetched_at, item.response) for key, item in found.items()} == {
        "k": ("unknown", NOW + HOUR, None)
    }
