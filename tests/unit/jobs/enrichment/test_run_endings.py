"""How a run of `enrich` ends: when it waits, when it does not, and what it says; counted at the services."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, update

from cowrieprocessor.cli.enrich_text import result_text
from cowrieprocessor.db.engine import write_transaction
from cowrieprocessor.db.enrichment.claims import ask_first
from cowrieprocessor.jobs.enrichment.run import EnrichOptions, enrich
from tests.enrichment_scene import HOUR, T, row, rows
from tests.stand_ins.behaviours import HTML_200, HTML_502, RESET
from tests.stand_ins.scene import Services, download, load, services, sha256_of
from tests.stand_ins.server import StandIn, answering
from tests.stand_ins.virustotal import ERRORS, KeyLimits, limited

FILES = tuple(sha256_of(number) for number in range(8))
ONLY = {"enrichment_providers": ("virustotal",)}


@pytest.fixture
def here() -> Iterator[Services]:
    """Every service, by a clock that passes when it is waited on."""
    with services() as all_of_them:
        yield all_of_them


@pytest.fixture
def files(engine: Engine, tmp_path: Path) -> tuple[str, ...]:
    """Eight files to ask about."""
    load(engine, tmp_path, [download(number, sha256) for number, sha256 in enumerate(FILES)])
    return FILES


def asked_about_files(stand_in: StandIn) -> int:
    """Return how many requests about files a service has received."""
    return sum(received.subject in FILES for received in stand_in.log)


# --- no wait after the last answer ---


@pytest.mark.parametrize("options", [EnrichOptions(limit=3), EnrichOptions(only=FILES[:3])], ids=["limit", "only"])
@pytest.mark.parametrize("changes", [ONLY, {}], ids=["virustotal", "every source"])
def test_a_run_ends_with_its_last_answer(
    options: EnrichOptions, changes: dict[str, Any], engine: Engine, files: tuple[str, ...], here: Services
) -> None:
    """The quota and three files are the minute's four requests: the run does not wait for a minute to send a fifth."""
    result = here.enrich(engine, options, **changes)
    assert (3, 3) == (result.files, asked_about_files(here.virustotal))
    # urlhaus and urlhaus-url share their requests, four in four seconds: such a wait is between requests.
    assert not [seconds for seconds in here.clock.waits if seconds > 5]
    assert (None, {}) == (result.paused_until, result.reasons)


def test_a_run_without_a_limit_ends_with_its_last_answer(engine: Engine, tmp_path: Path, here: Services) -> None:
    """When nothing is left to ask about, the minute's used-up requests keep nobody waiting."""
    load(engine, tmp_path, [download(number, FILES[number]) for number in range(3)])
    here.enrich(engine, **ONLY)
    assert [] == here.clock.waits


def test_a_limit_that_takes_the_last_request_of_the_day_is_no_pause(
    engine: Engine, files: tuple[str, ...], here: Services
) -> None:
    """What was asked for is done: the run says nothing of a quota that it does not need any more."""
    result = here.enrich(engine, EnrichOptions(limit=3), virustotal_per_day=4, **ONLY)
    assert (3, None, {}) == (result.files, result.paused_until, result.reasons)
    assert "done" == row(engine, "jobs", name="enrich")["state"]


def test_a_limit_beyond_the_minute_waits_between_its_requests_alone(
    engine: Engine, files: tuple[str, ...], here: Services
) -> None:
    """Negative control: the quota and four files are five requests, and one wait."""
    result = here.enrich(engine, EnrichOptions(limit=4), **ONLY)
    assert (4, 1) == (result.files, len(here.clock.waits))
    assert [] == here.virustotal.violations


# --- 429 again and again ---


@pytest.mark.parametrize("retry_after", [None, "0", "1", "60"])
def test_repeated_429_double_the_pause_and_end_the_run(
    retry_after: str | None, engine: Engine, files: tuple[str, ...], here: Services
) -> None:
    """Whatever Retry-After says, the second 429 in a row pauses for two minutes, the third for four; each run ends."""
    here.virustotal.outage = ERRORS["QuotaExceededError"] if retry_after is None else limited(retry_after)
    pauses = []
    for _ in range(3):
        result = here.enrich(engine, **ONLY)
        assert result.paused_until is not None
        assert not result.has_failed
        pauses.append((result.paused_until - here.clock.now()).total_seconds())
        here.clock.set(result.paused_until)
    assert [120.0, 240.0, 480.0] == pauses
    assert 4 == len(here.virustotal.log)
    assert "4 times in a row" in result.reasons["virustotal"]
    assert f"paused until {result.paused_until:%Y-%m-%d %H:%M:%S} UTC" in result_text(result)
    here.virustotal.outage = None
    assert 8 == here.enrich(engine, **ONLY).files


def test_a_longer_retry_after_is_kept(engine: Engine, files: tuple[str, ...], here: Services) -> None:
    """A source that asks for an hour, again and again, is left alone for an hour each time."""
    here.virustotal.outage = limited("3600")
    for _ in range(3):
        result = here.enrich(engine, **ONLY)
        assert result.paused_until is not None
        assert 3600 == (result.paused_until - here.clock.now()).total_seconds()
        here.clock.set(result.paused_until)


