"""MalwareBazaar and URLhaus: what is asked, and what each answer means."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from typing import Any

import pytest

from cowrieprocessor.clock import SystemClock
from cowrieprocessor.enrichment.http import HttpClient
from cowrieprocessor.enrichment.providers.abusech import AbuseCh, MalwareBazaar, Urlhaus, UrlhausUrl
from cowrieprocessor.enrichment.providers.base import (
    Failed,
    Found,
    Limits,
    Outcome,
    ProviderVerdict,
    RateLimited,
    Refused,
    Reply,
    Request,
    Sample,
    Unknown,
)
from tests.stand_ins import malwarebazaar as bazaar
from tests.stand_ins import urlhaus as haus
from tests.unit.enrichment.asking import HTML, KEY, OTHER, SHA256, assert_sound, reply, sample

URL = "http://192.0.2.7/bot.arm7"
SAMPLE = sample(download_url=URL)
LIMITS = Limits(per_minute=60)
MALWAREBAZAAR = MalwareBazaar("https://mb-api.abuse.ch/api/v1", KEY, LIMITS)
URLHAUS = Urlhaus("https://urlhaus-api.abuse.ch/v1", KEY, LIMITS)
URLHAUS_URL = UrlhausUrl("https://urlhaus-api.abuse.ch/v1", KEY, LIMITS)
ALL = (MALWAREBAZAAR, URLHAUS, URLHAUS_URL)


def outcome(provider: AbuseCh, document: object, status: int = 200, asked: Sample = SAMPLE) -> Outcome:
    """Return the outcome of a reply about a file."""
    found = provider.outcomes([asked], reply(document, status))
    assert found.keys() == {asked.sha256}
    assert_sound(found[asked.sha256])
    return found[asked.sha256]


def verdict_of(provider: AbuseCh, document: object) -> ProviderVerdict:
    """Return the verdict of an answer; its stored response must give the same verdict."""
    found = outcome(provider, document)
    assert isinstance(found, Found)
    assert provider.verdict(json.loads(json.dumps(found.verdict.response))) == found.verdict
    return found.verdict


def bazaar_entry(**changes: object) -> dict[str, Any]:
    """Return MalwareBazaar's JSON about SHA256."""
    return {"query_status": "ok", "data": [{**bazaar.entry(SHA256), **changes}]}


def test_what_is_asked() -> None:
    """Forms, with the Auth-Key in its header."""
    headers = {"Auth-Key": KEY}

    assert [provider.request([SAMPLE]) for provider in ALL] == [
        Request("POST", "https://mb-api.abuse.ch/api/v1/", headers, form={"query": "get_info", "hash": SHA256}),
        Request("POST", "https://urlhaus-api.abuse.ch/v1/payload/", headers, form={"sha256_hash": SHA256}),
        Request("POST", "https://urlhaus-api.abuse.ch/v1/url/", headers, form={"url": URL}),
    ]
    assert URLHAUS.ledger == URLHAUS_URL.ledger == "urlhaus"


def test_answers_of_servers_are_understood() -> None:
    """All three requests work against servers that check the key and the form."""
    with bazaar.MalwareBazaar() as first, haus.Urlhaus() as second, HttpClient(5, SystemClock()) as client:
        first.add(SHA256)
        second.add(SHA256)
        second.add_address(URL)
        verdicts = []
        for made in (
            MalwareBazaar(first.url, bazaar.AUTH_KEY, LIMITS),
            Urlhaus(second.url, bazaar.AUTH_KEY, LIMITS),
            UrlhausUrl(second.url, bazaar.AUTH_KEY, LIMITS),
        ):
            for asked in (SAMPLE, sample(OTHER, download_url="http://192.0.2.8/x")):
                answer = client.send(made.request([asked]))
                assert isinstance(answer, Reply)
                verdicts.append(made.outcomes([asked], answer)[asked.sha256])
        wrong = Urlhaus(second.url, "wrong key", LIMITS)
        answer = client.send(wrong.request([SAMPLE]))
        assert isinstance(answer, Reply)
        verdicts.append(wrong.outcomes([SAMPLE], answer)[SHA256])

    assert [Found, Unknown] * 3 + [Refused] == [type(verdict) for verdict in verdicts]


