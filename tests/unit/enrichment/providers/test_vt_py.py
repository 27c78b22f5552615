"""VirusTotal's official client reads the stand-in as our provider does, so its responses are not only our own idea."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import io
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest
import vt  # type: ignore[import-untyped]

from cowrieprocessor.enrichment.http import HttpClient
from cowrieprocessor.enrichment.providers.base import (
    Failed,
    Found,
    Outcome,
    RateLimited,
    Refused,
    Reply,
    Sample,
    Unknown,
)
from cowrieprocessor.enrichment.providers.virustotal import UploadAddress, VirusTotal
from tests.stand_ins import behaviours, virustotal
from tests.stand_ins.clock import ManualClock
from tests.stand_ins.server import Behaviour

SHA256 = "ab" * 32
OTHER = "cd" * 32
REPORTS: dict[str, dict[str, Any]] = {
    "malicious": {"malicious": 12, "total": 70},
    "one engine": {"malicious": 1, "total": 60, "label": None, "family": None},
    "suspicious": {"suspicious": 3, "total": 66},
    "clean": {"total": 72, "names": ()},
    "never analysed": {"analysed_at": None},
    "nobody answered": {"total": 0},
}
Read = TypeVar("Read")


@pytest.fixture(scope="module")
def stand_in() -> Iterator[virustotal.VirusTotal]:
    """VirusTotal without limits."""
    with virustotal.VirusTotal(ManualClock(), limits=virustotal.KeyLimits(None, None, None)) as made:
        yield made


@pytest.fixture(scope="module")
def ours() -> Iterator[HttpClient]:
    """Our client."""
    with HttpClient(60.0, ManualClock()) as made:
        yield made


def theirs(stand_in: virustotal.VirusTotal, work: Callable[[Any], Awaitable[Read]], key: str = virustotal.KEY) -> Read:
    """Call VirusTotal's official client and return the result."""

    async def run() -> Read:
        async with vt.Client(key, host=stand_in.host, timeout=60) as client:
            return await work(client)

    return asyncio.run(run())


def asked(ours: HttpClient, stand_in: virustotal.VirusTotal, key: str = virustotal.KEY) -> Outcome:
    """Return our provider's outcome of the answer about the file."""
    provider = VirusTotal(stand_in.url, key)
    reply = ours.send(provider.request([Sample(SHA256)]))
    return reply if isinstance(reply, Failed) else provider.outcomes([Sample(SHA256)], reply)[SHA256]


@pytest.mark.parametrize("name", REPORTS)
def test_both_read_the_same_report(name: str, stand_in: virustotal.VirusTotal, ours: HttpClient) -> None:
    """Both clients read the same hashes, counts, dates and labels from a report."""
    stand_in.add(SHA256, **REPORTS[name])
    read = theirs(stand_in, lambda client: client.get_object_async(f"/files/{SHA256}"))
    outcome = asked(ours, stand_in)
    assert isinstance(outcome, Found)
    verdict = outcome.verdict
    assert SHA256 == read.id == read.sha256
    assert "file" == read.type
    stats = read.get("last_analysis_stats")
    counted = ("malicious", "suspicious", "undetected", "harmless")
    assert verdict.positives == (None if stats is None else stats["malicious"])
    assert verdict.total == (None if stats is None else sum(stats[name] for name in counted))
    threat = read.get("popular_threat_classification") or {}
    assert verdict.classification == threat.get("suggested_threat_label")
    families = threat.get("popular_threat_name") or [{"value": None}]
    assert verdict.family == families[0]["value"]
    assert (verdict.md5, verdict.sha1, verdict.size_bytes) == (read.md5, read.sha1, read.size)
    assert (verdict.file_type, verdict.description, verdict.tlsh) == (read.type_tag, read.type_description, read.tlsh)
    assert verdict.first_seen == read.first_submission_date
    assert verdict.last_analysis == getattr(read, "last_analysis_date", None)
    assert verdict.first_seen is not None
    assert dt.timedelta(0) == verdict.first_seen.utcoffset()


def test_both_find_no_analysis_date_that_is_not_there(stand_in: virustotal.VirusTotal, ours: HttpClient) -> None:
    """Negative control: the date is missing only here, so the comparisons elsewhere compare values."""
    stand_in.add(SHA256, **REPORTS["malicious"])
    outcome = asked(ours, stand_in)
    assert isinstance(outcome, Found)
    assert dt.datetime(2026, 2, 27, 9, 30, tzinfo=dt.UTC) == outcome.verdict.last_analysis


CLIENT_ERRORS = sorted(code for code, status in virustotal.STATUS.items() if status < 500)


@pytest.mark.parametrize("code", CLIENT_ERRORS)
def test_both_name_the_same_error(code: str, stand_in: virustotal.VirusTotal, ours: HttpClient) -> None:
    """The error code that the official client raises is the code in our reason."""
    stand_in.add(SHA256)
    stand_in.script(SHA256, [virustotal.ERRORS[code]] * 2)
    with pytest.raises(vt.APIError) as raised:
        theirs(stand_in, lambda client: client.get_object_async(f"/files/{SHA256}"))
    assert code == raised.value.code
    outcome = asked(ours, stand_in)
    if isinstance(outcome, Unknown):
        assert code == outcome.response["error"]["code"]
    else:
        assert isinstance(outcome, RateLimited | Refused | Failed)
        assert f"{code}: {raised.value.message}" in outcome.reason


