"""Whatever a source answers, nothing raises, every outcome can be stored, and none is about another file."""

from __future__ import annotations

import copy
import datetime as dt
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, insert, select

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.db.models import EnrichmentCacheEntry, FileVerdict
from cowrieprocessor.enrichment.providers.abusech import MalwareBazaar, Urlhaus, UrlhausUrl
from cowrieprocessor.enrichment.providers.base import Found, KeyQuota, Limits, Provider, Reply, Sample
from cowrieprocessor.enrichment.providers.hashlookup import Hashlookup
from cowrieprocessor.enrichment.providers.virustotal import VirusTotal
from tests.stand_ins import hashlookup as hashlookups
from tests.stand_ins import malwarebazaar as bazaar
from tests.stand_ins import urlhaus as haus
from tests.stand_ins import virustotal as virustotals
from tests.unit.enrichment.asking import KEY, NOW, OTHER, SHA256, assert_sound, assert_storable, reply, sample

URL = "http://192.0.2.7/bot.arm7"
VIRUSTOTAL = VirusTotal("https://host.example", KEY)
PROVIDERS: dict[str, tuple[Provider, list[Sample]]] = {
    "virustotal": (VIRUSTOTAL, [sample()]),
    "malwarebazaar": (MalwareBazaar("https://host.example", KEY, Limits()), [sample()]),
    "urlhaus": (Urlhaus("https://host.example", KEY, Limits()), [sample()]),
    "urlhaus-url": (UrlhausUrl("https://host.example", KEY, Limits()), [sample(download_url=URL)]),
    "hashlookup": (Hashlookup("https://host.example", KEY, Limits()), [sample()]),
    "hashlookup-bulk": (Hashlookup("https://host.example", KEY, Limits()), [sample(), sample(OTHER)]),
}
GOOD: dict[str, Callable[[str], Any]] = {
    "virustotal": lambda sha256: {
        "data": {"id": sha256, "type": "file", "attributes": virustotals.report(sha256, malicious=2, total=4)}
    },
    "malwarebazaar": lambda sha256: {"query_status": "ok", "data": [bazaar.entry(sha256)]},
    "urlhaus": haus.payload,
    "urlhaus-url": lambda sha256: haus.address(URL if sha256 == SHA256 else f"{URL}/{sha256}", payloads=(sha256,)),
    "hashlookup": hashlookups.entry,
    "hashlookup-bulk": lambda sha256: [hashlookups.entry(sha256)],
}
NAMES = sorted(PROVIDERS)
STATUSES = st.sampled_from([200] * 8 + [204, 302, 400, 401, 403, 404, 409, 418, 424, 429, 500, 503])
HOSTILE = [
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    10**400,
    1.5,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\x00",
    "\ud800",
    "\u202e\x1b[2J",
    KEY,
    f"x{KEY.upper()}",
    "x" * 5000,
    "é" * 5000,
    "9999-12-31 23:59:59 UTC",
    "1 / 0",
    OTHER,
    SHA256.upper(),
    [],
    {},
    [None],
    [[[[[[[[[[]]]]]]]]]],
    {"value": None},
    {"": "", "\x00": "\ud800", KEY: KEY},
    ["x" * 900] * 200,
]
JSON = st.recursive(
    st.sampled_from(HOSTILE) | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["data", "id", "attributes", "error", "code", "message", "query_status", "sha256_hash"])
            | st.text(st.characters(), max_size=10),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)
HEADERS = st.dictionaries(st.just("retry-after"), st.sampled_from(["5", "x", "9" * 30]) | st.text(max_size=20))