# --- requests that fail ---


def test_a_run_whose_every_request_failed_has_failed(engine: Engine, files: tuple[str, ...], here: Services) -> None:
    """The result, its text and the job's row say that no request was answered, and why."""
    here.virustotal.outage = RESET
    result = here.enrich(engine, **ONLY)
    assert result.has_failed
    assert "connection: 127.0.0.1" in result.unanswered["virustotal"]
    assert "virustotal answered no request; the last failure: connection: 127.0.0.1" in result_text(result)
    job = row(engine, "jobs", name="enrich")
    assert ("failed", True) == (job["state"], "every request failed" in job["reason"])


@pytest.mark.parametrize("staged", [False, True], ids=["in use", "staged"])
def test_a_run_that_was_asked_to_stop_is_stopped(
    staged: bool, engine: Engine, files: tuple[str, ...], here: Services
) -> None:
    """A stop during an outage that began before the first answer is no failure of the run."""
    stop = threading.Event()
    here.virustotal.outage = RESET
    here.clock.on_wait = stop.set
    settings = here.settings(**ONLY, use_new_enrichment=not staged)
    result = enrich(engine, settings, EnrichOptions(watch=True), clock=here.clock, stop=stop)
    assert (True, False) == (result.stopped, result.has_failed)
    assert "virustotal answered no request" in result_text(result)
    assert staged or "stopped" == row(engine, "jobs", name="enrich")["state"]


def test_a_run_with_one_answer_has_not_failed(engine: Engine, files: tuple[str, ...], here: Services) -> None:
    """One source that fails is named; the run is no failure as long as another one answers."""
    here.virustotal.outage = RESET
    result = here.enrich(engine)
    assert (False, ["virustotal"]) == (result.has_failed, list(result.unanswered))
    again = here.enrich(engine, EnrichOptions(limit=1), enrichment_providers=("hashlookup",))
    assert (False, {}) == (again.has_failed, again.unanswered)


def test_a_run_without_a_request_has_not_failed(engine: Engine, here: Services) -> None:
    """Nothing to ask about is no failure."""
    assert not here.enrich(engine).has_failed


@pytest.mark.parametrize("staged", [False, True], ids=["in use", "staged"])
@pytest.mark.parametrize(
    ("outage", "count"), [(RESET, 3), (RESET, 8), (HTML_200, 8)], ids=["few files", "reset", "captive portal"]
)
def test_the_run_after_a_broken_network_tries_at_once(
    outage: Any, count: int, staged: bool, engine: Engine, tmp_path: Path, here: Services
) -> None:
    """However long failures have put files and source off, the next run asks about every file."""
    changes = {**ONLY, "use_new_enrichment": not staged}
    load(engine, tmp_path, [download(number, FILES[number]) for number in range(count)])
    here.virustotal.outage = outage
    for _ in range(6):
        assert here.enrich(engine, **changes).has_failed
        here.clock.advance(minutes=1)
    here.virustotal.outage = None
    before = asked_about_files(here.virustotal)

    result = here.enrich(engine, **changes)

    assert not result.has_failed
    assert count == asked_about_files(here.virustotal) - before == result.files


def test_a_network_that_stays_broken_costs_each_run_few_requests(
    engine: Engine, files: tuple[str, ...], here: Services
) -> None:
    """The first run gives up after five failures and a probe; each later one sends a single request."""
    here.virustotal.outage = RESET
    sent = []
    for _ in range(4):
        before = len(here.virustotal.log)
        here.enrich(engine, **ONLY)
        sent.append(len(here.virustotal.log) - before)
        here.clock.advance(seconds=10)
    assert [6, 1, 1, 1] == sent


def test_a_file_whose_request_fails_alone_waits_for_its_turn(engine: Engine, files: tuple[str, ...]) -> None:
    """A source that answers about others is not out of reach: the failed file waits its minute."""
    changes = {**ONLY, "virustotal_per_minute": 6000}
    with services(KeyLimits(None, 500, 15_500)) as here:
        here.virustotal.script(FILES[0], [RESET])
        here.enrich(engine, EnrichOptions(order="oldest"), **changes)
        assert [FILES[0]] == [entry["sha256"] for entry in rows(engine, "enrichment_queue", status="failed")]
        here.clock.advance(seconds=50)
        assert 0 == here.enrich(engine, **changes).files
        here.clock.advance(seconds=30)
        assert 1 == here.enrich(engine, **changes).files


# --- an outage while it watches ---


def watch(engine: Engine, here: Services, at_minute: dict[int, Callable[[], None]], end: int, **changes: Any) -> None:
    """Run `enrich --watch` for `end` minutes, and do things at some of them."""
    stop, began, left = threading.Event(), here.clock.now(), dict(at_minute)

    def on_wait() -> None:
        passed = here.clock.now() - began
        for minute in [minute for minute in left if passed >= dt.timedelta(minutes=minute)]:
            left.pop(minute)()
        if passed >= dt.timedelta(minutes=end):
            stop.set()

    here.clock.on_wait = on_wait
    enrich(engine, here.settings(**changes), EnrichOptions(watch=True), clock=here.clock, stop=stop)


