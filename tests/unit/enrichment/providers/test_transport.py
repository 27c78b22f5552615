"""Every source over a real connection to a server that misbehaves: the right outcome, bounded, without a key."""

from __future__ import annotations

import gc
import logging
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from cowrieprocessor.enrichment.http import MAX_BODY_BYTES, HttpClient
from cowrieprocessor.enrichment.providers.base import Failed, Found, Request, Sample, Unknown
from cowrieprocessor.enrichment.providers.virustotal import VirusTotal
from tests.stand_ins import behaviours, virustotal
from tests.stand_ins.clock import ManualClock
from tests.stand_ins.every_source import (
    OTHER,
    PATIENT_S,
    SAMPLE,
    SHA256,
    SOURCES,
    UNLIMITED,
    Scene,
    asked,
    assert_no_key,
    summary,
)
from tests.stand_ins.server import Answer, Behaviour, answering, document

IMPATIENT_S = 0.5
"""The timeout of a client where no answer comes."""

MEMORY_BYTES = MAX_BODY_BYTES + 24 * 1024 * 1024


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


@pytest.fixture(scope="module")
def impatient() -> Iterator[HttpClient]:
    """A client with a short timeout."""
    with HttpClient(IMPATIENT_S, ManualClock()) as client:
        yield client


BROKEN: dict[Behaviour, str] = {
    behaviours.RESET: "connection",
    behaviours.RESET_IN_BODY: "connection",
    behaviours.CLOSED: "connection",
    behaviours.NOT_HTTP: "connection",
    behaviours.SHORT: "connection",
    behaviours.MANY_HEADERS: "connection",
    behaviours.HTML_502: "server-error",
    behaviours.HTML_404: "other",
    behaviours.HTML_403: "other",
    behaviours.HTML_200: "bad-body",
    behaviours.EMPTY_204: "empty-answer",
    behaviours.EMPTY_200: "empty-answer",
    behaviours.NOT_TEXT: "bad-body",
    behaviours.DEEP: "bad-body",
    behaviours.LONG_NUMBER: "bad-body",
    behaviours.TRUNCATED: "bad-body",
    behaviours.CUT_GZIP: "bad-body",
    behaviours.NOT_GZIP: "bad-body",
    behaviours.BROTLI: "bad-body",
    behaviours.GZIP_BOMB: "too-large",
    behaviours.A_LIST: "bad-body",
    behaviours.A_STRING: "bad-body",
    behaviours.A_NULL: "bad-body",
    behaviours.ALL_NULL: "bad-body",
    behaviours.ALL_NUMBERS: "bad-body",
    behaviours.ALL_LISTS: "bad-body",
    behaviours.HUGE: "too-large",
    behaviours.ENDLESS: "too-large",
}
"""The kind of failure of each broken answer, for every source."""

SILENT = (behaviours.HANG, behaviours.HANG_IN_BODY, behaviours.SLOW_DRIP, behaviours.DRIPPING_HEADERS)
"""Answers that never arrive whole."""


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_in_good_health_is_understood(source: str, scene: Scene, patient: HttpClient) -> None:
    """Negative control for the broken answers below: a known file is Found and an unknown one is Unknown."""
    _, provider = scene.providers[source]
    found = asked(patient, provider)
    assert isinstance(found, Found)
    assert provider.verdict(found.verdict.response) == found.verdict
    assert isinstance(asked(patient, provider, Sample(OTHER, download_url="http://192.0.2.8/")), Unknown)


@pytest.mark.parametrize("source", SOURCES)
def test_an_answer_that_a_proxy_compressed_is_the_answer(source: str, scene: Scene, patient: HttpClient) -> None:
    """A compressed report gives the verdict that it gives uncompressed, for every source."""
    stand_in, provider = scene.providers[source]
    stand_in.fail_next(1, behaviours.ENCODED)
    assert asked(patient, provider) == asked(patient, provider)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("behaviour", BROKEN, ids=str)
def test_a_broken_answer_is_failed(source: str, behaviour: Behaviour, scene: Scene, patient: HttpClient) -> None:
    """Whatever arrives in place of an answer is Failed with its kind; one request is sent, not two."""
    stand_in, provider = scene.providers[source]
    before = len(stand_in.log)
    stand_in.fail_next(1, behaviour)
    assert f"Failed {BROKEN[behaviour]}" == summary(asked(patient, provider))
    assert 1 == len(stand_in.log) - before
    assert isinstance(asked(patient, provider), Found)


