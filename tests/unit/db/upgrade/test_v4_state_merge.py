"""Taking in what another life of the database knew: histories, the queue and the ledger merge, and nothing is lost."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import Engine

from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.enrichment.provider_verdict import ProviderVerdict
from cowrieprocessor.db.upgrade.v4_state_merge import Merged, merge
from tests.enrichment_scene import DAY, HL, HOUR, NOW, VT, answer, load, propagate_all, put, row, rows, sha, vt_verdict


def take_in(engine: Engine, table: str, *given: dict[str, Any]) -> Merged:
    """Merge rows, all columns given that have no default."""
    with write_transaction(engine) as connection:
        return merge(connection, table, list(given))


def verdict(positives: int, at: dt.datetime, provider: str = VT, **more: Any) -> dict[str, Any]:
    """Return a row of the history, as it is saved."""
    said = "malicious" if positives else "clean"
    times = {"fetched_at": at, "confirmed_at": at, "first_seen": None, "last_analysis": None}
    given = {"sha256": sha(1), "provider": provider, "verdict": said, "classification": None, **times}
    return {**given, "positives": positives, "total": 70, "response": None, **more}


def test_two_histories_become_one_and_the_hash_is_judged(engine: Engine) -> None:
    """What was saved lies before and behind what is known here; the verdict is that of both, and `files` follows."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), vt_verdict(3))
    propagate_all(engine)
    given = [verdict(1, NOW - DAY), verdict(3, NOW + HOUR), verdict(40, NOW + DAY)]

    assert take_in(engine, "file_verdicts", *given) == Merged(3, 0, 0)

    told = sorted(rows(engine, "file_verdicts"), key=lambda one: one["fetched_at"])
    assert [(one["positives"], one["fetched_at"], one["confirmed_at"]) for one in told] == [
        (1, NOW - DAY, NOW - DAY),
        (3, NOW, NOW + HOUR),
        (40, NOW + DAY, NOW + DAY),
    ]
    assert row(engine, "file_hashes")["vt_positives"] == 40
    propagate_all(engine)
    assert row(engine, "files")["vt_positives"] == 40
    assert take_in(engine, "file_verdicts", *given).updated == 0
    assert len(rows(engine, "file_verdicts")) == 3


def test_another_sources_word_counts(engine: Engine) -> None:
    """An answer of a source that was not asked here is part of the verdict; the status stays what this life knows."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), ProviderVerdict("unknown"), provider=HL)

    take_in(engine, "file_verdicts", verdict(40, NOW))

    found = row(engine, "file_hashes")
    assert (found["verdict"], found["vt_malicious"], found["enrichment_status"]) == ("malicious", True, "pending")


def test_a_span_that_goes_over_another_is_parted(engine: Engine) -> None:
    """Where the saved history says nothing of a change that is known here, the change stays."""
    load(engine, [("a", sha(1))])
    answer(engine, sha(1), vt_verdict(3))
    answer(engine, sha(1), vt_verdict(9), at=NOW + DAY)

    take_in(engine, "file_verdicts", verdict(3, NOW, confirmed_at=NOW + 2 * DAY))

    told = sorted(rows(engine, "file_verdicts"), key=lambda one: one["fetched_at"])
    assert [one["positives"] for one in told] == [3, 9, 3]


def test_an_answer_that_holds_longer_is_waited_for(engine: Engine) -> None:
    """Of two answered rows the later expiry counts, as it does in the cache; what was asked for by hand stays so."""
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

    assert take_in(engine, "enrichment_queue", given) == Merged(0, 1, 0)
    assert take_in(engine, "enrichment_queue", given | {"next_attempt_at": NOW}) == Merged(0, 0, 1)
    assert row(engine, "enrichment_queue")["next_attempt_at"] == NOW + DAY


def quota(window: str, **more: Any) -> dict[str, Any]:
    """Return a row of the ledger."""
    nothing = dict.fromkeys(("allowed", "recent", "paused_until", "reason", "read_at"))
    return {"provider": VT, "key_fingerprint": "f", "window": window, "used": 0, **nothing, **more}


def test_what_was_sent_is_never_forgotten(engine: Engine) -> None:
    """Of a day the larger number counts; what a source said is allowed counts by when it said so."""
    put(engine, "api_quota", quota("2026-03-01", used=7))
    put(engine, "api_quota", quota("day", allowed=500, read_at=NOW))

    take_in(engine, "api_quota", quota("2026-03-01", used=9), quota("day", allowed=900, read_at=NOW - DAY))
    assert (row(engine, "api_quota", window="2026-03-01")["used"], row(engine, "api_quota", window="day")) == (
        9,
        quota("day", allowed=500, read_at=NOW),
    )
    take_in(engine, "api_quota", quota("2026-03-01", used=1), quota("day", allowed=1000, read_at=NOW + DAY))

    assert row(engine, "api_quota", window="2026-03-01")["used"] == 9
    assert row(engine, "api_quota", window="day") == quota("day", allowed=1000, read_at=NOW + DAY)


def test_the_last_requests_and_the_longest_pause_count(engine: Engine) -> None:
    """Requests of a moment ago still bound the next minute, and a source that wants a pause gets it."""
    moments = [(NOW + number * HOUR).isoformat() for number in range(5)]
    put(engine, "api_quota", quota("now", recent=moments[1:3], used=1, paused_until=NOW, reason="short"))

    given = quota("now", recent=[moments[0], moments[4]], used=6, paused_until=NOW + DAY, reason="long")
    take_in(engine, "api_quota", given, quota("refused", paused_until=NOW, reason="wrong key"))

    found = row(engine, "api_quota", window="now")
    assert (found["recent"], found["used"], found["reason"]) == ([moments[2], moments[4]], 6, "long")
    assert row(engine, "api_quota", window="refused")["reason"] == "wrong key"
    assert take_in(engine, "api_quota", given | {"paused_until": NOW, "recent": None}) == Merged(0, 0, 1)
