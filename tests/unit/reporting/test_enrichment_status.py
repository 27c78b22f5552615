"""The state of enrichment: the numbers equal what claims would find, the ledgers are those that grant requests."""

from __future__ import annotations

import datetime as dt
import json
import random
from collections import Counter

import pytest
from sqlalchemy import Engine, insert

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.enrichment.claims import ask_first, claim, note_skipped
from cowrieprocessor.db.enrichment.provider_verdict import ProviderVerdict
from cowrieprocessor.db.enrichment.skipped_hashes import EMPTY_FILE_SHA256
from cowrieprocessor.db.enrichment.verdict_aggregation import Policy
from cowrieprocessor.db.enrichment.verdict_store import store_answer, store_failure, store_refusal
from cowrieprocessor.db.models import Job, VerdictPropagation
from cowrieprocessor.enrichment.providers.base import KeyQuota, Limits
from cowrieprocessor.enrichment.quota.ledger import NO_KEY, Ledger
from cowrieprocessor.reporting.enrichment_status import EnrichmentStatus, SourceStatus, enrichment_status
from cowrieprocessor.reporting.queries.enrichment import EnrichJob, FailureKind, QueueCounts
from cowrieprocessor.reporting.render.enrichment import enrichment_text
from cowrieprocessor.reporting.render.json import to_json
from cowrieprocessor.reporting.render.terminal import Screen
from cowrieprocessor.settings import Settings, fingerprint, load_settings
from tests.enrichment_scene import NO_CACHE
from tests.stand_ins.clock import ManualClock
from tests.unit.reporting.scene import add_hash, at, sha

NOW = at(12)
KEY = "c" * 64
NAMES = ("hashlookup", "malwarebazaar", "urlhaus", "urlhaus-url", "virustotal")
KEYS = {"COWRIEPROC_VIRUSTOTAL_KEY": KEY, "COWRIEPROC_ABUSECH_KEY": "d" * 40}


def _settings(**more: str) -> Settings:
    return load_settings(environ=KEYS | more)


def _status(engine: Engine, settings: Settings | None = None, now: dt.datetime = NOW) -> EnrichmentStatus:
    with read_transaction(engine) as connection:
        return enrichment_status(connection, settings or _settings(), now)


def _source(status: EnrichmentStatus, name: str) -> SourceStatus:
    (result,) = [source for source in status.sources if source.provider == name]
    return result


def _fill(engine: Engine, seed: int, policy: Policy) -> None:
    """Store random answers, failures and claims for random files, with the functions that enrichment uses."""
    rng = random.Random(seed)
    with write_transaction(engine) as connection:
        for number in range(40):
            add_hash(connection, sha(number), at(-99), session_count=rng.randrange(9))
        add_hash(connection, EMPTY_FILE_SHA256, at(-99))
        note_skipped(connection)
        for _ in range(160):
            sha256 = sha(rng.randrange(40))
            provider = rng.choice((*NAMES, "cowrie-virustotal"))
            moment = at(rng.randrange(-90, 12))
            until = moment + dt.timedelta(hours=rng.choice((1, 200)))
            if rng.random() < 0.7:
                verdict = rng.choice(("malicious", "known-good", "suspicious", "clean", "unknown", "unknown"))
                answer_args = {"fetched_at": moment, "expires_at": until, "policy": policy, "now": moment}
                store_answer(connection, sha256, provider, sha256, ProviderVerdict(verdict), **answer_args)  # type: ignore[arg-type]
            elif rng.random() < 0.8:
                store_failure(
                    connection,
                    *(sha256, provider),
                    kind=rng.choice(("timeout", "connection")),
                    reason="no answer",
                    next_attempt_at=until,
                    policy=policy,
                    now=moment,
                )
            else:
                store_refusal(connection, sha256, provider, reason="never", policy=policy, now=moment)
        ask_first(connection, [sha(number) for number in range(7)], ["virustotal", "hashlookup"])
    for provider, moment in (("virustotal", NOW), ("hashlookup", at(2))):  # the second process was killed
        claim(engine, provider, limit=4, now=moment, lease_s=900, policy=policy)
    for hours in range(4):  # processes killed repeatedly over the same hash, requested by hand and not
        only = [sha(number) for number in range(2 + 2 * hours, 12)]
        claim(engine, "urlhaus", limit=99, now=at(hours), lease_s=900, policy=policy, only=only, cache_timing=NO_CACHE)
    far = at(0, days=4000)
    with write_transaction(engine) as connection:
        ask_first(connection, [sha(number) for number in range(3)], ["malwarebazaar"])
        rest = {"policy": policy, "now": far}
        for number in range(20, 30):  # with a clock that was wrong
            answer_args = {"fetched_at": far, "expires_at": far, **rest}
            failure_args = {"kind": "timeout", "reason": "no answer", "next_attempt_at": far, **rest}
            if number % 2:
                store_answer(
                    connection, sha(number), "virustotal", sha(number), ProviderVerdict("clean"), **answer_args
                )  # type: ignore[arg-type]
            else:
                store_failure(connection, sha(number), "virustotal", **failure_args)  # type: ignore[arg-type]
    claim(engine, "malwarebazaar", limit=5, now=far, lease_s=900, policy=policy)
    claim(engine, "malwarebazaar", limit=2, now=at(3), lease_s=900, policy=policy)