@pytest.mark.parametrize("code", ["TransientError", "DeadlineExceededError"])
def test_only_ours_tells_server_errors_apart(code: str, stand_in: virustotal.VirusTotal, ours: HttpClient) -> None:
    """The official client raises ServerError for every 5xx, with the code in its text; our reason names the code."""
    stand_in.script(SHA256, [virustotal.ERRORS[code]] * 2)
    with pytest.raises(vt.APIError) as raised:
        theirs(stand_in, lambda client: client.get_object_async(f"/files/{SHA256}"))
    assert "ServerError" == raised.value.code
    assert code in raised.value.message
    outcome = asked(ours, stand_in)
    assert isinstance(outcome, Failed)
    assert ("server-error", True) == (outcome.kind, code in outcome.reason)


def test_both_learn_that_a_key_is_wrong(stand_in: virustotal.VirusTotal, ours: HttpClient) -> None:
    """Both clients report a wrong key under the same name."""
    with pytest.raises(vt.APIError) as raised:
        theirs(stand_in, lambda client: client.get_object_async(f"/files/{SHA256}"), key="nobody-has-this-one")
    outcome = asked(ours, stand_in, key="nobody-has-this-one")
    assert isinstance(outcome, Refused)
    assert "source" == outcome.scope
    assert raised.value.code in outcome.reason


def test_both_do_not_know_a_file(stand_in: virustotal.VirusTotal, ours: HttpClient) -> None:
    """An unknown file is an error of the official client, and the outcome Unknown of ours."""
    stand_in.files.pop(SHA256, None)
    with pytest.raises(vt.APIError) as raised:
        theirs(stand_in, lambda client: client.get_object_async(f"/files/{SHA256}"))
    outcome = asked(ours, stand_in)
    assert isinstance(outcome, Unknown)
    assert {"code": raised.value.code, "message": raised.value.message} == outcome.response["error"]


@pytest.mark.parametrize("behaviour", [behaviours.HTML_502, behaviours.TRUNCATED, behaviours.EMPTY_204], ids=str)
def test_both_refuse_what_is_no_answer(behaviour: Behaviour, stand_in: virustotal.VirusTotal, ours: HttpClient) -> None:
    """A broken answer is an error of the official client, and Failed for ours."""
    stand_in.add(SHA256)
    stand_in.script(SHA256, [behaviour] * 2)
    with pytest.raises((vt.APIError, ValueError)):
        theirs(stand_in, lambda client: client.get_object_async(f"/files/{SHA256}"))
    assert isinstance(asked(ours, stand_in), Failed)


def test_both_read_the_same_quotas(stand_in: virustotal.VirusTotal, ours: HttpClient) -> None:
    """The quotas that the official client returns as JSON are those that ours reads."""
    with virustotal.VirusTotal(ManualClock()) as limited:
        path = f"/users/{virustotal.USER}/overall_quotas"
        data = theirs(limited, lambda client: client.get_json_async(path))["data"]
        provider = VirusTotal(limited.url, virustotal.KEY, user=virustotal.USER)
        request = provider.quota_request()
        assert request is not None
        reply = ours.send(request)
        assert isinstance(reply, Reply)
        quota = provider.quota(reply)
    assert quota is not None
    allowed = [data[f"api_requests_{name}"]["user"]["allowed"] for name in ("hourly", "daily", "monthly")]
    assert [240, 500, 15_500] == allowed
    assert allowed == [quota.hourly_allowed, quota.daily_allowed, quota.monthly_allowed]
    used = [data[f"api_requests_{name}"]["user"]["used"] for name in ("hourly", "daily", "monthly")]
    assert [count + 1 for count in used] == [quota.hourly_used, quota.daily_used, quota.monthly_used]


def test_both_upload_the_same(stand_in: virustotal.VirusTotal, ours: HttpClient) -> None:
    """A file that either client uploads arrives unchanged, and both get an analysis."""
    content = bytes(range(256)) * 20
    stand_in.uploads.clear()
    analysis = theirs(stand_in, lambda client: client.scan_file_async(io.BytesIO(content)))
    assert "analysis" == analysis.type
    provider = VirusTotal(stand_in.url, virustotal.KEY)
    reply = ours.send(provider.upload_request("bot", content))
    assert isinstance(reply, Reply)
    assert 200 == reply.status
    assert [content, content] == [uploaded for _, uploaded in stand_in.uploads]
    assert analysis.id.startswith(hashlib.md5(content, usedforsecurity=False).hexdigest())


def test_both_are_told_where_large_files_go(stand_in: virustotal.VirusTotal, ours: HttpClient) -> None:
    """The address for large files is a plain string, the same for both."""
    address = theirs(stand_in, lambda client: client.get_data_async("/files/upload_url"))
    provider = VirusTotal(stand_in.url, virustotal.KEY)
    reply = ours.send(provider.upload_address_request())
    assert isinstance(reply, Reply)
    assert UploadAddress(address) == provider.upload_address(reply)


def test_only_theirs_sends_a_request_twice(stand_in: virustotal.VirusTotal, ours: HttpClient) -> None:
    """The official client retries by itself when a reused connection is dropped; ours never does."""
    stand_in.add(SHA256)

    async def twice(client: Any) -> Any:
        await client.get_object_async(f"/files/{SHA256}")
        stand_in.fail_next(1, behaviours.CLOSED)
        return await client.get_object_async(f"/files/{SHA256}")

    before = len(stand_in.log)
    assert SHA256 == theirs(stand_in, twice).id
    assert 3 == len(stand_in.log) - before
    before = len(stand_in.log)
    assert isinstance(asked(ours, stand_in), Found)
    stand_in.fail_next(1, behaviours.CLOSED)
    assert isinstance(asked(ours, stand_in), Failed)
    assert 2 == len(stand_in.log) - before
