"""VirusTotal: what is asked, and what each answer means."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest

from cowrieprocessor.clock import SystemClock
from cowrieprocessor.enrichment.http import HttpClient
from cowrieprocessor.enrichment.providers.base import (
    Failed,
    Found,
    KeyQuota,
    Limits,
    Outcome,
    ProviderVerdict,
    RateLimited,
    Refused,
    Reply,
    Request,
    Unknown,
)
from cowrieprocessor.enrichment.providers.virustotal import UploadAddress, Uploaded, VirusTotal
from tests.stand_ins import virustotal as stand_ins
from tests.unit.enrichment.asking import HTML, KEY, NOW, OTHER, SHA256, assert_printable, assert_sound, reply, sample

URL = "https://www.virustotal.com/api/v3"


def virustotal(**how: Any) -> VirusTotal:
    """Return the provider."""
    return VirusTotal(URL, KEY, **how)


def body(attributes: object, id_: object = SHA256, kind: object = "file") -> dict[str, Any]:
    """Return a report's JSON."""
    return {"data": {"id": id_, "type": kind, "attributes": attributes, "links": {"self": f"{URL}/files/{id_}"}}}


def outcome(document: object, status: int = 200, **how: Any) -> Outcome:
    """Return the outcome of a reply about SHA256."""
    (found,) = virustotal(**how).outcomes([sample()], reply(document, status)).items()
    assert found[0] == SHA256
    assert_sound(found[1])
    return found[1]


def verdict_of(attributes: object, **how: Any) -> ProviderVerdict:
    """Return the verdict of a report."""
    found = outcome(body(attributes), **how)
    assert isinstance(found, Found)
    return found.verdict


def error(code: str, message: str = "a message") -> dict[str, Any]:
    """Return an error's JSON."""
    return {"error": {"code": code, "message": message}}


def test_what_is_asked() -> None:
    """The report is requested by SHA-256, with the key in its header, one request for each file."""
    provider = virustotal()
    request = provider.request([sample()])

    assert request == Request("GET", f"{URL}/files/{SHA256}", {"x-apikey": KEY})
    assert provider.batch([sample(), sample(OTHER)]) == [sample()]
    assert provider.cache_key(sample()) == SHA256
    assert provider.limits == Limits(4, 500, 15_500)


def test_a_report_is_read_whole() -> None:
    """Every field of a verdict comes from its place in the report."""
    attributes = stand_ins.report(SHA256, malicious=12, total=70)

    found = verdict_of(attributes)

    assert found == ProviderVerdict(
        "malicious",
        classification="trojan.mirai/gafgyt",
        description="ELF",
        family="mirai",
        positives=12,
        total=70,
        first_seen=dt.datetime(2025, 11, 3, 4, 5, 6, tzinfo=dt.UTC),
        last_analysis=dt.datetime(2026, 2, 27, 9, 30, tzinfo=dt.UTC),
        md5=attributes["md5"],
        sha1=attributes["sha1"],
        tlsh=attributes["tlsh"],
        size_bytes=95_268,
        file_type="elf",
        response=found.response,
    )


def test_what_is_kept_of_a_report_is_enough_to_read_it_again() -> None:
    """The stored response, also after JSON, gives the same verdict; engines without a detection are dropped."""
    found = verdict_of(stand_ins.report(SHA256, malicious=12, total=70, names=tuple(f"name {n}" for n in range(50))))

    assert virustotal().verdict(json.loads(json.dumps(found.response))) == found
    assert len(found.response["names"]) == 20
    assert len(found.response["last_analysis_results"]) == 12