@pytest.mark.parametrize("source", SOURCES)
def test_other_texts_everywhere_are_failed(source: str, scene: Scene, patient: HttpClient) -> None:
    """A document whose every value is another string is Failed: the file is neither found nor unknown."""
    stand_in, provider = scene.providers[source]
    stand_in.fail_next(1, behaviours.ALL_TEXTS)
    assert summary(asked(patient, provider)) in ("Failed bad-body", "Failed other")


@pytest.mark.parametrize("behaviour", SILENT, ids=str)
def test_a_silent_server_is_a_timeout(behaviour: Behaviour, scene: Scene, impatient: HttpClient) -> None:
    """A server that sends nothing, or a byte at a time, times out after the timeout of a whole request."""
    stand_in, provider = scene.providers["virustotal"]
    stand_in.fail_next(1, behaviour)
    assert "Failed timeout" == summary(asked(impatient, provider))


@pytest.mark.parametrize(
    "behaviour", [behaviours.HUGE, behaviours.ENDLESS, behaviours.GZIP_BOMB, behaviours.MANY_HEADERS], ids=str
)
def test_no_answer_takes_much_memory(behaviour: Behaviour, scene: Scene, patient: HttpClient) -> None:
    """An answer that is too large, or unpacks to a large one, takes no more memory than the longest one allowed."""
    stand_in, provider = scene.providers["virustotal"]
    asked(patient, provider)
    stand_in.fail_next(1, behaviour)
    gc.collect()
    tracemalloc.start()
    try:
        assert "Failed" in summary(asked(patient, provider))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < MEMORY_BYTES


def test_the_measure_of_memory_sees_a_large_answer(scene: Scene) -> None:
    """Negative control: a client without a bound takes more memory than that."""
    stand_in, provider = scene.providers["virustotal"]
    with HttpClient(PATIENT_S, ManualClock(), max_body_bytes=2 * behaviours.HUGE_BYTES) as unbounded:
        stand_in.fail_next(1, behaviours.HUGE)
        tracemalloc.start()
        try:
            unbounded.send(provider.request([SAMPLE]))
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak_bytes > MEMORY_BYTES


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int, scene: Scene, patient: HttpClient) -> None:
    """No request, and so no key, follows a redirect; only the host of its target is named."""
    with virustotal.VirusTotal(ManualClock(), limits=UNLIMITED) as elsewhere:
        elsewhere.add(SHA256)
        for stand_in, provider in scene.providers.values():
            target = f"{elsewhere.url}/files/{SHA256}?key={virustotal.KEY}"
            stand_in.fail_next(1, behaviours.redirect(target, status))
            outcome = asked(patient, provider)
            assert "Failed redirect" == summary(outcome)
            assert "api/v3/files" not in repr(outcome)
        assert [] == elsewhere.log


def test_a_connection_that_died_costs_no_second_request(scene: Scene, patient: HttpClient) -> None:
    """A reused connection that is dropped does not cause a second request."""
    stand_in, provider = scene.providers["virustotal"]
    assert isinstance(asked(patient, provider), Found)
    before = len(stand_in.log)
    for behaviour in (behaviours.CLOSED, behaviours.RESET):
        stand_in.fail_next(1, behaviour)
        assert "Failed connection" == summary(asked(patient, provider))
    assert 2 == len(stand_in.log) - before