def test_a_malwarebazaar_entry() -> None:
    """An entry is confirmed malware, with its signature as label and family."""
    entry = bazaar.entry(SHA256)

    found = verdict_of(MALWAREBAZAAR, bazaar_entry())

    assert found == ProviderVerdict(
        "malicious",
        classification="Mirai",
        description="application/x-executable",
        family="Mirai",
        first_seen=dt.datetime(2025, 11, 4, 1, 2, 3, tzinfo=dt.UTC),
        md5=entry["md5_hash"],
        sha1=entry["sha1_hash"],
        tlsh=entry["tlsh"],
        size_bytes=95_268,
        file_type="elf",
        response=found.response,
    )
    assert "vendor_intel" not in found.response


def test_malware_without_a_name_is_malware() -> None:
    """An entry whose fields are all null but its hash is still malicious."""
    row = dict.fromkeys(bazaar.entry(SHA256))

    assert verdict_of(
        MALWAREBAZAAR, {"query_status": "ok", "data": [{**row, "sha256_hash": SHA256}]}
    ) == ProviderVerdict("malicious", response={"sha256_hash": SHA256})


@pytest.mark.parametrize(
    ("changes", "verdict", "positives", "total"),
    [
        ({}, "malicious", 38, 64),
        ({"signature": None}, "malicious", 38, 64),
        ({"signature": None, "virustotal": None}, "suspicious", None, None),
        ({"signature": None, "virustotal": {"result": "0 / 64"}}, "suspicious", 0, 64),
        ({"signature": None, "virustotal": {"result": None, "percent": "59.38"}}, "malicious", None, None),
        ({"signature": None, "virustotal": {"result": "65 / 64", "percent": "101"}}, "suspicious", None, None),
        ({"signature": None, "virustotal": {"percent": "0.00"}}, "suspicious", None, None),
        ({"signature": None, "virustotal": {"percent": "nan"}}, "suspicious", None, None),
        ({"signature": " ", "virustotal": ["38 / 64"]}, "suspicious", None, None),
        ({"virustotal": None}, "malicious", None, None),
    ],
)
def test_urlhaus_payloads(changes: dict[str, Any], verdict: str, positives: int | None, total: int | None) -> None:
    """A payload with a signature or detections is malicious; without both it is suspicious for where it was served."""
    found = verdict_of(URLHAUS, {**haus.payload(SHA256), **changes})

    assert (verdict, positives, total) == (found.verdict, found.positives, found.total)
    assert found.size_bytes == 95_268
    assert found.first_seen == dt.datetime(2025, 11, 4, 6, 7, 8, tzinfo=dt.UTC)


def test_an_address_that_urlhaus_knows() -> None:
    """The file is suspicious: URLhaus knows its URL, but not the file."""
    found = verdict_of(URLHAUS_URL, haus.address(URL, payloads=(OTHER,) * 50))

    assert (found.verdict, found.classification, found.description) == ("suspicious", "malware_download", "elf, mirai")
    assert found.first_seen == dt.datetime(2025, 11, 4, 6, 7, 8, tzinfo=dt.UTC)
    assert len(found.response["payloads"]) == 10


@pytest.mark.parametrize("tags", [None, [], "elf", [None, 7, ""]])
def test_an_address_without_tags(tags: object) -> None:
    """Tags may be missing."""
    assert verdict_of(URLHAUS_URL, {**haus.address(URL), "tags": tags}).description is None


@pytest.mark.parametrize(
    ("url", "can"),
    [
        (URL, True),
        ("https://host.example:8443/a?b=c", True),
        ("FTP://192.0.2.7/x", True),
        ("tftp://192.0.2.7/x", False),
        ("/tmp/x", False),
        ("http://", False),
        ("http://[::1/x", False),
        ("http://192.0.2.7:port/x", False),
        ("http://192.0.2.7/\x1b[2J", False),
        ("http://192.0.2.7/\ud800", False),
        ("http://192.0.2.7/" + "x" * 2000, False),
        ("", False),
        (None, False),
    ],
)
def test_only_addresses_can_be_asked_about(url: str | None, can: bool) -> None:
    """URLhaus lists HTTP and FTP URLs; other texts are not sent."""
    assert can == URLHAUS_URL.can_ask(sample(download_url=url))


def test_files_of_one_address_share_its_answer() -> None:
    """The answer is cached by URL, under a key that contains no text of an attacker."""
    first, second = sample(download_url=URL), sample(OTHER, download_url=URL)

    assert URLHAUS_URL.cache_key(first) == URLHAUS_URL.cache_key(second)
    assert URLHAUS_URL.cache_key(first) == "url:" + hashlib.sha256(URL.encode()).hexdigest()


