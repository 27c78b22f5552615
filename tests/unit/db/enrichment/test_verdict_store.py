"""Storing the outcome of a lookup: cache, history, queue and the row of the hash, in one transaction."""

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

ONE_PROVIDER = Policy((VT,), frozenset({"malicious", "known-good"}))


def hash_row(engine: Engine) -> dict[str, Any]:
    """Return the row of the hash."""
    return row(engine, "file_hashes", sha256=sha(1))


def queue_row(engine: Engine, provider: str = VT) -> dict[str, Any]:
    """Return the queue row of the hash and a provider."""
    return row(engine, "enrichment_queue", sha256=sha(1), provider=provider)


def fail(engine: Engine, provider: str = VT, *, now: dt.datetime = NOW, policy: Policy = POLICY) -> None:
    """Store a failure about the hash."""
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
    """Store a refusal about the hash."""
    with write_transaction(engine) as connection:
        store_refusal(connection, sha(1), provider, reason="malformed hash", policy=POLICY, now=NOW)


def take(engine: Engine, provider: str = VT, *, now: dt.datetime = NOW) -> int:
    """Claim the hash; return the number of the attempt."""
    (item,) = claim(engine, provider, limit=1, now=now, lease_s=900, policy=ONE_PROVIDER)
    return item.attempts