@pytest.mark.parametrize(
    ("seed", "settled_by"), [(0, "known-good,malicious"), (1, "none"), (2, "known-good"), (3, "unknown,malicious")]
)
def test_backlog_is_what_would_be_claimed(engine: Engine, seed: int, settled_by: str) -> None:
    """For every source, the backlog by reason equals what claiming all of it returns."""
    settings = _settings(COWRIEPROC_SETTLED_BY=settled_by)
    policy = Policy(NAMES, frozenset(settings.settled_by))
    _fill(engine, seed, policy)
    status = _status(engine, settings)
    seen: Counter[str] = Counter()
    for name in NAMES:
        queue = _source(status, name).queue
        claimed = []
        while batch := claim(engine, name, limit=1000, now=NOW, lease_s=900, policy=policy):
            claimed += batch
        reasons = Counter(claimed_hash.reason for claimed_hash in claimed)
        assert (name, reasons) == (
            name,
            +Counter({"new": queue.waiting, "asked-for": queue.asked_for, "retry": queue.retries_due})
            + Counter({"expired": queue.expired}),
        )
        assert len(claimed) == queue.backlog
        seen += reasons
        leased = _source(_status(engine, settings), name).queue
        assert (0, queue.leased + len(claimed)) == (leased.backlog, leased.leased)
    assert {"new", "asked-for", "retry", "expired"} - ({"expired"} if "unknown" in settled_by else set()) <= seen.keys()
    assert (41, 1) == (sum(status.verdicts.values()), status.skipped)


def test_failures_are_counted_by_kind_with_an_example(engine: Engine) -> None:
    """Failures count by the word before the colon, refusals together; the example is the hash tried most often."""
    policy = Policy(NAMES, frozenset())
    with write_transaction(engine) as connection:
        for number in range(4):
            add_hash(connection, sha(number), at(-9))
        values = {"policy": policy, "now": NOW}
        for number, reason in ((1, "no answer within 30 s"), (2, "no answer: none")):
            store_failure(
                connection,
                *(sha(number), "virustotal"),
                **{"kind": "timeout", "reason": reason, "next_attempt_at": at(20), **values},  # type: ignore[arg-type]
            )
        store_failure(
            connection,
            *(sha(3), "virustotal"),
            **{"kind": "server-error", "reason": "503", "next_attempt_at": at(1), **values},  # type: ignore[arg-type]
        )
        store_refusal(connection, sha(0), "urlhaus", reason="illegal hash", **values)  # type: ignore[arg-type]
    status = _status(engine)
    assert (
        FailureKind("virustotal", "failed", "timeout", 2, sha(1), "timeout: no answer within 30 s"),
        FailureKind("urlhaus", "refused", "refused", 1, sha(0), "illegal hash"),
        FailureKind("virustotal", "failed", "server-error", 1, sha(3), "server-error: 503"),
    ) == status.failures
    assert QueueCounts(waiting=1, retries_due=1, failed=3) == _source(status, "virustotal").queue