@pytest.mark.parametrize("source", ["virustotal", "urlhaus"])
def test_the_end_of_an_outage_lets_failed_files_be_due(
    source: str, engine: Engine, files: tuple[str, ...], here: Services
) -> None:
    """With --watch the first answer after an outage brings all others, of each source with the same limit."""
    names = ("urlhaus", "urlhaus-url") if source == "urlhaus" else (source,)
    stand_in, queue, began = getattr(here, source), T["enrichment_queue"], here.clock.now()
    stand_in.outage = RESET

    def mend() -> None:
        """End the outage; the files are as late as after a day of it, but for one of one source."""
        stand_in.outage = None
        with write_transaction(engine) as connection:
            late = update(queue).where(queue.c.status == "failed")
            connection.execute(late.values(next_attempt_at=here.clock.now() + 6 * HOUR))
            first = queue.c.sha256 == files[0], queue.c.provider == names[0]
            connection.execute(late.where(*first).values(next_attempt_at=here.clock.now() + HOUR / 20))

    watch(engine, here, {20: mend}, 50, enrichment_providers=names)

    assert all(entry["fetched_at"] > began + HOUR / 3 for entry in rows(engine, "file_verdicts"))
    assert len(rows(engine, "file_verdicts")) == len(files) * len(names)


@pytest.mark.parametrize("db_url", ["sqlite"], indirect=True)
def test_files_that_always_fail_are_not_due_with_every_answer(
    engine: Engine, files: tuple[str, ...], here: Services
) -> None:
    """Six files fail whenever they are asked about: an answer about another one lets them be due once an hour."""
    for sha256 in files[:6]:
        here.virustotal.script(sha256, [HTML_502] * 1000)

    def ask_about_another() -> None:
        with write_transaction(engine) as connection:
            ask_first(connection, files[6:], ["virustotal"])

    watch(engine, here, dict.fromkeys(range(10, 100, 10), ask_about_another), 100, **ONLY)
    failures = sum(received.subject in files[:6] for received in here.virustotal.log)
    assert failures <= 50


# --- the quota of the key ---


def test_a_setting_above_the_key_s_own_quota_is_said(engine: Engine, files: tuple[str, ...], here: Services) -> None:
    """Each run says which setting does not hold, from what was just read or is known; a lower one does hold."""
    said: list[str] = []
    changes = {"virustotal_per_day": 20_000, "virustotal_per_minute": 1000, "virustotal_per_month": 100}
    settings = here.settings(**ONLY, **changes)
    for _ in range(2):
        enrich(engine, settings, EnrichOptions(limit=1), clock=here.clock, notify=said.append)
    assert [
        "virustotal: the key allows 4 requests a minute, not the 1,000 of virustotal_per_minute",
        "virustotal: the key allows 500 requests a day, not the 20,000 of virustotal_per_day",
    ] * 2 == said


@pytest.mark.parametrize(("window", "left"), [("day", "2026-03-01"), ("month", "2026-03")])
def test_reading_the_quota_leaves_the_last_request_to_a_file(
    window: str, left: str, engine: Engine, files: tuple[str, ...], here: Services
) -> None:
    """With one request left it goes to a file; with two, the quota is read first."""
    here.enrich(engine, **{f"virustotal_per_{window}": 1}, **ONLY)
    assert 1 == asked_about_files(here.virustotal) == len(here.virustotal.log)
    assert 1 == row(engine, "api_quota", provider="virustotal", window=left)["used"]
    here.clock.advance(days=31)
    here.enrich(engine, **{f"virustotal_per_{window}": 2}, **ONLY)
    assert (1, 2) == (here.virustotal.asked()["overall_quotas"], asked_about_files(here.virustotal))


def test_a_429_with_one_request_left_is_not_asked_about(engine: Engine, files: tuple[str, ...], here: Services) -> None:
    """After a 429 the quota would be read; the day's last request is kept for a file all the same."""
    here.virustotal.fail_next(1, answering("429", limited_answer()))
    here.enrich(engine, virustotal_per_day=2, **ONLY)
    assert {1} == set(here.virustotal.asked().values())
    assert 1 == asked_about_files(here.virustotal)


def limited_answer() -> Any:
    """Return VirusTotal's answer to one request too many."""
    from tests.stand_ins.virustotal import error

    return error(429, "QuotaExceededError")


def test_a_blocked_key_of_abuse_ch_is_a_trouble_of_the_key(
    engine: Engine, files: tuple[str, ...], here: Services
) -> None:
    """`no_api_key` and `user_blacklisted` take the source out of use after one request; no file is spent on them."""
    from tests.stand_ins.malwarebazaar import QUERY_STATUSES

    for name in ("no_api_key", "user_blacklisted"):
        here.malwarebazaar.outage = QUERY_STATUSES[name]
        before = len(here.malwarebazaar.log)
        result = here.enrich(engine, EnrichOptions(providers=("malwarebazaar",)))
        assert name in result.refused["malwarebazaar"]
        assert 1 == len(here.malwarebazaar.log) - before
        assert [] == rows(engine, "enrichment_queue")