def test_nobody_listening_is_a_failed_connection(patient: HttpClient) -> None:
    """A service that does not listen is Failed."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    outcome = asked(patient, VirusTotal(f"http://127.0.0.1:{port}/api/v3", virustotal.KEY))
    assert "Failed connection" == summary(outcome)


def test_plain_http_where_tls_is_expected_is_failed(scene: Scene, patient: HttpClient) -> None:
    """A server without TLS is Failed under an https URL."""
    stand_in, _ = scene.providers["virustotal"]
    outcome = asked(patient, VirusTotal(stand_in.url.replace("http:", "https:"), virustotal.KEY))
    assert "Failed connection" == summary(outcome)


def test_no_key_in_logs_and_reasons(
    scene: Scene, patient: HttpClient, impatient: HttpClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A key that is in a URL, or that a server repeats, appears in no log, reason, repr or stored answer."""
    caplog.set_level(logging.DEBUG)
    stand_in, provider = scene.providers["virustotal"]
    key = virustotal.KEY
    echo = f"the key {key} and https://x.example/{key.upper()}?apikey={key} are wrong"
    for status, code in (
        (400, "BadRequestError"),
        (401, "WrongCredentialsError"),
        (404, "NotFoundError"),
        (429, f"{key}"),
        (503, "TransientError"),
    ):
        stand_in.fail_next(1, answering("echo", virustotal.error(status, code, echo)))
        outcome = asked(patient, provider)
        assert_no_key(repr(outcome).lower(), repr(getattr(outcome, "response", "")).lower())
    attributes = virustotal.report(SHA256, malicious=3, names=(echo,), label=key)
    stand_in.fail_next(
        1, answering("echo", document({"data": {"id": SHA256, "type": "file", "attributes": attributes}}))
    )
    found = asked(patient, provider)
    assert isinstance(found, Found)
    assert_no_key(repr(found.verdict.response).lower())
    request = provider.quota_request()
    assert request is not None
    assert key in request.url
    for client, behaviour in (
        (patient, behaviours.RESET),
        (patient, behaviours.NOT_HTTP),
        (patient, behaviours.redirect(f"http://{key}.example/{key}")),
        (impatient, behaviours.HANG),
    ):
        stand_in.fail_next(1, behaviour)
        failed = client.send(request)
        assert isinstance(failed, Failed)
        assert_no_key(repr(failed), repr(request))
    assert_no_key(caplog.text)


def test_threads_do_not_disturb_each_other(scene: Scene) -> None:
    """Clients in several threads each get the answer to their own question."""
    stand_in, provider = scene.providers["virustotal"]
    assert isinstance(stand_in, virustotal.VirusTotal)
    hashes = [f"{number:064x}" for number in range(40)]
    for number, sha256 in enumerate(hashes):
        stand_in.add(sha256, malicious=number)
    seen: dict[str, int | None] = {}

    def work(some: list[str]) -> None:
        with HttpClient(PATIENT_S, ManualClock()) as client:
            for sha256 in some:
                outcome = asked(client, provider, Sample(sha256))
                if isinstance(outcome, Found):
                    seen[sha256] = outcome.verdict.positives

    threads = [threading.Thread(target=work, args=(hashes[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {sha256: number for number, sha256 in enumerate(hashes)} == seen


def test_a_request_says_who_sends_it(scene: Scene, patient: HttpClient) -> None:
    """Every request names this program, asks for no compression, and carries its key in a header alone."""
    stand_in, provider = scene.providers["virustotal"]
    asked(patient, provider)
    received = stand_in.log[-1]
    assert received.headers["user-agent"].startswith("cowrieprocessor/")
    assert "identity" == received.headers["accept-encoding"]
    assert virustotal.KEY == received.headers["x-apikey"]
    assert virustotal.KEY not in received.path
    assert "cookie" not in received.headers


def test_no_cookie_is_sent_back(scene: Scene, patient: HttpClient) -> None:
    """A cookie that a server sets is not sent back."""
    stand_in, provider = scene.providers["virustotal"]
    answer = virustotal.error(404, "NotFoundError")
    cookie = Answer(answer.status, answer.body, headers={"Set-Cookie": "track=1; Path=/"})
    stand_in.fail_next(1, answering("cookie", cookie))
    assert isinstance(asked(patient, provider), Unknown)
    assert isinstance(asked(patient, provider), Found)
    assert "cookie" not in stand_in.log[-1].headers


def test_a_method_that_is_neither_is_not_sent(patient: HttpClient, scene: Scene) -> None:
    """A request that cannot be built is Failed, not an exception."""
    stand_in, _ = scene.providers["virustotal"]
    before = len(stand_in.log)
    for request in (
        Request("GET", "ftp://127.0.0.1/x"),
        Request("GET", "http://[broken/x"),
        Request("GET", stand_in.url, {"x-apikey": "two\r\nlines"}),
    ):
        assert isinstance(patient.send(request), Failed)
    assert before == len(stand_in.log)
