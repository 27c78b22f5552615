"""The steps of enriching files with one source: claim, look up within quota, store."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence

import pytest
from sqlalchemy import Engine

from cowrieprocessor.enrichment.file_enrichment import Bounds, FileEnrichment, Step
from cowrieprocessor.enrichment.http import HttpClient
from cowrieprocessor.enrichment.providers.base import Limits, Outcome, Reply, Sample
from cowrieprocessor.enrichment.providers.virustotal import VirusTotal
from cowrieprocessor.enrichment.verdict_repository import LEASE_S
from tests.enrichment_scene import load, row, rows, sha
from tests.stand_ins import virustotal
from tests.stand_ins.clock import START, ManualClock
from tests.stand_ins.server import answering
from tests.unit.enrichment.one_source import enrichment_by, steps_until_done

VT = "virustotal"
ONE, TWO, THREE = sha(1), sha(2), sha(3)


@pytest.fixture
def clock() -> ManualClock:
    """The time of the client and of the server."""
    return ManualClock()


@pytest.fixture
def server(clock: ManualClock) -> Iterator[virustotal.VirusTotal]:
    """VirusTotal, with the limits of a free key."""
    with virustotal.VirusTotal(clock) as stand_in:
        yield stand_in


@pytest.fixture
def client(clock: ManualClock) -> Iterator[HttpClient]:
    """A client that waits for an answer."""
    with HttpClient(10.0, clock) as made:
        yield made


def provider_of(server: virustotal.VirusTotal, key: str = virustotal.KEY) -> VirusTotal:
    """Return the provider that asks the server."""
    return VirusTotal(server.url, key, user=virustotal.USER)


def claims(engine: Engine) -> set[str]:
    """Return the hashes that are claimed."""
    return {entry["sha256"] for entry in rows(engine, "enrichment_queue", status="leased")}


@pytest.fixture
def enrichment(engine: Engine, server: virustotal.VirusTotal, client: HttpClient, clock: ManualClock) -> FileEnrichment:
    """Enrichment by VirusTotal of three files, of which it knows one."""
    load(engine, [("s1", ONE), ("s2", TWO), ("s3", THREE)])
    server.add(ONE, malicious=12, total=70)
    return enrichment_by(provider_of(server), engine, client, clock)


def test_a_file_is_claimed_asked_about_and_stored(
    engine: Engine, enrichment: FileEnrichment, server: virustotal.VirusTotal, clock: ManualClock
) -> None:
    """The quota is read first, then each step asks about one file; its outcome is in history, hash and queue."""
    assert enrichment.step() is Step.DONE_SOMETHING
    assert {"overall_quotas": 1} == server.asked()
    assert {ONE, TWO, THREE} == claims(engine)
    assert enrichment.step() is Step.DONE_SOMETHING
    assert 1 == enrichment.files_asked == 3 - len(claims(engine))

    steps_until_done(enrichment, clock)

    assert {"overall_quotas": 1, ONE: 1, TWO: 1, THREE: 1} == server.asked()
    assert set() == claims(engine)
    verdicts = {entry["sha256"]: entry["verdict"] for entry in rows(engine, "file_hashes")}
    assert {ONE: "malicious", TWO: "unknown", THREE: "unknown"} == verdicts
    assert 12 == row(engine, "file_verdicts", sha256=ONE)["positives"]
    assert {"answered"} == {entry["status"] for entry in rows(engine, "enrichment_queue")}
    expected = {"requests": 4, "quota_requests": 1, "found": 1, "unknown": 2}
    assert expected == enrichment.counters
    assert (3, True, None) == (enrichment.files_asked, enrichment.is_idle, enrichment.rejected)


def test_an_exhausted_quota_is_waited_for(
    engine: Engine, enrichment: FileEnrichment, server: virustotal.VirusTotal, clock: ManualClock
) -> None:
    """After four requests in a minute a step says until when to wait; no limit is exceeded, no file left out."""
    load(engine, [("s4", sha(4)), ("s5", sha(5))])

    steps = [enrichment.step() for _ in range(5)]

    assert [Step.DONE_SOMETHING] * 4 + [Step.HAS_TO_WAIT] == steps
    assert enrichment.wait is not None
    assert ("minute", START + dt.timedelta(seconds=61.5)) == (enrichment.wait.kind, enrichment.wait.until)
    assert enrichment.is_available
    assert 1 == len(claims(engine))
    steps_until_done(enrichment, clock)
    assert 6 == sum(server.asked().values())
    assert [] == server.violations


def test_a_long_wait_releases_the_files(
    engine: Engine, server: virustotal.VirusTotal, client: HttpClient, clock: ManualClock
) -> None:
    """With the day's requests used up the claimed files are free for another key, or another day."""
    load(engine, [("s1", ONE), ("s2", TWO), ("s3", THREE)])
    own = Limits(per_minute=4, per_day=2, per_month=100)
    provider = VirusTotal(server.url, virustotal.KEY, own, own, user=virustotal.USER)
    enrichment = enrichment_by(provider, engine, client, clock)

    steps = [enrichment.step() for _ in range(3)]

    assert [Step.DONE_SOMETHING, Step.DONE_SOMETHING, Step.HAS_TO_WAIT] == steps
    assert enrichment.wait is not None
    assert "day" == enrichment.wait.kind
    assert not enrichment.is_available
    assert set() == claims(engine)


