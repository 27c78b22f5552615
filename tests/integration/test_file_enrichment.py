"""Enrichment from end to end: real databases, real HTTP, every source; counted at the services."""

from __future__ import annotations

import datetime as dt
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from cowrieprocessor.db.engine import read_transaction
from cowrieprocessor.db.enrichment import candidate_cache
from cowrieprocessor.db.enrichment.skipped_hashes import EMPTY_FILE_SHA256, LONE_NEWLINE_SHA256
from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.jobs.enrichment.run import EnrichOptions, enrich
from tests.enrichment_scene import dump_other_tables
from tests.stand_ins.behaviours import HTML_502, with_retry_after
from tests.stand_ins.scene import Services, download, load, services, sha256_of
from tests.stand_ins.virustotal import KEY, KeyLimits, error

FILES = tuple(sha256_of(number) for number in range(12))


@pytest.fixture
def here() -> Iterator[Services]:
    """Every service, by a clock that passes when it is waited on."""
    with services() as all_of_them:
        yield all_of_them


def rows(engine: Engine, query: str, **values: Any) -> list[tuple[Any, ...]]:
    """Return what a query returns."""
    with read_transaction(engine) as connection:
        return [tuple(row) for row in connection.execute(text(query), values)]


def test_one_request_for_each_file_whatever_the_number_of_sessions(
    engine: Engine, tmp_path: Path, here: Services
) -> None:
    """Twelve files in 240 sessions cost VirusTotal twelve requests, and none the second time (PITFALLS 27)."""
    load(engine, tmp_path, [download(session, FILES[session % 12]) for session in range(240)])
    for sha256 in FILES[:5]:
        here.virustotal.add(sha256, malicious=12, total=70)

    first = here.enrich(engine)
    asked = {subject: count for subject, count in here.virustotal.asked().items() if subject in FILES}
    again = here.enrich(engine)

    assert dict.fromkeys(FILES, 1) == asked
    assert {"overall_quotas": 1, **asked} == here.virustotal.asked()
    assert (12, 0) == (first.files, again.files)
    assert [] == here.virustotal.violations
    assert [(100,)] == rows(engine, "SELECT count(*) FROM files WHERE vt_malicious AND vt_positives = 12")
    assert [(100,)] == rows(engine, "SELECT count(*) FROM session_summaries WHERE vt_flagged")
    assert [(240,)] == rows(engine, "SELECT count(*) FROM files WHERE enrichment_status = 'enriched'")
    assert [] == rows(engine, "SELECT * FROM verdict_propagation")