def paths(document: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path to every value inside a document."""
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [path for name, value in inner for path in ((*prefix, name), *paths(value, (*prefix, name)))]


def changed(document: Any, path: Sequence[Any], value: Any) -> Any:
    """Return a document with one value replaced."""
    made = copy.deepcopy(document)
    place = made
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return made


def check(name: str, answer: Reply) -> None:
    """Check every outcome of a reply."""
    provider, samples = PROVIDERS[name]
    outcomes = provider.outcomes(samples, answer)
    assert [*outcomes] == [asked.sha256 for asked in samples]
    for outcome in outcomes.values():
        assert_sound(outcome)
        if isinstance(outcome, Found):
            again = json.loads(json.dumps(outcome.verdict.response))
            assert provider.verdict(again) == outcome.verdict
    quota = VIRUSTOTAL.quota(answer)
    assert quota is None or all(value is None or 0 <= value < 2**31 for value in asdict(quota).values())
    assert 0 not in (getattr(quota, f"{window}_allowed", None) for window in ("hourly", "daily", "monthly"))
    for said in (VIRUSTOTAL.uploaded(answer), VIRUSTOTAL.upload_address(answer)):
        assert KEY not in getattr(said, "reason", "") + getattr(said, "analysis_id", "")


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60)
@given(document=JSON, status=STATUSES, headers=HEADERS)
def test_any_document(name: str, document: object, status: int, headers: dict[str, str]) -> None:
    """Any JSON under any status gives an outcome."""
    check(name, reply(document, status, headers))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=100)
@given(data=st.data())
def test_any_change_to_a_good_answer(name: str, data: st.DataObject) -> None:
    """A good answer with values replaced by hostile ones gives an outcome."""
    document = GOOD[name](SHA256)
    for _ in range(data.draw(st.integers(1, 4))):
        path = data.draw(st.sampled_from(paths(document)))
        document = changed(document, path, data.draw(st.sampled_from(HOSTILE) | JSON))
        if not paths(document):
            break
    check(name, reply(document))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50)
@given(data=st.data())
def test_any_bytes(name: str, data: st.DataObject) -> None:
    """Any bytes, and a good answer cut or altered anywhere, give an outcome."""
    whole = json.dumps(GOOD[name](SHA256)).encode()
    place = data.draw(st.integers(0, len(whole)))
    body = data.draw(
        st.sampled_from([whole[:place], whole[:place] + data.draw(st.binary(max_size=20)) + whole[place:]])
    )
    check(name, reply(data.draw(st.just(body) | st.binary(max_size=50)), data.draw(STATUSES)))


@pytest.mark.parametrize("name", NAMES)
def test_every_single_change(name: str) -> None:
    """Each value of a good answer, replaced by hostile ones in turn, gives an outcome."""
    document = GOOD[name](SHA256)
    every = paths(document)
    some = (
        3 if len(every) > 60 else 1
    )  # each place of a long answer gets a third of the values, the next place another third
    for number, path in enumerate(every):
        for value in HOSTILE[number % some :: some]:
            check(name, reply(changed(document, path, value)))


@pytest.mark.parametrize("name", NAMES)
def test_a_good_answer_is_found_and_another_files_is_not(name: str) -> None:
    """Negative control: the file's own answer is Found, another file's never is."""
    provider, (asked, *_) = PROVIDERS[name]
    samples = PROVIDERS[name][1]

    own = provider.outcomes(samples, reply(GOOD[name](SHA256)))[asked.sha256]
    others = provider.outcomes(samples, reply(GOOD[name](OTHER)))[asked.sha256]

    assert isinstance(own, Found)
    assert not isinstance(others, Found)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60)
@given(response=st.dictionaries(st.text(st.characters(), max_size=10), JSON, max_size=5))
def test_any_kept_response(name: str, response: dict[str, Any]) -> None:
    """Any response in the cache is read without an exception, and its facts stay within bounds."""
    verdict = PROVIDERS[name][0].verdict(response)

    stored_fields = {field: value for field, value in asdict(verdict).items() if field != "response"}
    assert "\x00" not in str(stored_fields)


def test_nothing_is_read_from_an_empty_quota() -> None:
    """Negative control: a quota without figures is None, so the check above would notice a limit of 0."""
    answer = {"data": {"api_requests_daily": {"user": {"allowed": 0, "used": 9}, "group": {"allowed": 7, "used": 1}}}}

    assert VIRUSTOTAL.quota(reply(answer)) == KeyQuota(daily_allowed=7, daily_used=1)


@pytest.mark.parametrize("name", NAMES)
def test_what_hostile_answers_leave_can_be_stored(name: str, engine: Engine) -> None:
    """Verdicts of answers full of hostile texts are read from the database as they were stored."""
    provider, samples = PROVIDERS[name]
    text = f"a\x00b\ud800c\U0001f600\u202e{KEY}" + "é" * 3000
    document = GOOD[name](SHA256)
    for path in paths(document):
        value = document
        for part in path:
            value = value[part]
        if isinstance(value, str) and SHA256 not in value.lower() and value not in (URL, "ok", "file"):
            document = changed(document, path, text)
    if name == "hashlookup-bulk":
        document[0]["MD5"] = GOOD[name](SHA256)[0]["MD5"]
    outcome = provider.outcomes(samples, reply(document))[SHA256]
    assert isinstance(outcome, Found)
    verdict = outcome.verdict
    assert_storable(verdict)

    with write_transaction(engine) as connection:
        connection.execute(
            insert(FileVerdict).values(
                sha256=SHA256,
                provider=provider.name,
                fetched_at=NOW,
                confirmed_at=NOW,
                verdict=verdict.verdict,
                classification=verdict.classification,
                positives=verdict.positives,
                total=verdict.total,
                first_seen=verdict.first_seen,
                last_analysis=verdict.last_analysis,
                response=verdict.response,
            )
        )
        connection.execute(
            insert(EnrichmentCacheEntry).values(
                provider=provider.name,
                key=provider.cache_key(samples[0]),
                status=verdict.verdict,
                response=verdict.response,
                fetched_at=NOW,
                expires_at=NOW + dt.timedelta(days=1),
            )
        )
    with read_transaction(engine) as connection:
        row = connection.execute(select(FileVerdict.__table__)).one()
        kept = connection.execute(select(EnrichmentCacheEntry.response)).scalar_one()

    assert provider.verdict(kept) == verdict
    assert (row.classification, row.response) == (verdict.classification, verdict.response)
