"""Merging exported state: verdict history, queue and quota ledger are merged, and nothing is lost."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.enrichment.provider_verdict import ProviderVerdict
from cowrieprocessor.db.upgrade.v4_state import from_json
from cowrieprocessor.db.upgrade.v4_state_merge import Merged, merge
from tests.enrichment_scene import DAY, HL, HOUR, NOW, VT, answer, load, propagate_all, put, row, rows, sha, vt_verdict


def import_rows(engine: Engine, table: str, *given: dict[str, Any]) -> Merged:
    """Merge rows, given with all columns that have no default."""
    with write_transaction(engine) as connection:
        return merge(connection, table, list(given))


def verdict(positives: int, at: dt.datetime, provider: str = VT, **more: Any) -> dict[str, Any]:
    """Return a row of the verdict history, as it is exported."""
    said = "malicious" if positives else "clean"
    times = {"fetched_at": at, "confirmed_at": at, "first_seen": None, "last_analysis": None}
    given = {"sha256": sha(1), "provider": provider, "verdict": said, "classification": None, **times}
    return {**given, "positives": positives, "total": 70, "response": None, **more}


def test_two_histories_are_merged_and_the_verdict_aggregated(engine: Engine) -> None:
    """Exported answers from before and after the stored ones are merged; `files` gets the common verdict."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), vt_verdict(3))
    propagate_all(engine)
    given = [verdict(1, NOW - DAY), verdict(3, NOW + HOUR), verdict(40, NOW + DAY)]

    assert import_rows(engine, "file_verdicts", *given) == Merged(3, 0, 0)

    history = sorted(rows(engine, "file_verdicts"), key=lambda row: row["fetched_at"])
    assert [(row["positives"], row["fetched_at"], row["confirmed_at"]) for row in history] == [
        (1, NOW - DAY, NOW - DAY),
        (3, NOW, NOW + HOUR),
        (40, NOW + DAY, NOW + DAY),
    ]
    assert row(engine, "file_hashes")["vt_positives"] == 40
    propagate_all(engine)
    assert row(engine, "files")["vt_positives"] == 40
    assert import_rows(engine, "file_verdicts", *given).updated == 0
    assert len(rows(engine, "file_verdicts")) == 3


def test_an_answer_of_another_provider_counts(engine: Engine) -> None:
    """An answer of a provider not queried here is part of the verdict; the status stays as it is in this database."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), ProviderVerdict("unknown"), provider=HL)

    import_rows(engine, "file_verdicts", verdict(40, NOW))

    found = row(engine, "file_hashes")
    assert (found["verdict"], found["vt_malicious"], found["enrichment_status"]) == ("malicious", True, "pending")


def test_a_span_across_another_is_split(engine: Engine) -> None:
    """A change of verdict that only this database knows is kept."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), vt_verdict(3))
    answer(engine, sha(1), vt_verdict(9), at=NOW + DAY)

    import_rows(engine, "file_verdicts", verdict(3, NOW, confirmed_at=NOW + 2 * DAY))

    history = sorted(rows(engine, "file_verdicts"), key=lambda row: row["fetched_at"])
    assert [row["positives"] for row in history] == [3, 9, 3]


def test_the_later_expiry_counts(engine: Engine) -> None:
    """Of two answered queue rows the later expiry counts, as in the cache; a manual request stays one."""
    put(
        engine,
        "enrichment_queue",
        {"sha256": sha(1), "provider": VT, "status": "answered", "next_attempt_at": NOW},
    )
    given = {
        "sha256": sha(1),
        "provider": VT,
        "status": "answered",
        "attempts": 0,
        "next_attempt_at": NOW + DAY,
        "priority": 0,
        "last_error": None,
        "leased_until": None,
    }

    assert import_rows(engine, "enrichment_queue", given) == Merged(0, 1, 0)
    assert import_rows(engine, "enrichment_queue", given | {"next_attempt_at": NOW}) == Merged(0, 0, 1)
    assert row(engine, "enrichment_queue")["next_attempt_at"] == NOW + DAY


@pytest.mark.parametrize("status", ["answered", "failed", "refused", "pending", "rate-limited"])
@pytest.mark.parametrize("attempts", [0, 2])
def test_a_rate_limit_gives_way_to_any_outcome(engine: Engine, status: str, attempts: int) -> None:
    """A stored rate limit is replaced by what the export knows; an exported one replaces nothing."""
    limit = {**queued("rate-limited", last_error="rate-limited: VirusTotal answers 429"), "attempts": attempts}
    given = queued(status, next_attempt_at=NOW + DAY, priority=int(status == "pending"))
    put(engine, "enrichment_queue", limit)

    changes = int(status != "rate-limited")
    assert import_rows(engine, "enrichment_queue", given) == Merged(0, changes, 1 - changes)
    after = row(engine, "enrichment_queue")
    assert after == (given if changes else limit)
    assert import_rows(engine, "enrichment_queue", limit) == Merged(0, 0, 1)
    assert row(engine, "enrichment_queue") == after