@pytest.mark.parametrize(
    ("stats", "malicious_at", "expected"),
    [
        ({"malicious": 12, "suspicious": 1, "undetected": 50, "harmless": 7}, 1, ("malicious", 12, 70)),
        ({"malicious": 1, "suspicious": 0, "undetected": 69}, 1, ("malicious", 1, 70)),
        ({"malicious": 2, "suspicious": 0, "undetected": 68}, 3, ("suspicious", 2, 70)),
        ({"malicious": 3, "suspicious": 0, "undetected": 67}, 3, ("malicious", 3, 70)),
        ({"malicious": 0, "suspicious": 1, "undetected": 69}, 1, ("suspicious", 0, 70)),
        ({"malicious": 0, "undetected": 60, "timeout": 5, "type-unsupported": 9}, 1, ("clean", 0, 60)),
        ({"malicious": 0, "timeout": 5, "failure": 2, "confirmed-timeout": 1}, 1, ("unknown", 0, 0)),
        ({}, 1, ("unknown", None, None)),
        (None, 1, ("unknown", None, None)),
        ("many", 1, ("unknown", None, None)),
        ({"malicious": None, "undetected": 60}, 1, ("unknown", None, None)),
        ({"malicious": "12", "suspicious": 2, "undetected": 60}, 1, ("suspicious", None, None)),
        ({"malicious": -1, "undetected": 60}, 1, ("unknown", None, None)),
        ({"malicious": 10**30, "undetected": 60}, 1, ("unknown", None, None)),
        ({"malicious": 1.0, "undetected": 60}, 1, ("unknown", None, None)),
    ],
)
def test_verdicts(stats: object, malicious_at: int, expected: tuple[str, int | None, int | None]) -> None:
    """The verdict follows the engines that gave a result; missing figures are not made up."""
    found = verdict_of({"last_analysis_stats": stats}, malicious_at=malicious_at)

    assert expected == (found.verdict, found.positives, found.total)


def test_a_known_file_without_analysis_is_found() -> None:
    """A report without an analysis or a label is a found file with the verdict unknown."""
    assert verdict_of(stand_ins.report(SHA256, analysed_at=None)).verdict == "unknown"
    assert verdict_of({}) == ProviderVerdict("unknown", response={"sha256": SHA256})
    assert verdict_of(None) == ProviderVerdict("unknown", response={"sha256": SHA256})


@pytest.mark.parametrize(
    "replacement", [None, [], {}, "a text", 7, True, -1, 1.5, [None], {"value": None}, [{"value": 7}]]
)
def test_attributes_of_wrong_types_count_as_missing(replacement: object) -> None:
    """Null or a wrong type in any single attribute is no failure, and affects no other attribute."""
    attributes = stand_ins.report(SHA256, malicious=12, total=70)
    complete = verdict_of(attributes)

    for name in attributes.keys() - {"sha256", "last_analysis_stats", "popular_threat_classification"}:
        found = verdict_of({**attributes, name: replacement})
        assert (found.verdict, found.positives, found.classification) == ("malicious", 12, complete.classification)
    for name in ("last_analysis_stats", "popular_threat_classification"):
        assert verdict_of({**attributes, name: replacement}).size_bytes == 95_268


@pytest.mark.parametrize(
    ("threat", "expected"),
    [
        ({"suggested_threat_label": "trojan.x"}, ("trojan.x", None)),
        ({"popular_threat_name": [{"value": None}, {"value": "gafgyt"}]}, (None, "gafgyt")),
        ({"popular_threat_name": None, "suggested_threat_label": ""}, (None, None)),
        ({"suggested_threat_label": "x" * 500}, ("x" * 128, None)),
    ],
)
def test_labels(threat: object, expected: tuple[str | None, str | None]) -> None:
    """Label and family are read from their places, and nothing else is read as them."""
    found = verdict_of({"popular_threat_classification": threat})

    assert expected == (found.classification, found.family)


@pytest.mark.parametrize(
    "document",
    [
        body(stand_ins.report(OTHER), OTHER),
        body(stand_ins.report(OTHER), SHA256),
        body(stand_ins.report(SHA256), OTHER),
        body({}, None),
        body({}, 7),
        body(stand_ins.report(SHA256), SHA256, "url"),
        {"data": None},
        {"data": [body({})]},
        [body({})],
        "a text",
        HTML,
        b'{"data": {"id"',
    ],
)
def test_an_answer_about_something_else_is_no_answer(document: object) -> None:
    """Another file's report, a proxy's page or half a document is Failed: the question is asked again later."""
    failed = outcome(document)

    assert isinstance(failed, Failed)
    assert failed.kind == "bad-body"


def test_a_report_that_names_the_file_in_either_place_is_its_report() -> None:
    """The id or the attribute sha256 is enough, in any case."""
    assert isinstance(outcome(body({"sha256": SHA256}, None)), Found)
    assert isinstance(outcome(body({"sha256": 7}, SHA256.upper(), None)), Found)


def test_not_found_is_an_answer() -> None:
    """VirusTotal's own 404 means that it does not know the file."""
    document = error("NotFoundError", f'File "{SHA256}" not found')

    assert outcome(document, 404) == Unknown(document)


