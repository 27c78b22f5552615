"""The outcome of every kind of reply for every source, over real connections."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, cast

import pytest

from cowrieprocessor.enrichment.http import HttpClient
from cowrieprocessor.enrichment.providers.base import (
    Failed,
    Found,
    KeyQuota,
    Limits,
    Provider,
    RateLimited,
    Refused,
    Reply,
    Sample,
    Unknown,
)
from cowrieprocessor.enrichment.providers.hashlookup import Hashlookup
from cowrieprocessor.enrichment.providers.virustotal import Uploaded, VirusTotal
from tests.stand_ins import behaviours, hashlookup, malwarebazaar, urlhaus, virustotal
from tests.stand_ins.clock import START, ManualClock
from tests.stand_ins.every_source import OTHER, PATIENT_S, SHA256, SOURCES, Scene, asked, summary
from tests.stand_ins.server import Answer, answering, document


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """Every source and its stand-in."""
    with ExitStack() as stack:
        yield Scene(stack, ManualClock())


@pytest.fixture(scope="module")
def patient() -> Iterator[HttpClient]:
    """A client with a long timeout."""
    with HttpClient(PATIENT_S, ManualClock()) as client:
        yield client


VIRUSTOTAL_ERRORS = {
    "BadRequestError": "Refused file",
    "InvalidArgumentError": "Refused file",
    "UnselectiveContentQueryError": "Refused file",
    "UnsupportedContentQueryError": "Refused file",
    "NotAvailableYet": "Failed not-yet",
    "AuthenticationRequiredError": "Refused source",
    "UserNotActiveError": "Refused source",
    "WrongCredentialsError": "Refused source",
    "ForbiddenError": "Refused source",
    "NotFoundError": "Unknown",
    "AlreadyExistsError": "Failed other",
    "FailedDependencyError": "Failed other",
    "QuotaExceededError": "RateLimited",
    "TooManyRequestsError": "RateLimited",
    "TransientError": "Failed server-error",
    "DeadlineExceededError": "Failed server-error",
}


def test_each_error_of_virustotal_is_told_apart(scene: Scene, patient: HttpClient) -> None:
    """Every row of VirusTotal's table of errors has its outcome, and the reason names the code."""
    stand_in, provider = scene.providers["virustotal"]
    assert VIRUSTOTAL_ERRORS.keys() == virustotal.ERRORS.keys()
    seen = {}
    for code, behaviour in virustotal.ERRORS.items():
        stand_in.script(SHA256, [behaviour])
        outcome = asked(patient, provider)
        seen[code] = summary(outcome)
        assert isinstance(outcome, Unknown) or code in getattr(outcome, "reason", "")
    assert VIRUSTOTAL_ERRORS == seen


ABUSECH_STATUSES = {
    "hash_not_found": "Unknown",
    "illegal_hash": "Refused file",
    "no_hash_provided": "Refused file",
    "http_post_expected": "Failed other",
    "unknown_auth_key": "Refused source",
    "no_api_key": "Refused source",
    "user_blacklisted": "Refused source",
    "a_status_of_tomorrow": "Failed other",
}


@pytest.mark.parametrize("source", ["malwarebazaar", "urlhaus", "urlhaus-url"])
def test_each_status_of_abuse_ch_is_told_apart(source: str, scene: Scene, patient: HttpClient) -> None:
    """Every query_status has its outcome, and an undocumented one is Failed."""
    stand_in, provider = scene.providers[source]
    seen = {}
    for name, behaviour in malwarebazaar.QUERY_STATUSES.items():
        stand_in.fail_next(1, behaviour)
        seen[name] = summary(asked(patient, provider))
    assert ABUSECH_STATUSES == seen


def test_a_wrong_key_is_refused_for_the_whole_source(scene: Scene, patient: HttpClient) -> None:
    """A wrong key refuses the whole source, so that no further request is wasted on a file."""
    for source in ("virustotal", "malwarebazaar", "urlhaus", "urlhaus-url"):
        stand_in, provider = scene.providers[source]
        wrong = cast("Callable[..., Provider]", type(provider))(stand_in.url, "wrong-key-of-mine", Limits())
        outcome = asked(patient, wrong)
        assert "Refused source" == summary(outcome)
        assert "wrong-key-of-mine" not in repr(outcome)