def test_slow_searches_leave_no_file_unasked(
    engine: Engine, tmp_path: Path, here: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow search that finds nothing is not repeated all the time, but once before a run ends."""
    always_slow = candidate_cache.CacheTiming(slow_s=0.0, max_idle_share=1e-9)
    monkeypatch.setattr(candidate_cache, "DEFAULT_TIMING", always_slow)
    load(engine, tmp_path, [download(number, sha256) for number, sha256 in enumerate(FILES)])
    here.enrich(engine)
    for source in (here.hashlookup, here.malwarebazaar, here.virustotal):
        assert dict.fromkeys(FILES, 1) == {subject: source.asked()[subject] for subject in FILES}


def test_the_ledger_says_what_was_sent(engine: Engine, tmp_path: Path, here: Services) -> None:
    """The day's and the month's figure are the requests that arrived, an unknown file counted like any other."""
    load(engine, tmp_path, [download(number, sha256) for number, sha256 in enumerate(FILES)])
    here.enrich(engine)
    sent = len(here.virustotal.log)
    ledger = "SELECT used FROM api_quota WHERE provider = 'virustotal' AND \"window\" IN ('2026-03-01', '2026-03')"
    assert [(sent,), (sent,)] == rows(engine, ledger)
    assert sent == 13


def test_what_settles_a_file_saves_the_sources_behind_it(engine: Engine, tmp_path: Path, here: Services) -> None:
    """Known-good and malicious files, the empty file and the lone newline never cost VirusTotal's quota."""
    good, bad, left, *_ = FILES
    worthless = [EMPTY_FILE_SHA256, LONE_NEWLINE_SHA256]
    load(engine, tmp_path, [download(number, sha256) for number, sha256 in enumerate([good, bad, left, *worthless])])
    here.hashlookup.add(good, trust=90)
    here.malwarebazaar.add(bad)

    here.enrich(engine)

    assert {left} == here.virustotal.asked().keys() - {"overall_quotas"}
    assert {bad, left} == here.malwarebazaar.asked().keys()
    assert {good, bad, left} == here.hashlookup.asked().keys()
    assert {(good, "known-good"), (bad, "malicious"), (left, "unknown")} == set(
        rows(engine, "SELECT sha256, verdict FROM file_hashes WHERE enrichment_status = 'enriched'")
    )
    skipped = rows(engine, "SELECT sha256, last_error FROM enrichment_queue WHERE status = 'skipped'")
    assert set(worthless) == {sha256 for sha256, _ in skipped}
    assert all(reason for _, reason in skipped)


def test_everybody_is_asked_where_the_settings_say_so(engine: Engine, tmp_path: Path, here: Services) -> None:
    """With nothing that settles a file, VirusTotal is asked about a file that is known to be malicious too."""
    load(engine, tmp_path, [download(1, FILES[0])])
    here.malwarebazaar.add(FILES[0])
    here.enrich(engine, settled_by=())
    assert here.virustotal.asked()[FILES[0]] == 1


def test_a_new_verdict_reaches_old_rows_and_a_withdrawn_one_leaves(
    engine: Engine, tmp_path: Path, here: Services
) -> None:
    """Unknown becomes 12/70, then 40/71, then clean: history, files and flags follow each time."""
    sha256 = FILES[0]
    load(engine, tmp_path, [download(number, sha256) for number in range(3)])
    told = []
    for malicious, total, days in ((None, None, 0), (12, 70, 1), (40, 71, 31), (0, 72, 31)):
        here.clock.advance(days=days)
        if malicious is not None:
            here.virustotal.add(sha256, malicious=malicious, total=total)
        here.enrich(engine, enrichment_providers=("virustotal",))
        told += rows(
            engine,
            "SELECT h.verdict, f.vt_positives, f.vt_total, s.vt_flagged, count(*) FROM files f"
            " JOIN file_hashes h ON h.sha256 = f.shasum JOIN session_summaries s ON s.session_id = f.session_id"
            " GROUP BY 1, 2, 3, 4",
        )
    assert [
        ("unknown", None, None, False, 3),
        ("malicious", 12, 70, True, 3),
        ("malicious", 40, 71, True, 3),
        ("clean", 0, 72, False, 3),
    ] == [(*row[:3], bool(row[3]), row[4]) for row in told]
    history = rows(engine, "SELECT verdict, positives, total FROM file_verdicts ORDER BY fetched_at")
    assert [("unknown", None, None), ("malicious", 12, 70), ("malicious", 40, 71), ("clean", 0, 72)] == history


def test_cowries_own_verdicts_cost_nothing(engine: Engine, tmp_path: Path, here: Services) -> None:
    """What Cowrie's plug-in logged settles a file; VirusTotal is not asked again as long as that holds."""
    own = {
        "eventid": "cowrie.virustotal.scanfile",
        "session": "s1",
        "timestamp": (here.clock.now() - dt.timedelta(days=1)).isoformat(),
        "sensor": "hive",
        "sha256": FILES[0],
        "is_new": "false",
        "positives": 31,
        "total": 76,
        "scan_date": 1_700_000_000,
    }
    load(engine, tmp_path, [download(1, FILES[0]), own])
    here.enrich(engine)
    assert FILES[0] not in here.virustotal.asked()
    assert [("malicious", 31, 76, True)] == [
        (*row[:3], bool(row[3]))
        for row in rows(
            engine,
            "SELECT h.verdict, f.vt_positives, f.vt_total, f.vt_malicious FROM files f JOIN file_hashes h"
            " ON h.sha256 = f.shasum",
        )
    ]
    here.clock.advance(days=40)
    here.enrich(engine)
    assert here.virustotal.asked()[FILES[0]] == 1


def test_staging_writes_cache_queue_and_ledger_alone(engine: Engine, tmp_path: Path, here: Services) -> None:
    """With USE_NEW_ENRICHMENT=0 no row of another table changes; back at 1 the cache is replayed without a request."""
    load(engine, tmp_path, [download(number, sha256) for number, sha256 in enumerate(FILES[:4])])
    here.virustotal.add(FILES[0], malicious=9, total=70)
    before = dump_other_tables(engine)

    here.enrich(engine, use_new_enrichment=False)
    staged = here.requests()

    assert before == dump_other_tables(engine)
    assert {*FILES[:4], "overall_quotas"} == set(here.virustotal.asked())
    here.enrich(engine, use_new_enrichment=False)
    assert staged == here.requests()
    here.enrich(engine)
    assert staged == here.requests()
    assert [(1,)] == rows(engine, "SELECT count(*) FROM files WHERE vt_positives = 9 AND vt_malicious")
    verdicts = rows(engine, "SELECT verdict, count(*) FROM file_hashes GROUP BY verdict ORDER BY verdict")
    assert [("malicious", 1), ("unknown", 3)] == verdicts
    assert [] == rows(engine, "SELECT * FROM enrichment_cache WHERE key LIKE 'staged:%'")
    assert [(4,)] == rows(engine, "SELECT count(*) FROM files WHERE enrichment_status = 'enriched'")


def test_a_file_asked_for_by_hand_is_asked_about_while_staging_too(
    engine: Engine, tmp_path: Path, here: Services
) -> None:
    """`--sha256` asks again although the cache has an answer, and writes cache and queue alone."""
    load(engine, tmp_path, [download(1, FILES[0])])
    staged = {"use_new_enrichment": False, "enrichment_providers": ("virustotal",)}
    here.enrich(engine, **staged)
    before = dump_other_tables(engine)
    here.clock.advance(minutes=5)
    here.enrich(engine, EnrichOptions(only=(FILES[0],)), **staged)
    assert 2 == here.virustotal.asked()[FILES[0]]
    assert before == dump_other_tables(engine)


@pytest.mark.parametrize("staged", [False, True], ids=["in use", "staged"])
def test_what_a_wrong_clock_wrote_is_asked_about_again(
    staged: bool, engine: Engine, tmp_path: Path, here: Services
) -> None:
    """Answers and failures of a clock that was years ahead are renewed once it is right, once each, and then count."""
    load(engine, tmp_path, [download(number, FILES[number]) for number in range(3)])
    only = {"enrichment_providers": ("virustotal",), "use_new_enrichment": not staged}
    here.virustotal.script(FILES[1], [HTML_502])
    here.clock.advance(days=3650)
    here.enrich(engine, **only)
    here.clock.advance(days=-3650)
    here.virustotal._sent.clear()  # the clock of VirusTotal itself was right
    here.virustotal.add(FILES[0], malicious=9, total=70)
    for _ in range(2):
        here.enrich(engine, **only)
    assert dict.fromkeys(FILES[:3], 2) == {sha256: here.virustotal.asked()[sha256] for sha256 in FILES[:3]}
    here.enrich(engine, enrichment_providers=("virustotal",))
    assert dict.fromkeys(FILES[:3], 2) == {sha256: here.virustotal.asked()[sha256] for sha256 in FILES[:3]}
    assert {(FILES[0], "malicious"), (FILES[1], "unknown"), (FILES[2], "unknown")} == set(
        rows(engine, "SELECT sha256, verdict FROM file_hashes")
    )
    year = here.clock.now().year
    latest = rows(engine, "SELECT sha256, max(confirmed_at) FROM file_verdicts GROUP BY sha256")
    assert {year} == {int(str(moment)[:4]) for _, moment in latest}


def test_a_day_s_quota_used_up_ends_the_run_and_the_next_day_goes_on(tmp_path: Path, engine: Engine) -> None:
    """The run says until when it has to wait; nothing is sent over the limit, and nothing is lost."""
    with services(KeyLimits(4, 5, 15_500)) as here:
        load(engine, tmp_path, [download(number, sha256) for number, sha256 in enumerate(FILES)])
        first = here.enrich(engine, enrichment_providers=("virustotal",))
        assert len(here.virustotal.log) == 5
        assert here.clock.now().date() + dt.timedelta(days=1) == (first.paused_until or here.clock.now()).date()
        assert "day" in first.reasons["virustotal"]
        job = rows(engine, "SELECT state, reason FROM jobs WHERE name = 'enrich'")
        assert [("paused", True)] == [(state, "2026-03-02" in reason) for state, reason in job]
        while len(here.virustotal.asked()) < 13:
            here.clock.advance(days=1)
            here.enrich(engine, enrichment_providers=("virustotal",))
        assert {1} == {count for subject, count in here.virustotal.asked().items() if subject in FILES}
        assert [] == here.virustotal.violations


def test_failures_do_not_keep_others_waiting(engine: Engine, tmp_path: Path, here: Services) -> None:
    """Files whose questions fail are tried again later, behind those never asked; none is lost (PITFALLS 28, 29)."""
    load(engine, tmp_path, [download(number, sha256) for number, sha256 in enumerate(FILES)])
    for sha256 in FILES[:3]:
        here.virustotal.script(sha256, [HTML_502] * 3)
    only = {"enrichment_providers": ("virustotal",)}
    here.enrich(engine, **only)
    statuses = Counter(status for (status,) in rows(engine, "SELECT enrichment_status FROM file_hashes"))
    assert {"enriched": 9, "failed": 3} == statuses
    for _ in range(12):
        here.clock.advance(hours=1)
        here.enrich(engine, **only)
    assert [("enriched", 12)] == rows(
        engine, "SELECT enrichment_status, count(*) FROM file_hashes GROUP BY enrichment_status"
    )
    assert {4} == {here.virustotal.asked()[sha256] for sha256 in FILES[:3]}


def test_a_refused_key_stops_its_source_and_no_other(engine: Engine, tmp_path: Path, here: Services) -> None:
    """A wrong key costs one request; the other sources go on, and no file is spent on it."""
    load(engine, tmp_path, [download(number, sha256) for number, sha256 in enumerate(FILES[:3])])
    here.virustotal.keys.clear()
    result = here.enrich(engine)
    assert len(here.virustotal.log) == 1
    assert "401" in result.reasons["virustotal"]
    assert KEY not in str(result)
    assert len(here.hashlookup.log) == 3
    assert [] == rows(engine, "SELECT * FROM enrichment_queue WHERE provider = 'virustotal'")


def test_a_429_pauses_until_the_quota_is_known(engine: Engine, tmp_path: Path, here: Services) -> None:
    """After a 429 the key's own quota is read, the file is asked about again, and its attempt does not count."""
    load(engine, tmp_path, [download(1, FILES[0])])
    here.virustotal.script(FILES[0], [answered_429()])
    here.enrich(engine, enrichment_providers=("virustotal",))
    assert {FILES[0]: 2, "overall_quotas": 2} == here.virustotal.asked()
    assert [("answered", 0)] == rows(engine, "SELECT status, attempts FROM enrichment_queue")


def test_a_limit_bounds_the_files_of_all_sources_together(engine: Engine, tmp_path: Path, here: Services) -> None:
    """With a limit of three, the same three files are asked about at every source; those of most sessions first."""
    events = [download(f"{number}-{more}", FILES[number]) for number in range(6) for more in range(number + 1)]
    load(engine, tmp_path, events)
    result = here.enrich(engine, EnrichOptions(limit=3))
    assert {FILES[5], FILES[4], FILES[3]} == here.virustotal.asked().keys() - {"overall_quotas"}
    assert here.hashlookup.asked().keys() == here.malwarebazaar.asked().keys() == set(FILES[3:6])
    assert result.files == 3


def test_the_oldest_files_come_first_where_asked_for(engine: Engine, tmp_path: Path, here: Services) -> None:
    """With `--order oldest` files are asked about in the order in which they were first seen."""
    load(engine, tmp_path, [download(number, FILES[number], day=20 - number) for number in range(6)])
    here.enrich(engine, EnrichOptions(limit=2, order="oldest"), enrichment_providers=("virustotal",))
    assert {FILES[5], FILES[4]} == here.virustotal.asked().keys() - {"overall_quotas"}


def test_a_file_asked_for_by_hand_is_asked_about_at_once(engine: Engine, tmp_path: Path, here: Services) -> None:
    """`--sha256` asks although the last answer still holds, and about no other file."""
    load(engine, tmp_path, [download(number, FILES[number]) for number in range(3)])
    here.enrich(engine, EnrichOptions(only=(FILES[2],)), enrichment_providers=("virustotal",))
    here.virustotal.add(FILES[2], malicious=3, total=60)
    here.enrich(engine, EnrichOptions(only=(FILES[2],)), enrichment_providers=("virustotal",))
    assert {FILES[2]: 2, "overall_quotas": 1} == here.virustotal.asked()
    assert [("malicious",)] == rows(engine, "SELECT verdict FROM file_hashes WHERE sha256 = :it", it=FILES[2])


def test_a_file_without_an_address_is_asked_about_once_it_has_one(
    engine: Engine, tmp_path: Path, here: Services
) -> None:
    """URLhaus cannot be asked about the address of an upload; when the file is downloaded later, it is."""
    upload = download(1, FILES[0]) | {"eventid": "cowrie.session.file_upload", "url": None, "filename": "x"}
    load(engine, tmp_path, [upload])
    here.enrich(engine)
    assert {FILES[0]} == set(here.urlhaus.asked())
    assert [("enriched",)] == rows(engine, "SELECT enrichment_status FROM file_hashes")
    address = "http://203.0.113.9/late"
    load(engine, tmp_path, [download(2, FILES[0], url=address)], "later.json")
    here.urlhaus.add_address(address)
    here.clock.advance(days=8)
    here.enrich(engine)
    assert 1 == here.urlhaus.asked()[address]
    assert [("suspicious",)] == rows(engine, "SELECT verdict FROM file_hashes")


def test_a_refused_key_is_tried_again_the_next_day(engine: Engine, tmp_path: Path, here: Services) -> None:
    """While watching, a source that refused the key is left alone for a day, then asked again; the rest goes on."""
    load(engine, tmp_path, [download(number, sha256) for number, sha256 in enumerate(FILES[:3])])
    keys = dict(here.virustotal.keys)
    here.virustotal.keys.clear()
    began, stop = here.clock.now(), threading.Event()

    def after_each_wait() -> None:
        if here.clock.now() - began > dt.timedelta(hours=2):
            here.virustotal.keys.update(keys)
        if here.clock.now() - began > dt.timedelta(hours=25):
            stop.set()

    here.clock.on_wait = after_each_wait
    only = here.settings(enrichment_providers=("virustotal",))
    enrich(engine, only, EnrichOptions(watch=True), clock=here.clock, stop=stop)
    asked = here.virustotal.log
    assert [1] == [1 for one in asked if one.at - began < dt.timedelta(hours=23)]
    assert {*FILES[:3]} <= {one.subject for one in asked}


def test_a_refused_key_is_in_the_job_s_row(engine: Engine, tmp_path: Path, here: Services) -> None:
    """Whoever looks at the jobs sees that a key is refused, and the result says so."""
    load(engine, tmp_path, [download(1, FILES[0])])
    here.virustotal.keys.clear()
    result = here.enrich(engine)
    assert ["virustotal"] == list(result.refused)
    ((state, reason),) = rows(engine, "SELECT state, reason FROM jobs WHERE name = 'enrich'")
    assert state == "failed"
    assert "virustotal is out of use" in reason


def test_a_source_that_says_when_is_left_alone_until_then(engine: Engine, tmp_path: Path, here: Services) -> None:
    """A 503 with Retry-After pauses the source, and not only the file that was asked about."""
    load(engine, tmp_path, [download(number, sha256) for number, sha256 in enumerate(FILES[:6])])
    busy = with_retry_after("busy", error(503, "TransientError"), "3600")
    here.virustotal.script(FILES[0], [busy])
    here.enrich(engine, EnrichOptions(order="oldest"), enrichment_providers=("virustotal",))
    after = [one for one in here.virustotal.log if one.subject in FILES]
    assert len(after) < 6
    here.clock.advance(hours=1, minutes=1)
    here.enrich(engine, enrichment_providers=("virustotal",))
    assert set(FILES[:6]) <= set(here.virustotal.asked())


def test_an_address_that_is_not_known_vouches_for_no_file(engine: Engine, tmp_path: Path, here: Services) -> None:
    """Three files from one address that URLhaus does not know cost one question, and none becomes suspicious."""
    url = "http://203.0.113.9/x.sh"
    load(engine, tmp_path, [download(number, FILES[number], url=url) for number in range(3)])
    result = here.enrich(engine)
    assert 1 == here.urlhaus.asked()[url]
    assert 2 == result.counters["urlhaus-url"]["cached"]
    assert [("unknown", 3)] == rows(engine, "SELECT verdict, count(*) FROM file_hashes GROUP BY verdict")


def test_other_sources_in_use_are_judged_by(engine: Engine, tmp_path: Path, here: Services) -> None:
    """When a source is taken out, files that wait for it alone are done; when it is back, they wait again."""
    load(engine, tmp_path, [download(number, sha256) for number, sha256 in enumerate(FILES)])
    here.enrich(engine, EnrichOptions(providers=("hashlookup",)), enrichment_providers=("hashlookup", "virustotal"))
    status = "SELECT enrichment_status, count(*) FROM files GROUP BY enrichment_status"
    assert [("pending", 12)] == rows(engine, status)
    here.enrich(engine, enrichment_providers=("hashlookup",))
    assert [("enriched", 12)] == rows(engine, status)
    here.enrich(engine, EnrichOptions(providers=("hashlookup",)), enrichment_providers=("hashlookup", "virustotal"))
    assert [("pending", 12)] == rows(engine, status)


def test_a_run_that_could_not_begin_leaves_no_job_that_runs(
    engine: Engine, tmp_path: Path, here: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that cannot be is said at once, and no row says that enrichment is running."""
    monkeypatch.setenv("HTTPS_PROXY", "bogus://nowhere")
    with pytest.raises(ConfigurationError):
        here.enrich(engine)
    assert [] == rows(engine, "SELECT * FROM jobs WHERE name = 'enrich'")


def answered_429() -> Any:
    """Return how a service answers that wants fewer requests and does not say until when."""
    from tests.stand_ins.server import answering

    return answering("429", error(429, "QuotaExceededError"))