@pytest.mark.parametrize(
    ("status", "document", "expected"),
    [
        (400, error("BadRequestError"), (Refused, "file")),
        (400, error("InvalidArgumentError"), (Refused, "file")),
        (400, error("UnselectiveContentQueryError"), (Refused, "file")),
        (400, error("UnsupportedContentQueryError"), (Refused, "file")),
        (400, error("NotAvailableYet"), (Failed, "not-yet")),
        (400, HTML, (Failed, "other")),
        (401, error("AuthenticationRequiredError"), (Refused, "source")),
        (401, error("UserNotActiveError"), (Refused, "source")),
        (401, error("WrongCredentialsError"), (Refused, "source")),
        (403, error("ForbiddenError"), (Refused, "source")),
        (403, HTML, (Failed, "other")),
        (404, HTML, (Failed, "other")),
        (404, error("SomethingElse"), (Failed, "other")),
        (409, error("AlreadyExistsError"), (Failed, "other")),
        (424, error("FailedDependencyError"), (Failed, "other")),
        (429, error("QuotaExceededError"), (RateLimited, None)),
        (429, error("TooManyRequestsError"), (RateLimited, None)),
        (429, b"", (RateLimited, None)),
        (503, error("TransientError"), (Failed, "server-error")),
        (504, error("DeadlineExceededError"), (Failed, "server-error")),
        (502, HTML, (Failed, "server-error")),
        (204, b"", (Failed, "empty-answer")),
        (200, b"", (Failed, "empty-answer")),
    ],
)
def test_errors(status: int, document: object, expected: tuple[type, str | None]) -> None:
    """Every row of VirusTotal's table of errors, and the replies of proxies, have their outcome."""
    found = outcome(document, status)

    assert expected == (type(found), getattr(found, "scope", getattr(found, "kind", None)))


def test_a_key_that_comes_back_is_neither_kept_nor_said() -> None:
    """A key that a reply repeats reaches neither the database nor a message."""
    attributes = stand_ins.report(SHA256, malicious=1)
    attributes["names"] = [f"{KEY}.bin"]
    attributes["type_description"] = f"ELF {KEY.upper()}"
    attributes["total_votes"] = {KEY: 1}

    found = verdict_of(attributes)
    refused = outcome(error("WrongCredentialsError", f"Wrong API key {KEY}"), 401)

    assert found.description == "ELF ***"
    assert isinstance(refused, Refused)
    assert_printable(refused.reason)


# --- the quota of a key ---


def quota(data: object, status: int = 200) -> KeyQuota | None:
    """Return the quota in a reply to the quota request."""
    return virustotal().quota(reply({"data": data}, status))


def test_the_quota_is_asked_for_by_user_or_key() -> None:
    """With the user's name the URL contains no key; the name is quoted."""
    by_key, by_user = virustotal().quota_request(), virustotal(user="a/b").quota_request()

    assert by_key == Request("GET", f"{URL}/users/{KEY}/overall_quotas", {"x-apikey": KEY})
    assert by_user == Request("GET", f"{URL}/users/a%2Fb/overall_quotas", {"x-apikey": KEY})


@pytest.mark.parametrize("level", ["user", "group"])
def test_the_quota_is_read_at_the_user_or_the_group(level: str) -> None:
    """Allowed and used are below `user`, else below `group`; there is no level `attributes`."""
    data = {
        "api_requests_hourly": {level: {"allowed": 240, "used": 3}},
        "api_requests_daily": {level: {"allowed": 500, "used": 4}},
        "api_requests_monthly": {level: {"allowed": 15_500, "used": 5}},
    }

    assert quota(data) == KeyQuota(240, 3, 500, 4, 15_500, 5)
    assert quota({"attributes": data}) is None


@pytest.mark.parametrize(
    "figures", [None, {}, {"allowed": 0, "used": 0}, {"allowed": None}, {"used": 3}, {"allowed": "9"}, 7]
)
def test_a_limit_that_is_not_stated_is_none(figures: object) -> None:
    """A limit that is missing, null, 0 or unreadable was not stated: it never becomes a limit of 0."""
    stated = {"user": {"allowed": 500, "used": None}}

    assert quota({"api_requests_daily": {"user": figures}}) is None
    assert quota({"api_requests_daily": stated, "api_requests_monthly": {"user": figures}}) == KeyQuota(
        daily_allowed=500
    )