def test_a_reply_that_no_provider_can_read_is_not_asked_for_again(
    engine: Engine, server: virustotal.VirusTotal, client: HttpClient, clock: ManualClock
) -> None:
    """A provider that fails on a reply leaves its file claimed: the next run asks about another one, not the same."""

    class Broken(VirusTotal):
        """Fails on every reply."""

        def outcomes(self, samples: Sequence[Sample], reply: Reply) -> dict[str, Outcome]:
            """Fail."""
            raise ValueError("a provider with a mistake")

    load(engine, [("s1", ONE), ("s2", TWO), ("s3", THREE)])
    asked = []
    for _ in range(3):
        enrichment = enrichment_by(Broken(server.url, virustotal.KEY), engine, client, clock)
        with pytest.raises(ValueError, match="a mistake"):
            steps_until_done(enrichment, clock)
        enrichment.release()
        asked.append({sha256 for sha256 in server.asked() if sha256 in {ONE, TWO, THREE}})
        assert enrichment.files_asked == 1

    assert [len(hashes) for hashes in asked] == [1, 2, 3]
    assert claims(engine) == {ONE, TWO, THREE}


def test_only_a_rejection_releases_the_files(
    engine: Engine, server: virustotal.VirusTotal, client: HttpClient, clock: ManualClock
) -> None:
    """Once a key that was rejected is tried again, a reading of its quota that succeeds releases nothing."""
    load(engine, [("s1", ONE), ("s2", TWO)])
    enrichment = enrichment_by(provider_of(server, "0" * 64), engine, client, clock)
    enrichment.step()
    assert enrichment.rejected is not None
    assert claims(engine) == set()
    good = enrichment_by(provider_of(server), engine, client, clock)
    good._lookup.rejected = "earlier"

    assert good.step() is Step.DONE_SOMETHING

    assert {"overall_quotas"} <= server.asked().keys()
    assert claims(engine) == {ONE, TWO}


def test_a_cached_answer_costs_no_request(
    engine: Engine, enrichment: FileEnrichment, server: virustotal.VirusTotal, client: HttpClient, clock: ManualClock
) -> None:
    """A valid answer in the cache is stored for a hash that lacks it, in one step and without a request."""
    steps_until_done(enrichment, clock)
    requests = len(server.log)
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM enrichment_queue")
        connection.exec_driver_sql("DELETE FROM file_verdicts")
    again = enrichment_by(provider_of(server), engine, client, clock)

    assert [Step.DONE_SOMETHING, Step.NOTHING_TO_DO] == steps_until_done(again, clock)

    assert ({"cached": 3}, 0, requests) == (again.counters, again.files_asked, len(server.log))
    assert 12 == row(engine, "file_verdicts", sha256=ONE)["positives"]