def test_ledgers_show_the_quota_and_when_the_backlog_is_done(engine: Engine) -> None:
    """Each key's ledger shows requests sent and allowed, why it pauses, and how long the backlog takes."""
    clock = ManualClock(NOW)
    limits = Limits(4, 500, 15_500)
    ledger = Ledger(engine, "virustotal", fingerprint(KEY), limits, Limits(), clock)
    old = Ledger(engine, "virustotal", "0" * 16, limits, Limits(), clock)
    with write_transaction(engine) as connection:
        for number in range(50):
            add_hash(connection, sha(number), at(-9))
    for used in (ledger, ledger, ledger, old):
        used.reserve()
    ledger.record_key_quota(KeyQuota(daily_allowed=20, daily_used=3, monthly_allowed=1000, monthly_used=30))
    ledger.pause(at(18), "it said so")
    status = _status(engine, now=clock.now())
    names = [(state.ledger, state.fingerprint, state.in_use) for state in status.ledgers]
    assert ("hashlookup", NO_KEY, True) == names[0]
    assert [("virustotal", fingerprint(KEY), True), ("virustotal", "0" * 16, False)] == names[-2:]
    own, other = status.ledgers[-2:]
    assert (3, 20, 30, 1000, 4, at(18), "it said so", 50) == (
        *(own.used_day, own.allowed_day, own.used_month, own.allowed_month, own.per_minute),
        *(own.paused_until, own.reason, own.requests),
    )
    assert clock.now() == own.read_at
    assert own.done_at is not None
    assert (at(0, days=2).date(), 1, 0) == (own.done_at.date(), other.used_day, other.requests)  # 17, 20, 13
    urlhaus = next(state for state in status.ledgers if state.ledger == "urlhaus")
    assert 100 == urlhaus.requests  # by hash and by URL: two requests per file under one limit


def test_the_job_and_the_propagation_backlog(engine: Engine) -> None:
    """The status has the job's last report, and the number of verdicts that have not reached all rows of `files`."""
    assert _status(engine).job is None
    with write_transaction(engine) as connection:
        times = {"started_at": at(1), "updated_at": at(2), "finished_at": None}
        job = {"state": "waiting", "reason": "the quota is used up", "counters": {"virustotal requests": 5}, **times}
        connection.execute(insert(Job).values(name="enrich", **job))
        for number in (1, 2):
            connection.execute(insert(VerdictPropagation).values(sha256=sha(number), requested_at=at(number)))
    status = _status(engine)
    assert EnrichJob(**job) == status.job  # type: ignore[arg-type]
    assert (2, at(1)) == (status.spreading.hashes, status.spreading.since)
    text = enrichment_text(status, Screen())
    assert "waiting, last heard of 2026-11-21 02:00:00 UTC: the quota is used up." in " ".join(text.split())
    assert "New verdicts of 2 files are still to reach their sessions" in text


@pytest.mark.parametrize(
    ("environment", "in_use", "without_key", "not_named", "problem"),
    [
        ({}, ["hashlookup"], ["malwarebazaar", "urlhaus", "urlhaus-url", "virustotal"], [], None),
        (KEYS, list(NAMES), [], [], None),
        ({"COWRIEPROC_ENRICHMENT_PROVIDERS": "none"}, [], [], list(NAMES), None),
        (
            {"COWRIEPROC_VIRUSTOTAL_KEY": "file:/does/not/exist"},
            ["hashlookup", "virustotal"],
            ["malwarebazaar", "urlhaus", "urlhaus-url"],
            [],
            None,
        ),
        (
            {"COWRIEPROC_ENRICHMENT_PROVIDERS": "urlhaus"},
            [],
            ["urlhaus"],
            ["hashlookup", "malwarebazaar", "urlhaus-url", "virustotal"],
            "names urlhaus, but the key is not given",
        ),
        (
            {"COWRIEPROC_ENRICHMENT_PROVIDERS": "hashlookup,wrong"},
            ["hashlookup"],
            [],
            ["malwarebazaar", "urlhaus", "urlhaus-url", "virustotal"],
            "names wrong; known are hashlookup",
        ),
    ],
)
def test_sources_that_are_not_asked_are_named(
    engine: Engine,
    environment: dict[str, str],
    in_use: list[str],
    without_key: list[str],
    not_named: list[str],
    problem: str | None,
) -> None:
    """Whatever is wrong with the keys, the status is shown, and says which sources are not queried and why."""
    status = _status(engine, load_settings(environ=environment))
    assert (in_use, without_key, not_named) == (
        [source.provider for source in status.sources if source.in_use],
        list(status.without_key),
        list(status.not_named),
    )
    assert (problem or "") in (status.problem or "")
    assert (problem is None) == (status.problem is None)
    text = " ".join(enrichment_text(status, Screen()).split())
    reasons = (("no key is given", without_key), ("COWRIEPROC_ENRICHMENT_PROVIDERS does not name them", not_named))
    for reason, names in reasons:
        assert (f"Not asked, as {reason}: {', '.join(names)}." in text) == bool(names)