@pytest.mark.parametrize(
    ("stored", "given", "is_replaced"),
    [
        ("failed", "answered", True),
        ("answered", "failed", False),
        ("failed", "pending", False),
        ("pending", "failed", True),
    ],
)
def test_an_answer_counts_over_a_failure(engine: Engine, stored: str, given: str, is_replaced: bool) -> None:
    """Of two queue rows an answer counts over a failure, and any outcome over none, whichever row has it."""
    put(engine, "enrichment_queue", queued(stored, next_attempt_at=NOW))
    other = queued(given, next_attempt_at=NOW + DAY)

    assert import_rows(engine, "enrichment_queue", other).updated == int(is_replaced)
    assert (row(engine, "enrichment_queue") == other) == is_replaced
    assert import_rows(engine, "enrichment_queue", other) == Merged(0, 0, 1)


def test_a_request_by_hand_stays(engine: Engine) -> None:
    """An answered row that was asked for again by hand keeps that, whichever database it was asked in."""
    by_hand = queued("answered", next_attempt_at=dt.datetime(1970, 1, 1, tzinfo=dt.UTC), priority=1)
    put(engine, "enrichment_queue", by_hand)

    assert import_rows(engine, "enrichment_queue", queued("answered", next_attempt_at=NOW)) == Merged(0, 0, 1)
    assert row(engine, "enrichment_queue") == by_hand


def test_columns_that_an_earlier_revision_lacked_get_their_default(engine: Engine) -> None:
    """Rows of a file without a later column are added beside rows with it; it is null, or has its default."""
    whole = {"provider": VT, "key_fingerprint": "f", "used": 3}
    documents = [whole | {"window": "2026-03-01"}, {**whole, "window": "2026-03-02", "used": 4}]
    del documents[0]["used"]

    assert import_rows(engine, "api_quota", *(from_json("api_quota", document) for document in documents)).added == 2

    used = {found["window"]: (found["used"], found["allowed"]) for found in rows(engine, "api_quota")}
    assert used == {"2026-03-01": (0, None), "2026-03-02": (4, None)}


def queued(status: str, **more: Any) -> dict[str, Any]:
    """Return a row of the queue."""
    nothing = dict.fromkeys(("next_attempt_at", "last_error", "leased_until"))
    return {"sha256": sha(1), "provider": VT, "status": status, "attempts": 0, "priority": 0, **nothing, **more}


def quota(window: str, **more: Any) -> dict[str, Any]:
    """Return a row of the quota ledger."""
    nothing = dict.fromkeys(("allowed", "recent", "paused_until", "reason", "read_at"))
    return {"provider": VT, "key_fingerprint": "f", "window": window, "used": 0, **nothing, **more}


def test_sent_requests_are_never_forgotten(engine: Engine) -> None:
    """The larger number of requests of a day counts; of two allowances the one stated later."""
    put(engine, "api_quota", quota("2026-03-01", used=7))
    put(engine, "api_quota", quota("day", allowed=500, read_at=NOW))

    import_rows(engine, "api_quota", quota("2026-03-01", used=9), quota("day", allowed=900, read_at=NOW - DAY))
    assert (row(engine, "api_quota", window="2026-03-01")["used"], row(engine, "api_quota", window="day")) == (
        9,
        quota("day", allowed=500, read_at=NOW),
    )
    import_rows(engine, "api_quota", quota("2026-03-01", used=1), quota("day", allowed=1000, read_at=NOW + DAY))

    assert row(engine, "api_quota", window="2026-03-01")["used"] == 9
    assert row(engine, "api_quota", window="day") == quota("day", allowed=1000, read_at=NOW + DAY)


def test_the_last_requests_and_the_longest_pause_count(engine: Engine) -> None:
    """Recent requests still limit the next minute, and the longest requested pause is kept."""
    moments = [(NOW + number * HOUR).isoformat() for number in range(5)]
    put(engine, "api_quota", quota("now", recent=moments[1:3], used=1, paused_until=NOW, reason="short"))

    given = quota("now", recent=[moments[0], moments[4]], used=6, paused_until=NOW + DAY, reason="long")
    import_rows(engine, "api_quota", given, quota("refused", paused_until=NOW, reason="wrong key"))

    found = row(engine, "api_quota", window="now")
    assert (found["recent"], found["used"], found["reason"]) == ([moments[2], moments[4]], 6, "long")
    assert row(engine, "api_quota", window="refused")["reason"] == "wrong key"
    assert import_rows(engine, "api_quota", given | {"paused_until": NOW, "recent": None}) == Merged(0, 0, 1)