def test_the_group_serves_where_the_user_has_no_figure() -> None:
    """The user's own limit takes precedence over the group's."""
    group = {"allowed": 9000, "used": 10, "inherited_from": "group"}

    assert quota({"api_requests_daily": {"user": {"allowed": 0, "used": 0}, "group": group}}) == KeyQuota(
        daily_allowed=9000, daily_used=10
    )


@pytest.mark.parametrize(
    ("status", "document"), [(401, error("x")), (404, error("x")), (200, HTML), (200, []), (200, {})]
)
def test_no_quota_is_read_from_an_error(status: int, document: object) -> None:
    """A reply without a usable quota is None."""
    assert virustotal().quota(reply(document, status)) is None


# --- uploads ---


def test_uploads_arrive() -> None:
    """Small files go to /files, larger ones to an address that is requested first; both replies name an analysis."""
    with stand_ins.VirusTotal() as stand_in, HttpClient(5, SystemClock()) as client:
        provider = VirusTotal(stand_in.url, stand_ins.KEY)
        small = client.send(provider.upload_request("small.bin", b"small\x00"))
        address_reply = client.send(provider.upload_address_request())
        assert isinstance(small, Reply)
        assert isinstance(address_reply, Reply)
        address = provider.upload_address(address_reply)
        assert isinstance(address, UploadAddress)
        large = client.send(provider.upload_to(address, "large.bin", b"large"))
        assert isinstance(large, Reply)

        assert isinstance(provider.uploaded(small), Uploaded)
        assert isinstance(provider.uploaded(large), Uploaded)
        assert stand_in.uploads == [("small.bin", b"small\x00"), ("large.bin", b"large")]


@pytest.mark.parametrize(
    ("address", "has_key"),
    [
        ("https://www.virustotal.com/_ah/upload/x", True),
        ("https://bigfiles.virustotal.com/_ah/upload/x", True),
        ("https://storage.example/upload/x", False),
        ("https://evilvirustotal.com/x", False),
        ("https://www.virustotal.com.evil.example/x", False),
    ],
)
def test_the_key_goes_to_its_own_domain_only(address: str, has_key: bool) -> None:
    """A file may be sent to any https URL that VirusTotal names, the key only to a host in its domain."""
    provider = virustotal()
    given = provider.upload_address(reply({"data": address}))
    assert isinstance(given, UploadAddress)

    request = provider.upload_to(given, "n", b"c")

    assert has_key == (KEY in request.headers.values())
    assert request.url == address


@pytest.mark.parametrize(
    "data",
    [
        "http://www.virustotal.com/x",
        "ftp://x/",
        "//x",
        "https://",
        "https://me@host.example/",
        "https://[",
        "https://a b/",
        "https://host.example:x/",
        "https://host.example/\nX: y",
        "https://h/" + "x" * 5000,
        None,
        7,
        {"url": "https://x.example/"},
    ],
)
def test_other_addresses_are_not_uploaded_to(data: object) -> None:
    """Nothing is sent unencrypted, or to an invalid URL."""
    failed = virustotal().upload_address(reply({"data": data}))

    assert isinstance(failed, Failed)
    assert failed.kind == "bad-body"


@pytest.mark.parametrize(
    ("status", "document", "expected"),
    [
        (200, {"data": {"type": "analysis", "id": "abc"}}, Uploaded("abc")),
        (200, {"data": {"id": None}}, None),
        (413, HTML, None),
        (429, error("QuotaExceededError"), None),
        (400, error("BadRequestError"), None),
        (200, b"", None),
    ],
)
def test_what_comes_of_an_upload(status: int, document: object, expected: Uploaded | None) -> None:
    """The outcome of an upload is an analysis or an error; a file that is too large is refused."""
    found = virustotal().uploaded(reply(document, status))

    if expected is not None:
        assert expected == found
    else:
        assert isinstance(found, (Failed, Refused, RateLimited))
        assert_printable(found.reason)
    if status == 413:
        assert found == Refused(getattr(found, "reason", ""), "file")


def test_retry_after_is_honoured() -> None:
    """The Retry-After of a 429 is honoured."""
    answer = Reply(429, {"retry-after": "61"}, b"", NOW)

    found = virustotal().outcomes([sample()], answer)[SHA256]

    assert found == RateLimited("VirusTotal answers 429 and nothing else", NOW + dt.timedelta(seconds=61))