def test_a_staged_site_is_counted_by_its_queue(engine: Engine) -> None:
    """With USE_NEW_ENRICHMENT=0 the numbers are those of the queue, with the answers waiting for replay."""
    policy = Policy(NAMES, frozenset({"malicious"}))
    settings = _settings(USE_NEW_ENRICHMENT="0", COWRIEPROC_SETTLED_BY="malicious")
    with write_transaction(engine) as connection:
        for number in range(9):
            add_hash(connection, sha(number), at(-9), session_count=9 - number)
        add_hash(connection, EMPTY_FILE_SHA256, at(-9), enrichment_status="skipped")
    for moment, limit in ((at(2), 4), (NOW, 2)):
        claimed = claim(
            engine, "virustotal", limit=limit, now=moment, lease_s=900, policy=policy, cache_timing=NO_CACHE
        )
        assert len(claimed) == limit
        if moment == NOW:
            break
        how = {"policy": policy, "now": moment, "staged": True}
        with write_transaction(engine) as connection:
            for claimed_hash, verdict in zip(claimed[:2], ("malicious", "unknown"), strict=True):
                name, times = claimed_hash.sha256, {"expires_at": at(10 if verdict == "unknown" else 400)}
                answer = ("virustotal", name, ProviderVerdict(verdict))
                store_answer(connection, name, *answer, fetched_at=moment, **times, **how)  # type: ignore[arg-type]
            failure = {"kind": "timeout", "reason": "no answer", "next_attempt_at": at(20)}
            store_failure(connection, claimed[2].sha256, "virustotal", **failure, **how)  # type: ignore[arg-type]
    status = _status(engine, settings)
    queue = _source(status, "virustotal").queue
    assert (True, 2) == (status.staged, status.replayable)
    assert (2, 1, 2, 1) == (queue.answered, queue.failed, queue.leased, queue.expired)
    assert [("virustotal", "failed", "timeout", 1)] == [
        (failure.provider, failure.status, failure.kind, failure.count) for failure in status.failures
    ]
    left = claim(engine, "virustotal", limit=99, now=NOW, lease_s=900, policy=policy, cache_timing=NO_CACHE)
    assert len(left) == queue.backlog
    others = claim(engine, "urlhaus", limit=99, now=NOW, lease_s=900, policy=policy)
    assert (8, 8) == (len(others), _source(status, "urlhaus").queue.waiting)  # one hash has a decisive verdict
    assert _status(engine).replayable is None


@pytest.mark.parametrize("seed", range(3))
def test_a_staged_backlog_is_what_would_be_claimed(engine: Engine, seed: int) -> None:
    """With staged and stored answers, the backlog by reason equals what claiming all of it returns."""
    rng = random.Random(seed)
    policy = Policy(NAMES, frozenset({"malicious"}))
    settings = _settings(USE_NEW_ENRICHMENT="0", COWRIEPROC_SETTLED_BY="malicious")
    with write_transaction(engine) as connection:
        for number in range(30):
            add_hash(connection, sha(number), at(-9))
    for hour in range(0, 12, 2):
        for name in NAMES:
            for claimed in claim(engine, name, limit=6, now=at(hour), lease_s=900, policy=policy):
                until, chance = at(hour + rng.choice((3, 300))), rng.random()
                how = {"policy": policy, "now": at(hour), "staged": rng.random() < 0.8}
                with write_transaction(engine) as connection:
                    if chance < 0.4:
                        verdict = ProviderVerdict(rng.choice(("malicious", "clean", "unknown")))
                        answer = (name, claimed.sha256, verdict)
                        times = {"fetched_at": at(hour), "expires_at": until}
                        store_answer(connection, claimed.sha256, *answer, **times, **how)  # type: ignore[arg-type]
                    elif chance < 0.7:
                        failure = {"kind": "timeout", "reason": "none", "next_attempt_at": until}
                        store_failure(connection, claimed.sha256, name, **failure, **how)  # type: ignore[arg-type]
    with write_transaction(engine) as connection:
        ask_first(connection, [sha(number) for number in range(4)], ["virustotal"])
    status = _status(engine, settings)
    for name in NAMES:
        queue = _source(status, name).queue
        left = claim(engine, name, limit=99, now=NOW, lease_s=900, policy=policy)
        reasons = Counter({"new": queue.waiting, "retry": queue.retries_due, "expired": queue.expired})
        assert (name, +(reasons + Counter({"asked-for": queue.asked_for}))) == (
            name,
            Counter(claimed.reason for claimed in left),
        )