def test_an_answer_is_written_everywhere(engine: Engine) -> None:
    """Cache, history, queue and hash agree, and propagation to `files` is requested."""
    load(engine, [("a", sha(1)), ("b", sha(1))])
    take(engine)
    seen = NOW - 300 * DAY
    verdict = vt_verdict(
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

    answer(engine, sha(1), verdict, policy=ONE_PROVIDER)

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
    stored = row(engine, "file_verdicts")
    assert (stored["verdict"], stored["positives"], stored["total"], stored["fetched_at"]) == ("malicious", 12, 70, NOW)
    stored_hash = hash_row(engine)
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
    assert {name: stored_hash[name] for name in expected} == expected
    waiting = row(engine, "verdict_propagation")
    assert (waiting["sha256"], waiting["requested_at"], waiting["cursor"]) == (sha(1), NOW, 0)


def test_an_unknown_file_is_an_answer_too(engine: Engine) -> None:
    """Unknown is stored with its time: enriched, not malicious, with the scan date and without counts."""
    load(engine, [("a", sha(1))])

    answer(
        engine, sha(1), ProviderVerdict("unknown", response={"error": "NotFoundError"}), holds=HOUR, policy=ONE_PROVIDER
    )

    stored_hash = hash_row(engine)
    assert (stored_hash["verdict"], stored_hash["enrichment_status"], stored_hash["vt_malicious"]) == (
        "unknown",
        "enriched",
        False,
    )
    assert (stored_hash["vt_scan_date"], stored_hash["vt_positives"], stored_hash["vt_total"]) == (NOW, None, None)
    assert row(engine, "enrichment_cache")["status"] == "unknown"


def test_the_same_answer_again_changes_nothing(engine: Engine) -> None:
    """An answer may be stored twice: after a crash, or when the cache is replayed."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), vt_verdict(3))
    propagate_all(engine)
    tables = ("enrichment_cache", "enrichment_queue", "file_verdicts", "file_hashes", "verdict_propagation")
    before = {name: rows(engine, name) for name in tables}

    answer(engine, sha(1), vt_verdict(3), now=NOW + DAY)

    assert {name: rows(engine, name) for name in tables} == before


def test_an_answer_about_an_absent_hash_is_only_cached(engine: Engine) -> None:
    """For a hash that is not in `file_hashes` only the cache is written."""
    answer(engine, sha(1), vt_verdict(3))

    assert len(rows(engine, "enrichment_cache")) == 1
    assert [rows(engine, name) for name in ("enrichment_queue", "file_verdicts", "file_hashes")] == [[], [], []]


def test_a_transaction_that_fails_leaves_nothing(engine: Engine) -> None:
    """Everything is in the caller's transaction: a rollback leaves nothing of the outcome."""
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


def test_an_older_answer_only_adds_to_the_history(engine: Engine) -> None:
    """Last year's answer (an imported cache) replaces neither this year's nor the time of the next lookup."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), vt_verdict(40, 71))
    before = (hash_row(engine), queue_row(engine), row(engine, "enrichment_cache"))

    answer(engine, sha(1), vt_verdict(2, 60), at=NOW - 365 * DAY, now=NOW + HOUR)

    assert (hash_row(engine), queue_row(engine), row(engine, "enrichment_cache")) == before
    stored = sorted(rows(engine, "file_verdicts"), key=lambda entry: entry["fetched_at"])
    assert [entry["positives"] for entry in stored] == [2, 40]


def test_an_old_answer_does_not_end_a_claim_or_a_retry(engine: Engine) -> None:
    """An expired imported answer must not let two processes query, or hide a failure."""
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


def test_a_lookup_asked_for_by_hand_is_not_answered_by_the_cache(engine: Engine) -> None:
    """An answer to another lookup leaves it pending."""
    load(engine, [("a", sha(1))])
    with write_transaction(engine) as connection:
        ask_first(connection, [sha(1)], [VT])

    answer(engine, sha(1), vt_verdict(4), at=NOW - HOUR, now=NOW)

    assert (queue_row(engine)["status"], queue_row(engine)["priority"]) == ("pending", 1)
    take(engine)
    answer(engine, sha(1), vt_verdict(5))
    assert (queue_row(engine)["status"], queue_row(engine)["priority"]) == ("answered", 0)


def test_a_failure_is_recorded_and_scheduled(engine: Engine) -> None:
    """A failure is stored with kind, reason and number of attempts, and the hash is failed."""
    load(engine, [("a", sha(1))])
    take(engine)
    fail(engine, policy=ONE_PROVIDER)

    queued = queue_row(engine)
    assert (queued["status"], queued["attempts"], queued["last_error"]) == (
        "failed",
        1,
        "timeout: no answer within 30 s",
    )
    assert (queued["next_attempt_at"], queued["leased_until"]) == (NOW + HOUR, None)
    assert (hash_row(engine)["enrichment_status"], hash_row(engine)["next_check_at"]) == ("failed", NOW + HOUR)
    assert take(engine, now=NOW + HOUR) == 2


def test_a_failure_loses_no_verdict(engine: Engine) -> None:
    """If a provider fails after an answer, its verdict stays, and the next answer restores the status."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), vt_verdict(0), holds=HOUR, policy=ONE_PROVIDER)
    take(engine, now=NOW + HOUR)
    fail(engine, now=NOW + HOUR, policy=ONE_PROVIDER)
    assert (hash_row(engine)["verdict"], hash_row(engine)["enrichment_status"]) == ("clean", "failed")

    answer(engine, sha(1), vt_verdict(0), at=NOW + 2 * HOUR, policy=ONE_PROVIDER)

    assert (hash_row(engine)["verdict"], hash_row(engine)["enrichment_status"]) == ("clean", "enriched")


def test_a_late_failure_does_not_undo_an_answer(engine: Engine) -> None:
    """A process whose claim ended cannot turn another process's current answer into a failure."""
    load(engine, [("a", sha(1))])
    take(engine)
    answer(engine, sha(1), vt_verdict(0))

    fail(engine, now=NOW + HOUR)

    assert queue_row(engine)["status"] == "answered"


def test_a_reason_is_stored_bounded_and_storable(engine: Engine) -> None:
    """Any reason of a provider fits, and both databases accept it."""
    load(engine, [("a", sha(1))])
    with write_transaction(engine) as connection:
        store_refusal(connection, sha(1), VT, reason="\0\ud800" + "x" * 9999, policy=POLICY, now=NOW)

    reason = queue_row(engine)["last_error"]
    assert (len(reason), reason[0], reason[-1]) == (500, "�", "…")


def test_a_hash_is_enriched_when_every_provider_has_answered(engine: Engine) -> None:
    """Pending until each provider in use has answered or refused; failed while any of them has failed."""
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


def test_a_decisive_verdict_enriches_at_once(engine: Engine) -> None:
    """Known-good is decisive: the hash waits for no other provider, and a failure is not retried."""
    load(engine, [("a", sha(1))])
    take(engine)
    fail(engine)
    answer(engine, sha(1), ProviderVerdict("known-good"), provider=HL)

    stored_hash = hash_row(engine)
    assert (stored_hash["verdict"], stored_hash["enrichment_status"]) == ("known-good", "enriched")
    assert stored_hash["next_check_at"] == NOW + 30 * DAY


def test_a_good_name_never_hides_malware(engine: Engine) -> None:
    """Of several verdicts the gravest counts, with the family named by the first provider that gave it."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), ProviderVerdict("known-good"), provider=HL)
    answer(engine, sha(1), vt_verdict(30, family="from virustotal"))
    answer(engine, sha(1), ProviderVerdict("malicious", family="from malwarebazaar"), provider=MB)

    stored_hash = hash_row(engine)
    assert (stored_hash["verdict"], stored_hash["family"], stored_hash["vt_malicious"]) == (
        "malicious",
        "from malwarebazaar",
        True,
    )
    answer(engine, sha(1), vt_verdict(0), at=NOW + DAY)
    assert (hash_row(engine)["verdict"], hash_row(engine)["vt_malicious"]) == ("malicious", False)
    answer(engine, sha(1), ProviderVerdict("unknown"), provider=MB, at=NOW + DAY)
    assert (hash_row(engine)["verdict"], hash_row(engine)["family"]) == ("known-good", None)


def test_virustotals_own_verdict_precedes_what_cowrie_logged(engine: Engine) -> None:
    """The vt_* columns show VirusTotal's own verdict if it knows the file, else what Cowrie logged."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), vt_verdict(5, 60), provider="cowrie-virustotal", at=NOW - DAY)
    assert (hash_row(engine)["vt_positives"], hash_row(engine)["vt_scan_date"]) == (5, NOW - DAY)
    answer(engine, sha(1), ProviderVerdict("unknown"))
    assert (hash_row(engine)["vt_positives"], hash_row(engine)["vt_scan_date"]) == (5, NOW - DAY)

    answer(engine, sha(1), vt_verdict(0, 70), at=NOW + DAY)

    assert (hash_row(engine)["vt_positives"], hash_row(engine)["vt_scan_date"]) == (0, NOW + DAY)


def test_a_pre_release_verdict_stays_until_virustotal_answers(engine: Engine) -> None:
    """The verdict of a pre-release `files` table stays, next to other providers', until VirusTotal answers."""
    load(engine, [("a", sha(1))])
    with write_transaction(engine) as connection:
        connection.exec_driver_sql(
            "UPDATE file_hashes SET vt_malicious = TRUE, vt_positives = 33, vt_scan_date = '2026-01-01 00:00:00.000000'"
        )
    answer(engine, sha(1), ProviderVerdict("known-good"), provider=HL)
    assert (hash_row(engine)["verdict"], hash_row(engine)["vt_positives"]) == ("malicious", 33)

    answer(engine, sha(1), ProviderVerdict("unknown"))

    assert (hash_row(engine)["verdict"], hash_row(engine)["vt_positives"]) == ("known-good", None)


def test_known_properties_of_the_content_are_not_overwritten(engine: Engine) -> None:
    """Size, hashes and type are filled in where missing: the results of a file scan stay."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), vt_verdict(0, size_bytes=10, file_type="elf", tlsh="T1"))
    answer(engine, sha(1), vt_verdict(0, size_bytes=99, file_type="script", sha1="s"), at=NOW + DAY)

    stored_hash = hash_row(engine)
    assert [stored_hash[name] for name in ("size_bytes", "file_type", "tlsh", "sha1")] == [10, "elf", "T1", "s"]


def test_a_skipped_hash_stays_skipped(engine: Engine) -> None:
    """Whatever providers answer about the empty file, its status stays."""
    load(engine, [("a", sha(1))])
    with write_transaction(engine) as connection:
        connection.exec_driver_sql("UPDATE file_hashes SET enrichment_status = 'skipped'")

    answer(engine, sha(1), vt_verdict(0))

    stored_hash = hash_row(engine)
    assert (stored_hash["enrichment_status"], stored_hash["verdict"], stored_hash["next_check_at"]) == (
        "skipped",
        "clean",
        None,
    )


def test_nothing_is_propagated_without_a_row_to_change(engine: Engine) -> None:
    """A hash without rows in `files`, and a change that they do not copy, request no propagation."""
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
    """A later answer replaces an earlier answer, never the reverse; providers and keys do not mix."""
    with write_transaction(engine) as connection:
        assert store_in_cache(connection, VT, "k", "clean", {"n": 1}, NOW, NOW + DAY, now=NOW)
        assert not store_in_cache(connection, VT, "k", "malicious", {"n": 0}, NOW - HOUR, NOW + 9 * DAY, now=NOW)
        assert store_in_cache(connection, VT, "k", "unknown", None, NOW + HOUR, NOW + DAY, now=NOW)
        assert store_in_cache(connection, HL, "k", "clean", {"n": 2}, NOW, NOW + DAY, now=NOW)
        keys = ["k", *(f"other {number}" for number in range(900))]
        found = cached_answers(connection, VT, keys)

    assert {key: (item.status, item.fetched_at, item.response) for key, item in found.items()} == {
        "k": ("unknown", NOW + HOUR, None)
    }
