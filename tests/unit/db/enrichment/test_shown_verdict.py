"""The word of a file after a rate limit, a deferral or an answer from elsewhere, in use and while it is staged."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.enrichment.claims import ask_first
from cowrieprocessor.db.enrichment.response_cache import store_in_cache
from cowrieprocessor.enrichment.expiry import Ttl
from cowrieprocessor.enrichment.verdict_repository import VerdictRepository
from cowrieprocessor.reporting.queries.files import FileFilter, list_files
from cowrieprocessor.reporting.queries.verdict_counts import source_verdict_counts, verdict_counts
from tests.enrichment_scene import DAY, HOUR, NOW, POLICY, VT, answer, load, put, row, sha, vt_verdict
from tests.stand_ins.clock import ManualClock

FILE = sha(1)
TTL = Ttl(30 * 86_400.0, 7 * 86_400.0, 43_200.0, 7 * 86_400.0)


class Scene:
    """One file, one source, and what comes of its requests."""

    def __init__(self, engine: Engine, *, staged: bool) -> None:
        self.engine, self.staged, self.clock = engine, staged, ManualClock(NOW)
        self.repository = VerdictRepository(engine, POLICY, TTL, self.clock, staged=staged)
        load(engine, [("a", FILE)])

    def ask_by_hand(self) -> None:
        """Have the file asked about by hand."""
        with write_transaction(self.engine) as connection:
            ask_first(connection, [FILE], [VT])

    def outcomes(self, kinds: Sequence[str]) -> None:
        """Claim the file for each outcome and store that; by hand where `by-hand` stands before it."""
        for kind in kinds:
            if kind == "by-hand":
                self.ask_by_hand()
                continue
            self.clock.advance(days=40)
            (claimed,) = self.repository.claim(VT, limit=1, earlier=(), only=[FILE])
            match kind:
                case "answered":
                    self.repository.store_answer(VT, claimed, FILE, vt_verdict(0))
                case "answered-by-url":
                    self.repository.store_answer(VT, claimed, "url:1", vt_verdict(0))
                case "failed":
                    self.repository.store_failure(VT, claimed, "timeout", "no answer", None)
                case "refused":
                    self.repository.store_refusal(VT, claimed, "400")
                case "deferred":
                    self.repository.defer(VT, claimed)
                case "limited":
                    self.repository.store_rate_limit(VT, claimed, "429")
                case "released":
                    self.repository.release(VT, [FILE])

    def word(self) -> str:
        """Return the file's word, which the list, the total and the total of the source all have."""
        with read_transaction(self.engine) as connection:
            (listed,) = list_files(connection).rows
            assert {listed.verdict: 1} == verdict_counts(connection)
            assert {listed.verdict: 1} == source_verdict_counts(connection, [VT])[VT]
            assert (listed,) == list_files(connection, FileFilter(verdict=listed.verdict)).rows
        return listed.verdict


@pytest.mark.parametrize("staged", [False, True], ids=["in use", "staged"])
@pytest.mark.parametrize(
    ("kinds", "word"),
    [
        ("limited", "rate-limited"),
        ("by-hand limited", "rate-limited"),
        ("by-hand", "not-asked"),
        ("by-hand released", "not-asked"),
        ("limited released", "rate-limited"),
        ("limited by-hand", "rate-limited"),
        ("by-hand limited released", "rate-limited"),
        ("deferred", "not-asked"),
        ("deferred limited", "rate-limited"),
        ("deferred released", "not-asked"),
        ("deferred by-hand limited", "rate-limited"),
        ("failed limited", "failed"),
        ("failed by-hand", "failed"),
        ("failed by-hand limited", "failed"),
        ("failed released", "failed"),
        ("refused by-hand", "refused"),
        ("answered limited", "clean"),
        ("answered by-hand limited", "clean"),
        ("answered failed limited", "clean"),
        ("answered-by-url", "clean"),
        ("answered-by-url limited", "clean"),
        ("answered-by-url by-hand limited", "clean"),
    ],
)
def test_a_rate_limit_shows_where_nothing_else_came(kinds: str, word: str, staged: bool, engine: Engine) -> None:
    """A first request that was limited is `rate-limited`, however it came about; earlier outcomes keep their word."""
    scene = Scene(engine, staged=staged)
    scene.outcomes(kinds.split())
    assert scene.word() == ("staged" if staged and word == "clean" else word)


def test_a_file_that_was_deferred_and_limited_is_asked_about_as_a_new_one(engine: Engine) -> None:
    """It has no answer to renew; its status follows from the queue."""
    scene = Scene(engine, staged=False)
    scene.outcomes(["deferred", "limited"])
    queued = row(engine, "enrichment_queue")
    assert ("rate-limited", None, 0) == (queued["status"], queued["next_attempt_at"], queued["attempts"])
    (claimed,) = scene.repository.claim(VT, limit=1, earlier=(), only=None)
    assert "new" == claimed.reason


@pytest.mark.parametrize("staged", [False, True], ids=["in use", "staged"])
@pytest.mark.parametrize("kinds", ["failed", "limited", "deferred"])
def test_an_answer_from_elsewhere_ends_a_failure(kinds: str, staged: bool, engine: Engine) -> None:
    """A valid answer from an imported cache or a log takes the place of the failure; an expired one does not."""
    scene = Scene(engine, staged=staged)
    scene.outcomes([kinds])
    now = scene.clock.now()
    before = row(engine, "enrichment_queue")
    expired_at = now - DAY
    answer(engine, FILE, vt_verdict(0), at=expired_at, holds=HOUR, now=now, staged=staged)
    assert before == row(engine, "enrichment_queue") or kinds == "deferred"

    answer(engine, FILE, vt_verdict(0), at=now, holds=DAY, staged=staged)
    queued = row(engine, "enrichment_queue")
    assert ("answered", now + DAY) == (queued["status"], queued["next_attempt_at"])
    assert ("staged" if staged else "clean") == scene.word()
    answer(engine, FILE, vt_verdict(0), at=now - HOUR, holds=HOUR, now=now, staged=staged)
    assert now + DAY == row(engine, "enrichment_queue")["next_attempt_at"]


@pytest.mark.parametrize("staged", [False, True], ids=["in use", "staged"])
def test_what_is_asked_for_by_hand_outlives_an_answer_from_elsewhere(staged: bool, engine: Engine) -> None:
    """What somebody wants asked stays so, after a failure too; a failure alone does not."""
    scene = Scene(engine, staged=staged)
    for kinds in ([], ["failed"]):
        scene.outcomes([*kinds, "by-hand"])
        answer(engine, FILE, vt_verdict(0), at=scene.clock.now(), holds=DAY, staged=staged)
        (claimed,) = scene.repository.claim(VT, limit=1, earlier=(), only=[FILE])
        assert "asked-for" == claimed.reason
        scene.repository.store_failure(VT, claimed, "timeout", "no answer", None)


def test_a_claim_of_an_earlier_release_is_no_answer(engine: Engine) -> None:
    """A claim that an earlier release left in the cache is `not-asked`; an answer next to it is `staged`."""
    scene = Scene(engine, staged=True)
    claim = {"provider": VT, "key": f"claim:{FILE}", "status": "answered", "fetched_at": NOW, "expires_at": NOW + DAY}
    put(engine, "enrichment_cache", claim)
    assert "not-asked" == scene.word()
    with write_transaction(engine) as connection:
        store_in_cache(connection, VT, FILE, "clean", {}, NOW, NOW + DAY, now=NOW)
    assert "staged" == scene.word()
    answer(engine, FILE, vt_verdict(0))
    assert "clean" == scene.word()