@pytest.mark.parametrize(
    ("answered", "same"),
    [
        ("HTTP://192.0.2.7:80/bot.arm7", True),
        ("http://192.0.2.7/bot%2Earm7", True),
        ("http://192.0.2.7/other", False),
        ("https://192.0.2.7/bot.arm7", False),
        ("http://192.0.2.7:8080/bot.arm7", False),
        ("http://192.0.2.7/bot.arm7?x", False),
        ("http://[", False),
        (None, False),
        (7, False),
    ],
)
def test_an_answer_has_to_be_about_the_address(answered: object, same: bool) -> None:
    """Another spelling of the URL counts as the URL; another URL does not."""
    found = outcome(URLHAUS_URL, {**haus.address(URL), "url": answered})

    assert same == isinstance(found, Found)
    assert same or (isinstance(found, Failed) and found.kind == "bad-body")


@pytest.mark.parametrize("provider", [MALWAREBAZAAR, URLHAUS])
@pytest.mark.parametrize("given", [OTHER, None, 7, [], SHA256[:32]])
def test_an_answer_has_to_be_about_the_file(provider: AbuseCh, given: object) -> None:
    """An entry of another file, or of no file, is not an answer."""
    entry = {**haus.payload(SHA256), "sha256_hash": given, "data": [{**bazaar.entry(SHA256), "sha256_hash": given}]}

    found = outcome(provider, entry)

    assert isinstance(found, Failed)
    assert found.kind == "bad-body"


@pytest.mark.parametrize("data", [None, [], {}, "x", [None], [[]], [7]])
def test_an_ok_without_data_is_no_answer(data: object) -> None:
    """MalwareBazaar's `ok` counts only together with an entry."""
    assert isinstance(outcome(MALWAREBAZAAR, {"query_status": "ok", "data": data}), Failed)


@pytest.mark.parametrize("provider", ALL, ids=lambda provider: provider.name)
@pytest.mark.parametrize(
    ("status", "document", "expected"),
    [
        (200, {"query_status": "hash_not_found"}, (Unknown, None)),
        (200, {"query_status": "no_results"}, (Unknown, None)),
        (200, {"query_status": "illegal_hash"}, (Refused, "file")),
        (200, {"query_status": "no_hash_provided"}, (Refused, "file")),
        (200, {"query_status": "invalid_sha256"}, (Refused, "file")),
        (200, {"query_status": "invalid_url"}, (Refused, "file")),
        (200, {"query_status": "http_post_expected"}, (Failed, "other")),
        (200, {"query_status": "a_status_of_tomorrow"}, (Failed, "other")),
        (403, {"query_status": "unknown_auth_key"}, (Refused, "source")),
        (200, {"query_status": "unknown_auth_key"}, (Refused, "source")),
        (200, {"query_status": "no_auth_key"}, (Refused, "source")),
        (200, {"query_status": "no_api_key"}, (Refused, "source")),
        (400, {"query_status": "no_api_key"}, (Refused, "source")),
        (200, {"query_status": "user_blacklisted"}, (Refused, "source")),
        (403, {"query_status": "user_blacklisted"}, (Refused, "source")),
        (401, {"error": "Unauthorized"}, (Refused, "source")),
        (200, {"error": "Unauthorized"}, (Refused, "source")),
        (503, {"error": "authentication service is down"}, (Failed, "server-error")),
        (200, {"query_status": None}, (Failed, "bad-body")),
        (200, {"query_status": 7}, (Failed, "bad-body")),
        (200, {}, (Failed, "bad-body")),
        (200, [], (Failed, "bad-body")),
        (200, HTML, (Failed, "bad-body")),
        (200, b"", (Failed, "empty-answer")),
        (204, b"", (Failed, "empty-answer")),
        (404, {"query_status": "no_results"}, (Failed, "other")),
        (429, HTML, (RateLimited, None)),
        (502, HTML, (Failed, "server-error")),
    ],
)
def test_statuses(provider: AbuseCh, status: int, document: object, expected: tuple[type, str | None]) -> None:
    """Each `query_status` and each HTTP status has its outcome."""
    found = outcome(provider, document, status)

    assert expected == (type(found), getattr(found, "scope", getattr(found, "kind", None)))


def test_a_key_that_comes_back_is_neither_kept_nor_said() -> None:
    """A key that a reply repeats reaches neither the database nor a message."""
    found = verdict_of(MALWAREBAZAAR, bazaar_entry(signature=f"Mirai {KEY}", reporter=KEY))
    refused = outcome(URLHAUS, {"query_status": f"unknown_auth_key {KEY}"})

    assert found.classification == "Mirai ***"
    assert isinstance(refused, Refused)
    assert "***" in refused.reason