def test_a_rejected_key_stops_the_source_and_releases_its_files(
    engine: Engine, server: virustotal.VirusTotal, client: HttpClient, clock: ManualClock
) -> None:
    """A source that rejects the key is paused for a day; the operator is notified and no file stays claimed."""
    load(engine, [("s1", ONE)])
    messages: list[str] = []
    enrichment = enrichment_by(provider_of(server, "a wrong key"), engine, client, clock, notify=messages.append)

    assert enrichment.step() is Step.DONE_SOMETHING

    assert enrichment.rejected is not None
    assert [f"virustotal is out of use: {enrichment.rejected}"] == messages
    assert set() == claims(engine)
    assert enrichment.step() is Step.HAS_TO_WAIT
    assert enrichment.wait is not None
    assert START + dt.timedelta(days=1) == enrichment.wait.until
    assert 1 == len(server.log)


def test_a_failure_is_stored_and_asked_again_later(
    engine: Engine, enrichment: FileEnrichment, server: virustotal.VirusTotal, clock: ManualClock
) -> None:
    """A file without a usable answer is asked about again a minute later, or a little after."""
    server.script(ONE, [answering("busy", virustotal.error(503, "TransientError"))])

    steps_until_done(enrichment, clock)

    failed = row(engine, "enrichment_queue", sha256=ONE)
    assert ("failed", 1) == (failed["status"], failed["attempts"])
    assert 1 == enrichment.counters["failed: server-error"]
    clock.advance(minutes=2)
    enrichment.is_idle = False
    steps_until_done(enrichment, clock)
    assert "malicious" == row(engine, "file_hashes", sha256=ONE)["verdict"]


def test_a_limit_bounds_the_files(
    engine: Engine, server: virustotal.VirusTotal, client: HttpClient, clock: ManualClock
) -> None:
    """With a limit no more files are claimed or asked about, and those that are named come alone."""
    load(engine, [("s1", ONE), ("s2", TWO), ("s3", THREE)])
    limited, named = Bounds(limit=1), Bounds(only=(THREE,))
    provider = provider_of(server)

    steps_until_done(enrichment_by(provider, engine, client, clock, limited), clock)
    asked_first = set(server.asked()) - {"overall_quotas"}
    steps_until_done(enrichment_by(provider, engine, client, clock, named), clock)

    assert asked_first == limited.asked
    assert (1, 0) == (len(asked_first), limited.remaining())
    assert asked_first | {THREE} == set(server.asked()) - {"overall_quotas"}


def test_a_limit_that_others_used_up_releases_the_files(
    engine: Engine, server: virustotal.VirusTotal, client: HttpClient, clock: ManualClock
) -> None:
    """Files that were claimed before other sources used up the common limit are released and not asked about."""
    load(engine, [("s1", ONE), ("s2", TWO)])
    bounds = Bounds(limit=2)
    enrichment = enrichment_by(provider_of(server), engine, client, clock, bounds)
    enrichment.step()
    assert {ONE, TWO} == claims(engine)
    bounds.note({sha(8), sha(9)})

    assert enrichment.step() is Step.NOTHING_TO_DO

    assert (set(), {"overall_quotas": 1}) == (claims(engine), server.asked())


@pytest.mark.parametrize(
    ("share", "expected", "claimed"),
    [(0.49, Step.DONE_SOMETHING, 2), (0.5, Step.NOTHING_TO_DO, 0), (0.8, Step.NOTHING_TO_DO, 3)],
)
def test_claims_are_given_up_before_they_expire(
    share: float, expected: Step, claimed: int, engine: Engine, enrichment: FileEnrichment, clock: ManualClock
) -> None:
    """At half of their lease claims are released; near its end they are left alone: others may have them by now."""
    enrichment.step()
    assert {ONE, TWO, THREE} == claims(engine)
    enrichment.is_idle = True
    clock.advance(LEASE_S * share)

    assert expected is enrichment.step()

    assert claimed == len(claims(engine))


def test_release_gives_back_what_was_not_asked_about(engine: Engine, enrichment: FileEnrichment) -> None:
    """After a run ends early, other processes can claim its files at once."""
    enrichment.step()
    assert {ONE, TWO, THREE} == claims(engine)

    enrichment.release()

    assert set() == claims(engine)