RETRY_AFTERS = {
    "120": START + dt.timedelta(seconds=120),
    "0": START,
    "Sun, 01 Mar 2026 13:00:00 GMT": START + dt.timedelta(hours=1),
    "Sun, 01 Mar 2020 13:00:00 GMT": START,
    "99999999999999999999": None,
    "-5": None,
    "soon": None,
    "Sun, 99 Mar 2026 13:00:00 GMT": None,
}


@pytest.mark.parametrize("given", RETRY_AFTERS)
def test_retry_after_is_heard(given: str, scene: Scene, patient: HttpClient) -> None:
    """The Retry-After of a 429 and a 503 is read in both its forms; an invalid one counts as missing."""
    stand_in, provider = scene.providers["virustotal"]
    stand_in.fail_next(1, virustotal.limited(given))
    limited = asked(patient, provider)
    assert isinstance(limited, RateLimited)
    assert RETRY_AFTERS[given] == limited.retry_at
    unavailable = virustotal.error(503, "TransientError")
    stand_in.fail_next(1, behaviours.with_retry_after("503", unavailable, given))
    failed = asked(patient, provider)
    assert isinstance(failed, Failed)
    assert RETRY_AFTERS[given] == failed.retry_at


def test_retry_after_is_believed_for_a_month_at_most(scene: Scene, patient: HttpClient) -> None:
    """A source that asks for a pause of a year is asked again after a month."""
    stand_in, provider = scene.providers["virustotal"]
    for given in ("31536000", "Mon, 01 Mar 2027 12:00:00 GMT"):
        stand_in.fail_next(1, virustotal.limited(given))
        outcome = asked(patient, provider)
        assert isinstance(outcome, RateLimited)
        assert START + dt.timedelta(days=31) == outcome.retry_at


@pytest.mark.parametrize("source", SOURCES)
def test_an_answer_about_another_file_is_no_answer(source: str, scene: Scene, patient: HttpClient) -> None:
    """A valid report that is not about what was asked for is Failed."""
    stand_in, provider = scene.providers[source]
    other = {
        "virustotal": {"data": {"id": OTHER, "type": "file", "attributes": virustotal.report(OTHER, malicious=5)}},
        "malwarebazaar": {"query_status": "ok", "data": [malwarebazaar.entry(OTHER)]},
        "urlhaus": urlhaus.payload(OTHER),
        "urlhaus-url": urlhaus.address("http://192.0.2.9/other"),
        "hashlookup": hashlookup.entry(OTHER),
    }[source]
    stand_in.fail_next(1, answering("another file", document(other)))
    assert "Failed bad-body" == summary(asked(patient, provider))


@pytest.mark.parametrize("value", [None, 7, -1, 2**70, 0.5, True, "seven", "\ud800\0", [], [None], {}, {"value": {}}])
def test_every_attribute_may_be_of_a_wrong_type(value: Any, scene: Scene, patient: HttpClient) -> None:
    """A report with any single attribute null or of a wrong type is still found, without that attribute."""
    _, provider = scene.providers["virustotal"]
    names = [name for name in virustotal.report(OTHER, malicious=12) if name != "sha256"]
    for name in names:
        scene.virustotal.files[OTHER] = {**virustotal.report(OTHER, malicious=12), name: value}
        outcome = asked(patient, provider, Sample(OTHER))
        assert isinstance(outcome, Found), name
        verdict = outcome.verdict
        assert provider.verdict(verdict.response) == verdict
        assert verdict.positives in (12, None)
        assert verdict.total in (70, None)
        assert ("\0" in repr(verdict), "\ud800" in str(verdict.response)) == (False, False)
    del scene.virustotal.files[OTHER]