STATUS = """\
Enrichment at 2026-11-21 12:00:00 UTC
4 files: 1 malicious, 1 skipped, 1 failed, 1 refused.
It has not run yet: `enrich` asks the sources.

Files by source
source                             waiting  to retry  to renew  answered  failed  refused  not-asked
────────────────────────────────────────────────────────────────────────────────────────────────────
hashlookup                               2         0         0         0       0        0          3
malwarebazaar (not in use)               0         0         0         0       1        0          2
virustotal                               1         0         0         1       0        1          1

Not asked, as no key is given: malwarebazaar, urlhaus, urlhaus-url.

Quota (UTC)
requests to                                  today   this month  a minute  to send  done by (UTC)
────────────────────────────────────────────────────────────────────────────────────────────────────
hashlookup                                       0            0       600        2  2026-11-21 12:00
virustotal                                1 of 500  1 of 15,500         4        1  2026-11-21 13:00
virustotal: nothing is sent until 2026-11-21 13:00:00 UTC: it said so.

Failed and refused
files  source         kind     for example
────────────────────────────────────────────────────────────────────────────────────────────────────
    1  malwarebazaar  timeout  000001000000: timeout: no answer
    1  virustotal     refused  000002000000: never
"""


def _scene(engine: Engine) -> EnrichmentStatus:
    settings = load_settings(environ={"COWRIEPROC_VIRUSTOTAL_KEY": KEY})
    policy = Policy(("hashlookup", "virustotal"), frozenset(settings.settled_by))
    with write_transaction(engine) as connection:
        for number in range(3):
            add_hash(connection, sha(number), at(-9))
        add_hash(connection, EMPTY_FILE_SHA256, at(-9))
        note_skipped(connection)
        answer_args = {"fetched_at": at(1), "expires_at": at(99), "policy": policy, "now": at(1)}
        store_answer(connection, sha(0), "virustotal", sha(0), ProviderVerdict("malicious"), **answer_args)  # type: ignore[arg-type]
        store_failure(
            connection,
            *(sha(1), "malwarebazaar"),
            kind="timeout",
            reason="no answer",
            next_attempt_at=at(5),
            policy=policy,
            now=at(1),
        )
        store_refusal(connection, sha(2), "virustotal", reason="never", policy=policy, now=at(1))
    ledger = Ledger(engine, "virustotal", fingerprint(KEY), Limits(4, 500, 15_500), Limits(), ManualClock(NOW))
    ledger.reserve()
    ledger.pause(at(13), "it said so")
    return _status(engine, settings)


def test_status_reads_like_this(engine: Engine) -> None:
    """The whole status, on 100 columns without colour, is this text on both databases."""
    assert STATUS == enrichment_text(_scene(engine), Screen())


def test_status_fits_any_width(engine: Engine) -> None:
    """No line is wider than the screen."""
    status = _scene(engine)
    for width in (20, 40, 60, 80, 92, 150):
        text = enrichment_text(status, Screen(width))
        assert max(len(line) for line in text.splitlines()) <= max(width, 40)


def test_no_key_is_in_any_output(engine: Engine) -> None:
    """Neither text nor JSON contains a key, only its fingerprint."""
    status = _scene(engine)
    document = to_json(status)
    assert KEY not in document + enrichment_text(status, Screen(200)) + repr(status)
    assert fingerprint(KEY) in document
    assert "2026-11-21T12:00:00Z" == json.loads(document)["at"]