@pytest.mark.parametrize("said", ["user", "group", "both"])
def test_quotas_are_read(said: Any, scene: Scene, patient: HttpClient) -> None:
    """The quota of a key is that of its user, else that of the user's group."""
    with virustotal.VirusTotal(ManualClock()) as stand_in:
        stand_in.quotas_as = said
        provider = VirusTotal(stand_in.url, virustotal.KEY, user=virustotal.USER)
        request = provider.quota_request()
        assert request is not None
        assert virustotal.KEY not in request.url
        reply = patient.send(request)
        assert isinstance(reply, Reply)
        assert KeyQuota(240, 1, 500, 1, 15_500, 1) == provider.quota(reply)


@pytest.mark.parametrize(
    "answer",
    [
        virustotal.error(403, "ForbiddenError"),
        behaviours.html(200, "OK"),
        Answer(200),
        document({"data": None}),
        document({"data": {"attributes": {"api_requests_daily": {"user": {"allowed": 500, "used": 3}}}}}),
        document({"data": {"api_requests_daily": {"user": {"allowed": 0, "used": 3}}}}),
        document({"data": {"api_requests_daily": {"user": {"allowed": None, "used": None}}}}),
        document({"data": {"api_requests_daily": {"user": {"allowed": "500"}}, "api_requests_hourly": 7}}),
    ],
    ids=str,
)
def test_a_quota_that_is_not_stated_is_no_limit_of_zero(answer: Answer, scene: Scene, patient: HttpClient) -> None:
    """A figure that is missing, null, 0 or in an undocumented place is unknown: never a limit of 0."""
    stand_in, provider = scene.providers["virustotal"]
    stand_in.fail_next(1, answering("quota", answer))
    request = provider.quota_request()
    assert request is not None
    reply = patient.send(request)
    assert isinstance(reply, Reply)
    assert provider.quota(reply) is None


def test_a_file_is_uploaded_whole(scene: Scene, patient: HttpClient) -> None:
    """An upload arrives byte for byte, under its name, directly and at the address for large files."""
    _, provider = scene.providers["virustotal"]
    assert isinstance(provider, VirusTotal)
    content = bytes(range(256)) * 40 + b"\r\n--boundary--\r\n"
    reply = patient.send(provider.upload_request("käse.bin", content))
    assert isinstance(reply, Reply)
    assert isinstance(provider.uploaded(reply), Uploaded)
    reply = patient.send(provider.upload_address_request())
    assert isinstance(reply, Reply)
    address = provider.upload_address(reply)
    assert not isinstance(address, (RateLimited, Refused, Failed))
    reply = patient.send(provider.upload_to(address, "big.bin", content))
    assert isinstance(reply, Reply)
    assert isinstance(provider.uploaded(reply), Uploaded)
    assert [("käse.bin", content), ("big.bin", content)] == scene.virustotal.uploads


def test_many_hashes_are_one_request(patient: HttpClient) -> None:
    """Many files whose MD5 is known are one request to hashlookup, and each gets its own outcome."""
    with hashlookup.Hashlookup() as stand_in:
        good, other = (f"{number:064x}" for number in (1, 2))
        md5 = {good: "a" * 32, other: "b" * 32, SHA256: "c" * 32}
        stand_in.add(good, md5=md5[good], trust=None)
        stand_in.add("f" * 64, md5=md5[other])  # a file with the MD5 of another
        provider = Hashlookup(stand_in.url, None, Limits())
        samples = [Sample(sha256, md5=value) for sha256, value in md5.items()]
        assert samples == list(provider.batch([*samples, Sample(OTHER)]))
        reply = patient.send(provider.request(samples))
        assert isinstance(reply, Reply)
        outcomes = provider.outcomes(samples, reply)
        assert [list(md5.values())] == stand_in.bulk_hashes()
    found = outcomes.pop(good)
    assert isinstance(found, Found)
    assert "known-good" == found.verdict.verdict
    assert {other: "Unknown", SHA256: "Unknown"} == {sha256: summary(value) for sha256, value in outcomes.items()}
